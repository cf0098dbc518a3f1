//! Pods of which no ADD has told: those that are older than the plugin, whose namespaces are searched for; those of the
//! node's own network, which are left alone; and marks that nobody stands for. Pods that are found are written down, and
//! are then as all others.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use gammarus_cni::state::{self, Record};
use tokio::time::Instant;

use super::error::EnrolError;
use super::facts::AwaitedPod;
use super::records::read;
use super::registry::{PodRegistry, blocking, key_of, lock};
use super::search::{self, Namespace};
use crate::cluster::objects::ObjectKey;

/// Between two looks at which pods are missing: the cluster's view may change more often.
const LOOKS_APART: Duration = Duration::from_secs(1);

impl PodRegistry {
    /// Finds the pods that should be in the mesh and that nobody has told of, as long as the cluster is watched. Start
    /// it after [`Self::restore`]. Those that are not found are looked for again with each comparison.
    pub async fn find_older(self: &Arc<Self>) {
        let mut generations = self.parts.generations.clone();
        let (mut tried, mut due) = (Vec::new(), Instant::now());
        loop {
            generations.mark_unchanged();
            self.parts.troubles.leave_alone(self.parts.facts.left_alone());
            let missing = self.missing();
            if missing.iter().any(|pod| !tried.contains(pod) || Instant::now() >= due) {
                self.search(&missing).await;
                due = Instant::now() + self.parts.patience.inspection;
            }
            let is_done = self.take_forgotten_marks().await && missing.is_empty();
            if Instant::now() >= due {
                due = Instant::now() + self.parts.patience.inspection;
            }
            tried = missing;
            tokio::time::sleep(LOOKS_APART).await;
            tokio::select! {
                changed = generations.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(due), if !is_done => {}
            }
        }
    }

    /// The pods that should be in the mesh and that are known neither by an ADD nor by a record.
    fn missing(&self) -> Vec<AwaitedPod> {
        let mut awaited = self.parts.facts.awaited();
        if awaited.is_empty() {
            return awaited;
        }
        let known = self.known_pods();
        awaited.retain(|pod| !known.contains(&key_of(&pod.name)));
        awaited
    }

    /// The pods that an ADD or a record has told of.
    fn known_pods(&self) -> HashSet<ObjectKey> {
        let mut known: HashSet<_> = lock(&self.owners).values().map(|owner| owner.pod.clone()).collect();
        if let Some(state_dir) = &self.parts.state_dir {
            let unseen = read(state_dir, state::list_unseen);
            known.extend(unseen.iter().map(|attachment| key_of(&attachment.pod)));
        }
        known
    }

    /// Takes away the marks of pods that nobody here knows: of a mesh that was taken off this node without being able to.
    /// Returns whether there are none left.
    async fn take_forgotten_marks(&self) -> bool {
        let mut marked = self.parts.facts.marked();
        if marked.is_empty() {
            return true;
        }
        let mut known = self.known_pods();
        known.extend(self.parts.facts.gateways().into_iter().map(|gateway| gateway.key));
        marked.retain(|(pod, _)| !known.contains(pod));
        let mut is_done = true;
        for (pod, uid) in marked {
            match self.remove_mark(&pod, &uid).await {
                Ok(()) => tracing::info!(%pod, "took away a mark that nobody stands for"),
                Err(error) => {
                    is_done = false;
                    tracing::warn!(%pod, %error, "a mark that nobody stands for cannot be taken away yet");
                }
            }
        }
        is_done
    }

    async fn search(self: &Arc<Self>, missing: &[AwaitedPod]) {
        let host = self.parts.host.clone();
        let mut namespaces = blocking(move || search::namespaces(host.root())).await;
        let known = self.known_namespaces().await;
        namespaces.retain(|namespace| !known.contains(&namespace.cookie.0));
        for pod in missing {
            match search::find(pod, &namespaces) {
                Ok(namespace) => self.take_up(pod, namespace).await,
                Err(source) => {
                    let pod = key_of(&pod.name);
                    self.parts.troubles.note(&pod, &EnrolError::Search { pod: pod.clone(), source });
                }
            }
        }
    }

    /// The cookies of all namespaces that are some pod's.
    async fn known_namespaces(&self) -> HashSet<u64> {
        let mut cookies = HashSet::new();
        for slot in self.slots() {
            cookies.extend(slot.state.lock().await.records.iter().map(|record| record.cookie));
        }
        cookies
    }

    async fn take_up(self: &Arc<Self>, pod: &AwaitedPod, namespace: &Namespace) {
        let key = key_of(&pod.name);
        let Some(fact) = self.parts.facts.find(&pod.name) else { return };
        // While it was searched for, its ADD may have come.
        if lock(&self.owners).values().any(|owner| owner.pod == key) {
            return;
        }
        let attachment = match namespace.attachment(pod) {
            Ok(attachment) => attachment,
            Err(error) => {
                return tracing::warn!(pod = %key, %error, "a pod that was found cannot be written down");
            }
        };
        tracing::info!(pod = %key, netns = %attachment.netns.display(), "found a pod that no ADD has told of");
        let record = Record::new(attachment, namespace.cookie.0, fact.uid.to_string());
        self.write_down(&record).await;
        self.look_after_record(record).await;
    }
}
