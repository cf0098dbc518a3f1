//! Pods that are older than the plugin: no ADD has told of them, so that their namespaces are searched for. Once found
//! they are written down, and are then as all others.

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
            let missing = self.missing();
            if missing.iter().any(|pod| !tried.contains(pod) || Instant::now() >= due) {
                self.search(&missing).await;
                due = Instant::now() + self.parts.patience.inspection;
            }
            let is_done = missing.is_empty();
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
        let mut known: HashSet<_> = lock(&self.owners).values().map(|owner| owner.pod.clone()).collect();
        if let Some(state_dir) = &self.parts.state_dir {
            known
                .extend(read(state_dir, state::list_unseen).iter().map(|attachment| key_of(&attachment.pod)));
        }
        awaited.retain(|pod| !known.contains(&key_of(&pod.name)));
        awaited
    }

    async fn search(self: &Arc<Self>, missing: &[AwaitedPod]) {
        let root = self.parts.host_root.clone();
        let mut namespaces = blocking(move || search::namespaces(&root)).await;
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
