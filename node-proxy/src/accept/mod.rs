//! Accept → original destination → protocol by the first speaker.
//!
//! The listening sockets live in the pods' namespaces; what they accept is dealt to the data path's threads.
//! From here on a connection belongs to one thread, with its own pools and timers (design D9).

pub mod detect;
pub mod listener;
pub mod orig_dst;
pub mod rewind;
pub mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::watch;

use crate::cluster::writer::SharedSnapshot;
use crate::error::FailureReason;
use crate::forward::Socket;
use crate::pod::{Direction, EnrolledPod};
use crate::telemetry::{Peer, Telemetry};
use crate::tls::CertStore;
use crate::turns::Share;
pub use worker::{Worker, Workers};

/// What every thread of the data path shares.
#[derive(Debug)]
pub struct Mesh {
    /// What the cluster says.
    pub snapshot: SharedSnapshot,
    /// The certificates of this node's identities.
    pub certs: Arc<CertStore>,
    /// Access log and metrics.
    pub telemetry: Telemetry,
    /// The most connections that one pod may have open at a time, both directions together.
    pub max_connections_per_pod: usize,
}

/// A pod in the data path.
#[derive(Debug)]
pub struct JoinedPod {
    /// The pod.
    pub pod: Arc<EnrolledPod>,
    gone: watch::Receiver<bool>,
    shares: Box<[Share]>,
}

impl JoinedPod {
    /// A pod that stays until the sender of `gone` sends true or is dropped, with its share of each thread.
    #[must_use]
    pub const fn new(pod: Arc<EnrolledPod>, gone: watch::Receiver<bool>, shares: Box<[Share]>) -> Self {
        Self { pod, gone, shares }
    }

    /// Its share of a thread.
    fn share(&self, thread: usize) -> &Share {
        &self.shares[thread]
    }

    /// Resolves when the pod has left: then everything of it must be closed, for one open socket keeps its
    /// namespace alive.
    fn gone(&self) -> impl Future<Output = ()> + use<> {
        let mut gone = self.gone.clone();
        async move {
            // An error means that the sender went: the pod has left, too.
            let _ = gone.wait_for(|gone| *gone).await;
        }
    }

    /// The task, as long as the pod is there. What it holds is dropped with it: taking leave of a peer that does
    /// not listen would keep the pod's namespace alive.
    pub fn while_there<T>(&self, task: T) -> impl Future<Output = ()> + use<T>
    where
        T: Future<Output = ()>,
    {
        let gone = self.gone();
        async move {
            tokio::select! {
                () = task => {}
                () = gone => {}
            }
        }
    }

    /// The pod as an end of a journey.
    #[must_use]
    pub fn as_peer(&self, address: SocketAddr) -> Peer {
        Peer {
            address: Some(address),
            pod: Some(self.pod.pod.clone()),
            identity: Some(self.pod.identity.clone()),
        }
    }
}

/// Descriptors that are left for everything but the data path, and for dials under way.
const SPARE_DESCRIPTORS: u64 = 256;

/// A connection of a pod counts while this lives.
#[derive(Debug)]
pub struct Seat(Arc<JoinedPod>);

impl Seat {
    /// Takes a seat.
    ///
    /// # Errors
    /// When the pod has none left, or the process no descriptors: the reason, and what to tell the log.
    pub fn take(pod: &Arc<JoinedPod>, limit: usize) -> Result<Self, (FailureReason, &'static str)> {
        let seat = Self(Arc::clone(pod));
        // Dropping the seat gives it back, also when it is one too many.
        if pod.pod.standing.connection_begins() >= limit {
            return Err((FailureReason::PodLimit, "the pod has as many connections open as it may"));
        }
        // Asked each time: it can be raised while the proxy runs, and a connection costs more than asking.
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        if u64::try_from(Socket::count()).unwrap_or(u64::MAX) >= descriptors.saturating_sub(SPARE_DESCRIPTORS)
        {
            return Err((FailureReason::ProxyLimit, "the proxy has no descriptors left (nofile)"));
        }
        Ok(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.pod.standing.connection_ends();
    }
}

/// A captured connection.
#[derive(Debug)]
pub struct Incoming<S = Socket> {
    /// The connection; of the standard library while it changes threads.
    pub stream: S,
    /// Who opened it.
    pub client: SocketAddr,
    /// The pod in whose namespace it arrived.
    pub pod: Arc<JoinedPod>,
    /// Which way it goes.
    pub direction: Direction,
    /// Its place among the pod's connections; keep it as long as the connection.
    pub seat: Seat,
}

impl<S> Incoming<S> {
    /// The same connection in another form.
    fn try_map<T>(self, convert: impl FnOnce(S) -> io::Result<T>) -> io::Result<Incoming<T>> {
        let Self { stream, client, pod, direction, seat } = self;
        Ok(Incoming { stream: convert(stream)?, client, pod, direction, seat })
    }
}
