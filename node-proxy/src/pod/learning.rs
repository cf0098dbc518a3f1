//! How it is learnt whether a new pod is to be in the mesh, before its ADD is answered.
//!
//! Not to be enrolled is a fact: of exactly that pod, and of its namespace as it is at that moment. The cluster's view may
//! be a moment late, and is believed when it says that a pod is to be enrolled, since that may be taken back; before
//! anything else is believed, who keeps the objects is asked, once. Where nobody answers it goes as it goes without a
//! proxy: pods of namespaces known as enrolled wait, all others start, and are written down.

use std::time::Duration;

use gammarus_cni::state::{self, NamespaceState};
use gammarus_cni::{Attachment, Outcome, PodName};
use tokio::time::Instant;

use super::error::EnrolError;
use super::facts::{Asked, PodFact};
use super::joining::Enrolment;
use super::registry::{PodRegistry, blocking, key_of};

/// How long a new pod may be missing from the view before it is asked for: usually it was seen long before its ADD.
const MOMENT: Duration = Duration::from_millis(100);

/// What was learnt of a pod.
pub(super) struct Learnt {
    pub(super) fact: PodFact,
    /// Until when the view may be older than this.
    pub(super) vouched: Option<Instant>,
}

impl PodRegistry {
    /// What the cluster says of a new pod; `None` when nobody can say, and the pod is not to wait for that.
    pub(super) async fn learn(&self, pod: &PodName) -> Result<Option<Learnt>, EnrolError> {
        let seen = self.wait_for_fact(pod, MOMENT).await;
        if let Ok(fact) = &seen
            && fact.is_enrolled
        {
            return Ok(Some(Learnt { fact: fact.clone(), vouched: None }));
        }
        let (facts, name) = (self.parts.facts.clone(), pod.clone());
        match (blocking(move || facts.ask(&name)).await, seen) {
            (Asked::Fact(fact), _) => {
                Ok(Some(Learnt { fact, vouched: Some(Instant::now() + self.parts.patience.lag) }))
            }
            (Asked::NoSuchPod | Asked::Nobody | Asked::Silence(_), Ok(fact)) => {
                Ok(Some(Learnt { fact, vouched: None }))
            }
            (Asked::NoSuchPod | Asked::Nobody, Err(_)) => {
                let fact = self.wait_for_fact(pod, self.parts.patience.facts).await?;
                Ok(Some(Learnt { fact, vouched: None }))
            }
            (Asked::Silence(why), Err(_)) => self.learn_without_answer(pod, &why).await,
        }
    }

    async fn learn_without_answer(&self, pod: &PodName, why: &str) -> Result<Option<Learnt>, EnrolError> {
        tracing::warn!(%pod, error = why, "cannot ask for a pod that has not been seen");
        let state = || self.parts.facts.namespaces().find(pod.namespace());
        if state() == NamespaceState::NotEnrolled {
            return Ok(None);
        }
        match self.wait_for_fact(pod, self.parts.patience.facts).await {
            Ok(fact) => Ok(Some(Learnt { fact, vouched: None })),
            Err(unseen) if state() == NamespaceState::Enrolled => Err(unseen),
            Err(_) => Ok(None),
        }
    }

    /// Lets a pod start of which nobody can say anything now. It is written down, and is looked at when it is seen.
    pub(super) async fn let_pass(&self, attachment: &Attachment) -> Result<Outcome, EnrolError> {
        let pod = key_of(&attachment.pod);
        tracing::warn!(%pod, "a pod starts without anybody knowing whether it is to be in the mesh");
        if let Some(state_dir) = self.parts.state_dir.clone() {
            let own = attachment.clone();
            if let Err(error) = blocking(move || state::write_unseen(&state_dir, &own)).await {
                tracing::warn!(%pod, error = &error as &dyn std::error::Error, "the pod is not written down");
            }
        }
        Ok(Outcome::NotEnrolled)
    }

    /// What the view says of a pod, once it has seen it and its namespace.
    pub(super) async fn wait_for_fact(
        &self,
        pod: &PodName,
        allowed: Duration,
    ) -> Result<PodFact, EnrolError> {
        let unseen = || EnrolError::Unseen { pod: pod.to_string(), waited: self.parts.patience.facts };
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
        tokio::time::timeout(allowed, known).await.map_err(|_| unseen())?
    }
}

impl Enrolment {
    /// Whether the cluster's view may be older than what was asked directly.
    pub(super) fn is_vouched(&self) -> bool {
        self.vouched.is_some_and(|until| Instant::now() < until)
    }
}
