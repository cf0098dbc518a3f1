//! Whether a connection was opened by a process of this node: the kubelet, which strict mode lets through.
//!
//! A NodePort client whose address was masqueraded comes from the node's address, too; but no socket of the
//! node has its four-tuple. Asked of `sock_diag`, in the namespace of the calling thread: the caller sees to
//! it that this is the node's ([`super::host`]).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::libc;
use nix::sys::socket::SockProtocol;

use super::netlink::{Answer, Attributes, Conversation, Message};

/// `SOCK_DIAG_BY_FAMILY` of linux/sock_diag.h.
const BY_FAMILY: u16 = 20;
/// Offset and length of `struct inet_diag_sockid` in `struct inet_diag_msg`.
const ID_OFFSET: usize = 4;

/// Whether exactly this connection is one of a live socket of this node, seen from its client's end.
///
/// # Errors
/// When the kernel does not answer the lookup; strict mode refuses then.
pub fn is_socket_of_this_node(client: SocketAddr, destination: SocketAddr) -> io::Result<bool> {
    let (client, destination) = (canonical(client), canonical(destination));
    if client.is_ipv4() != destination.is_ipv4() {
        return Ok(false);
    }
    let request = Message {
        purpose: format!("look up the socket of {client} to {destination}"),
        kind: BY_FAMILY,
        flags: 0,
        header: lookup(client, destination),
        attributes: Attributes::new(),
    };
    match Conversation::open(SockProtocol::NetlinkSockDiag)?.ask(request) {
        Ok(answers) => Ok(answers.iter().any(|answer| is_live_socket(answer, client, destination))),
        Err(refused) if refused.errno() == Some(libc::ENOENT) => Ok(false),
        Err(refused) => Err(refused.source),
    }
}

/// Whether something listens on this address in the namespace of the calling thread.
pub(super) fn is_listening(address: SocketAddr) -> io::Result<bool> {
    /// `TCP_LISTEN`.
    const LISTEN: u8 = 10;
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let request = Message {
        purpose: format!("look up the listener on {address}"),
        kind: BY_FAMILY,
        flags: 0,
        header: lookup(address, SocketAddr::new(any, 0)),
        attributes: Attributes::new(),
    };
    match Conversation::open(SockProtocol::NetlinkSockDiag)?.ask(request) {
        Ok(answers) => Ok(answers.iter().any(|answer| answer.body.get(1) == Some(&LISTEN))),
        Err(refused) if refused.errno() == Some(libc::ENOENT) => Ok(false),
        Err(refused) => Err(refused.source),
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// `struct inet_diag_req_v2`.
fn lookup(client: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let family = if client.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let family = u8::try_from(family).expect("address families are small numbers");
    let mut request = vec![family, 6, 0, 0];
    // All states: the answer says which.
    request.extend_from_slice(&u32::MAX.to_ne_bytes());
    request.extend_from_slice(&client.port().to_be_bytes());
    request.extend_from_slice(&destination.port().to_be_bytes());
    request.extend_from_slice(&address_bytes(client.ip()));
    request.extend_from_slice(&address_bytes(destination.ip()));
    request.extend_from_slice(&[0; 4]);
    // INET_DIAG_NOCOOKIE, twice.
    request.extend_from_slice(&[0xff; 8]);
    request
}

fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            bytes
        }
        IpAddr::V6(address) => address.octets(),
    }
}

/// The kernel falls back to a listening socket on the client's port, and knows sockets in TIME_WAIT: neither
/// is the one that was asked for.
fn is_live_socket(answer: &Answer, client: SocketAddr, destination: SocketAddr) -> bool {
    /// `TCP_ESTABLISHED`, `TCP_FIN_WAIT1`, `TCP_FIN_WAIT2`, `TCP_CLOSE_WAIT`.
    const LIVE: [u8; 4] = [1, 4, 5, 8];
    let (Some(&family), Some(state)) = (answer.body.first(), answer.body.get(1)) else { return false };
    let end = |port_offset: usize, address_offset: usize| {
        let port =
            answer.body.get(ID_OFFSET + port_offset..)?.first_chunk().copied().map(u16::from_be_bytes)?;
        let bytes: [u8; 16] = answer.body.get(ID_OFFSET + address_offset..)?.first_chunk().copied()?;
        let [a, b, c, d, ..] = bytes;
        let address = if i32::from(family) == libc::AF_INET {
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        } else {
            Ipv6Addr::from(bytes).to_canonical()
        };
        Some(SocketAddr::new(address, port))
    };
    LIVE.contains(state) && end(0, 4) == Some(client) && end(2, 20) == Some(destination)
}
