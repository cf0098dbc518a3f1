//! Hops that carry streams when their certificates are about to end: a newer hop to the same pod continues them.
//!
//! The newer one is made as any other, by a whole handshake with the leaves and the roots of that moment; so nothing
//! lives on but what could be dialled again. If that fails, it is tried again until the hop's end, which then comes
//! as it was to come.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gammarus_ca::SpiffeId;
use thiserror::Error;
use tokio::time::timeout;

use super::hops::{self, HopKey, OPEN_TIMEOUT};
use super::{ConnectError, Destination, Way, find_certificate, find_way};
use crate::accept::{JoinedPod, Worker};
use crate::error::with_causes;
use crate::hop::{Deadline, Hop, OpenError};
use crate::tls::clock::{FirstEnd, sleep_until};
use crate::tls::store::{longest_pause, pause_after, random_fraction};

/// A hop of a client pod, and what is needed to make another like it.
#[derive(Debug)]
pub(super) struct Continuation {
    pub(super) worker: Rc<Worker>,
    pub(super) pod: Arc<JoinedPod>,
    pub(super) key: HopKey,
    pub(super) destination: Destination,
    /// The endpoint's identity.
    pub(super) peer: SpiffeId,
    pub(super) hop: Hop,
    pub(super) deadline: Deadline,
}

/// Why a hop was not continued this time.
#[derive(Debug, Error)]
enum ContinuationError {
    /// The endpoint's pod has gone or left the mesh.
    #[error("the endpoint's pod is not the one of the hop any more, or not in the mesh")]
    Departed,
    /// There is no newer hop.
    #[error("no newer hop")]
    Connect(#[source] ConnectError),
    /// A leaf of this side or of the other was not renewed.
    #[error("a certificate was not renewed yet")]
    NotRenewed,
    /// The other side does not let it live on.
    #[error("the peer's proxy does not know the hop any more")]
    Unknown,
    /// One of the two hops has ended meanwhile, or takes nothing new.
    #[error("a hop has ended meanwhile")]
    Ended(#[source] OpenError),
    /// It has said nothing.
    #[error("the peer's proxy does not answer")]
    Silent,
}

impl Continuation {
    /// Has the hop continued whenever its end comes near, as long as it carries streams. Runs until it is dropped.
    pub(super) async fn go_on(self) {
        let mut due = begin(self.deadline.end());
        let mut failures = 0;
        loop {
            sleep_until(due).await;
            // Seldom, and large: every hop carries this.
            let outcome = if self.hop.streams() == 0 { None } else { Some(Box::pin(self.once()).await) };
            let (address, end) = (self.key.address, self.deadline.end());
            if let Some(Ok(())) = outcome {
                tracing::info!(%address, until = %end, streams = self.hop.streams(), "a hop is continued");
                due = begin(end);
                failures = 0;
                continue;
            }
            if let Some(Err(error)) = outcome {
                tracing::info!(%address, %end, error = with_causes(&error), "a hop is not continued yet");
            }
            due = SystemTime::now() + pause_after(failures, longest_pause(end.left()));
            failures += 1;
        }
    }

    async fn once(&self) -> Result<(), ContinuationError> {
        if !self.is_still_there() {
            return Err(ContinuationError::Departed);
        }
        let end = self.deadline.end();
        let own = find_certificate(&self.worker.mesh, &self.pod).await;
        if own.is_none_or(|own| FirstEnd::from(own.not_after()) <= end) {
            return Err(ContinuationError::NotRenewed);
        }
        let whom = (&self.destination, &self.peer, end);
        let newer = hops::find_newer(&self.worker, &self.pod, &self.key, whom).await;
        let newer = newer.map_err(ContinuationError::Connect)?;
        if newer.end <= end {
            return Err(ContinuationError::NotRenewed);
        }
        let ended = || ContinuationError::Ended(self.hop.ended());
        let proof = self.hop.proof().ok_or_else(ended)?;
        match timeout(OPEN_TIMEOUT, newer.hop.continue_older(&proof)).await {
            Ok(Ok(())) if self.deadline.put_off(newer.end) => Ok(()),
            Ok(Ok(())) => Err(ended()),
            Ok(Err(OpenError::Refused)) => Err(ContinuationError::Unknown),
            Ok(Err(error)) => Err(ContinuationError::Ended(error)),
            Err(_) => {
                newer.hop.close();
                Err(ContinuationError::Silent)
            }
        }
    }

    /// Whether a new hop like it would still be made.
    fn is_still_there(&self) -> bool {
        let snapshot = self.worker.mesh.snapshot.load();
        snapshot.find_workload(self.key.address.ip()).is_some_and(|now| {
            let destination = Destination { workload: Some(Arc::clone(now)), ..self.destination.clone() };
            Some(&now.uid) == self.key.workload.as_ref()
                && find_way(&self.pod, self.key.is_between, &destination) == Way::Mtls(self.peer.clone())
        })
    }
}

/// When the first try is due: from then on the hop takes no new streams. Not at once, since idle connections of the pools
/// still lie there, nor for all hops of a leaf at one time.
fn begin(end: FirstEnd) -> SystemTime {
    let last_streams = end.left() - end.usable_for();
    let grace = Duration::from_secs(1).min(last_streams / 8);
    SystemTime::now() + end.usable_for() + grace + last_streams.mul_f64(0.25 * random_fraction())
}
