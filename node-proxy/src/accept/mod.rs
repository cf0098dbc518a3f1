//! Accept → original destination → protocol by the first speaker.
//!
//! The listening sockets live in the pods' namespaces; what they accept is dealt to the data path's threads.
//! From here on a connection belongs to one thread, with its own pools and timers (design D9).

pub mod client;
pub mod detect;
pub mod drain;
pub mod limits;
pub mod listener;
pub mod orig_dst;
pub mod rewind;
pub mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::balance::Affinities;
use crate::cluster::writer::SharedSnapshot;
use crate::forward::Socket;
use crate::hop::Register;
use crate::ingress::intermediaries::Intermediaries;
use crate::pod::{Direction, EnrolledPod};
use crate::telemetry::{Peer, Telemetry};
use crate::tls::CertStore;
use crate::turns::{Memory, Share, Until};
pub use client::ClientStream;
pub use drain::{Drain, Drainer};
use limits::Rate;
pub use limits::{PodLimits, Seat};
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
    /// What one pod may have.
    pub limits: PodLimits,
    /// Whether another proxy has taken over.
    pub drain: Drain,
    /// Who is believed about the clients of a Gateway.
    pub intermediaries: Intermediaries,
}

/// A pod in the data path.
#[derive(Debug)]
pub struct JoinedPod {
    /// The pod.
    pub pod: Arc<EnrolledPod>,
    /// Which endpoints it stays with.
    pub affinities: Affinities,
    /// The hops that have arrived at it.
    pub hops: Register,
    gone: watch::Receiver<bool>,
    handshakes: Rate,
    memory: Memory,
    shares: Box<[Share]>,
}

/// When this process first asked for the time.
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

impl JoinedPod {
    /// A pod that stays until the sender of `gone` sends true or is dropped, with its share of each thread.
    #[must_use]
    pub fn new(
        pod: Arc<EnrolledPod>,
        gone: watch::Receiver<bool>,
        (memory, shares): (Memory, Box<[Share]>),
    ) -> Self {
        let (affinities, hops, handshakes) = (Affinities::default(), Register::default(), Rate::default());
        Self { pod, affinities, hops, gone, handshakes, memory, shares }
    }

    /// Its share of a thread.
    fn share(&self, thread: usize) -> &Share {
        &self.shares[thread]
    }

    /// Whether the pod may have one more handshake now; it counts.
    pub fn take_handshake(&self, limits: &PodLimits) -> bool {
        self.handshakes.take(limits.handshakes_per_second, BEGINNING.elapsed())
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
        Until::new(task, self.gone())
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
