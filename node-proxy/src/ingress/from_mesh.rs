//! From a pod of the mesh to a Gateway: the hop, which ends at the Gateway's listener. A Gateway's pod is not captured, so every
//! port of TCP tells by its first bytes who has come; whatever is no hop is a client as any other.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::timeout;

use super::{Arrival, HANDSHAKE_TIMEOUT};
use crate::accept::{ClientStream, Seat};
use crate::forward::Socket;
use crate::hop;
use crate::http1::ReadBuffer;
use crate::inbound::{self, Behind, HOLD, Opening, Peers};
use crate::pod::Direction;
use crate::snapshot::gateway::GatewayPort;

/// How a connection begins.
pub(super) enum Beginning {
    /// With the mesh's ClientHello.
    Mesh,
    /// With that of a mesh that is not understood.
    UnknownVersion(String),
    /// As any client's.
    Client,
    /// Not at all, where it would have had to.
    TooLate,
}

impl Arrival {
    /// Reads until it is clear how a connection begins.
    pub(super) async fn read_opening(&self, (stream, buffer): (&mut Socket, &mut ReadBuffer)) -> Beginning {
        let is_proxied = self.worker.mesh.intermediaries.proxy_protocol.is_some();
        let opening = match self.find_port().as_deref() {
            Some(GatewayPort::Tcp(_)) if !is_proxied => {
                if !self.may_be_of_the_mesh() {
                    return Beginning::Client;
                }
                // It may wait for the server's first word, as one of the mesh never does.
                timeout(HOLD, inbound::read_opening(stream, buffer)).await.unwrap_or(Ok(Opening::ServerFirst))
            }
            Some(GatewayPort::Tls(_)) => {
                match timeout(HANDSHAKE_TIMEOUT, inbound::read_opening(stream, buffer)).await {
                    Ok(opening) => opening,
                    Err(_) => return Beginning::TooLate,
                }
            }
            Some(GatewayPort::Http(_) | GatewayPort::Tcp(_)) => {
                read_after_first((stream, buffer), HANDSHAKE_TIMEOUT).await
            }
            Some(GatewayPort::Udp(_)) | None => return Beginning::Client,
        };
        match opening {
            Ok(Opening::Mesh) => Beginning::Mesh,
            Ok(Opening::UnknownVersion(version)) => Beginning::UnknownVersion(version),
            // Whoever serves the client comes upon its end, too.
            Ok(Opening::Plain(_) | Opening::ServerFirst | Opening::Ended) | Err(_) => Beginning::Client,
        }
    }

    /// Whether the connection may be a pod's that speaks the hop: not of one that is known to be outside of the mesh, nor from
    /// where no pods are. Where the nodes' ranges do not hold the Gateway's own pod, they say nothing of pods at all.
    fn may_be_of_the_mesh(&self) -> bool {
        let snapshot = self.worker.mesh.snapshot.load();
        let are_ranges_of_pods = || self.pod.pod.addresses.iter().any(|own| snapshot.is_pod_address(*own));
        match snapshot.find_workload(self.peer.ip()) {
            Some(workload) => workload.is_captured(),
            None if snapshot.node_addresses.is_empty() || are_ranges_of_pods() => {
                snapshot.is_pod_address(self.peer.ip())
            }
            None => true,
        }
    }

    /// The same connection, as one of the mesh.
    pub(super) fn into_mesh(self) -> inbound::Session {
        inbound::Session::new(self.worker, self.pod, (self.peer, self.destination), Direction::Ingress)
    }

    /// Serves the mesh's hop: each of its streams is a client.
    pub(super) async fn serve_hop(self, stream: Socket, buffer: ReadBuffer) {
        self.into_mesh().serve_hop((stream, buffer), Listener).await;
    }
}

/// The listener of a Gateway's port.
struct Listener;

impl Behind for Listener {
    fn serve(&self, peers: &Rc<Peers>, arrival: hop::Arrival) -> impl Future<Output = ()> + 'static {
        let peers = Rc::clone(peers);
        async move {
            let (worker, pod) = (Rc::clone(&peers.worker), peers.pod.clone());
            let (opener, peer) = (peers.source.clone(), peers.client);
            let client = Arrival { worker, pod, peer, opener, client: peer, destination: peers.destination };
            let _seat = match Seat::take(&peers.pod, &peers.worker.mesh.limits) {
                Ok(seat) => seat,
                Err((reason, error)) => {
                    client.session(None).note(reason, error.to_string());
                    return arrival.refuse();
                }
            };
            let stream = ClientStream::from(arrival.accept());
            client.serve_client(stream, ReadBuffer::default()).await;
        }
    }
}

/// Reads until it is clear how a client begins: without haste until its first byte, as it may be silent for as long as it likes,
/// and then in time.
async fn read_after_first(
    (stream, buffer): (&mut Socket, &mut ReadBuffer),
    patience: Duration,
) -> io::Result<Opening> {
    if buffer.fill(stream).await? == 0 {
        return Ok(Opening::Ended);
    }
    timeout(patience, inbound::read_opening(stream, buffer)).await.unwrap_or(Ok(Opening::ServerFirst))
}
