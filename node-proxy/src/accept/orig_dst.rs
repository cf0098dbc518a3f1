//! Where a redirected connection was going before the rules led it here.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use socket2::SockRef;

/// The address that the client dialled (`SO_ORIGINAL_DST`, `IP6T_SO_ORIGINAL_DST`), IPv4-mapped ones made IPv4.
///
/// For a connection that was not redirected the kernel answers with the listener's own address, or with an
/// error: the caller refuses both (a loop).
///
/// # Errors
/// When conntrack does not know the connection.
pub fn original_destination(socket: &impl AsFd) -> io::Result<SocketAddr> {
    let socket = SockRef::from(socket);
    let local = socket.local_addr()?.as_socket();
    let original = match local.map(|address| address.ip().to_canonical()) {
        Some(IpAddr::V6(_)) => socket.original_dst_v6()?,
        Some(IpAddr::V4(_)) | None => socket.original_dst_v4()?,
    };
    let address = original.as_socket().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "the original destination is no IP address")
    })?;
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}
