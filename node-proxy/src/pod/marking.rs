//! A pod's mark: written once its capture is proven, tried again until it is written, and taken away before anything
//! else of the pod goes.
//!
//! Who keeps marks may be away. A mark that was not written is pending: the pod starts all the same, captured as it is,
//! and other nodes use plain text to it, or nothing where that is refused, until its mark comes. A mark that
//! was not taken away may still be there: the pod takes mTLS for as long.

use std::collections::HashSet;
use std::io;

use super::EnrolledPod;
use super::error::EnrolError;
use super::joining::Enrolment;
use super::news::News;
use super::registry::{PodRegistry, blocking, lock};
use crate::cluster::objects::{Mark, ObjectKey};

/// Whether a pod has its mark, as far as is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MarkState {
    /// It has none.
    Absent,
    /// It may have one: a proxy before this one wrote it, or an answer did not come.
    Unsure,
    /// It has the right one.
    Written,
}

impl PodRegistry {
    /// Marks a pod whose capture was proven just now, for the addresses that the mark names.
    pub(super) async fn mark(&self, enrolment: &mut Enrolment, mark: Mark) -> Result<(), EnrolError> {
        let pod = enrolment.pod.clone();
        let (marks, key) = (self.parts.marks.clone(), pod.pod.clone());
        // It may come to be written after all, also when that takes too long.
        enrolment.mark = MarkState::Unsure;
        let written = blocking(move || marks.write(&key, &mark));
        let written = match tokio::time::timeout(self.parts.patience.mark, written).await {
            Ok(outcome) => outcome,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        written.map_err(|source| EnrolError::Mark { pod: pod.pod.clone(), source })?;
        enrolment.mark = MarkState::Written;
        self.count_marked(|marked| marked.insert(pod.pod.clone()));
        if !std::mem::replace(&mut enrolment.is_announced, true) {
            self.parts.herald.tell(&pod.pod, News::Enrolled);
        }
        tracing::info!(pod = %pod.pod, uid = %pod.uid, "a pod is marked as in the mesh");
        Ok(())
    }

    /// Takes a pod's mark away, if it may have one; one that may still be there is taken away with the next try.
    pub(super) async fn unmark(&self, enrolment: &mut Enrolment) -> io::Result<()> {
        if enrolment.mark == MarkState::Absent {
            return Ok(());
        }
        let was = std::mem::replace(&mut enrolment.mark, MarkState::Unsure);
        let outcome = self.take_mark(&enrolment.pod).await;
        match &outcome {
            Ok(()) => enrolment.mark = MarkState::Absent,
            // Said once: it is tried again and again.
            Err(error) if was == MarkState::Written => {
                tracing::warn!(pod = %enrolment.pod.pod, %error, "a mark cannot be taken away yet");
            }
            Err(_) => {}
        }
        enrolment.is_announced = false;
        outcome
    }

    /// Takes away the mark of a pod that goes in any case.
    pub(super) async fn unmark_leaving(&self, pod: &EnrolledPod) {
        if let Err(error) = self.take_mark(pod).await {
            tracing::warn!(pod = %pod.pod, %error, "the mark of a pod that has gone may still be there");
        }
    }

    async fn take_mark(&self, pod: &EnrolledPod) -> io::Result<()> {
        self.count_marked(|marked| marked.remove(&pod.pod));
        self.remove_mark(&pod.pod, &pod.uid).await
    }

    pub(super) async fn remove_mark(&self, pod: &ObjectKey, uid: &str) -> io::Result<()> {
        let (marks, key, uid) = (self.parts.marks.clone(), pod.clone(), uid.to_owned());
        blocking(move || marks.remove(&key, &uid)).await
    }

    fn count_marked(&self, change: impl FnOnce(&mut HashSet<ObjectKey>) -> bool) {
        let mut marked = lock(&self.marked);
        change(&mut marked);
        self.parts.metrics.set_pods_enrolled(marked.len());
    }
}

impl EnrolError {
    /// Whether nothing but the mark is missing, and who keeps marks may take it later: the pod itself is there.
    pub(super) fn is_pending_mark(&self) -> bool {
        matches!(self, Self::Mark { source, .. } if source.kind() != io::ErrorKind::NotFound)
    }
}
