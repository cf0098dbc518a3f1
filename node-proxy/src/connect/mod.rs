//! From an endpoint to a connection: dialled in the client pod's namespace, and wrapped in the hop's mTLS
//! whenever the endpoint is a pod of the mesh.
//!
//! What this stage must never do: fall back to plain text where mTLS is due. A failed handshake is the end.

mod continuation;
pub mod exchanges;
pub mod hops;
pub mod idle;
mod origination;
mod shared;
pub mod streams;
pub mod transport;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gammarus_ca::SpiffeId;
use thiserror::Error;

use crate::accept::{JoinedPod, Mesh, Worker};
use crate::error::FailureReason;
use crate::forward::Socket;
use crate::snapshot::Snapshot;
use crate::snapshot::service::{Endpoint, EndpointLoad};
use crate::snapshot::workload::{Enrolment, MtlsMode, Workload};
use crate::telemetry::{Hop, PlaintextReason};
use crate::tls::WorkloadCert;
pub use hops::{HopKey, PooledHop};
pub use origination::{Content, Origination};
pub use shared::SharedPool;
pub use transport::Transport;

/// How long a dial may take, with its handshake. Long enough for two lost SYNs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection waits for its pod's first certificate; less than a dial may take.
const CERTIFICATE_PATIENCE: Duration = Duration::from_secs(3);

/// A destination to dial.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Its address.
    pub address: SocketAddr,
    /// The pod there, when one is known.
    pub workload: Option<Arc<Workload>>,
    /// What is known of it as an endpoint, if it is one.
    pub endpoint: Option<Arc<EndpointLoad>>,
    /// The TLS that is begun with it, if there is to be any besides the hop's.
    pub tls: Option<Origination>,
}

impl From<&Endpoint> for Destination {
    fn from(endpoint: &Endpoint) -> Self {
        let Endpoint { address, workload, load } = endpoint;
        Self { address: *address, workload: workload.clone(), endpoint: Some(Arc::clone(load)), tls: None }
    }
}

/// Whether nobody is to be sent any more to where a kept connection goes: it has left every Service, or its pod is no
/// more. What is under way goes on to its end.
fn is_forsaken(snapshot: &Snapshot, key: &HopKey, endpoint: Option<&Arc<EndpointLoad>>) -> bool {
    let is_his = |uid: &Arc<str>| {
        snapshot.find_workload(key.address.ip()).is_some_and(|workload| workload.uid == *uid)
    };
    endpoint.is_some_and(|endpoint| endpoint.has_left.load(Ordering::Relaxed))
        || key.workload.as_ref().is_some_and(|uid| !is_his(uid))
}

/// A connection that is there.
#[derive(Debug)]
pub struct Dialled {
    /// The connection.
    pub transport: Transport,
    /// How the two pods are joined by it.
    pub hop: Hop,
    /// Until when it may be used again: neither leaf may be outlived (design D2).
    pub usable_until: tokio::time::Instant,
    /// What is known of the endpoint, if it goes to one.
    pub endpoint: Option<Arc<EndpointLoad>>,
}

/// Why there is no connection. Told to everybody who has waited for it.
#[derive(Clone, Debug, Error)]
pub enum ConnectError {
    /// The endpoint refused, or its address cannot be reached.
    #[error("dialling {address}")]
    Dial {
        /// Where to.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The TLS handshake failed.
    #[error("handshake with {address}: {text}")]
    Handshake {
        /// Whom with.
        address: SocketAddr,
        /// The reason to give.
        reason: FailureReason,
        /// What TLS said.
        text: String,
    },
    /// The client's pod has had as many handshakes in this second as it may.
    #[error("the pod has had as many handshakes in this second as it may")]
    HandshakeLimit,
    /// There is no certificate for the pod's identity.
    #[error("no valid certificate for {0}; the CA has not answered yet, or not for long")]
    NoCertificate(SpiffeId),
    /// The endpoint is in a strict namespace, and not (yet) ready for mTLS.
    #[error("{0} asks for mTLS and has no mark yet; plain text is never sent there")]
    PlaintextRefused(SocketAddr),
    /// The policy for the endpoint's port cannot be obeyed.
    #[error("the BackendTLSPolicy for {0} cannot be obeyed; its status says why")]
    NoBackendTls(SocketAddr),
    /// The pod that was meant has gone while it was dialled.
    #[error("{0} is no longer the address of the pod that was dialled")]
    Replaced(SocketAddr),
    /// It took too long.
    #[error("no connection to {0} within {CONNECT_TIMEOUT:?}; maybe a NetworkPolicy drops it")]
    Timeout(SocketAddr),
}

impl ConnectError {
    /// What HTTP has said of a connection that was there, before any request was.
    fn of_preface(address: SocketAddr, error: hyper::Error) -> Self {
        Self::Dial { address, source: Arc::new(io::Error::other(error)) }
    }

    /// The reason to give.
    #[must_use]
    pub const fn reason(&self) -> FailureReason {
        match self {
            Self::Dial { .. } | Self::Replaced(_) | Self::Timeout(_) => FailureReason::ConnectFailed,
            Self::Handshake { reason, .. } => *reason,
            Self::HandshakeLimit => FailureReason::HandshakeLimit,
            Self::NoCertificate(_) => FailureReason::NoCertificate,
            Self::NoBackendTls(_) => FailureReason::InvalidBackend,
            Self::PlaintextRefused(_) => FailureReason::PlaintextRefused,
        }
    }

    /// Whether another endpoint may do better.
    #[must_use]
    pub const fn is_of_the_endpoint(&self) -> bool {
        !matches!(self, Self::HandshakeLimit | Self::NoCertificate(_) | Self::NoBackendTls(_))
    }
}

/// How a destination has to be dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    Mtls(SpiffeId),
    Plain(PlaintextReason),
    Refused,
}

fn find_way(pod: &JoinedPod, is_between: bool, destination: &Destination) -> Way {
    let Some(workload) = &destination.workload else {
        return Way::Plain(PlaintextReason::DestinationUnknown);
    };
    if workload.uid == pod.pod.uid || pod.pod.addresses.contains(&destination.address.ip()) {
        return Way::Plain(PlaintextReason::SamePod);
    }
    match (workload.enrolment_at(destination.address.port()), workload.mtls) {
        // A node that does not know of the pod's membership would not wait for its handshake.
        (Enrolment::Marked, MtlsMode::Permissive) if is_between => {
            Way::Plain(PlaintextReason::SourceUnsettled)
        }
        (Enrolment::Marked, _) => Way::Mtls(workload.identity.clone()),
        // Towards a strict namespace plain text is never sent, whatever became of the mark.
        (_, MtlsMode::Strict) => Way::Refused,
        (Enrolment::Expected | Enrolment::None, MtlsMode::Permissive) => {
            Way::Plain(PlaintextReason::DestinationNotEnrolled)
        }
    }
}

/// Whether an address is still that of the pod which was meant, where one was.
fn is_still_there(worker: &Worker, destination: &Destination) -> bool {
    destination.workload.as_ref().is_none_or(|meant| {
        let snapshot = worker.mesh.snapshot.load();
        snapshot.find_workload(destination.address.ip()).is_some_and(|now| now.uid == meant.uid)
    })
}

/// Connects the pod to a destination, in the way and from the address that `key` says.
///
/// # Errors
/// When there is no connection, or none that may be used.
pub async fn open(
    worker: &Rc<Worker>,
    pod: &Arc<JoinedPod>,
    key: &HopKey,
    destination: &Destination,
) -> Result<Dialled, ConnectError> {
    let address = destination.address;
    let opening = async {
        let dialled = match find_way(pod, key.is_between, destination) {
            Way::Mtls(peer) => hops::open(worker, pod, key, (destination, &peer)).await,
            Way::Plain(reason) => {
                let stream = dial(pod, key.source, address).await?;
                // A lost SYN that is sent again meets whoever has the address by then, and plain text proves nobody.
                if !is_still_there(worker, destination) {
                    return Err(ConnectError::Replaced(address));
                }
                let usable_until = tokio::time::Instant::now() + hops::MAX_AGE;
                let (transport, hop) = (Transport::Plain(stream), Hop::Plain(reason));
                Ok(Dialled { transport, hop, usable_until, endpoint: destination.endpoint.clone() })
            }
            Way::Refused => Err(ConnectError::PlaintextRefused(address)),
        }?;
        match &destination.tls {
            // In a place of its own: in the mesh there is none.
            Some(tls) => Box::pin(tls.begin(dialled, address)).await,
            None => Ok(dialled),
        }
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, opening).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ConnectError::Timeout(address)),
    }
}

/// The pod's certificate. A pod that has just started may call before the CA has answered: it waits a moment.
pub async fn find_certificate(mesh: &Mesh, pod: &JoinedPod) -> Option<Arc<WorkloadCert>> {
    if let Some(certificate) = mesh.certs.find(&pod.pod.identity) {
        return Some(certificate);
    }
    tokio::time::timeout(CERTIFICATE_PATIENCE, mesh.certs.ensure(&pod.pod.identity)).await.ok()?.ok()
}

async fn dial(pod: &JoinedPod, source: IpAddr, address: SocketAddr) -> Result<Socket, ConnectError> {
    // A destination of the other family is reached from whatever address the kernel picks.
    let source = (source.is_ipv4() == address.is_ipv4()).then(|| SocketAddr::new(source, 0));
    let failed = |error| ConnectError::Dial { address, source: Arc::new(error) };
    let stream = pod.pod.dial(source, address).and_then(Socket::from_std).map_err(failed)?;
    stream.connected().await.map_err(failed)
}
