//! From a client to a Gateway: port → listener, by the server name of a ClientHello where there is TLS, which ends here or
//! goes on → requests, or a connection as it is. Both go on as a pod's own do, by [`outbound`]. A pod of the mesh comes by the
//! hop (`from_mesh`), each of whose streams is a client as any other, but for that one knows who it is.

pub mod datagrams;
mod from_mesh;
pub mod intermediaries;
pub mod ports;
pub mod proxy_protocol;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::accept::rewind::Rewind;
use crate::accept::{ClientStream, Incoming, JoinedPod, Worker};
use crate::attach::gateway::ListenerId;
use crate::error::{FailureReason, with_causes};
use crate::http1::ReadBuffer;
use crate::outbound::hello::read_server_name;
use crate::outbound::{self, Gate, Session};
use crate::snapshot::gateway::{GatewayPort, TlsListener};
use crate::snapshot::transport::Port;
use crate::telemetry::{Peer, ProtocolLabel};
use from_mesh::Beginning;
use proxy_protocol::read_header;

/// How long a client of TLS has for its ClientHello, and for the whole handshake where TLS ends here.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A fatal alert: there is nothing here for the name that was asked for (`unrecognized_name`, RFC 6066 section 3), in the
/// record of a handshake that has agreed on nothing yet (RFC 8446 section 5.1).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// A connection on its way to its listener.
struct Arrival {
    worker: Rc<Worker>,
    pod: Arc<JoinedPod>,
    /// From where it was opened.
    peer: SocketAddr,
    /// Who has opened it, as far as that is known.
    opener: Peer,
    /// For whom: where nobody else is believed to speak for clients, for itself.
    client: SocketAddr,
    destination: SocketAddr,
    /// Until when it has to say what it must begin with, where it must.
    deadline: Instant,
}

/// Serves one connection that has come to a port of the Gateway.
pub async fn serve(worker: Rc<Worker>, incoming: Incoming) {
    let Incoming { mut stream, client, pod, seat: _seat, .. } = incoming;
    let Ok(destination) = stream.local_address() else { return };
    let opener = Peer { address: Some(client), ..Peer::default() };
    let arrival = Arrival::new((worker, pod), opener, (client, destination));
    let mut buffer = ReadBuffer::default();
    match arrival.read_opening((&mut stream, &mut buffer)).await {
        // In a place of its own: most clients are of no mesh.
        Beginning::Mesh => Box::pin(arrival.serve_hop(stream, buffer)).await,
        Beginning::UnknownVersion(version) => arrival.into_mesh().refuse_version(&stream, &version),
        Beginning::Client => arrival.serve_client(stream.into(), buffer).await,
        Beginning::Silence => arrival.serve_client(ClientStream::Late(stream, false), buffer).await,
        Beginning::TooLate => {
            let why = (FailureReason::HandshakeTimeout, "no ClientHello has come in time");
            arrival.refuse(&stream.into(), why);
        }
    }
}

impl Arrival {
    fn new(
        (worker, pod): (Rc<Worker>, Arc<JoinedPod>),
        opener: Peer,
        (client, destination): (SocketAddr, SocketAddr),
    ) -> Self {
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        Self { worker, pod, peer: client, opener, client, destination, deadline }
    }

    /// Serves a client of the Gateway, of whose words some may have been read.
    async fn serve_client(mut self, stream: ClientStream, buffer: ReadBuffer) {
        let Some((stream, buffer)) = self.begin(stream, buffer).await else { return };
        match self.find_port().as_deref() {
            Some(GatewayPort::Http(_)) => {
                outbound::serve_requests(self.session(None), (stream, buffer)).await;
            }
            Some(GatewayPort::Tcp(listener)) => {
                let seen = (None, ProtocolLabel::Opaque);
                outbound::serve_listener(&self.session(None), (stream, buffer), listener, seen).await;
            }
            Some(GatewayPort::Tls(_)) => self.serve_tls(stream, buffer).await,
            // It was closed a moment ago.
            Some(GatewayPort::Udp(_)) | None => {
                self.refuse(&stream, (FailureReason::NoMatchingRule, "the port has gone"));
            }
        }
    }

    /// Reads for whom the connection is, where it has to begin with that; what was read besides comes next. `None` when there
    /// is nothing to go on with, which is noted.
    async fn begin(
        &mut self,
        mut stream: ClientStream,
        mut buffer: ReadBuffer,
    ) -> Option<(ClientStream, ReadBuffer)> {
        let Some(protocol) = &self.worker.mesh.intermediaries.proxy_protocol else {
            return Some((stream, buffer));
        };
        if !protocol.may_come_from(self.peer.ip()) {
            let error = "it may not speak the PROXY protocol (--proxy-protocol-from)";
            self.refuse(&stream, (FailureReason::ProxySourceRefused, error));
            return None;
        }
        match read_header((&mut stream, &mut buffer), self.deadline).await {
            Ok(client) => {
                self.client = client.unwrap_or(self.peer);
                return Some((stream, buffer));
            }
            // Whoever asks whether the port is open says nothing.
            Err((FailureReason::ClientClosed, _)) => {
                let _ = stream.shutdown().await;
            }
            Err((reason, error)) => self.refuse(&stream, (reason, &error)),
        }
        None
    }

    fn find_port(&self) -> Option<Arc<GatewayPort>> {
        self.worker.mesh.snapshot.load().gateway_ports.get(&Port::tcp(self.destination.port())).cloned()
    }

    /// The listener of the port for a server name; for a client that gives none, the one for any.
    fn find_listener(&self, server_name: Option<&str>) -> Option<TlsListener> {
        match &*self.find_port()? {
            GatewayPort::Tls(listeners) => listeners.find(server_name.unwrap_or_default()).cloned(),
            GatewayPort::Http(_) | GatewayPort::Tcp(_) | GatewayPort::Udp(_) => None,
        }
    }

    /// Whether HTTPS is among what its port is for.
    fn has_requests(&self) -> bool {
        match self.find_port().as_deref() {
            Some(GatewayPort::Tls(listeners)) => {
                listeners.values().any(|listener| matches!(listener, TlsListener::Requests(..)))
            }
            _ => false,
        }
    }

    fn gate(&self, through: Option<&Arc<ListenerId>>) -> Gate {
        let trusted_hops = self.worker.mesh.intermediaries.trusted_hops;
        let port = (self.destination.port(), through.cloned());
        Gate::new(port, (self.opener.clone(), self.client), trusted_hops)
    }

    fn session(&self, through: Option<&Arc<ListenerId>>) -> Session {
        self.session_by(self.gate(through))
    }

    fn session_by(&self, gate: Gate) -> Session {
        let ends = (self.peer, self.destination);
        Session::of_gateway((Rc::clone(&self.worker), Arc::clone(&self.pod)), ends, Rc::new(gate))
    }

    fn refuse(&self, stream: &ClientStream, (reason, error): (FailureReason, &str)) {
        self.session(None).refuse(stream, reason, error.to_owned());
    }

    async fn serve_tls(&self, mut stream: ClientStream, mut buffer: ReadBuffer) {
        let reading = read_server_name((&mut stream, &mut buffer));
        let server_name = match tokio::time::timeout(HANDSHAKE_TIMEOUT, reading).await {
            Ok(Ok(server_name)) => server_name,
            Ok(Err(reason)) => return self.refuse(&stream, (reason, "no ClientHello has come")),
            Err(_) => {
                let why = (FailureReason::HandshakeTimeout, "no ClientHello has come in time");
                return self.refuse(&stream, why);
            }
        };
        match self.find_listener(server_name.as_deref()) {
            Some(TlsListener::Passthrough(listener)) => {
                let seen = (server_name, ProtocolLabel::Tls);
                let client = (stream, buffer);
                let session = self.session_by(self.gate(None).passing_tls());
                outbound::serve_listener(&session, client, &listener, seen).await;
            }
            Some(TlsListener::Requests(config, listener)) => {
                if let Some(stream) = self.end_tls(config, (stream, buffer)).await {
                    let client = (stream, ReadBuffer::default());
                    outbound::serve_requests(self.session(Some(&listener.id)), client).await;
                }
            }
            Some(TlsListener::Connections(config, listener)) => {
                if let Some(stream) = self.end_tls(config, (stream, buffer)).await {
                    let seen = (server_name, ProtocolLabel::Opaque);
                    let client = (stream, ReadBuffer::default());
                    outbound::serve_listener(&self.session(Some(&listener.id)), client, &listener, seen)
                        .await;
                }
            }
            None => {
                let name = server_name.as_deref().unwrap_or("no name");
                let error = format!("no listener of port {} is for {name}", self.destination.port());
                // Where TLS may be anybody's, as that of a TLSRoute is, nothing is said in it: the connection is refused.
                if !self.has_requests() {
                    return self.refuse(&stream, (FailureReason::NoMatchingRule, &error));
                }
                if stream.write_all(&UNRECOGNIZED_NAME).await.is_ok() {
                    let _ = stream.shutdown().await;
                }
                self.session(None).note(FailureReason::NoMatchingRule, error);
            }
        }
    }

    /// Ends the client's TLS; `None` when there is nothing to go on with, which is noted.
    async fn end_tls(
        &self,
        config: Arc<ServerConfig>,
        (stream, buffer): (ClientStream, ReadBuffer),
    ) -> Option<ClientStream> {
        if !self.pod.take_handshake(&self.worker.mesh.limits) {
            let why = (FailureReason::HandshakeLimit, "the Gateway's pod has had as many as it may");
            self.refuse(&stream, why);
            return None;
        }
        let handshake = TlsAcceptor::from(config).accept(Rewind::new(buffer, stream));
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, Box::pin(handshake)).await {
            Ok(Ok(stream)) => Some(ClientStream::Terminated(Box::new(stream))),
            Ok(Err(error)) => {
                self.session(None).note(FailureReason::HandshakeFailed, with_causes(&error));
                None
            }
            Err(_) => {
                let error = format!("no handshake within {HANDSHAKE_TIMEOUT:?}");
                self.session(None).note(FailureReason::HandshakeTimeout, error);
                None
            }
        }
    }
}
