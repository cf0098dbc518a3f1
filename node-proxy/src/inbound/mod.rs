//! From a peer to a pod: handshake → authorize → streams of the hop, each with a local connection → copy. Hops that come to a
//! Gateway begin here, too, and their streams go on as its clients ([`crate::ingress`]).
//!
//! The destination's side of the hop decrypts and passes on, for HTTP as for anything else: routes were applied
//! at the client's side. In permissive mode the first speaker decides between mTLS and plain text; in strict mode
//! nothing is dialled before the handshake is authorized.

mod local;
mod peer;
mod streams;

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio_rustls::TlsAcceptor;

use crate::accept::orig_dst::original_destination;
use crate::accept::rewind::Rewind;
use crate::accept::{Incoming, JoinedPod, Worker};
use crate::connect::find_certificate;
use crate::error::{FailureReason, with_causes};
use crate::forward::copy::Copied;
use crate::forward::{Reset, Socket, Source, copy_both};
use crate::http1::ReadBuffer;
use crate::pod::Direction;
use crate::pod::redirect::{INBOUND_PORT, OUTBOUND_PORT};
use crate::telemetry::{ConnectionRecord, Hop, Journey, Peer, PlaintextReason, ProtocolLabel, Recording};
use crate::tls;
use crate::tls::FirstEnd;
use crate::tls::client_hello::{ClientHelloPeek, inspect};
pub(crate) use peer::as_peer;
use peer::{ServerFirst, Terms, find_terms};
use streams::Applications;
pub(crate) use streams::{Behind, Peers};

/// How long strict mode waits for a ClientHello.
const STRICT_PATIENCE: Duration = Duration::from_secs(3);
/// How long a handshake may take once it has begun.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the application's first bytes are held for a caller that may be about to speak mTLS. What is lost by a long
/// time is the time, once, of plain callers that wait for the application; by a short one, the connection of a mesh client on a
/// machine that is busy.
const HOLD: Duration = Duration::from_secs(1);

/// One connection to a pod, on its way.
pub(crate) struct Session {
    worker: Rc<Worker>,
    pod: Arc<JoinedPod>,
    client: SocketAddr,
    destination: SocketAddr,
    record: Recording<ConnectionRecord>,
}

/// How a client begins.
pub(crate) enum Opening {
    /// With the mesh's ClientHello.
    Mesh,
    /// With anything else.
    Plain(ProtocolLabel),
    /// With that of a mesh that is not understood.
    UnknownVersion(String),
    /// The client has ended before it was clear.
    Ended,
    /// The application has spoken first, or has ended.
    ServerFirst,
}

/// Serves one connection that has arrived at a pod.
pub async fn serve(worker: Rc<Worker>, incoming: Incoming) {
    let Incoming { stream, client, pod, seat: _seat, .. } = incoming;
    let Ok(destination) = original_destination(&stream) else { return };
    let (terms, source) = {
        let snapshot = worker.mesh.snapshot.load();
        (find_terms(&snapshot, &pod, client, destination), as_peer(&snapshot, client))
    };
    let session = Session::new((worker, pod), (client, destination), (Direction::Inbound, source));
    if matches!(destination.port(), INBOUND_PORT | OUTBOUND_PORT) {
        let error = format!("{destination} is a port of the proxy itself");
        return session.refuse(&stream, FailureReason::DestinationIsProxy, error);
    }
    match terms {
        Terms::MtlsOnly => session.serve_strict(stream).await,
        Terms::Both(server_first, reason) => session.serve_permissive(stream, server_first, reason).await,
    }
}

impl Session {
    /// A connection that has arrived from `source`, as far as that is known.
    pub(crate) fn new(
        (worker, pod): (Rc<Worker>, Arc<JoinedPod>),
        (client, destination): (SocketAddr, SocketAddr),
        (direction, source): (Direction, Peer),
    ) -> Self {
        let journey = Journey::new(direction, source, pod.as_peer(destination));
        let record = worker.mesh.telemetry.connection(ConnectionRecord::new(journey));
        Self { worker, pod, client, destination, record }
    }

    fn refuse(mut self, stream: &Socket, reason: FailureReason, error: impl Into<Box<str>>) {
        self.record.journey.fail(reason, error);
        self.record.finish();
        stream.reset();
    }

    async fn serve_strict(self, mut stream: Socket) {
        let mut buffer = ReadBuffer::default();
        let opening = tokio::time::timeout(STRICT_PATIENCE, read_opening(&mut stream, &mut buffer)).await;
        match opening {
            Ok(Ok(Opening::Mesh)) => self.serve_application(stream, buffer, None).await,
            Ok(Ok(Opening::UnknownVersion(version))) => self.refuse_version(&stream, &version),
            Ok(Ok(Opening::Ended)) => {
                self.refuse(&stream, FailureReason::ClientClosed, "it has ended without a ClientHello");
            }
            Ok(Ok(Opening::Plain(_) | Opening::ServerFirst)) => {
                self.refuse(&stream, FailureReason::PlaintextRefused, "the namespace takes mTLS only");
            }
            Ok(Err(error)) => self.refuse(&stream, FailureReason::ClientClosed, error.to_string()),
            Err(_) => {
                let error = "no ClientHello; the namespace takes mTLS only";
                self.refuse(&stream, FailureReason::HandshakeTimeout, error);
            }
        }
    }

    async fn serve_permissive(mut self, mut stream: Socket, first: ServerFirst, reason: PlaintextReason) {
        let mut server = match local::connect(&self.pod, self.client, self.destination).await {
            Ok(server) => server,
            Err(error) => return self.refuse(&stream, FailureReason::ConnectFailed, error.to_string()),
        };
        let mut buffer = ReadBuffer::default();
        let mut early = ReadBuffer::default();
        let mut opening = tokio::select! {
            biased;
            opening = read_opening(&mut stream, &mut buffer) => opening,
            // An error of a socket is told once: asked again, it would look like an end.
            early = early.fill(&mut server) => match early {
                Ok(_) => Ok(Opening::ServerFirst),
                Err(error) => return self.refuse(&stream, FailureReason::UpstreamReset, error.to_string()),
            },
        };
        if matches!(opening, Ok(Opening::ServerFirst))
            && (first == ServerFirst::Hold || !buffer.unread().is_empty())
        {
            let patience = tokio::time::timeout(HOLD, read_opening(&mut stream, &mut buffer)).await;
            opening = patience.unwrap_or(Ok(Opening::ServerFirst));
        }
        match opening {
            Ok(Opening::Mesh) => self.serve_application(stream, buffer, Some((server, early))).await,
            Ok(Opening::UnknownVersion(version)) => {
                server.reset();
                self.refuse_version(&stream, &version);
            }
            Ok(Opening::Plain(label)) => {
                self.record.protocol = Some(label);
                self.pass_on(stream, buffer, (server, early), reason).await;
            }
            // A client that only listens from now on: that is an end to pass on, not a failure.
            Ok(Opening::ServerFirst | Opening::Ended) => {
                self.record.protocol = Some(ProtocolLabel::Opaque);
                self.pass_on(stream, buffer, (server, early), reason).await;
            }
            Err(error) => {
                server.reset();
                self.refuse(&stream, FailureReason::ClientClosed, error.to_string());
            }
        }
    }

    pub(crate) fn refuse_version(self, stream: &Socket, version: &str) {
        let error = format!("{version:?} is a version of the hop that is not spoken here");
        self.refuse(stream, FailureReason::UnknownHopVersion, error);
    }

    async fn pass_on(
        mut self,
        stream: Socket,
        buffer: ReadBuffer,
        server: (Socket, ReadBuffer),
        reason: PlaintextReason,
    ) {
        if reason == PlaintextReason::StalePeer {
            self.worker.mesh.telemetry.metrics().stale_peer();
        }
        self.record.journey.hop = Some(Hop::Plain(reason));
        copy(self.record, (stream, buffer), server).await;
    }

    /// The mesh's own, for the application, which may have been dialled already.
    async fn serve_application(
        self,
        stream: Socket,
        buffer: ReadBuffer,
        dialled: Option<(Socket, ReadBuffer)>,
    ) {
        self.pod.pod.standing.mesh_is_used();
        self.serve_hop((stream, buffer), Applications { dialled: Cell::new(dialled) }).await;
    }

    /// The mesh's own: the handshake, and then the streams inside.
    pub(crate) async fn serve_hop(mut self, (stream, buffer): (Socket, ReadBuffer), behind: impl Behind) {
        let Some(certificate) = find_certificate(&self.worker.mesh, &self.pod).await else {
            let error = format!("no valid certificate for {}", self.pod.pod.identity);
            return self.refuse(&stream, FailureReason::NoCertificate, error);
        };
        if !self.pod.take_handshake(&self.worker.mesh.limits) {
            let error = "the pod has had as many handshakes in this second as it may";
            return self.refuse(&stream, FailureReason::HandshakeLimit, error);
        }
        let acceptor = TlsAcceptor::from(certificate.server_config());
        let handshake = Box::pin(acceptor.accept(Rewind::new(buffer, stream)).into_fallible());
        let tls = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(tls)) => tls,
            Ok(Err((error, stream))) => {
                // Whoever asks whether a Gateway takes hops is nobody, and has heard by now.
                if self.record.journey.direction == Direction::Ingress.into() && tls::is_anonymous(&error) {
                    self.record.dismiss();
                    return stream.stream().reset();
                }
                let (reason, text) = tls::verify::explain(&error);
                if tls::has_unknown_issuer(&error) {
                    self.worker.mesh.certs.doubt_trust();
                }
                return self.refuse(stream.stream(), reason, text);
            }
            // The connection went with the handshake.
            Err(_) => {
                self.record.journey.fail(FailureReason::HandshakeTimeout, "the handshake took too long");
                return self.record.finish();
            }
        };
        let certificates = tls.get_ref().1.peer_certificates();
        let ends = FirstEnd::of(&certificate, certificates);
        match tls::verify::peer_identity(certificates.unwrap_or_default()) {
            Ok(identity) => self.record.journey.source.identity = Some(identity),
            Err(error) => {
                let stream = tls.get_ref().0.stream();
                return self.refuse(stream, FailureReason::PeerIdentityRefused, error.to_string());
            }
        }
        let (rewind, connection) = tls.into_inner();
        let (unread, socket) = rewind.into_parts();
        if !unread.unread().is_empty() {
            return self.refuse(&socket, FailureReason::HandshakeFailed, "bytes before the handshake's end");
        }
        streams::serve(self, (socket, connection, ends), behind).await;
    }
}

/// Reads until it is clear how the client begins.
pub(crate) async fn read_opening(stream: &mut Socket, buffer: &mut ReadBuffer) -> io::Result<Opening> {
    loop {
        match inspect(buffer.unread()) {
            ClientHelloPeek::Incomplete => {}
            ClientHelloPeek::Mesh => return Ok(Opening::Mesh),
            ClientHelloPeek::UnknownMeshVersion(version) => return Ok(Opening::UnknownVersion(version)),
            ClientHelloPeek::NotTls => return Ok(Opening::Plain(ProtocolLabel::Opaque)),
            ClientHelloPeek::OtherTls { .. } => return Ok(Opening::Plain(ProtocolLabel::Tls)),
        }
        if buffer.fill(stream).await? == 0 {
            return Ok(Opening::Ended);
        }
    }
}

async fn copy<C>(
    mut record: Recording<ConnectionRecord>,
    (mut client, mut client_buffer): (C, ReadBuffer),
    (mut server, mut server_buffer): (Socket, ReadBuffer),
) where
    C: Source + AsyncWrite + Reset,
{
    record.opened();
    let mut copied = Copied::default();
    let outcome =
        copy_both((&mut client, &mut client_buffer), (&mut server, &mut server_buffer), &mut copied).await;
    record.journey.bytes_sent = copied.sent;
    record.journey.bytes_received = copied.received;
    if let Err(error) = outcome {
        record.journey.fail(error.reason(), with_causes(&error));
        client.reset();
        server.reset();
    }
    record.finish();
}
