//! From a pod to a Service: original destination → target → HTTP, opaque or passthrough.
//!
//! This is the client's side of the mesh: routes are applied here, by the proxy of the client's node, and here
//! the hop begins. A connection to a pod's own address is never routed; one to nothing that the mesh knows is
//! passed through as it is.

mod answer_body;
mod attempts;
mod dial;
pub(crate) mod fare;
mod forwarded;
mod gate;
pub(crate) mod hello;
mod http1;
mod http2;
mod mirror;
mod opaque;
pub mod plan;
pub mod target;
mod tunnel;
mod upstream;

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::AsyncWriteExt as _;

use crate::accept::detect::{FirstBytes, claims_http1, is_http2_server, judge};
use crate::accept::orig_dst::original_destination;
use crate::accept::{ClientStream, Incoming, JoinedPod, Worker};
use crate::balance::{self, AddressFamilies, InFlight};
use crate::connect::Destination;
use crate::error::FailureReason;
use crate::forward::{CopyError, Reset as _};
use crate::http1::ReadBuffer;
use crate::http2::INVALID_PREFACE;
use crate::pod::Direction;
use crate::pod::redirect::{INBOUND_PORT, OUTBOUND_PORT};
use crate::route::session::{Client, SessionToken};
use crate::snapshot::service::{Endpoint, Frontend, PortProtocol, ServicePort};
use crate::telemetry::{ConnectionRecord, Journey, Peer, ProtocolLabel, Recording, RequestRecord};
use dial::{Chosen, Wish};
pub use gate::Gate;
pub use opaque::serve_listener;
use target::{Target, find_target};

/// How long a client that cannot be connected is listened to before it is reset.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// One connection that a pod has opened, or that has come to a Gateway, on its way.
#[derive(Clone, Debug)]
pub struct Session {
    worker: Rc<Worker>,
    pod: Arc<JoinedPod>,
    client: SocketAddr,
    destination: SocketAddr,
    /// The port of the Gateway that it has come to.
    gate: Option<Rc<Gate>>,
}

impl Session {
    /// A connection that has come to a port of a Gateway, whose pod is this process.
    #[must_use]
    pub fn of_gateway(
        (worker, pod): (Rc<Worker>, Arc<JoinedPod>),
        (client, destination): (SocketAddr, SocketAddr),
        gate: Rc<Gate>,
    ) -> Self {
        Self { worker, pod, client, destination, gate: Some(gate) }
    }

    /// A journey of this connection, nothing but its ends known.
    fn journey(&self) -> Journey {
        let destination = Peer { address: Some(self.destination), ..Peer::default() };
        match &self.gate {
            Some(gate) => {
                let mut journey = Journey::new(Direction::Ingress, gate.opener.clone(), destination);
                journey.client = gate.client_behind(self.client);
                journey
            }
            None => Journey::new(Direction::Outbound, self.pod.as_peer(self.client), destination),
        }
    }

    /// The namespace of the client's pod, by which routes hold for it.
    fn namespace(&self) -> &str {
        &self.pod.pod.pod.namespace
    }

    /// The Service port of this connection as it is now: a long-lived connection follows the cluster.
    fn find_frontend(&self) -> Option<Frontend> {
        self.worker.mesh.snapshot.load().find_frontend(self.destination).cloned()
    }

    /// An endpoint that the pod can reach and that was not tried yet: the one that is wished for, unless it keeps failing,
    /// else of the family that the client dialled, as without a mesh, and of the other one only when there is none.
    fn choose<'e>(
        &self,
        port: &'e ServicePort,
        (wish, client): (&Wish, Option<IpAddr>),
    ) -> Option<&'e Arc<Endpoint>> {
        if let Some(id) = wish.stays_with
            && let Some(endpoint) = port.endpoints.find(id)
            && AddressFamilies::of(&self.pod.pod.addresses)?.contains(endpoint.address.ip())
            && !wish.tried.contains(&endpoint.address)
            && balance::is_in_or_on_trial(endpoint)
        {
            return Some(endpoint);
        }
        let client = client.filter(|_| self.gate.is_some());
        choose_endpoint(&self.pod, (self.destination.ip(), client), port, &wish.tried)
    }

    /// Counts what a connection to an undeclared port turned out to speak.
    fn count_detected(&self, frontend: &Frontend, protocol: ProtocolLabel) {
        self.worker.mesh.telemetry.metrics().detected_protocol(&frontend.port.key, protocol);
    }

    /// Notes why nothing has come of the connection.
    pub(crate) fn note(&self, reason: FailureReason, error: String) {
        let mut journey = self.journey();
        journey.fail(reason, error);
        self.worker.mesh.telemetry.connection(ConnectionRecord::new(journey)).finish();
    }

    /// Notes why nothing comes of the connection, and breaks it off.
    pub(crate) fn refuse(&self, stream: &ClientStream, reason: FailureReason, error: String) {
        self.note(reason, error);
        stream.reset();
    }
}

/// An endpoint that a pod can reach and that is not among `tried`: of the family that was `dialled`, as without a mesh, and
/// of the other one only when there is none. With a client it is by that one's address that it stays with its endpoint, and
/// else by the pod.
pub(crate) fn choose_endpoint<'e>(
    pod: &JoinedPod,
    (dialled, client): (IpAddr, Option<IpAddr>),
    port: &'e ServicePort,
    tried: &[SocketAddr],
) -> Option<&'e Arc<Endpoint>> {
    let set = &*port.endpoints;
    let choose = |families| match (port.affinity, client) {
        (Some(_), Some(client)) => balance::choose_by_address(client, set, families, tried),
        (Some(patience), None) => pod.affinities.choose((&port.key, set), patience, families, tried),
        (None, _) => balance::choose(set, families, tried),
    };
    let reachable = AddressFamilies::of(&pod.pod.addresses)?;
    choose(AddressFamilies::of(&[dialled])?).or_else(|| choose(reachable))
}

/// Serves one connection that a pod has opened.
pub async fn serve(worker: Rc<Worker>, incoming: Incoming) {
    let Incoming { stream, client, pod, seat: _seat, .. } = incoming;
    let Ok(destination) = original_destination(&stream) else { return };
    let stream = ClientStream::from(stream);
    let session = Session { worker, pod, client, destination, gate: None };
    if is_own_port(&session) {
        let error = format!("{destination} is a port of the proxy itself");
        return session.refuse(&stream, FailureReason::DestinationIsProxy, error);
    }
    let target = find_target(&session.worker.mesh.snapshot.load(), destination);
    match target {
        Target::Service(frontend) => serve_service(session, stream, frontend).await,
        Target::Pod(workload) => {
            let workload = Some(workload);
            let destination = Destination { address: destination, workload, endpoint: None, tls: None };
            opaque::serve_address(&session, stream, destination).await;
        }
        Target::Unknown => {
            let destination = Destination { address: destination, workload: None, endpoint: None, tls: None };
            opaque::serve_address(&session, stream, destination).await;
        }
    }
}

/// Serves a client of a Gateway that is to speak HTTP, of the version that its TLS has agreed on or that its first bytes
/// are of. What was read of it already is in `buffer`.
pub async fn serve_requests(session: Session, (stream, buffer): (ClientStream, ReadBuffer)) {
    match stream.agreed_protocol() {
        Some(b"http/1.1") => http1::serve(session, stream, buffer, None).await,
        // What is of no version at all is told so as HTTP/2 does it: in HTTP/1.1 there is no word for that.
        Some(_) | None => serve_declared_http(session, (stream, buffer), PortProtocol::Http2).await,
    }
}

/// A connection to the proxy's own ports would come back to the proxy for ever.
fn is_own_port(session: &Session) -> bool {
    let destination = session.destination;
    let own_address = destination.ip().is_loopback()
        || destination.ip().is_unspecified()
        || session.pod.pod.addresses.contains(&destination.ip());
    own_address && matches!(destination.port(), OUTBOUND_PORT | INBOUND_PORT)
}

async fn serve_service(session: Session, stream: ClientStream, frontend: Frontend) {
    match frontend.protocol_for(session.namespace()) {
        protocol @ (PortProtocol::Http | PortProtocol::Http2) => {
            serve_declared_http(session, (stream, ReadBuffer::default()), protocol).await;
        }
        PortProtocol::Opaque => opaque::serve_service(&session, stream, frontend).await,
        PortProtocol::Undeclared => serve_undeclared(session, stream, frontend).await,
    }
}

/// A port that is said to speak HTTP: the client speaks first, by definition.
async fn serve_declared_http(
    session: Session,
    (mut stream, mut buffer): (ClientStream, ReadBuffer),
    protocol: PortProtocol,
) {
    loop {
        match (judge(buffer.unread()), protocol) {
            (FirstBytes::Http2, _) => return http2::serve(session, stream, buffer).await,
            (FirstBytes::Opaque, PortProtocol::Http2) if !claims_http1(buffer.unread()) => {
                return refuse_preface(&session, stream).await;
            }
            // The engine says what is wrong with it, to a client that was to speak HTTP.
            (FirstBytes::Http1 | FirstBytes::Opaque, _) => {
                return http1::serve(session, stream, buffer, None).await;
            }
            (FirstBytes::Undecided, _) => {}
        }
        match buffer.fill(&mut stream).await {
            Ok(count) if count > 0 => {}
            // A client that has left without a word.
            Ok(_) => {
                let _ = stream.shutdown().await;
                return;
            }
            Err(_) => return,
        }
    }
}

/// Ends the connection of a client that was to speak HTTP/2 and does not.
async fn refuse_preface(session: &Session, mut stream: ClientStream) {
    let mut journey = session.journey();
    journey.service = session.find_frontend().map(|frontend| frontend.port.key.clone());
    journey.fail(FailureReason::MalformedRequest, "the connection preface is invalid");
    let mut record = ConnectionRecord::new(journey);
    record.protocol = Some(ProtocolLabel::Http2);
    session.worker.mesh.telemetry.connection(record).finish();
    if stream.write_all(&INVALID_PREFACE).await.is_ok() {
        let _ = stream.shutdown().await;
    }
}

/// A port that says nothing: an endpoint is dialled at once, and whoever speaks first decides.
async fn serve_undeclared(session: Session, mut stream: ClientStream, frontend: Frontend) {
    let mut record = opaque::record(&session, Some(&frontend.port));
    let chosen = dial::choose_and_dial(&session, &frontend.port, &mut record.journey).await;
    let mut chosen: Chosen = match chosen {
        Ok(chosen) => chosen,
        Err(_) => return answer_or_reset(session, stream, record).await,
    };
    let mut client_buffer = ReadBuffer::default();
    let mut server_buffer = ReadBuffer::default();
    loop {
        match judge(client_buffer.unread()) {
            // HTTP/1 to a server that spoke first is between the two.
            FirstBytes::Http1 if server_buffer.unread().is_empty() => {
                session.count_detected(&frontend, ProtocolLabel::Http1);
                record.dismiss();
                return http1::serve(session, stream, client_buffer, Some(chosen)).await;
            }
            FirstBytes::Http2 => {
                session.count_detected(&frontend, ProtocolLabel::Http2);
                record.dismiss();
                // The connection that was dialled is not used: requests find theirs, one by one.
                chosen.dialled.transport.close();
                return http2::serve(session, stream, client_buffer).await;
            }
            FirstBytes::Http1 | FirstBytes::Opaque => break,
            FirstBytes::Undecided => {}
        }
        // An error of a socket is told once: it must not be taken for an end when it is asked again.
        let ended = tokio::select! {
            biased;
            read = client_buffer.fill(&mut stream) => {
                read.map(|count| count == 0).map_err(CopyError::Client)
            }
            // Bytes of the server, or its end: it does not speak HTTP, unless these are what one of HTTP/2 begins with.
            read = server_buffer.fill(&mut chosen.dialled.transport) => {
                read.map(|count| count == 0 || !is_http2_server(server_buffer.unread())).map_err(CopyError::Server)
            }
        };
        match ended {
            Ok(false) => {}
            Ok(true) => break,
            Err(error) => return opaque::break_off(record, (&stream, &chosen.dialled), &error),
        }
    }
    let label = opaque::label(client_buffer.unread());
    session.count_detected(&frontend, label);
    record.protocol = Some(label);
    opaque::note(&session, &frontend.port, &chosen);
    opaque::join(record, (stream, client_buffer), (chosen, server_buffer)).await;
}

/// No endpoint could be dialled for a client of an undeclared port. One that speaks HTTP is told so in its own
/// words; its first bytes are on their way, if it speaks first at all.
async fn answer_or_reset(session: Session, mut stream: ClientStream, record: Recording<ConnectionRecord>) {
    let mut buffer = ReadBuffer::default();
    let listening = async {
        while judge(buffer.unread()) == FirstBytes::Undecided
            && matches!(buffer.fill(&mut stream).await, Ok(count) if count > 0)
        {}
    };
    let _silent_or_settled = tokio::time::timeout(LAST_WORDS, listening).await;
    match judge(buffer.unread()) {
        FirstBytes::Http1 => {
            record.dismiss();
            http1::serve(session, stream, buffer, None).await;
        }
        FirstBytes::Http2 => {
            record.dismiss();
            http2::serve(session, stream, buffer).await;
        }
        FirstBytes::Opaque | FirstBytes::Undecided => {
            record.finish();
            stream.reset();
        }
    }
}

/// The field of an answer that begins a session with the endpoint that is busy with the request, unless the client's own
/// is with it already.
fn begin_session(
    session: &Session,
    record: &RequestRecord,
    port: &ServicePort,
    (stays_with, busy): (Option<u64>, Option<&InFlight>),
) -> Option<(Box<str>, Box<str>)> {
    let persistence = record.rule.as_ref()?.terms.session.as_ref()?;
    let endpoint = busy?.endpoint_id();
    let is_in_tls = session.gate.as_ref().is_some_and(|gate| gate.ends_tls());
    let client = if is_in_tls { Client::InTls } else { Client::Plain };
    let token = || SessionToken { backend: persistence.backend_id(&port.key), endpoint };
    (stays_with != Some(endpoint)).then(|| persistence.begin(token(), client, SystemTime::now()))
}

/// The label of an HTTP request in logs.
const fn http_label(grpc: bool, version2: bool) -> ProtocolLabel {
    match (grpc, version2) {
        (true, true) => ProtocolLabel::Grpc,
        (_, true) => ProtocolLabel::Http2,
        (_, false) => ProtocolLabel::Http1,
    }
}
