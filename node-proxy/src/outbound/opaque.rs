//! Connections that are passed on as they are: opaque ports, pods' own addresses, and what the mesh does not know.

use super::Session;
use super::dial::{self, Chosen};
use crate::connect::{self, Destination, Dialled, HopKey};
use crate::error::with_causes;
use crate::forward::copy::Copied;
use crate::forward::{CopyError, Reset as _, Socket, copy_both};
use crate::http1::ReadBuffer;
use crate::snapshot::service::ServicePort;
use crate::telemetry::{ConnectionRecord, Peer, ProtocolLabel, Recording};

/// A record of an opaque connection of this session.
pub(super) fn record(session: &Session, port: Option<&ServicePort>) -> Recording<ConnectionRecord> {
    let mut journey = session.journey();
    journey.service = port.map(|port| port.key.clone());
    session.worker.mesh.telemetry.connection(ConnectionRecord { journey, protocol: None })
}

/// What a client's first bytes are called, once it is settled that they are not routed.
pub(super) fn label(bytes: &[u8]) -> ProtocolLabel {
    // Content type 22 and major version 3 begin every TLS handshake (RFC 8446 section 5.1).
    if bytes.starts_with(&[22, 3]) { ProtocolLabel::Tls } else { ProtocolLabel::Opaque }
}

/// A port of a Service that is said not to speak HTTP.
pub(super) async fn serve_service(session: &Session, stream: Socket, port: &ServicePort) {
    let mut record = record(session, Some(port));
    record.protocol = Some(ProtocolLabel::Opaque);
    record.opened();
    match dial::choose_and_dial(session, &port.endpoints, &mut record.journey).await {
        Ok(chosen) => join(record, (stream, ReadBuffer::default()), (chosen, ReadBuffer::default())).await,
        Err(_) => {
            record.finish();
            stream.reset();
        }
    }
}

/// An address that is not a Service's: never routed, passed on to exactly there.
pub(super) async fn serve_address(session: &Session, stream: Socket, destination: Destination) {
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

/// Joins a client with the endpoint that was chosen for it. Both buffers may hold first bytes.
pub(super) async fn join(
    record: Recording<ConnectionRecord>,
    client: (Socket, ReadBuffer),
    (chosen, buffer): (Chosen, ReadBuffer),
) {
    let Chosen { dialled, load, .. } = chosen;
    copy(record, client, (dialled, buffer)).await;
    drop(load);
}

async fn copy(
    mut record: Recording<ConnectionRecord>,
    (mut client, mut client_buffer): (Socket, ReadBuffer),
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
    (client, dialled): (&Socket, &Dialled),
    error: &CopyError,
) {
    record.journey.fail(error.reason(), with_causes(error));
    client.reset();
    dialled.transport.reset();
    record.finish();
}
