//! How a pod of this node is looked after: taken into the mesh and released as its labels say, compared with what it
//! should be, repaired, and tried again.
//!
//! One task per pod takes one step after the other and waits for what comes first: a new generation of the cluster's
//! view, the time of the next step, or that somebody else has done something to the pod.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gammarus_cni::state::Record;
use tokio::time::Instant;

use super::error::EnrolError;
use super::facts::PodFact;
use super::joining::{Arrival, Enrolment, Phase, install, listen, remove};
use super::marking::MarkState;
use super::netns::{NetnsCookie, NetnsFd};
use super::news::News;
use super::redirect;
use super::registry::{PodRegistry, PodState, Slot, blocking, key_of, lock};
use super::repair::Difference;
use super::standing::Stand;
use crate::cluster::objects::{Mark, ObjectKey};

/// How often in a row something may have to be put back before the pod's mark is taken away: other nodes then speak
/// mTLS to a pod that does not always hear it.
const UNSTEADY: u32 = 3;
/// How often a pod whose last connections are waited for is looked at.
const LINGER_STEP: Duration = Duration::from_secs(1);
/// For how long the listeners of a pod that is being released accept after its rules have gone: what was redirected
/// a moment before may still be on its way to them.
pub(super) const BACKLOG: Duration = Duration::from_secs(3);

impl PodRegistry {
    /// Sees to it that somebody looks after a pod. The caller holds its state.
    pub(super) fn tend(self: &Arc<Self>, slot: &Arc<Slot>, pod: &ObjectKey) {
        let mut tender = lock(&slot.tender);
        if tender.as_ref().is_some_and(|tender| !tender.is_finished()) {
            return;
        }
        let (registry, own, pod) = (self.clone(), slot.clone(), pod.clone());
        let tending = async move { registry.look_after(&pod, &own).await };
        *tender = Some(tokio::spawn(tending).abort_handle());
    }

    async fn look_after(&self, pod: &ObjectKey, slot: &Slot) {
        let mut generations = self.parts.generations.clone();
        loop {
            generations.mark_unchanged();
            if self.is_ending.load(Ordering::Acquire) {
                return;
            }
            let next = {
                let mut state = slot.state.lock().await;
                // In a box of its own, as there is a pod between two steps for most of its life.
                Box::pin(self.step(pod, slot, &mut state)).await;
                if state.is_empty() {
                    self.parts.troubles.solve(pod);
                    // With the state locked, so that nobody takes this task for one that goes on.
                    lock(&slot.tender).take();
                    return;
                }
                let due = state.enrolment.as_ref().map(|enrolment| enrolment.due);
                due.unwrap_or_else(|| Instant::now() + self.parts.patience.inspection)
            };
            tokio::select! {
                changed = generations.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// One step of a pod's life.
    async fn step(&self, pod: &ObjectKey, slot: &Slot, state: &mut PodState) {
        let Some(record) = state.records.last().cloned() else { return };
        let fact = self.parts.facts.find(&record.attachment.pod);
        let is_enrolled = fact.as_ref().is_none_or(|fact| fact.is_enrolled);
        match (fact, &mut state.enrolment) {
            (Some(fact), None) => self.consider(&record, fact, state).await,
            (None, None) => self.forget_if_gone(state).await,
            (None, Some(enrolment)) => {
                if Instant::now() >= enrolment.due {
                    self.keep(enrolment, slot).await;
                    self.forget_if_gone(state).await;
                }
            }
            (Some(_), Some(enrolment)) if is_enrolled || enrolment.is_vouched() => {
                self.take_back(enrolment);
                if Instant::now() >= enrolment.due {
                    self.keep(enrolment, slot).await;
                }
            }
            (Some(_), Some(enrolment)) => {
                self.parts.troubles.solve(pod);
                if self.go_on_releasing(enrolment).await {
                    tracing::info!(%pod, "a pod has been released from the mesh");
                    self.parts.herald.tell(pod, News::Released);
                    state.enrolment = None;
                }
            }
        }
    }

    /// A pod that has nothing in the mesh: is it to be there, or has it rules that a proxy before this one left?
    async fn consider(&self, record: &Record, fact: PodFact, state: &mut PodState) {
        let pod = key_of(&record.attachment.pod);
        let outcome = match self.parts.host.open_recorded(record) {
            Ok(Some(netns)) => {
                let own = match netns.try_clone() {
                    Ok(own) => own,
                    Err(error) => return tracing::warn!(%pod, %error, "a pod cannot be looked at"),
                };
                let captured = blocking(move || redirect::is_installed(&own)).await.unwrap_or(false);
                if !fact.is_enrolled && !captured {
                    return self.parts.troubles.solve(&pod);
                }
                let arrival = if captured { Arrival::Captured } else { Arrival::Outside };
                self.take_in_running(record, fact, (netns, arrival)).await
            }
            // It has gone, or its ADD comes again with a namespace that is there.
            Ok(None) => return,
            Err(source) => Err(EnrolError::Namespace { pod: pod.clone(), source }),
        };
        match outcome {
            Ok(enrolment) => state.enrolment = Some(enrolment),
            Err(error) => self.parts.troubles.note(&pod, &error),
        }
    }

    /// Listeners and the data path; rules come in the next step.
    async fn take_in_running(
        &self,
        record: &Record,
        fact: PodFact,
        (netns, arrival): (NetnsFd, Arrival),
    ) -> Result<Enrolment, EnrolError> {
        let pod = self.enrolled_pod(record, fact, netns);
        let listeners = listen(&pod).await?;
        tracing::info!(pod = %pod.pod, uid = %pod.uid, "a running pod joins the mesh");
        let mut enrolment = self.take_in(pod, NetnsCookie(record.cookie), (listeners, arrival)).await?;
        if let Err(error) = install(&enrolment.pod).await {
            self.leave(&enrolment).await;
            return Err(error);
        }
        if arrival == Arrival::Outside {
            // Marked when the rules have stayed for a moment.
            enrolment.due = Instant::now() + self.parts.patience.retry;
        }
        Ok(enrolment)
    }

    /// A pod that is to be in the mesh: everything of it is there, proven and marked, or the mark goes.
    async fn keep(&self, enrolment: &mut Enrolment, slot: &Slot) {
        let (pod, now) = (enrolment.pod.clone(), Instant::now());
        match self.certify(enrolment, slot).await {
            Ok(()) => {
                enrolment.failures = 0;
                enrolment.due = now + self.parts.patience.inspection;
                self.parts.troubles.solve(&pod.pod);
            }
            // Somebody waits for the pod, and nothing is known yet.
            Err(EnrolError::Withdrawn { .. }) => enrolment.due = now + self.parts.patience.retry,
            Err(error) => {
                enrolment.failures += 1;
                enrolment.due = now + self.pause(enrolment.failures);
                let is_unsteady = matches!(error, EnrolError::Unsteady { .. });
                let is_marked = enrolment.mark != MarkState::Absent;
                if !is_marked || !is_unsteady || enrolment.failures >= UNSTEADY {
                    self.parts.troubles.note(&pod.pod, &error);
                    if !error.is_pending_mark() {
                        // What fails is tried again with the next look, whatever comes of that.
                        let _ = self.unmark(enrolment).await;
                    }
                }
            }
        }
        self.settle(enrolment);
    }

    async fn certify(&self, enrolment: &mut Enrolment, slot: &Slot) -> Result<(), EnrolError> {
        let found = self.repair(enrolment).await?;
        if !found.is_empty() {
            self.report(&enrolment.pod, &found);
            let found = found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            return Err(EnrolError::Unsteady { pod: enrolment.pod.pod.clone(), found });
        }
        let pod = enrolment.pod.clone();
        let proving = async {
            match self.prove(&pod).await {
                // One lost packet is no reason to take a mark away.
                Err(_) if enrolment.mark != MarkState::Absent => self.prove(&pod).await,
                outcome => outcome,
            }
        };
        let proven = tokio::select! {
            proven = proving => proven?,
            // Nothing is known but that somebody waits: the next step comes when that is done.
            () = slot.hurry.notified() => return Err(EnrolError::Withdrawn { pod: pod.pod.clone() }),
        };
        let mark = Mark::of_captured(&*pod.uid, proven);
        if enrolment.mark == MarkState::Written {
            if !self.parts.facts.lacks_mark(&pod.pod, &mark) {
                return Ok(());
            }
            self.report(&pod, &[Difference::Mark]);
        }
        self.mark(enrolment, mark).await
    }

    /// A pod is through with its way in once others know of its label.
    fn settle(&self, enrolment: &mut Enrolment) {
        let Phase::Joined { settles: Some(settles) } = enrolment.phase else { return };
        if Instant::now() < settles {
            enrolment.due = enrolment.due.min(settles);
        } else {
            enrolment.phase = Phase::Joined { settles: None };
            enrolment.pod.standing.set(Stand::Member);
            tracing::debug!(pod = %enrolment.pod.pod, "every node knows that a pod is in the mesh");
        }
    }

    /// How long after so many failures a pod is tried again.
    pub(super) fn pause(&self, failures: u32) -> Duration {
        let patience = &self.parts.patience;
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
        patience.retry.saturating_mul(doubled).min(patience.inspection)
    }

    /// A pod that was on its way out is to be in the mesh after all.
    fn take_back(&self, enrolment: &mut Enrolment) {
        let now = Instant::now();
        match enrolment.phase {
            Phase::Joined { .. } => return,
            // It has its mark, and nobody has been told otherwise.
            Phase::Leaving { .. } => {
                enrolment.phase = Phase::Joined { settles: None };
                enrolment.pod.standing.set(Stand::Member);
            }
            Phase::Unmarked { .. } | Phase::Retired { .. } => {
                enrolment.phase = Phase::Joined { settles: Some(now + self.parts.patience.lag) };
                enrolment.pod.standing.set(Stand::Entering);
            }
        }
        tracing::info!(pod = %enrolment.pod.pod, "a pod stays in the mesh that was on its way out");
        enrolment.due = now;
    }

    /// The way out: quiet, unmarked, retired, gone. Returns whether the pod has nothing in the mesh any more.
    async fn go_on_releasing(&self, enrolment: &mut Enrolment) -> bool {
        let (pod, now) = (enrolment.pod.clone(), Instant::now());
        let patience = &self.parts.patience;
        match enrolment.phase {
            Phase::Joined { .. } => {
                tracing::info!(pod = %pod.pod, "a pod is released from the mesh");
                pod.standing.set(Stand::Leaving);
                enrolment.phase = Phase::Leaving { since: now };
                enrolment.due = now + patience.dial;
            }
            Phase::Leaving { since } if now >= since + patience.dial => match self.unmark(enrolment).await {
                Ok(()) => {
                    enrolment.failures = 0;
                    enrolment.phase = Phase::Unmarked { since: now };
                    pod.standing.unused_since();
                    enrolment.due = now + patience.release;
                }
                // Other nodes speak mTLS to it as long as its mark is there.
                Err(_) => {
                    enrolment.failures += 1;
                    enrolment.due = now + self.pause(enrolment.failures);
                }
            },
            Phase::Unmarked { since } => {
                let unused = since.max(pod.standing.unused_since());
                enrolment.due = unused + patience.release;
                if now >= enrolment.due {
                    self.retire(enrolment).await;
                } else {
                    // Whether the hop is used is seen when it is looked at.
                    enrolment.due = enrolment.due.min(now + patience.release / 10);
                }
            }
            Phase::Retired { since } => {
                let is_over = pod.standing.connections() == 0 && now >= since + BACKLOG;
                if is_over || now >= since + patience.linger {
                    self.leave(enrolment).await;
                    remove(&pod).await;
                    return true;
                }
                enrolment.due = now + LINGER_STEP;
            }
            Phase::Leaving { .. } => {}
        }
        false
    }

    async fn retire(&self, enrolment: &mut Enrolment) {
        let (own, now) = (enrolment.pod.clone(), Instant::now());
        match blocking(move || redirect::retire(&own.netns)).await {
            Ok(()) => {
                enrolment.phase = Phase::Retired { since: now };
                enrolment.due = now + BACKLOG;
            }
            Err(error) => {
                let pod = &enrolment.pod.pod;
                tracing::warn!(%pod, error = &error as &dyn std::error::Error, "a pod cannot be released yet");
                enrolment.due = now + self.parts.patience.retry;
            }
        }
    }

    /// Forgets attachments whose namespace has gone, of a pod that the cluster does not know: their DEL was missed.
    async fn forget_if_gone(&self, state: &mut PodState) {
        let gone = |record: &Record| matches!(self.parts.host.open_recorded(record), Ok(None));
        let (missed, there): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.records).into_iter().partition(gone);
        state.records = there;
        for record in missed {
            let id = &record.attachment.id;
            tracing::info!(attachment = %id, pod = %record.attachment.pod, "an attachment has gone without its DEL");
            lock(&self.owners).remove(id);
            self.forget_written(id).await;
        }
        if !state.has_its_namespace()
            && let Some(enrolment) = state.enrolment.take()
        {
            self.leave(&enrolment).await;
        }
    }
}
