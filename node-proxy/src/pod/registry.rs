//! The pods of this node that are in the mesh: how one joins, is checked, and leaves.
//!
//! A pod's Pod and Namespace must have been seen before anything is decided: not to be enrolled is a fact, not
//! a cache miss. Joining is done completely or undone; leaving always succeeds, and closes everything of the
//! pod, so that its namespace can end. Work on one pod is done one step after the other, pods do not wait for
//! each other.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gammarus_cni::protocol::code;
use gammarus_cni::{Attachment, AttachmentId, Outcome, PodName};
use tokio::sync::{mpsc, watch};

use super::facts::{MarkWriter, PodFact, PodFacts};
use super::netns::{NetnsCookie, NetnsFd};
use super::proof::{ProofBoard, ProofError, prove};
use super::redirect::{self, RedirectError};
use super::{EnrolledPod, PodEvent, PodListener, sockets};
use crate::cluster::objects::{Mark, ObjectKey};

/// How long the data path may take to let go of a pod that has left.
const LET_GO: Duration = Duration::from_secs(1);

/// How long enrolment takes at most, step by step.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until the Pod and its Namespace have been seen; less than the plugin waits for everything.
    pub facts: Duration,
    /// For each connection of the proof.
    pub proof: Duration,
    /// For the mark to be written.
    pub mark: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        // A new IPv6 address of the node's end of the link answers nobody until it is known to be unique, up to two
        // seconds after it was given (RFC 4862 section 5.4): the proof waits that long, and its usual milliseconds else.
        Self { facts: Duration::from_secs(5), proof: Duration::from_secs(3), mark: Duration::from_secs(2) }
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
    /// Where `namespaces.json` and the records of unseen pods are, if anywhere.
    pub state_dir: Option<PathBuf>,
}

/// Why a pod did not join.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The data path has ended.
    #[error("the node's proxy is shutting down")]
    DataPathGone,
    /// The pod's listeners could not be opened.
    #[error("cannot open the listeners of pod {pod}")]
    Listeners {
        /// The pod.
        pod: ObjectKey,
        /// Why not.
        source: io::Error,
    },
    /// The mark could not be written.
    #[error("cannot write the mark of pod {pod}")]
    Mark {
        /// The pod.
        pod: ObjectKey,
        /// Why not.
        source: io::Error,
    },
    /// What was passed is no network namespace, or cannot be entered.
    #[error("cannot enter the network namespace of pod {pod}")]
    Namespace {
        /// The pod.
        pod: ObjectKey,
        /// Why not.
        source: io::Error,
    },
    /// The capture could not be proven.
    #[error("the connections of pod {pod} are not captured")]
    Proof {
        /// The pod.
        pod: ObjectKey,
        /// What did not arrive.
        source: ProofError,
    },
    /// The rules could not be installed.
    #[error("cannot install the rules of pod {pod}")]
    Redirect {
        /// The pod.
        pod: ObjectKey,
        /// Why not.
        source: RedirectError,
    },
    /// The Pod or its Namespace was not seen in time.
    #[error("pod {pod} or its namespace has not been seen within {} ms", waited.as_millis())]
    Unseen {
        /// The pod, as the runtime names it.
        pod: String,
        /// How long was waited.
        waited: Duration,
    },
    /// Its DEL came before its ADD was done.
    #[error("pod {pod} was released while it was being enrolled")]
    Withdrawn {
        /// The pod.
        pod: ObjectKey,
    },
}

impl EnrolError {
    /// The answer to the plugin.
    fn outcome(&self) -> Outcome {
        let code = match self {
            Self::Unseen { .. } | Self::DataPathGone => code::TRY_AGAIN_LATER,
            Self::Listeners { .. }
            | Self::Mark { .. }
            | Self::Namespace { .. }
            | Self::Proof { .. }
            | Self::Redirect { .. }
            | Self::Withdrawn { .. } => code::ENROLMENT_FAILED,
        };
        let causes: Vec<String> =
            std::iter::successors(std::error::Error::source(self), |error| error.source())
                .map(ToString::to_string)
                .collect();
        Outcome::Failed { code, msg: self.to_string(), details: causes.join(": ") }
    }
}

/// A pod that has joined.
struct Enrolment {
    attachments: Vec<AttachmentId>,
    cookie: NetnsCookie,
    listening: Vec<SocketAddr>,
    pod: Arc<EnrolledPod>,
}

/// The state of one pod: locked for as long as a step on it takes.
type Slot = Arc<tokio::sync::Mutex<Option<Enrolment>>>;

/// Which pod an attachment is of, from the moment its ADD came.
struct Owner {
    pod: ObjectKey,
    network: String,
}

/// The pods of this node that are in the mesh.
pub struct PodRegistry {
    pub(super) parts: RegistryParts,
    slots: Mutex<HashMap<ObjectKey, Slot>>,
    owners: Mutex<HashMap<AttachmentId, Owner>>,
}

impl PodRegistry {
    /// A registry without pods.
    #[must_use]
    pub fn new(parts: RegistryParts) -> Self {
        Self { parts, slots: Mutex::default(), owners: Mutex::default() }
    }

    /// Takes a pod into the mesh, if it is to be there; asking again is no error.
    pub async fn enrol(&self, attachment: Attachment, netns: NetnsFd) -> Outcome {
        let (id, key) = (attachment.id.clone(), key_of(&attachment.pod));
        let owner = Owner { pod: key.clone(), network: attachment.network.clone() };
        lock(&self.owners).insert(id.clone(), owner);
        let outcome = match self.try_enrol(attachment, netns).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::warn!(attachment = %id, error = &error as &dyn std::error::Error, "a pod cannot be enrolled");
                error.outcome()
            }
        };
        if outcome != Outcome::Enrolled {
            self.disown(&key, &id).await;
        }
        self.forget_idle_slots();
        outcome
    }

    async fn try_enrol(&self, attachment: Attachment, netns: NetnsFd) -> Result<Outcome, EnrolError> {
        let PodFact::Enrolled { uid, identity } = self.wait_for_fact(&attachment.pod).await? else {
            return Ok(Outcome::NotEnrolled);
        };
        let key = key_of(&attachment.pod);
        let cookie = netns.id().map_err(|source| EnrolError::Namespace { pod: key.clone(), source })?;
        let slot = self.slot(&key);
        let mut slot = slot.lock().await;
        if !lock(&self.owners).contains_key(&attachment.id) {
            return Err(EnrolError::Withdrawn { pod: key });
        }
        if let Some(enrolment) = slot.as_mut().filter(|old| old.cookie == cookie && old.pod.uid == uid) {
            if !enrolment.attachments.contains(&attachment.id) {
                enrolment.attachments.push(attachment.id);
            }
            return Ok(Outcome::Enrolled);
        }
        if let Some(replaced) = slot.take() {
            self.leave(&replaced).await;
        }
        let pod = EnrolledPod {
            uid,
            pod: key,
            identity,
            addresses: attachment.addresses,
            netns,
            proofs: ProofBoard::default(),
        };
        let mut enrolment =
            Enrolment { attachments: vec![attachment.id], cookie, listening: Vec::new(), pod: Arc::new(pod) };
        if let Err(error) = self.join(&mut enrolment).await {
            self.undo(&enrolment).await;
            return Err(error);
        }
        tracing::info!(pod = %enrolment.pod.pod, uid = %enrolment.pod.uid, "a pod has joined the mesh");
        *slot = Some(enrolment);
        Ok(Outcome::Enrolled)
    }

    /// Forgets an attachment whose enrolment came to nothing; one that was enrolled before stays known.
    async fn disown(&self, pod: &ObjectKey, id: &AttachmentId) {
        let slot = self.slot(pod);
        let enrolled = slot.lock().await.as_ref().is_some_and(|enrolment| enrolment.attachments.contains(id));
        if !enrolled {
            lock(&self.owners).remove(id);
        }
    }

    /// Rules, listeners, data path, proof, mark: in this order, each only when the one before holds.
    async fn join(&self, enrolment: &mut Enrolment) -> Result<(), EnrolError> {
        let pod = enrolment.pod.clone();
        let key = || pod.pod.clone();
        let prepared = pod.clone();
        let listeners = blocking(move || prepare(&prepared)).await?;
        enrolment.listening =
            listeners.iter().filter_map(|listener| listener.socket.local_addr().ok()).collect();
        let joined = PodEvent::Joined { pod: pod.clone(), listeners };
        self.parts.events.send(joined).await.map_err(|_| EnrolError::DataPathGone)?;
        let proven = prove(&pod, &self.parts.facts.service_addresses(), self.parts.patience.proof)
            .await
            .map_err(|source| EnrolError::Proof { pod: key(), source })?;
        self.write_mark(&pod, proven).await.map_err(|source| EnrolError::Mark { pod: key(), source })
    }

    async fn write_mark(&self, pod: &EnrolledPod, proven: Vec<IpAddr>) -> io::Result<()> {
        let (marks, key) = (self.parts.marks.clone(), pod.pod.clone());
        let mark = Mark { uid: pod.uid.to_string(), addresses: proven };
        let written = blocking(move || marks.write(&key, &mark));
        match tokio::time::timeout(self.parts.patience.mark, written).await {
            Ok(outcome) => outcome,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Takes back what [`Self::join`] may have done of a pod that goes on without the mesh.
    async fn undo(&self, enrolment: &Enrolment) {
        self.leave(enrolment).await;
        let pod = enrolment.pod.clone();
        if let Err(error) = blocking(move || redirect::remove(&pod.netns)).await {
            let pod = &enrolment.pod.pod;
            tracing::warn!(%pod, error = &error as &dyn std::error::Error, "rules may be left in a pod");
        }
    }

    /// The mark goes first, so that no peer sends mTLS to a pod without listeners; rules go with the namespace.
    async fn leave(&self, enrolment: &Enrolment) {
        let pod = &enrolment.pod;
        let (marks, key) = (self.parts.marks.clone(), pod.pod.clone());
        if let Err(error) = blocking(move || marks.remove(&key)).await {
            tracing::warn!(pod = %pod.pod, %error, "the mark of a pod that leaves may still be there");
        }
        if self.parts.events.send(PodEvent::Left { uid: pod.uid.clone() }).await.is_err() {
            tracing::debug!(pod = %pod.pod, "the data path has ended before a pod that leaves");
        }
    }

    /// Takes an attachment out of the mesh, and its pod with the last of them. Always succeeds.
    pub async fn withdraw(&self, id: &AttachmentId) {
        let Some(owner) = lock(&self.owners).remove(id) else { return };
        self.release(&owner.pod, id).await;
        self.forget_idle_slots();
    }

    async fn release(&self, pod: &ObjectKey, id: &AttachmentId) {
        let slot = self.slot(pod);
        let mut slot = slot.lock().await;
        let Some(enrolment) = slot.as_mut() else { return };
        let before = enrolment.attachments.len();
        enrolment.attachments.retain(|other| other != id);
        // An attachment of a sandbox that has been replaced is not among them.
        if !enrolment.attachments.is_empty() || enrolment.attachments.len() == before {
            return;
        }
        if let Some(enrolment) = slot.take() {
            self.leave(&enrolment).await;
            tracing::info!(pod = %enrolment.pod.pod, uid = %enrolment.pod.uid, "a pod has left the mesh");
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

    /// Compares a pod's rules and listeners with what they should be.
    pub async fn check(&self, attachment: &Attachment) -> Outcome {
        let unexpected =
            |msg: String, details: String| Outcome::Failed { code: code::NOT_AS_EXPECTED, msg, details };
        let slot = self.slot(&key_of(&attachment.pod));
        let slot = slot.lock().await;
        let known = slot.as_ref().filter(|enrolment| enrolment.attachments.contains(&attachment.id));
        let Some(enrolment) = known else {
            return match self.parts.facts.find(&attachment.pod) {
                Some(PodFact::NotEnrolled) => Outcome::NotEnrolled,
                Some(PodFact::Enrolled { .. }) | None => {
                    unexpected(format!("pod {} is not enrolled", attachment.pod), String::new())
                }
            };
        };
        let (pod, listening) = (enrolment.pod.clone(), enrolment.listening.clone());
        match blocking(move || differences(&pod, &listening)).await {
            Ok(found) if found.is_empty() => Outcome::Enrolled,
            Ok(found) => unexpected(
                format!("pod {} is not enrolled as it should be", attachment.pod),
                found.join("; "),
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

    /// The pods that are in the mesh at the moment; one that a step is done on is not among them.
    #[must_use]
    pub fn pods(&self) -> Vec<Arc<EnrolledPod>> {
        let slots = lock(&self.slots);
        let enrolled = |slot: &Slot| slot.try_lock().ok()?.as_ref().map(|enrolment| enrolment.pod.clone());
        slots.values().filter_map(enrolled).collect()
    }

    /// Lets go of every pod. Rules and marks stay: connections are refused, and never pass in plain text.
    pub async fn shutdown(&self) {
        lock(&self.owners).clear();
        let slots: Vec<Slot> = lock(&self.slots).drain().map(|(_, slot)| slot).collect();
        for slot in slots {
            drop(slot.lock().await.take());
        }
    }

    async fn wait_for_fact(&self, pod: &PodName) -> Result<PodFact, EnrolError> {
        let waited = self.parts.patience.facts;
        let unseen = || EnrolError::Unseen { pod: pod.to_string(), waited };
        let mut generations = self.parts.generations.clone();
        let known = async {
            loop {
                generations.mark_unchanged();
                if let Some(fact) = self.parts.facts.find(pod) {
                    return Ok(fact);
                }
                generations.changed().await.map_err(|_| unseen())?;
            }
        };
        tokio::time::timeout(waited, known).await.map_err(|_| unseen())?
    }

    fn slot(&self, pod: &ObjectKey) -> Slot {
        lock(&self.slots).entry(pod.clone()).or_default().clone()
    }

    /// Drops the slots of pods that are gone and that nobody is about to lock.
    fn forget_idle_slots(&self) {
        lock(&self.slots).retain(|_, slot| {
            Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|enrolment| enrolment.is_some())
        });
    }
}

fn prepare(pod: &EnrolledPod) -> Result<Vec<PodListener>, EnrolError> {
    redirect::install(&pod.netns).map_err(|source| EnrolError::Redirect { pod: pod.pod.clone(), source })?;
    let deadline = Instant::now() + LET_GO;
    loop {
        match sockets::listen(&pod.netns) {
            // The data path may be about to close the listeners of a pod that left this namespace just now.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            outcome => {
                return outcome.map_err(|source| EnrolError::Listeners { pod: pod.pod.clone(), source });
            }
        }
    }
}

fn differences(pod: &EnrolledPod, listening: &[SocketAddr]) -> Result<Vec<String>, RedirectError> {
    let mut found: Vec<String> = redirect::inspect(&pod.netns)?.iter().map(ToString::to_string).collect();
    let missing = sockets::missing_listeners(&pod.netns, listening).map_err(RedirectError::Namespace)?;
    found.extend(missing.iter().map(|address| format!("nothing listens on {address}")));
    Ok(found)
}

fn key_of(pod: &PodName) -> ObjectKey {
    ObjectKey::new(pod.namespace(), pod.name())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` on a thread that may block; a panic in it is one here.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Blocking work is cancelled only with its runtime, and then nobody waits for it.
            Err(_) => std::future::pending().await,
        },
    }
}
