//! The sockets: one that hears clients says to which address of ours each has written, and answers from there.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd as _, RawFd};

use nix::libc;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
use socket2::{Domain, MsgHdr, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Room for the longest datagram that there is: 65,507 bytes in IPv4, and 65,527 in IPv6.
pub(super) const BUFFER: usize = 65_536;
/// Room for what the kernel says beside a datagram: the largest is `in6_pktinfo`, with its head and padding.
const CONTROL: usize = 64;

/// A datagram that has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    /// Its length.
    pub(super) length: usize,
    /// Who has sent it.
    pub(super) client: SocketAddr,
    /// To which address.
    pub(super) local: IpAddr,
}

/// Where answers go, and from which address, in the kernel's words.
#[derive(Debug)]
pub(super) struct Return {
    client: SockAddr,
    control: [u8; CONTROL],
    length: usize,
}

/// A socket of this thread, connected with an endpoint.
///
/// # Errors
/// When there is none to be had, or no way to the endpoint.
pub(super) fn connect(endpoint: SocketAddr) -> io::Result<UdpSocket> {
    let kind = Type::DGRAM.nonblocking();
    let socket = Socket::new(Domain::for_address(endpoint), kind, Some(Protocol::UDP))?;
    socket.connect(&endpoint.into())?;
    UdpSocket::from_std(socket.into())
}

/// Takes the next datagram of a socket that listens.
///
/// # Errors
/// `WouldBlock` when there is none.
pub(super) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Received> {
    socket.try_io(Interest::READABLE, || take(socket.as_raw_fd(), buffer))
}

fn take(socket: RawFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = [0; CONTROL];
    let mut pieces = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<SockaddrStorage>(socket, &mut pieces, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let mut local = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    for said in message.cmsgs()? {
        match said {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                local = IpAddr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => local = IpAddr::from(info.ipi6_addr.s6_addr),
            _ => {}
        }
    }
    let sender = message.address.as_ref();
    let v4 = sender
        .and_then(SockaddrStorage::as_sockaddr_in)
        .map(|sender| SocketAddr::V4(SocketAddrV4::from(*sender)));
    let v6 = || {
        sender
            .and_then(SockaddrStorage::as_sockaddr_in6)
            .map(|sender| SocketAddr::V6(SocketAddrV6::from(*sender)))
    };
    let client = v4.or_else(v6).ok_or_else(|| io::Error::other("a datagram of nobody"))?;
    Ok(Received { length: message.bytes, client, local })
}

/// Sends a datagram to the endpoint of a connected socket.
///
/// # Errors
/// `ConnectionRefused` when nobody listened there for an earlier one (this one is not sent then), `WouldBlock` when there is
/// no room.
pub(super) fn send(socket: &UdpSocket, datagram: &[u8]) -> io::Result<()> {
    // Not by tokio: a socket that it has just begun to watch would seem to have no room.
    SockRef::from(socket).send(datagram).map(drop)
}

impl Return {
    /// Answers to `client` from `local`.
    pub(super) fn new(client: SocketAddr, local: IpAddr) -> Self {
        let mut control = [0; CONTROL];
        let length = match (local, client) {
            (IpAddr::V4(local), _) if local.is_unspecified() => 0,
            (IpAddr::V4(local), _) => {
                // struct in_pktinfo: the interface, the address to send from, and one that is not looked at.
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&local.octets());
                write_control(&mut control, (libc::IPPROTO_IP, libc::IP_PKTINFO), &info)
            }
            (IpAddr::V6(local), client) => {
                // struct in6_pktinfo: the address to send from, and the interface, which an address of a link needs.
                let mut info = [0; 20];
                info[..16].copy_from_slice(&local.octets());
                if let SocketAddr::V6(client) = client {
                    info[16..].copy_from_slice(&client.scope_id().to_ne_bytes());
                }
                write_control(&mut control, (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO), &info)
            }
        };
        Self { client: client.into(), control, length }
    }

    /// Sends an answer.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room.
    pub(super) fn send(&self, socket: &UdpSocket, answer: &[u8]) -> io::Result<()> {
        let pieces = [IoSlice::new(answer)];
        let message = MsgHdr::new().with_addr(&self.client).with_buffers(&pieces);
        let message = message.with_control(&self.control[..self.length]);
        SockRef::from(socket).sendmsg(&message, libc::MSG_DONTWAIT).map(drop)
    }
}

/// Writes one control message (cmsg(3)): its length with its head, a level, a type, and what it says. Returns how much room
/// it takes, which is a multiple of a word.
fn write_control(control: &mut [u8; CONTROL], (level, kind): (i32, i32), info: &[u8]) -> usize {
    const WORD: usize = size_of::<usize>();
    const HEAD: usize = WORD + 8;
    let length = HEAD + info.len();
    control[..WORD].copy_from_slice(&length.to_ne_bytes());
    control[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
    control[WORD + 4..HEAD].copy_from_slice(&kind.to_ne_bytes());
    control[HEAD..length].copy_from_slice(info);
    length.next_multiple_of(WORD)
}
