//! Sockets in a pod's namespace, marked so that the pod's own rules let them pass.
//!
//! Everything here is synchronous and short: a socket is made inside the namespace and used outside it.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::netns::NetnsFd;
use super::node_socket::is_listening;
use super::redirect::{DIAL_MARK, INBOUND_PORT, LOCAL_MARK, OUTBOUND_PORT};
use super::{Direction, EnrolledPod, PodListener};

/// How many accepted connections wait for the proxy.
const BACKLOG: i32 = 4096;
/// Source ports of local legs: below the ephemeral range, so that no SYN of the client's meets what a
/// local leg left in TIME_WAIT, which would lead it past the redirect.
const LOCAL_LEG_PORTS: Range<u16> = 10240..32767;
/// How many source ports are tried for one local leg.
const LOCAL_LEG_TRIES: u16 = 64;
/// A peer that says nothing for this long is asked whether it lives.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Where a pod's listeners are; outbound only where the pod itself can reach.
const LISTENERS: [(Direction, SocketAddr); 4] = [
    (Direction::Outbound, SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), OUTBOUND_PORT)),
    (Direction::Outbound, SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), OUTBOUND_PORT)),
    (Direction::Inbound, SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), INBOUND_PORT)),
    (Direction::Inbound, SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), INBOUND_PORT)),
];

/// Opens the listeners of a pod: one per direction and address family that the namespace has.
///
/// A family that is missing is no error: its connections are redirected all the same, and refused.
///
/// # Errors
/// When one cannot be opened for another reason (its port is taken), or a direction has none.
pub fn listen(netns: &NetnsFd) -> io::Result<Vec<PodListener>> {
    let listeners = listen_on(netns, |_| true)?;
    for direction in [Direction::Outbound, Direction::Inbound] {
        if !listeners.iter().any(|listener| listener.direction == direction) {
            let text = format!("the namespace takes no {direction:?} listener of any address family");
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text));
        }
    }
    Ok(listeners)
}

/// Opens those of a pod's listeners whose address is wanted, and whose family the namespace has.
///
/// # Errors
/// When one cannot be opened for another reason.
pub fn listen_on(netns: &NetnsFd, wanted: impl Fn(SocketAddr) -> bool) -> io::Result<Vec<PodListener>> {
    netns.run(|| listen_at(LISTENERS.into_iter().filter(|(_, address)| wanted(*address))))
}

/// Opens listeners in the calling thread's namespace, as far as it has their families.
///
/// # Errors
/// When one cannot be opened for another reason.
pub(super) fn listen_at(
    addresses: impl IntoIterator<Item = (Direction, SocketAddr)>,
) -> io::Result<Vec<PodListener>> {
    let mut listeners = Vec::new();
    for (direction, address) in addresses {
        match listener(address) {
            Ok(socket) => listeners.push(PodListener { direction, socket: socket.into() }),
            Err(error) if is_family_missing(&error) => {
                tracing::debug!(%address, %error, "the namespace lacks an address family");
            }
            Err(error) => {
                return Err(io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")));
            }
        }
    }
    Ok(listeners)
}

/// Which of a pod's listeners, by their addresses, are not there any more.
///
/// # Errors
/// When the namespace cannot be entered or the kernel does not answer.
pub fn missing_listeners(netns: &NetnsFd, expected: &[SocketAddr]) -> io::Result<Vec<SocketAddr>> {
    netns.run(|| {
        let mut missing = Vec::new();
        for &address in expected {
            if !is_listening(address)? {
                missing.push(address);
            }
        }
        Ok(missing)
    })
}

/// A listening socket on any free port of an address of the calling thread's namespace.
pub(super) fn listen_anywhere(address: IpAddr) -> io::Result<TcpListener> {
    listener(SocketAddr::new(address, 0)).map(Into::into)
}

fn listener(address: SocketAddr) -> io::Result<Socket> {
    let socket = tcp_socket(address)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    // What is accepted has these options from the listener.
    prepare(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

pub(super) fn is_family_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

impl EnrolledPod {
    /// Starts a connection from the pod's namespace to `destination` with the source address `source` (its
    /// port is not used), past the outbound redirect. The socket is non-blocking and may still be connecting.
    ///
    /// # Errors
    /// When the socket cannot be made, bound or connected at once.
    pub fn dial(&self, source: Option<SocketAddr>, destination: SocketAddr) -> io::Result<TcpStream> {
        dial(&self.netns, source.map(|source| source.ip()), destination)
    }

    /// Starts the local leg of an inbound connection: to the pod's own `destination`, from the client's address.
    /// Its port is one of our choice. The socket is non-blocking and may still be connecting.
    ///
    /// # Errors
    /// When the socket cannot be made, bound or connected at once; `AddrInUse` when no port was found.
    pub fn dial_local(&self, client: SocketAddr, destination: SocketAddr) -> io::Result<TcpStream> {
        dial_local(&self.netns, client, destination)
    }
}

/// As [`EnrolledPod::dial`], for a namespace that is no pod's yet.
///
/// # Errors
/// When the socket cannot be made, bound or connected at once.
pub fn dial(netns: &NetnsFd, source: Option<IpAddr>, destination: SocketAddr) -> io::Result<TcpStream> {
    // Only where there are rules to be let past: it takes CAP_NET_ADMIN.
    let mark = (!netns.is_own()).then_some(DIAL_MARK);
    netns.run(|| dial_from_here(source, destination, mark))
}

fn dial_from_here(
    source: Option<IpAddr>,
    destination: SocketAddr,
    mark: Option<u32>,
) -> io::Result<TcpStream> {
    let socket = tcp_socket(destination)?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    prepare(&socket)?;
    if let Some(source) = source {
        // The port is chosen at connect, where it need only be free towards this destination.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    start(&socket, destination)?;
    Ok(socket.into())
}

/// As [`EnrolledPod::dial_local`], for a namespace that is no pod's yet.
///
/// # Errors
/// When the socket cannot be made, bound or connected at once; `AddrInUse` when no port was found.
pub fn dial_local(netns: &NetnsFd, client: SocketAddr, destination: SocketAddr) -> io::Result<TcpStream> {
    netns.run(|| dial_local_from_here(client, destination))
}

fn dial_local_from_here(client: SocketAddr, destination: SocketAddr) -> io::Result<TcpStream> {
    let ports = LOCAL_LEG_PORTS.end - LOCAL_LEG_PORTS.start;
    let begin = random() % ports;
    for offset in 0..LOCAL_LEG_TRIES {
        // A stride that is prime to the number of ports: neighbours of a busy port are likely busy, too.
        let port = LOCAL_LEG_PORTS.start + begin.wrapping_add(offset.wrapping_mul(409)) % ports;
        match dial_local_from(with_port(client, port), destination) {
            Ok(stream) => return Ok(stream),
            Err(error) if is_port_taken(&error) => {}
            Err(error) => return Err(error),
        }
    }
    let text = format!("no free source port for a local leg from {} to {destination}", client.ip());
    Err(io::Error::new(io::ErrorKind::AddrInUse, text))
}

fn dial_local_from(source: SocketAddr, destination: SocketAddr) -> io::Result<TcpStream> {
    let socket = tcp_socket(destination)?;
    socket.set_mark(LOCAL_MARK)?;
    if source.is_ipv4() {
        socket.set_ip_transparent_v4(true)?;
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_ip_transparent_v6(true)?;
        socket.set_freebind_v6(true)?;
    }
    prepare(&socket)?;
    socket.set_reuse_address(true)?;
    socket.bind(&source.into())?;
    start(&socket, destination)?;
    Ok(socket.into())
}

const fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

fn is_port_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRINUSE | libc::EADDRNOTAVAIL))
}

/// A TCP socket of the address' family, non-blocking and closed on exec.
pub(super) fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Sets what every connection of the data path has: its closing is a reset until its own side has ended in order
/// ([`crate::forward::socket`]).
fn prepare(socket: &Socket) -> io::Result<()> {
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL))
}

/// Starts a connect; one that goes on in the background is no error.
pub(super) fn start(socket: &Socket, destination: SocketAddr) -> io::Result<()> {
    match socket.connect(&destination.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        outcome => outcome,
    }
}

/// A number that differs from call to call; nothing secret hangs on it.
fn random() -> u16 {
    let [low, high, ..] = RandomState::new().hash_one(0).to_ne_bytes();
    u16::from_ne_bytes([low, high])
}
