//! How a pod joins, step by step, and how it leaves at once.
//!
//! A new pod, which has no connections yet: rules, listeners, data path, proof, mark. One that runs already: listeners,
//! data path, rules, proof, mark, so that nothing is refused in between. Each step is taken only when the one before
//! holds.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::error::EnrolError;
use super::marking::MarkState;
use super::netns::NetnsCookie;
use super::proof::prove;
use super::registry::{PodRegistry, blocking};
use super::standing::Stand;
use super::{EnrolledPod, PodEvent, PodListener, redirect, sockets};
use crate::cluster::objects::Mark;

/// How long the data path may take to let go of a pod that has left.
const LET_GO: Duration = Duration::from_secs(1);

/// What a pod has in the mesh.
pub(super) struct Enrolment {
    pub(super) cookie: NetnsCookie,
    pub(super) listening: Vec<SocketAddr>,
    pub(super) pod: Arc<EnrolledPod>,
    pub(super) phase: Phase,
    pub(super) mark: MarkState,
    /// Whether it was told of that the pod is in the mesh.
    pub(super) is_announced: bool,
    /// Until when the cluster's view, which says otherwise, may be older than what was asked directly.
    pub(super) vouched: Option<Instant>,
    /// When it is looked at next.
    pub(super) due: Instant,
    /// How often in a row it was not as it should be.
    pub(super) failures: u32,
}

/// Where a pod is on its way in or out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its rules are in force.
    Joined {
        /// When every other node knows that it is in the mesh; none if they do.
        settles: Option<Instant>,
    },
    /// It speaks plain text wherever that is allowed, and still has its mark.
    Leaving {
        /// Since when.
        since: Instant,
    },
    /// It has no mark, and takes mTLS and plain text alike.
    Unmarked {
        /// Since when.
        since: Instant,
    },
    /// Its new connections are not redirected any more, those that were live on.
    Retired {
        /// Since when.
        since: Instant,
    },
}

/// How a pod comes to the registry that is not new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It has never been in the mesh, as far as its namespace shows.
    Outside,
    /// Its rules are there: a proxy before this one has left them.
    Captured,
}

impl PodRegistry {
    /// Takes in a new pod, completely or not at all, but for a mark that may come later.
    pub(super) async fn join_new(
        &self,
        pod: EnrolledPod,
        cookie: NetnsCookie,
    ) -> Result<Enrolment, EnrolError> {
        let pod = Arc::new(pod);
        let mut enrolment = Enrolment {
            cookie,
            listening: Vec::new(),
            pod: pod.clone(),
            phase: Phase::Joined { settles: None },
            mark: MarkState::Absent,
            is_announced: false,
            vouched: None,
            due: Instant::now() + self.parts.patience.inspection,
            failures: 0,
        };
        let joining = async {
            install(&pod).await?;
            let listeners = listen(&pod).await?;
            enrolment.listening = addresses(&listeners);
            self.announce(&pod, listeners).await?;
            let proven = self.prove(&pod).await?;
            let mark = Mark::of_captured(&*pod.uid, proven);
            self.mark(&mut enrolment, mark).await
        };
        match joining.await {
            Ok(()) => {
                self.parts.troubles.solve(&pod.pod);
                self.say_settled(&pod).await;
                tracing::info!(pod = %pod.pod, uid = %pod.uid, "a pod has joined the mesh");
                Ok(enrolment)
            }
            Err(pending) if pending.is_pending_mark() => {
                self.parts.troubles.note(&pod.pod, &pending);
                enrolment.failures = 1;
                enrolment.due = Instant::now() + self.parts.patience.retry;
                self.say_settled(&pod).await;
                tracing::info!(pod = %pod.pod, uid = %pod.uid, "a pod has joined the mesh, and waits for its mark");
                Ok(enrolment)
            }
            Err(error) => {
                self.undo(&enrolment).await;
                Err(error)
            }
        }
    }

    /// Takes in a pod that runs: it is accepted for from now on, and has no rules yet, unless it had them.
    pub(super) async fn take_in(
        &self,
        pod: EnrolledPod,
        cookie: NetnsCookie,
        (listeners, arrival): (Vec<PodListener>, Arrival),
    ) -> Result<Enrolment, EnrolError> {
        let (pod, now) = (Arc::new(pod), Instant::now());
        let settles = (arrival == Arrival::Outside).then(|| now + self.parts.patience.lag);
        if settles.is_some() {
            pod.standing.set(Stand::Entering);
        }
        let listening = addresses(&listeners);
        self.announce(&pod, listeners).await?;
        self.say_settled(&pod).await;
        let phase = Phase::Joined { settles };
        // What was captured has the mark that a proxy before this one wrote, or was about to write.
        let (mark, is_announced) = match arrival {
            Arrival::Outside => (MarkState::Absent, false),
            Arrival::Captured => (MarkState::Unsure, true),
        };
        let (failures, vouched) = (0, None);
        Ok(Enrolment { cookie, listening, pod, phase, mark, is_announced, vouched, due: now, failures })
    }

    async fn announce(&self, pod: &Arc<EnrolledPod>, listeners: Vec<PodListener>) -> Result<(), EnrolError> {
        let joined = PodEvent::Joined { pod: pod.clone(), listeners };
        self.parts.events.send(joined).await.map_err(|_| EnrolError::DataPathGone)
    }

    async fn say_settled(&self, pod: &EnrolledPod) {
        // Where the data path has ended, nobody has to be told.
        let _ = self.parts.events.send(PodEvent::Settled { uid: pod.uid.clone() }).await;
    }

    pub(super) async fn prove(&self, pod: &EnrolledPod) -> Result<Vec<IpAddr>, EnrolError> {
        let services = self.parts.facts.service_addresses();
        let failed = |source| EnrolError::Proof { pod: pod.pod.clone(), source };
        prove(pod, &services, self.parts.patience.proof).await.map_err(failed)
    }

    /// Takes back what [`Self::join_new`] may have done of a pod that goes on without the mesh.
    async fn undo(&self, enrolment: &Enrolment) {
        self.leave(enrolment).await;
        remove(&enrolment.pod).await;
    }

    /// The mark goes first, so that no peer sends mTLS to a pod without listeners; rules go with the namespace.
    pub(super) async fn leave(&self, enrolment: &Enrolment) {
        let pod = &enrolment.pod;
        if enrolment.mark != MarkState::Absent {
            self.unmark_leaving(pod).await;
        }
        if self.parts.events.send(PodEvent::Left { uid: pod.uid.clone() }).await.is_err() {
            tracing::debug!(pod = %pod.pod, "the data path has ended before a pod that leaves");
        }
        tracing::info!(pod = %pod.pod, uid = %pod.uid, "a pod has left the mesh");
    }
}

/// Opens a pod's listeners.
pub(super) async fn listen(pod: &EnrolledPod) -> Result<Vec<PodListener>, EnrolError> {
    let failed = |source| EnrolError::Listeners { pod: pod.pod.clone(), source };
    let deadline = Instant::now() + LET_GO;
    loop {
        let netns = pod.netns.try_clone().map_err(failed)?;
        match blocking(move || sockets::listen(&netns)).await {
            // The data path may be about to close the listeners of a pod that left this namespace just now.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            outcome => return outcome.map_err(failed),
        }
    }
}

/// Puts a pod's rules in force.
pub(super) async fn install(pod: &Arc<EnrolledPod>) -> Result<(), EnrolError> {
    let own = pod.clone();
    let failed = |source| EnrolError::Redirect { pod: pod.pod.clone(), source };
    blocking(move || redirect::install(&own.netns)).await.map_err(failed)
}

/// Takes a pod's rules away.
pub(super) async fn remove(pod: &Arc<EnrolledPod>) {
    let own = pod.clone();
    if let Err(error) = blocking(move || redirect::remove(&own.netns)).await {
        tracing::warn!(pod = %pod.pod, error = &error as &dyn std::error::Error, "rules may be left in a pod");
    }
}

pub(super) fn addresses(listeners: &[PodListener]) -> Vec<SocketAddr> {
    listeners.iter().filter_map(|listener| listener.socket.local_addr().ok()).collect()
}
