//! Sockets in a pod's namespace, marked so that the pod's own rules let them pass.

use std::io;
use std::net::SocketAddr;

use super::EnrolledPod;

impl EnrolledPod {
    /// Starts a connection from the pod's namespace to `destination` with the source address `source`,
    /// past the outbound redirect. The socket is non-blocking and may still be connecting.
    ///
    /// # Errors
    /// When the socket cannot be made, bound or connected at once.
    pub fn dial(
        &self,
        _source: Option<SocketAddr>,
        _destination: SocketAddr,
    ) -> io::Result<std::net::TcpStream> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Starts the local leg of an inbound connection: to the pod's own `destination`, from the client's address.
    ///
    /// # Errors
    /// When the socket cannot be made, bound or connected at once.
    pub fn dial_local(
        &self,
        _client: SocketAddr,
        _destination: SocketAddr,
    ) -> io::Result<std::net::TcpStream> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
