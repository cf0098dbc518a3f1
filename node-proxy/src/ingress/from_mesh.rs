//! From a pod of the mesh to a Gateway: the hop, which ends at the Gateway's listener. A Gateway's pod is not captured, so every
//! port of TCP tells by its first bytes who has come from where pods are; whatever is no hop is a client as any other.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::{Arrival, HANDSHAKE_TIMEOUT};
use crate::accept::{ClientStream, Seat};
use crate::forward::Socket;
use crate::hop;
use crate::http1::ReadBuffer;
use crate::inbound::{self, Behind, Opening, Peers};
use crate::pod::Direction;
use crate::snapshot::gateway::GatewayPort;

/// How long the mesh's first word, which comes at once, is waited for where a server may speak first: every client from where pods
/// are has this long to wait.
const HOLD: Duration = Duration::from_millis(300);
/// How long it is waited for where it hardly ever comes: one is there before a server's would be.
const BRIEF_HOLD: Duration = Duration::from_millis(20);

/// How a connection begins.
pub(super) enum Beginning {
    /// With the mesh's ClientHello.
    Mesh,
    /// With that of a mesh that is not understood.
    UnknownVersion(String),
    /// As any client's.
    Client,
    /// With silence, where a server may speak first.
    Silence,
    /// Not at all, where it would have had to.
    TooLate,
}

impl Arrival {
    /// Reads until it is clear how a connection begins.
    pub(super) async fn read_opening(&self, (stream, buffer): (&mut Socket, &mut ReadBuffer)) -> Beginning {
        let port = self.find_port();
        let (Some(port), true) = (port.as_deref(), self.may_be_of_the_mesh()) else {
            return Beginning::Client;
        };
        let is_proxied = self.worker.mesh.intermediaries.proxy_protocol.is_some();
        let opening = match port {
            GatewayPort::Udp(_) => return Beginning::Client,
            GatewayPort::Http(_) if !is_proxied => read_after_first((stream, buffer)).await,
            GatewayPort::Tcp(_) if !is_proxied => return self.wait_for_hop((stream, buffer)).await,
            GatewayPort::Http(_) | GatewayPort::Tcp(_) | GatewayPort::Tls(_) => {
                match timeout_at(self.deadline, inbound::read_opening(stream, buffer)).await {
                    Ok(opening) => opening,
                    // What has not come is the header.
                    Err(_) if is_proxied => return Beginning::Client,
                    Err(_) => return Beginning::TooLate,
                }
            }
        };
        judge(opening)
    }

    /// Waits for the mesh's first word, which comes at once, where a client may be waiting for the server's: from an address that
    /// was silent lately, or is that of a pod outside of the mesh, only as long as nobody notices.
    async fn wait_for_hop(&self, (stream, buffer): (&mut Socket, &mut ReadBuffer)) -> Beginning {
        let address = self.peer.ip();
        let is_outside = {
            let snapshot = self.worker.mesh.snapshot.load();
            let workload = snapshot.find_workload(address);
            workload.is_some_and(|workload| !workload.is_captured() && !workload.is_gateway)
        };
        let is_silent = is_outside || self.worker.silent.borrow().contains_key(&address);
        let patience = if is_silent { BRIEF_HOLD } else { HOLD };
        let Ok(opening) = timeout(patience, inbound::read_opening(stream, buffer)).await else {
            self.worker.silent.borrow_mut().insert(address, Instant::now());
            return Beginning::Silence;
        };
        let beginning = judge(opening);
        if matches!(beginning, Beginning::Mesh) && is_silent {
            self.worker.silent.borrow_mut().remove(&address);
        }
        beginning
    }

    /// Whether the connection may be a pod's, or that of the agent of a node. Where the nodes' ranges do not hold the Gateway's own
    /// pod, they say nothing of pods: they are in some private range then (RFC 1918, RFC 4193).
    fn may_be_of_the_mesh(&self) -> bool {
        let (snapshot, address) = (self.worker.mesh.snapshot.load(), self.peer.ip());
        let are_known = || self.pod.pod.addresses.iter().any(|own| snapshot.is_pod_address(*own));
        snapshot.find_workload(address).is_some()
            || snapshot.is_pod_address(address)
            || snapshot.node_addresses.contains_key(&address)
            || (is_private(address) && !are_known())
    }

    /// The same connection, as one of the mesh.
    pub(super) fn into_mesh(self) -> inbound::Session {
        let source = inbound::as_peer(&self.worker.mesh.snapshot.load(), self.peer);
        let ends = (self.peer, self.destination);
        inbound::Session::new((self.worker, self.pod), ends, (Direction::Ingress, source))
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
            let client = Arrival::new((worker, pod), opener, (peer, peers.destination));
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
async fn read_after_first((stream, buffer): (&mut Socket, &mut ReadBuffer)) -> io::Result<Opening> {
    if buffer.fill(stream).await? == 0 {
        return Ok(Opening::Ended);
    }
    let reading = inbound::read_opening(stream, buffer);
    timeout(HANDSHAKE_TIMEOUT, reading).await.unwrap_or(Ok(Opening::ServerFirst))
}

/// What a connection is that has begun like this.
fn judge(opening: io::Result<Opening>) -> Beginning {
    match opening {
        Ok(Opening::Mesh) => Beginning::Mesh,
        Ok(Opening::UnknownVersion(version)) => Beginning::UnknownVersion(version),
        // Whoever serves the client comes upon its end, too.
        Ok(Opening::Plain(_) | Opening::ServerFirst | Opening::Ended) | Err(_) => Beginning::Client,
    }
}

const fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_private(),
        IpAddr::V6(address) => address.is_unique_local(),
    }
}
