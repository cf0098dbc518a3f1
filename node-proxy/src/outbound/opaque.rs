//! Connections that are passed on as they are: opaque ports, pods' own addresses, and what the mesh does not know.

use std::sync::Arc;

use super::dial::{self, Chosen};
use super::plan::{ConnectionPlan, plan_connection, plan_connection_for_gateway};
use super::{Session, hello};
use crate::accept::ClientStream;
use crate::balance;
use crate::connect::{self, Destination, Dialled, HopKey};
use crate::error::{FailureReason, with_causes};
use crate::forward::copy::Copied;
use crate::forward::{CopyError, Reset as _, copy_both};
use crate::http1::ReadBuffer;
use crate::route::RouteKind;
use crate::snapshot::gateway::ConnectionListener;
use crate::snapshot::service::{Frontend, ServicePort};
use crate::telemetry::{ConnectionRecord, Peer, ProtocolLabel, Recording};

/// What is said of a client of a TLSRoute that has not begun with a ClientHello.
const NO_HELLO: &str = "a TLSRoute holds on the port, and no ClientHello has come";

/// A record of an opaque connection of this session.
pub(super) fn record(session: &Session, port: Option<&ServicePort>) -> Recording<ConnectionRecord> {
    let mut journey = session.journey();
    journey.service = port.map(|port| port.key.clone());
    session.worker.mesh.telemetry.connection(ConnectionRecord::new(journey))
}

/// What a client's first bytes are called, once it is settled that they are not routed.
pub(super) fn label(bytes: &[u8]) -> ProtocolLabel {
    // Content type 22 and major version 3 begin every TLS handshake (RFC 8446 section 5.1).
    if bytes.starts_with(&[22, 3]) { ProtocolLabel::Tls } else { ProtocolLabel::Opaque }
}

/// A port of a Service that is said not to speak HTTP. Its routes are of connections, if it has any.
pub(super) async fn serve_service(session: &Session, mut stream: ClientStream, frontend: Frontend) {
    let mut record = record(session, Some(&frontend.port));
    let mut buffer = ReadBuffer::default();
    let port = find_port(session, frontend, (&mut stream, &mut buffer), &mut record).await;
    connect(session, (stream, buffer), port, record).await;
}

/// A connection that a listener of a Gateway has taken. `server_name` is what its ClientHello asks for, where there was one.
pub async fn serve_listener(
    session: &Session,
    client: (ClientStream, ReadBuffer),
    listener: &ConnectionListener,
    (server_name, protocol): (Option<String>, ProtocolLabel),
) {
    let mut record = record(session, None);
    record.protocol = Some(protocol);
    let plan = {
        let snapshot = session.worker.mesh.snapshot.load();
        plan_connection_for_gateway(&snapshot, listener, server_name.as_deref(), balance::random())
    };
    let port = note_plan(plan, &mut record, || match &server_name {
        Some(name) => format!("for {name} {}", session.name_place()),
        None => session.name_place(),
    });
    connect(session, client, port, record).await;
}

/// Dials an endpoint of a port for a client, and joins both.
async fn connect(
    session: &Session,
    (stream, buffer): (ClientStream, ReadBuffer),
    port: Result<Arc<ServicePort>, FailureReason>,
    mut record: Recording<ConnectionRecord>,
) {
    let taken = match port {
        Ok(port) => {
            record.opened();
            let chosen = dial::choose_and_dial(session, &port, &mut record.journey).await;
            if let Ok(chosen) = &chosen {
                note(session, &port, chosen);
            }
            chosen
        }
        Err(reason) => Err(reason),
    };
    match taken {
        Ok(chosen) => join(record, (stream, buffer), (chosen, ReadBuffer::default())).await,
        Err(_) => {
            record.finish();
            stream.reset();
        }
    }
}

/// Notes in the record which rule takes a connection, or why nobody does: `what` says for what it was.
fn note_plan(
    ConnectionPlan { rule, port }: ConnectionPlan,
    record: &mut ConnectionRecord,
    what: impl FnOnce() -> String,
) -> Result<Arc<ServicePort>, FailureReason> {
    record.backend = port.as_ref().ok().filter(|_| rule.is_some()).map(|port| port.key.clone());
    record.rule = rule;
    port.inspect_err(|reason| record.journey.fail(*reason, what()))
}

/// The Service port whose endpoints take a connection. Notes in the record which rule says so, or why nobody takes it.
async fn find_port(
    session: &Session,
    mut frontend: Frontend,
    client: (&mut ClientStream, &mut ReadBuffer),
    record: &mut ConnectionRecord,
) -> Result<Arc<ServicePort>, FailureReason> {
    let namespace = session.namespace();
    let mut server_name = None;
    record.protocol = Some(ProtocolLabel::Opaque);
    if frontend.find_routes(namespace).and_then(|routes| routes.kind()) == Some(RouteKind::Tls) {
        let read = hello::read_server_name(client).await;
        server_name = read.inspect_err(|reason| record.journey.fail(*reason, NO_HELLO))?;
        record.protocol = Some(ProtocolLabel::Tls);
        // The client may have been silent for long: what counts is what there is now.
        frontend = session.find_frontend().unwrap_or(frontend);
    }
    let plan = {
        let snapshot = session.worker.mesh.snapshot.load();
        plan_connection(&snapshot, &frontend, namespace, server_name.as_deref(), balance::random())
    };
    note_plan(plan, record, || say_refused(&frontend, server_name))
}

/// Why nobody takes a connection, in words.
fn say_refused(frontend: &Frontend, server_name: Option<String>) -> String {
    let service = &frontend.port.key.service;
    match server_name {
        Some(name) => format!("for {name} at {service}"),
        None => format!("for {service}"),
    }
}

/// An address that is not a Service's: never routed, passed on to exactly there.
pub(super) async fn serve_address(session: &Session, stream: ClientStream, destination: Destination) {
    let mut record = record(session, None);
    record.protocol = Some(ProtocolLabel::Opaque);
    record.opened();
    if let Some(workload) = &destination.workload {
        record.journey.destination = Peer {
            address: Some(destination.address),
            pod: Some(workload.pod.clone()),
            identity: Some(workload.identity.clone()),
        };
    }
    let key = HopKey::new(&session.pod.pod, session.client.ip(), &destination);
    match connect::open(&session.worker, &session.pod, &key, &destination).await {
        Ok(dialled) => {
            record.journey.hop = Some(dialled.hop);
            copy(record, (stream, ReadBuffer::default()), (dialled, ReadBuffer::default())).await;
        }
        Err(error) => {
            record.journey.fail(error.reason(), with_causes(&error));
            record.finish();
            stream.reset();
        }
    }
}

/// Notes that an endpoint has taken an opaque connection: more is not to be known of it.
pub(super) fn note(session: &Session, port: &ServicePort, chosen: &Chosen) {
    if let Some(load) = &chosen.load {
        session.note_answer(port, load);
    }
}

/// Joins a client with the endpoint that was chosen for it. Both buffers may hold first bytes.
pub(super) async fn join(
    record: Recording<ConnectionRecord>,
    client: (ClientStream, ReadBuffer),
    (chosen, buffer): (Chosen, ReadBuffer),
) {
    let Chosen { dialled, load, .. } = chosen;
    copy(record, client, (dialled, buffer)).await;
    drop(load);
}

async fn copy(
    mut record: Recording<ConnectionRecord>,
    (mut client, mut client_buffer): (ClientStream, ReadBuffer),
    (mut dialled, mut server_buffer): (Dialled, ReadBuffer),
) {
    record.opened();
    let mut copied = Copied::default();
    let outcome = copy_both(
        (&mut client, &mut client_buffer),
        (&mut dialled.transport, &mut server_buffer),
        &mut copied,
    )
    .await;
    record.journey.bytes_sent = copied.sent;
    record.journey.bytes_received = copied.received;
    match outcome {
        Ok(()) => record.finish(),
        Err(error) => break_off(record, (&client, &dialled), &error),
    }
}

/// Ends both connections after one has failed: a reset stays a reset, and a truncated hop becomes one. Nobody
/// takes a part for the whole.
pub(super) fn break_off(
    mut record: Recording<ConnectionRecord>,
    (client, dialled): (&ClientStream, &Dialled),
    error: &CopyError,
) {
    record.journey.fail(error.reason(), with_causes(error));
    client.reset();
    dialled.transport.reset();
    record.finish();
}
