//! How all pods of a node leave the mesh at once, when it is taken off the node.
//!
//! The order is that of every release: no mTLS from the pod, no mark, both mTLS and plain text taken until no peer uses
//! the hop, then no capture. What differs is the time there is, and that a mark which cannot be taken away keeps nobody: who
//! uninstalls may have taken the proxy's rights first, and whoever goes by the mark is about to go, too.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gammarus_cni::state::{self, NamespaceStates};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::joining::{Enrolment, remove};
use super::marking::MarkState;
use super::news::News;
use super::records::read;
use super::redirect;
use super::registry::{PodRegistry, Slot, blocking, lock};
use super::standing::Stand;
use super::tending::BACKLOG;

/// For how long nobody must have used the hop to a pod: all nodes learn of the end at once, by their views of marks.
const UNUSED: Duration = Duration::from_secs(3);
/// Between two looks at a pod.
const LOOK: Duration = Duration::from_millis(100);

impl PodRegistry {
    /// Releases every pod of the node within `allowed`, and forgets what is written down of them. From then on every ADD
    /// passes. `ask_to_go` is called when nothing new comes to the proxy any more: who is then served on a connection that
    /// stays finds the way without the proxy if it makes another one.
    pub async fn release_all(self: &Arc<Self>, allowed: Duration, ask_to_go: impl FnOnce()) {
        self.is_ending.store(true, Ordering::Release);
        let deadline = Instant::now() + allowed;
        let slots = self.slots();
        tracing::info!(pods = slots.len(), "the mesh is taken off this node: all pods are released");
        let mut retirements = JoinSet::new();
        for slot in slots {
            if let Some(tender) = lock(&slot.tender).take() {
                tender.abort();
            }
            let registry = Arc::clone(self);
            retirements.spawn(async move { registry.retire_now(&slot, deadline).await });
        }
        // An API server that does not answer must not hold up the pods.
        let _late = timeout_at(deadline, self.unmark_gateways()).await;
        let mut retired = Vec::new();
        while let Some(ended) = retirements.join_next().await {
            retired.extend(ended.ok().flatten());
        }
        ask_to_go();
        let mut releases = JoinSet::new();
        for enrolment in retired {
            let registry = Arc::clone(self);
            releases.spawn(async move { registry.leave_by(&enrolment, deadline).await });
        }
        while releases.join_next().await.is_some() {}
        self.forget_all();
        tracing::info!("all pods are released");
    }

    /// Takes a pod out as far as that nothing new of it comes to the proxy.
    async fn retire_now(&self, slot: &Slot, deadline: Instant) -> Option<Enrolment> {
        let mut state = slot.state.lock().await;
        state.records.clear();
        let mut enrolment = state.enrolment.take()?;
        let pod = Arc::clone(&enrolment.pod);
        pod.standing.set(Stand::Leaving);
        sleep(self.parts.patience.dial).await;
        if self.unmark(&mut enrolment).await.is_err() {
            // Who may not is not asked again.
            enrolment.mark = MarkState::Absent;
        }
        let unmarked = Instant::now();
        // What is left of the time is for connections that are redirected already.
        let latest = deadline - deadline.saturating_duration_since(unmarked) / 2;
        while Instant::now() < latest.min(unmarked.max(pod.standing.unused_since()) + UNUSED) {
            sleep(LOOK).await;
        }
        let own = Arc::clone(&pod);
        if let Err(error) = blocking(move || redirect::retire(&own.netns)).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(pod = %pod.pod, error, "a pod's rules are taken away with its connections");
        }
        sleep_until(deadline.min(Instant::now() + BACKLOG)).await;
        Some(enrolment)
    }

    /// Waits for a pod's connections, but not beyond `deadline`, and ends its capture.
    async fn leave_by(&self, enrolment: &Enrolment, deadline: Instant) {
        let pod = &enrolment.pod;
        while pod.standing.connections() > 0 && Instant::now() < deadline {
            sleep(LOOK).await;
        }
        self.leave(enrolment).await;
        remove(pod).await;
        self.parts.herald.tell(&pod.pod, News::Released);
    }

    /// Forgets all that is on the disk: a mesh that is installed anew begins anew.
    fn forget_all(&self) {
        let Some(state_dir) = &self.parts.state_dir else { return };
        let failed = |error: state::StateError| {
            tracing::warn!(error = &error as &dyn std::error::Error, "a record is left behind");
        };
        let records = [read(state_dir, state::list_records), read(state_dir, state::list_withdrawn)].concat();
        for record in records {
            state::forget_record(state_dir, &record.attachment.id).unwrap_or_else(failed);
        }
        for attachment in read(state_dir, state::list_unseen) {
            state::forget_unseen(state_dir, &attachment.id).unwrap_or_else(failed);
        }
        NamespaceStates::default().write(state_dir).unwrap_or_else(failed);
    }
}
