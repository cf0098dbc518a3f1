//! The proof that a pod's connections are captured, before its mark says so to other nodes (design D7).
//!
//! Rules that are in place need not hold: socket-level load balancing, a sandboxed runtime or another mesh's
//! sidecar may take connections elsewhere. So one connection is opened from inside the namespace and one from
//! the node to the pod, in each address family, and both must arrive at the pod's listeners. The accept loop
//! asks [`ProofBoard::claim`] for each connection and closes those that were the proof's.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::Socket;
use tokio::sync::oneshot;

use super::sockets::{listen_anywhere, start, tcp_socket};
use super::sysctl::is_ipv6_off;
use super::{Direction, EnrolledPod};

/// Dialled when no Service is known: addresses that lead nowhere (RFC 5737, RFC 3849).
const NOWHERE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const NOWHERE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
/// The port of that.
const NOWHERE_PORT: u16 = 80;

/// A pod whose capture could not be proven.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The connection reached the application's own socket.
    #[error("a connection to {address} went past the inbound listener to the pod's own socket")]
    Bypassed {
        /// The address of the pod.
        address: SocketAddr,
    },
    /// The connection could not be started.
    #[error("cannot open the proof's {direction:?} connection to {address}; has the pod a route?")]
    Dial {
        /// Which proof.
        direction: Direction,
        /// What was dialled.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// There is nothing to prove it with.
    #[error("the pod has no address")]
    NoAddress,
    /// The connection did not arrive.
    #[error(
        "a connection to {address} did not arrive at the {direction:?} listener within {} ms; does something else redirect it?",
        allowed.as_millis()
    )]
    NotCaptured {
        /// Which proof.
        direction: Direction,
        /// What was dialled.
        address: SocketAddr,
        /// How long was waited.
        allowed: Duration,
    },
}

impl ProofError {
    /// The label of `gammarus_pods_unenrolled`.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Bypassed { .. } => "bypassed",
            Self::Dial { .. } => "not_reachable",
            Self::NoAddress => "no_address",
            Self::NotCaptured { direction: Direction::Inbound, .. } => "inbound_not_captured",
            Self::NotCaptured { .. } => "outbound_not_captured",
        }
    }

    /// The direction in which nothing is proven, when it is one.
    #[must_use]
    pub const fn direction(&self) -> Option<Direction> {
        match self {
            Self::Bypassed { .. } => Some(Direction::Inbound),
            Self::Dial { direction, .. } | Self::NotCaptured { direction, .. } => Some(*direction),
            Self::NoAddress => None,
        }
    }
}

/// The connections that a pod's proofs are waiting for.
#[derive(Debug, Default)]
pub struct ProofBoard {
    /// How many: what the accept loop reads, nearly always zero.
    pending: AtomicUsize,
    waiting: Mutex<HashMap<(Direction, SocketAddr), oneshot::Sender<()>>>,
}

impl ProofBoard {
    /// Whether an accepted connection is a proof's: the caller closes it then.
    ///
    /// Costs one atomic load while no proof is under way.
    #[must_use]
    pub fn claim(&self, direction: Direction, client: SocketAddr) -> bool {
        if self.pending.load(Ordering::Acquire) == 0 {
            return false;
        }
        let claimed = self.lock().remove(&(direction, canonical(client)));
        // A proof that has timed out meanwhile does not hear it, and the connection was still its.
        claimed.map(|arrived| arrived.send(()).ok()).is_some()
    }

    /// Announces a connection, to be called before it is opened.
    fn expect(&self, direction: Direction, client: SocketAddr) -> Expected<'_> {
        let (sender, arrived) = oneshot::channel();
        let key = (direction, canonical(client));
        self.lock().insert(key, sender);
        self.pending.fetch_add(1, Ordering::Release);
        Expected { board: self, key, arrived }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Direction, SocketAddr), oneshot::Sender<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection on the board, until it is dropped.
struct Expected<'a> {
    board: &'a ProofBoard,
    key: (Direction, SocketAddr),
    arrived: oneshot::Receiver<()>,
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.board.lock().remove(&self.key);
        self.board.pending.fetch_sub(1, Ordering::Release);
    }
}

/// Opens the proofs' connections for each of the pod's addresses, and sees them arrive within `allowed` each.
///
/// `services` are known Service addresses, of which the first of a family is dialled. The data path must be
/// accepting on the pod's listeners by now. Returns the addresses of which it is proven: all, but for those of
/// a family that is switched off in the pod, which nobody reaches.
///
/// # Errors
/// The first direction and address that did not arrive.
pub async fn prove(
    pod: &EnrolledPod,
    services: &[SocketAddr],
    allowed: Duration,
) -> Result<Vec<IpAddr>, ProofError> {
    let there = addresses_in_use(pod);
    if there.is_empty() {
        return Err(ProofError::NoAddress);
    }
    for &address in &there {
        let of_family = |service: &&SocketAddr| service.is_ipv4() == address.is_ipv4();
        let nowhere = if address.is_ipv4() { NOWHERE_V4 } else { NOWHERE_V6 };
        let service = services
            .iter()
            .find(of_family)
            .copied()
            .unwrap_or_else(|| SocketAddr::new(nowhere, NOWHERE_PORT));
        tokio::try_join!(
            prove_outbound(pod, address, service, allowed),
            prove_inbound(pod, address, allowed)
        )?;
    }
    Ok(there)
}

fn addresses_in_use(pod: &EnrolledPod) -> Vec<IpAddr> {
    // A namespace that cannot be asked is one whose proof fails: nothing is left out of it.
    let ipv6_off = pod.netns.run(|| Ok(is_ipv6_off())).unwrap_or(false);
    pod.addresses.iter().copied().filter(|address| address.is_ipv4() || !ipv6_off).collect()
}

/// From inside the namespace, as a process of the pod would: without a mark.
async fn prove_outbound(
    pod: &EnrolledPod,
    source: IpAddr,
    service: SocketAddr,
    allowed: Duration,
) -> Result<(), ProofError> {
    let direction = Direction::Outbound;
    let failed = |error| ProofError::Dial { direction, address: service, source: error };
    let (socket, client) = pod.netns.run(|| bound(source)).map_err(failed)?;
    let mut expected = pod.proofs.expect(direction, client);
    start(&socket, service).map_err(failed)?;
    match tokio::time::timeout(allowed, &mut expected.arrived).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(ProofError::NotCaptured { direction, address: service, allowed }),
    }
}

/// From the node to a socket that listens in the pod for this alone.
async fn prove_inbound(pod: &EnrolledPod, address: IpAddr, allowed: Duration) -> Result<(), ProofError> {
    let direction = Direction::Inbound;
    let failed = |address| move |source| ProofError::Dial { direction, address, source };
    let listener = pod.netns.run(|| listen_anywhere(address)).map_err(failed(SocketAddr::new(address, 0)))?;
    let listener =
        tokio::net::TcpListener::from_std(listener).map_err(failed(SocketAddr::new(address, 0)))?;
    let target = listener.local_addr().map_err(failed(SocketAddr::new(address, 0)))?;
    let from_node = || source_towards(target).and_then(bound);
    let (socket, client) = pod.host.run(from_node).map_err(failed(target))?;
    let mut expected = pod.proofs.expect(direction, client);
    start(&socket, target).map_err(failed(target))?;
    tokio::select! {
        arrived = &mut expected.arrived => match arrived {
            Ok(()) => Ok(()),
            Err(_) => Err(ProofError::NotCaptured { direction, address: target, allowed }),
        },
        _ = listener.accept() => Err(ProofError::Bypassed { address: target }),
        () = tokio::time::sleep(allowed) => Err(ProofError::NotCaptured { direction, address: target, allowed }),
    }
}

/// A socket whose address is known before it connects.
fn bound(source: IpAddr) -> io::Result<(Socket, SocketAddr)> {
    let source = SocketAddr::new(source, 0);
    let socket = tcp_socket(source)?;
    socket.bind(&source.into())?;
    let address = socket.local_addr()?.as_socket();
    address.map(|address| (socket, address)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The address that the node takes towards the pod; nothing is sent.
fn source_towards(target: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr =
        if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let probe = UdpSocket::bind(SocketAddr::new(any, 0))?;
    probe.connect(target)?;
    Ok(probe.local_addr()?.ip())
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: SocketAddr = SocketAddr::new(NOWHERE_V4, 4000);

    #[test]
    fn only_an_expected_connection_is_claimed_and_only_once() {
        let board = ProofBoard::default();
        assert!(!board.claim(Direction::Inbound, CLIENT));
        let mut expected = board.expect(Direction::Inbound, CLIENT);
        assert!(!board.claim(Direction::Outbound, CLIENT));
        assert!(!board.claim(Direction::Inbound, SocketAddr::new(NOWHERE_V4, 4001)));
        assert!(expected.arrived.try_recv().is_err());
        assert!(board.claim(Direction::Inbound, CLIENT));
        assert!(expected.arrived.try_recv().is_ok());
        assert!(!board.claim(Direction::Inbound, CLIENT));
    }

    #[test]
    fn a_proof_that_has_ended_claims_nothing() {
        let board = ProofBoard::default();
        drop(board.expect(Direction::Inbound, CLIENT));
        assert!(!board.claim(Direction::Inbound, CLIENT));
        assert_eq!(board.pending.load(Ordering::Acquire), 0);
    }
}
