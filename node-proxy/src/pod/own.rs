//! The pod of a Gateway: this very process. Nothing is captured there, and its network is the process's own.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;

use gammarus_ca::SpiffeId;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::host::Host;
use super::netns::NetnsFd;
use super::proof::ProofBoard;
use super::sockets::{is_family_missing, listen_at};
use super::standing::Standing;
use super::{Direction, EnrolledPod, PodListener};
use crate::cluster::objects::ObjectKey;

/// How many bytes of datagrams a socket holds that nobody has read yet.
const RECEIVE_BUFFER: usize = 1024 * 1024;

/// This process as a pod.
///
/// # Errors
/// When its addresses or its network cannot be told.
pub fn own_pod(pod: ObjectKey, identity: SpiffeId) -> anyhow::Result<EnrolledPod> {
    Ok(EnrolledPod {
        uid: pod.to_string().into(),
        pod,
        identity,
        addresses: own_addresses()?,
        record: None,
        netns: NetnsFd::own()?,
        host: Arc::new(Host::open(Path::new("/"))?),
        proofs: ProofBoard::default(),
        standing: Standing::default(),
    })
}

/// Opens the listeners of a Gateway's port: one per address family that there is.
///
/// # Errors
/// When the port is taken or is not to be had.
pub fn listen_on_port(port: u16) -> io::Result<Vec<PodListener>> {
    let addresses = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    listen_at(addresses.map(|address| (Direction::Ingress, SocketAddr::new(address, port))))
}

/// Opens sockets for a Gateway's port of UDP: for each address family that there is as many as are asked for, among which the
/// kernel deals those who send.
///
/// # Errors
/// When the port is not to be had.
pub fn hear_on_port(port: u16, count: usize) -> io::Result<Vec<UdpSocket>> {
    let mut sockets = Vec::new();
    for address in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
        for _ in 0..count {
            match datagram_socket(SocketAddr::new(address, port)) {
                Ok(socket) => sockets.push(socket.into()),
                Err(error) if is_family_missing(&error) => break,
                Err(error) => return Err(error),
            }
        }
    }
    if sockets.is_empty() {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    }
    Ok(sockets)
}

fn datagram_socket(address: SocketAddr) -> io::Result<Socket> {
    let kind = Type::DGRAM.nonblocking();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    socket.set_reuse_port(true)?;
    // As much as the kernel allows: what comes while others have their turn waits here.
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The addresses of this process's network, as others reach it.
fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let of_interface = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    };
    let reaches_others = |address: &IpAddr| match address {
        IpAddr::V4(address) => !address.is_loopback(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    };
    Ok(getifaddrs()?.filter_map(of_interface).filter(reaches_others).collect())
}
