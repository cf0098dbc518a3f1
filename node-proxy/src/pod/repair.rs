//! What a pod's namespace has, compared with what it should have, and put back.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::error::EnrolError;
use super::joining::{Enrolment, addresses, install};
use super::news::News;
use super::redirect::{self, Deviation, RedirectError};
use super::registry::{PodRegistry, blocking};
use super::{EnrolledPod, PodEvent, sockets};

/// One way in which a pod is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    /// Of its rules, routes and settings.
    Redirect(Deviation),
    /// Nothing listens there.
    Listener(SocketAddr),
    /// Its mark is not there, or is another one.
    Mark,
}

impl Difference {
    /// The label of `gammarus_repairs_total`.
    pub(super) const fn what(&self) -> &'static str {
        match self {
            Self::Redirect(deviation) => deviation.what(),
            Self::Listener(_) => "listeners",
            Self::Mark => "mark",
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redirect(deviation) => write!(f, "{deviation}"),
            Self::Listener(address) => write!(f, "nothing listens on {address}"),
            Self::Mark => write!(f, "its mark is not there"),
        }
    }
}

/// Compares a pod with what it should be; empty when nothing differs.
pub(super) fn differences(
    pod: &EnrolledPod,
    listening: &[SocketAddr],
) -> Result<Vec<Difference>, RedirectError> {
    let mut found: Vec<_> = redirect::inspect(&pod.netns)?.into_iter().map(Difference::Redirect).collect();
    let missing = sockets::missing_listeners(&pod.netns, listening).map_err(RedirectError::Namespace)?;
    found.extend(missing.into_iter().map(Difference::Listener));
    Ok(found)
}

impl PodRegistry {
    /// Puts back what is missing or changed in a pod; returns what it was.
    pub(super) async fn repair(&self, enrolment: &mut Enrolment) -> Result<Vec<Difference>, EnrolError> {
        let (pod, listening) = (enrolment.pod.clone(), enrolment.listening.clone());
        let failed = |source| EnrolError::Redirect { pod: enrolment.pod.pod.clone(), source };
        let found = blocking(move || differences(&pod, &listening)).await.map_err(failed)?;
        if found.iter().any(|difference| matches!(difference, Difference::Listener(_))) {
            self.listen_again(enrolment, &found).await?;
        }
        if found.iter().any(|difference| matches!(difference, Difference::Redirect(_))) {
            install(&enrolment.pod).await?;
        }
        Ok(found)
    }

    /// Says what was put back.
    pub(super) fn report(&self, pod: &EnrolledPod, found: &[Difference]) {
        let mut counted = Vec::new();
        for difference in found {
            tracing::warn!(pod = %pod.pod, "put back what somebody had taken away: {difference}");
            if !counted.contains(&difference.what()) {
                counted.push(difference.what());
                self.parts.metrics.repaired(difference.what());
            }
        }
        self.parts.herald.tell(&pod.pod, News::of_repair(found));
    }

    async fn listen_again(&self, enrolment: &mut Enrolment, found: &[Difference]) -> Result<(), EnrolError> {
        let pod = enrolment.pod.clone();
        let missing: Vec<SocketAddr> = found
            .iter()
            .filter_map(|difference| match difference {
                Difference::Listener(address) => Some(*address),
                Difference::Redirect(_) | Difference::Mark => None,
            })
            .collect();
        let failed = |source| EnrolError::Listeners { pod: pod.pod.clone(), source };
        let netns = pod.netns.try_clone().map_err(failed)?;
        let listeners =
            blocking(move || sockets::listen_on(&netns, |address| missing.contains(&address))).await;
        let listeners = listeners.map_err(failed)?;
        let again = addresses(&listeners);
        enrolment.listening.retain(|address| !again.contains(address));
        enrolment.listening.extend(again);
        let event = PodEvent::Listening { uid: Arc::clone(&pod.uid), listeners };
        self.parts.events.send(event).await.map_err(|_| EnrolError::DataPathGone)
    }
}
