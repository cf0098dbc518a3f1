//! The last leg: from the pod's inbound listener to the application, with the client's address kept.

use std::io;
use std::net::SocketAddr;

use crate::accept::JoinedPod;
use crate::forward::Socket;

/// Connects to the application that the client meant, from the client's address.
///
/// # Errors
/// When the application refuses.
pub(super) async fn connect(
    pod: &JoinedPod,
    client: SocketAddr,
    destination: SocketAddr,
) -> io::Result<Socket> {
    Socket::from_std(pod.pod.dial_local(client, destination)?)?.connected().await
}
