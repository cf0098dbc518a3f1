//! The pods of this node: which there are, and which of them are in the mesh.
//!
//! A pod's Pod and Namespace must have been seen before anything is decided: not to be enrolled is a fact, not
//! a cache miss. A new pod joins completely or not at all (`joining`); from then on it is looked after
//! until its last attachment has gone (`tending`). Leaving always succeeds, and closes everything of the
//! pod, so that its namespace can end. Work on one pod is done one step after the other, pods do not wait for
//! each other.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gammarus_cni::protocol::code;
use gammarus_cni::state::Record;
use gammarus_cni::{Attachment, AttachmentId, Outcome, PodName};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::error::EnrolError;
use super::facts::{MarkWriter, PodFact, PodFacts};
use super::host::Host;
use super::joining::{Arrival, Enrolment, Phase};
use super::learning::Learnt;
use super::netns::NetnsFd;
use super::news::Herald;
use super::repair::differences;
use super::troubles::Troubles;
use super::{EnrolledPod, PodEvent};
use crate::cluster::objects::ObjectKey;
use crate::telemetry::Metrics;

/// How long enrolment takes at most, step by step, and how long it waits for others.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until the Pod and its Namespace have been seen; less than the plugin waits for everything.
    pub facts: Duration,
    /// For each connection of the proof.
    pub proof: Duration,
    /// For the mark to be written.
    pub mark: Duration,
    /// Between two comparisons of a pod's rules and sockets with what they should be.
    pub inspection: Duration,
    /// Until a pod that is not in the mesh as it should be is tried again; doubled each time, up to the time
    /// between two comparisons.
    pub retry: Duration,
    /// How far behind this node's view of the cluster that of another node may be.
    pub lag: Duration,
    /// How long a dial of the data path may be under way.
    pub dial: Duration,
    /// How long nobody must have used the hop to a pod that is being released.
    pub release: Duration,
    /// How long connections through the proxy may outlive the release of their pod.
    pub linger: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            facts: Duration::from_secs(5),
            // A new IPv6 address of the node's end of the link answers nobody until it is known to be unique, up to two
            // seconds after it was given (RFC 4862 section 5.4): the proof waits that long, and its usual milliseconds
            // else.
            proof: Duration::from_secs(3),
            mark: Duration::from_secs(2),
            inspection: Duration::from_secs(15),
            retry: Duration::from_secs(1),
            lag: Duration::from_secs(10),
            dial: Duration::from_secs(1),
            release: Duration::from_secs(30),
            linger: Duration::from_secs(24 * 3600),
        }
    }
}

/// What a registry works with.
pub struct RegistryParts {
    /// What the cluster says.
    pub facts: Arc<dyn PodFacts>,
    /// Changes whenever `facts` may answer differently.
    pub generations: watch::Receiver<u64>,
    /// Where marks are written.
    pub marks: Arc<dyn MarkWriter>,
    /// Who accepts on the pods' listeners.
    pub events: mpsc::Sender<PodEvent>,
    /// How long to wait.
    pub patience: Patience,
    /// Where `namespaces.json` and the records of pods are, if anywhere.
    pub state_dir: Option<PathBuf>,
    /// The node: below its root are the namespaces of pods that no plugin has told of.
    pub host: Arc<Host>,
    /// Who tells people of their pods.
    pub herald: Arc<dyn Herald>,
    /// The pods that are not in the mesh as they should be.
    pub troubles: Arc<Troubles>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// What is known of one pod.
#[derive(Default)]
pub(super) struct PodState {
    /// Its attachments, the latest last.
    pub(super) records: Vec<Record>,
    /// What it has in the mesh.
    pub(super) enrolment: Option<Enrolment>,
}

impl PodState {
    /// Puts a record last, in place of an older one of the same attachment.
    pub(super) fn remember(&mut self, record: Record) {
        self.records.retain(|known| known.attachment.id != record.attachment.id);
        self.records.push(record);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.enrolment.is_none()
    }

    /// Whether an attachment of the namespace that is enrolled is still there.
    pub(super) fn has_its_namespace(&self) -> bool {
        let cookie = self.enrolment.as_ref().map(|enrolment| enrolment.cookie.0);
        self.records.iter().any(|record| Some(record.cookie) == cookie)
    }
}

/// One pod: its state is locked for as long as a step on it takes.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) state: tokio::sync::Mutex<PodState>,
    /// Somebody waits for the state: whatever only waits should end.
    pub(super) hurry: Notify,
    /// Who looks after the pod.
    pub(super) tender: Mutex<Option<AbortHandle>>,
}

/// Which pod an attachment is of, from the moment its ADD came.
pub(super) struct Owner {
    pub(super) pod: ObjectKey,
    pub(super) network: String,
}

/// The pods of this node.
pub struct PodRegistry {
    pub(super) parts: RegistryParts,
    slots: Mutex<HashMap<ObjectKey, Arc<Slot>>>,
    pub(super) owners: Mutex<HashMap<AttachmentId, Owner>>,
    /// The pods that have their mark.
    pub(super) marked: Mutex<HashSet<ObjectKey>>,
    /// The mesh is taken off this node: nobody joins any more.
    pub(super) is_ending: AtomicBool,
}

impl PodRegistry {
    /// A registry without pods.
    #[must_use]
    pub fn new(parts: RegistryParts) -> Self {
        let (slots, owners, marked) = Default::default();
        Self { parts, slots, owners, marked, is_ending: AtomicBool::new(false) }
    }

    /// Takes a new pod into the mesh, if it is to be there; asking again is no error.
    pub async fn enrol(self: &Arc<Self>, attachment: Attachment, netns: NetnsFd) -> Outcome {
        let (id, key) = (attachment.id.clone(), key_of(&attachment.pod));
        self.own(&attachment);
        let outcome = match self.try_enrol(attachment, netns).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::warn!(attachment = %id, error = &error as &dyn std::error::Error, "a pod cannot be enrolled");
                self.parts.troubles.note(&key, &error);
                self.disown(&key, &id).await;
                error.outcome()
            }
        };
        self.forget_idle_slots();
        outcome
    }

    async fn try_enrol(
        self: &Arc<Self>,
        attachment: Attachment,
        netns: NetnsFd,
    ) -> Result<Outcome, EnrolError> {
        let key = key_of(&attachment.pod);
        let Some(Learnt { fact, vouched }) = self.learn(&attachment.pod).await? else {
            return self.let_pass(&attachment).await;
        };
        let cookie = netns.id().map_err(|source| EnrolError::Namespace { pod: key.clone(), source })?;
        let slot = self.slot(&key);
        let mut state = slot.state.lock().await;
        if !lock(&self.owners).contains_key(&attachment.id) {
            return Err(EnrolError::Withdrawn { pod: key });
        }
        if self.is_ending.load(Ordering::Acquire) {
            return Ok(Outcome::NotEnrolled);
        }
        // Before the mark: whoever finds the one finds the other.
        let record = Record::new(attachment, cookie.0, fact.uid.to_string());
        self.write_down(&record).await;
        let outcome = if fact.is_enrolled {
            let known = |old: &&mut Enrolment| old.cookie == cookie && old.pod.uid == fact.uid;
            if state.enrolment.as_mut().filter(known).is_none() {
                if let Some(replaced) = state.enrolment.take() {
                    self.leave(&replaced).await;
                }
                let pod = self.enrolled_pod(&record, fact, netns);
                state.enrolment = Some(Enrolment { vouched, ..self.join_new(pod, cookie).await? });
            }
            Outcome::Enrolled
        } else {
            self.parts.troubles.solve(&key);
            Outcome::NotEnrolled
        };
        state.remember(record);
        self.tend(&slot, &key);
        Ok(outcome)
    }

    /// Takes over a pod that another process has served, with sockets that listen in its namespace: they are accepted
    /// on from now on, and the pod is then looked after like any other, also when it is no longer to be in the mesh.
    ///
    /// # Errors
    /// When nothing is known of the pod, or the namespace is not the record's.
    pub async fn adopt(
        self: &Arc<Self>,
        record: Record,
        netns: NetnsFd,
        listeners: Vec<super::PodListener>,
    ) -> Result<(), EnrolError> {
        let fact = self.wait_for_fact(&record.attachment.pod, self.parts.patience.facts).await?;
        let key = key_of(&record.attachment.pod);
        let other = || std::io::Error::new(std::io::ErrorKind::NotFound, "another namespace is in its place");
        let cookie = netns
            .id()
            .and_then(|cookie| if cookie.0 == record.cookie { Ok(cookie) } else { Err(other()) })
            .map_err(|source| EnrolError::Namespace { pod: key.clone(), source })?;
        self.own(&record.attachment);
        let slot = self.slot(&key);
        let mut state = slot.state.lock().await;
        if let Some(replaced) = state.enrolment.take() {
            self.leave(&replaced).await;
        }
        let pod = self.enrolled_pod(&record, fact, netns);
        let mut enrolment = self.take_in(pod, cookie, (listeners, Arrival::Captured)).await?;
        // The process that had it may accept for a moment longer, and would meet the connections of a proof.
        enrolment.due = Instant::now() + self.parts.patience.proof;
        state.enrolment = Some(enrolment);
        state.remember(record);
        self.tend(&slot, &key);
        Ok(())
    }

    pub(super) fn own(&self, attachment: &Attachment) {
        let owner = Owner { pod: key_of(&attachment.pod), network: attachment.network.clone() };
        lock(&self.owners).insert(attachment.id.clone(), owner);
    }

    /// Forgets an attachment whose enrolment came to nothing; one that was there before stays known.
    async fn disown(&self, pod: &ObjectKey, id: &AttachmentId) {
        let slot = self.slot(pod);
        let state = slot.state.lock().await;
        if !state.records.iter().any(|record| record.attachment.id == *id) {
            lock(&self.owners).remove(id);
            self.forget_written(id).await;
        }
    }

    /// Takes an attachment out of the mesh, and its pod with the last of them. Always succeeds.
    pub async fn withdraw(&self, id: &AttachmentId) {
        let owner = lock(&self.owners).remove(id);
        if let Some(owner) = owner {
            self.release(&owner.pod, id).await;
            self.forget_idle_slots();
        }
        self.forget_written(id).await;
    }

    async fn release(&self, pod: &ObjectKey, id: &AttachmentId) {
        let slot = self.slot(pod);
        slot.hurry.notify_one();
        let mut state = slot.state.lock().await;
        state.records.retain(|record| record.attachment.id != *id);
        // An attachment of a sandbox that has been replaced takes nothing along.
        if !state.has_its_namespace()
            && let Some(enrolment) = state.enrolment.take()
        {
            self.leave(&enrolment).await;
        }
        if state.is_empty() {
            self.parts.troubles.solve(pod);
            if let Some(tender) = lock(&slot.tender).take() {
                tender.abort();
            }
        }
    }

    /// Withdraws every attachment of a network that the runtime does not know any more.
    pub async fn collect_garbage(&self, network: &str, valid: &[AttachmentId]) {
        let gone: Vec<AttachmentId> = lock(&self.owners)
            .iter()
            .filter(|(id, owner)| owner.network == network && !valid.contains(id))
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            self.withdraw(&id).await;
        }
    }

    /// Compares a pod's namespace, rules and listeners with what they should be.
    pub async fn check(&self, attachment: &Attachment, netns: Option<NetnsFd>) -> Outcome {
        let unexpected =
            |msg: String, details: String| Outcome::Failed { code: code::NOT_AS_EXPECTED, msg, details };
        let slot = self.slot(&key_of(&attachment.pod));
        let state = slot.state.lock().await;
        let record = state.records.iter().find(|record| record.attachment.id == attachment.id);
        if let (Some(record), Some(Ok(cookie))) = (record, netns.map(|netns| netns.id()))
            && record.cookie != cookie.0
        {
            return unexpected(
                format!("pod {} is known with another network namespace", attachment.pod),
                format!("its ADD came with that of cookie {}, this one has {}", record.cookie, cookie.0),
            );
        }
        let of_record =
            |enrolment: &&Enrolment| Some(enrolment.cookie.0) == record.map(|record| record.cookie);
        let joined = |enrolment: &&Enrolment| matches!(enrolment.phase, Phase::Joined { .. });
        let Some(enrolment) = state.enrolment.as_ref().filter(of_record).filter(joined) else {
            return match self.parts.facts.find(&attachment.pod) {
                Some(fact) if !fact.is_enrolled => Outcome::NotEnrolled,
                _ => unexpected(format!("pod {} is not enrolled", attachment.pod), String::new()),
            };
        };
        let (pod, listening) = (enrolment.pod.clone(), enrolment.listening.clone());
        match blocking(move || differences(&pod, &listening)).await {
            Ok(found) if found.is_empty() => Outcome::Enrolled,
            Ok(found) => unexpected(
                format!("pod {} is not enrolled as it should be", attachment.pod),
                found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            ),
            Err(error) => unexpected(format!("pod {} cannot be checked", attachment.pod), error.to_string()),
        }
    }

    /// Whether a pod could be enrolled now.
    #[must_use]
    pub fn status(&self) -> Outcome {
        if self.parts.events.is_closed() || self.parts.generations.has_changed().is_err() {
            return EnrolError::DataPathGone.outcome();
        }
        Outcome::Done
    }

    /// The pods that have something in the mesh, those on their way in or out included.
    pub async fn pods(&self) -> Vec<Arc<EnrolledPod>> {
        let mut pods = Vec::new();
        for slot in self.slots() {
            pods.extend(slot.state.lock().await.enrolment.as_ref().map(|enrolment| enrolment.pod.clone()));
        }
        pods
    }

    /// Lets go of every pod. Rules, marks and records stay: connections are refused, and never pass in plain text.
    pub async fn shutdown(&self) {
        lock(&self.owners).clear();
        let slots: Vec<Arc<Slot>> = lock(&self.slots).drain().map(|(_, slot)| slot).collect();
        for slot in slots {
            if let Some(tender) = lock(&slot.tender).take() {
                tender.abort();
            }
            *slot.state.lock().await = PodState::default();
        }
    }

    pub(super) fn enrolled_pod(&self, record: &Record, fact: PodFact, netns: NetnsFd) -> EnrolledPod {
        EnrolledPod {
            uid: fact.uid,
            pod: key_of(&record.attachment.pod),
            identity: fact.identity,
            addresses: record.attachment.addresses.clone(),
            record: Some(record.clone()),
            netns,
            host: self.parts.host.clone(),
            proofs: super::proof::ProofBoard::default(),
            standing: super::standing::Standing::default(),
        }
    }

    pub(super) fn slots(&self) -> Vec<Arc<Slot>> {
        lock(&self.slots).values().cloned().collect()
    }

    pub(super) fn slot(&self, pod: &ObjectKey) -> Arc<Slot> {
        lock(&self.slots).entry(pod.clone()).or_default().clone()
    }

    /// Drops the slots of pods that are gone and that nobody is about to lock.
    pub(super) fn forget_idle_slots(&self) {
        lock(&self.slots).retain(|_, slot| {
            Arc::strong_count(slot) > 1 || slot.state.try_lock().is_ok_and(|state| !state.is_empty())
        });
    }
}

pub(super) fn key_of(pod: &PodName) -> ObjectKey {
    ObjectKey::new(pod.namespace(), pod.name())
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` on a thread that may block; a panic in it is one here.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Blocking work is cancelled only with its runtime, and then nobody waits for it.
            Err(_) => std::future::pending().await,
        },
    }
}
