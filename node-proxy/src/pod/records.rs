//! What a proxy that has just started knows of the node's pods: the records that lie on the disk, and the pods that
//! started while no proxy was there.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use gammarus_cni::state::{self, NamespaceStates, Record, StateError};
use gammarus_cni::{Attachment, AttachmentId};

use super::registry::{PodRegistry, blocking, key_of, lock};
use crate::cluster::objects::ObjectKey;

impl PodRegistry {
    /// Finds the pods again that a proxy before this one knew, but for those that were adopted already; takes away the
    /// marks of those that have gone. To be called when the cluster's view is there. What has rules is accepted for
    /// again soon after this returns, and is then enrolled or released as its labels say.
    pub async fn restore(self: &Arc<Self>) {
        let Some(state_dir) = self.parts.state_dir.clone() else { return };
        for record in read(&state_dir, state::list_withdrawn) {
            self.forget_gone(&record).await;
        }
        for record in read(&state_dir, state::list_records) {
            let id = &record.attachment.id;
            if lock(&self.owners).contains_key(id) {
                continue;
            }
            match self.parts.host.open_recorded(&record) {
                Ok(Some(_)) => self.look_after_record(record).await,
                Ok(None) => self.forget_gone(&record).await,
                Err(error) => tracing::warn!(attachment = %id, %error, "cannot open the namespace of a pod"),
            }
        }
    }

    pub(super) async fn look_after_record(self: &Arc<Self>, record: Record) {
        self.own(&record.attachment);
        let pod = key_of(&record.attachment.pod);
        let slot = self.slot(&pod);
        let mut state = slot.state.lock().await;
        state.remember(record);
        // The cookies of a machine only grow: the latest sandbox is the last.
        state.records.sort_by_key(|record| record.cookie);
        self.tend(&slot, &pod);
    }

    /// A pod that went while no proxy was there.
    async fn forget_gone(&self, record: &Record) {
        let pod: ObjectKey = key_of(&record.attachment.pod);
        let (marks, key, uid) = (self.parts.marks.clone(), pod.clone(), record.uid.clone());
        if let Err(error) = blocking(move || marks.remove(&key, &uid)).await {
            return tracing::warn!(%pod, %error, "the mark of a pod that has gone may still be there");
        }
        self.forget_written(&record.attachment.id).await;
    }

    /// Keeps `namespaces.json` as the cluster has it, and looks after the pods that started while no proxy was there;
    /// ends when the cluster's watcher does. Start it once the socket is bound, so that no pod falls between.
    pub async fn follow_state(self: &Arc<Self>) {
        let Some(state_dir) = self.parts.state_dir.clone() else { return };
        let mut generations = self.parts.generations.clone();
        let mut written: Option<NamespaceStates> = None;
        loop {
            generations.mark_unchanged();
            let states = self.parts.facts.namespaces();
            if written.as_ref() != Some(&states) {
                match states.write(&state_dir) {
                    Ok(()) => written = Some(states),
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "cannot keep the namespaces")
                    }
                }
            }
            for attachment in read(&state_dir, state::list_unseen) {
                self.look_after_unseen(attachment).await;
            }
            self.forget_old_troubles();
            if generations.changed().await.is_err() {
                return;
            }
        }
    }

    /// Looks after what started unseen and is known by now; the rest waits for the next generation.
    async fn look_after_unseen(self: &Arc<Self>, attachment: Attachment) {
        let Some(fact) = self.parts.facts.find(&attachment.pod) else { return };
        let id = attachment.id.clone();
        match self.parts.host.open_netns(&attachment.netns).and_then(|netns| netns.id()) {
            Ok(cookie) => {
                let record = Record::new(attachment, cookie.0, fact.uid.to_string());
                self.write_down(&record).await;
                self.look_after_record(record).await;
            }
            // The pod went while no proxy was there.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return tracing::warn!(attachment = %id, %error, "cannot open the namespace of an unseen pod");
            }
        }
        self.forget_unseen(&id);
    }

    /// Of pods whose ADD has failed nothing is left but the reason: it goes with the Pod, or with its label.
    fn forget_old_troubles(&self) {
        let facts = &self.parts.facts;
        self.parts.troubles.retain(|pod| {
            let name = gammarus_cni::PodName::new(pod.namespace.to_string(), pod.name.to_string(), None);
            name.ok().and_then(|name| facts.find(&name)).is_some_and(|fact| fact.is_enrolled)
        });
    }

    pub(super) fn forget_unseen(&self, id: &AttachmentId) {
        let Some(state_dir) = &self.parts.state_dir else { return };
        if let Err(error) = state::forget_unseen(state_dir, id) {
            tracing::warn!(attachment = %id, error = &error as &dyn std::error::Error, "a record is left behind");
        }
    }

    /// Puts a record on the disk. A pod is not kept from starting by a disk that is full.
    pub(super) async fn write_down(&self, record: &Record) {
        let Some(state_dir) = self.parts.state_dir.clone() else { return };
        if self.is_ending.load(Ordering::Acquire) {
            return;
        }
        let (own, pod) = (record.clone(), &record.attachment.pod);
        if let Err(error) = blocking(move || state::write_record(&state_dir, &own)).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(%pod, error, "a pod is not written down, and not found again by the next proxy");
        }
    }

    pub(super) async fn forget_written(&self, id: &AttachmentId) {
        let Some(state_dir) = self.parts.state_dir.clone() else { return };
        let own = id.clone();
        if let Err(error) = blocking(move || state::forget_record(&state_dir, &own)).await {
            tracing::warn!(attachment = %id, error = &error as &dyn std::error::Error, "a record is left behind");
        }
    }
}

/// What lies in a folder of the state directory, without what cannot be read.
pub(super) fn read<T>(
    state_dir: &Path,
    list: impl Fn(&Path) -> Result<Vec<Result<T, StateError>>, StateError>,
) -> Vec<T> {
    let lost = |error: &StateError| {
        tracing::warn!(error = error as &dyn std::error::Error, "a record of a pod cannot be read");
    };
    let records = list(state_dir).unwrap_or_else(|error| vec![Err(error)]);
    records.into_iter().filter_map(|record| record.inspect_err(lost).ok()).collect()
}
