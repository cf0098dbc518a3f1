//! What one journey leaves behind: a record, filled on the way and written exactly once at its end.
//!
//! Stages put references into a record (`Arc` clones), never text: the text is made once, at the end, in a buffer of
//! the thread. A [`Recording`] writes its record when it is dropped, so a cancelled request has its line, too.
//! Records must never hold what a user would not want in a log: no header value, no query, no body.

use std::net::{IpAddr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gammarus_ca::SpiffeId;
use http::StatusCode;
use tokio::time::Instant;

use super::{Telemetry, handles, line};
use crate::cluster::objects::ObjectKey;
use crate::error::FailureReason;
use crate::pod::Direction;
use crate::route::Rule;
use crate::snapshot::service::ServicePortKey;

/// What a connection speaks, as logs and labels say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProtocolLabel {
    /// gRPC over HTTP/2.
    Grpc,
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Bytes that are passed on as they are.
    Opaque,
    /// TLS of the application, passed on as it is.
    Tls,
    /// Datagrams.
    Udp,
}

impl ProtocolLabel {
    /// The text of logs and labels: stable.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Opaque => "opaque",
            Self::Tls => "tls",
            Self::Udp => "udp",
        }
    }
}

/// Why a connection between two proxies' pods was not the mTLS hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PlaintextReason {
    /// The destination is a known pod or endpoint that is not in the mesh.
    DestinationNotEnrolled,
    /// The destination is nothing that the mesh knows.
    DestinationUnknown,
    /// Strict mode excepts processes of the node itself (the kubelet's probes).
    NodeProcess,
    /// The destination and the source are the same pod.
    SamePod,
    /// The source is not in the mesh and the namespace is permissive.
    SourceNotEnrolled,
    /// The source is on its way into the mesh or out of it.
    SourceUnsettled,
    /// The source is in the mesh, but did not yet know that the destination is.
    StalePeer,
    /// The port is named in the pod's `gammarus.io/plaintext-ports`.
    PlaintextPort,
}

impl PlaintextReason {
    /// The text of logs: stable.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::DestinationNotEnrolled => "destination_not_enrolled",
            Self::DestinationUnknown => "destination_unknown",
            Self::NodeProcess => "node_process",
            Self::PlaintextPort => "plaintext_port",
            Self::SamePod => "same_pod",
            Self::SourceNotEnrolled => "source_not_enrolled",
            Self::SourceUnsettled => "source_unsettled",
            Self::StalePeer => "stale_peer",
        }
    }
}

/// Whose journey it is, and how it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Course {
    /// To a pod of this node.
    Inbound,
    /// To a Gateway.
    Ingress,
    /// From a pod of this node.
    Outbound,
    /// A copy of a request from a pod of this node.
    Mirror,
}

impl From<Direction> for Course {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Inbound => Self::Inbound,
            Direction::Ingress => Self::Ingress,
            Direction::Outbound => Self::Outbound,
        }
    }
}

/// How the two pods were joined. A journey that ended before that has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hop {
    /// mTLS, both identities proven.
    Mutual,
    /// Plain text, and why.
    Plain(PlaintextReason),
}

/// One end of a journey.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Its address and port; of a destination, the endpoint that was dialled or else what the client asked for.
    pub address: Option<SocketAddr>,
    /// The pod there.
    pub pod: Option<ObjectKey>,
    /// Its identity. Written only when the hop was [`Hop::Mutual`]: an identity nobody proved is not one. That of a Gateway's
    /// client is known by nothing else.
    pub identity: Option<SpiffeId>,
}

/// Whom a connection is from, or a request on it, as somebody who is believed has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress {
    /// Never an IPv4-mapped one.
    pub ip: IpAddr,
    /// Told by few.
    pub port: Option<u16>,
}

impl From<SocketAddr> for ClientAddress {
    fn from(address: SocketAddr) -> Self {
        Self { ip: address.ip(), port: Some(address.port()) }
    }
}

/// What requests and opaque connections have in common.
#[derive(Clone, Debug)]
pub struct Journey {
    /// Seen from the pod of this node.
    pub direction: Course,
    /// Who opened it.
    pub source: Peer,
    /// For whom, where that is somebody else: at a Gateway, behind a proxy that is believed.
    pub client: Option<ClientAddress>,
    /// Who answered it.
    pub destination: Peer,
    /// The Service port that the client asked for, when it is one.
    pub service: Option<ServicePortKey>,
    /// How the pods were joined.
    pub hop: Option<Hop>,
    /// Why the proxy ended it by itself, if it did.
    pub reason: Option<FailureReason>,
    /// What exactly went wrong, for the log only. No text from the network unless it is needed: it is escaped.
    pub error: Option<Box<str>>,
    /// Payload bytes from the source to the destination.
    pub bytes_sent: u64,
    /// Payload bytes from the destination to the source.
    pub bytes_received: u64,
    /// When it began.
    pub started: Instant,
}

impl Journey {
    /// A journey that begins now; everything else is unknown yet.
    #[must_use]
    pub fn new(direction: impl Into<Course>, source: Peer, destination: Peer) -> Self {
        Self {
            direction: direction.into(),
            source,
            client: None,
            destination,
            service: None,
            hop: None,
            reason: None,
            error: None,
            bytes_sent: 0,
            bytes_received: 0,
            started: Instant::now(),
        }
    }

    /// Notes why the proxy ends this journey; the first reason stays, as later ones follow from it.
    pub fn fail(&mut self, reason: FailureReason, error: impl Into<Box<str>>) {
        if self.reason.is_none() {
            self.reason = Some(reason);
            self.error = Some(error.into());
        }
    }

    /// Forgets why a try has failed: there is another one.
    pub fn begin_again(&mut self) {
        self.reason = None;
        self.error = None;
    }

    /// The address of whoever it is for, if that is known.
    #[must_use]
    pub fn client_ip(&self) -> Option<IpAddr> {
        self.client.map(|client| client.ip).or_else(|| self.source.address.map(|address| address.ip()))
    }

    pub(crate) fn duration(&self) -> Duration {
        self.started.elapsed()
    }
}

/// One HTTP request and its answer.
#[derive(Clone, Debug)]
pub struct RequestRecord {
    /// What every journey has.
    pub journey: Journey,
    /// What the request was spoken in.
    pub protocol: ProtocolLabel,
    /// The method, as sent.
    pub method: Bytes,
    /// The path, as sent, without the query: queries carry secrets.
    pub path: Bytes,
    /// The status that the client got.
    pub status: Option<StatusCode>,
    /// The rule that took it.
    pub rule: Option<Arc<Rule>>,
    /// The Service port that its rule chose; without a rule, none.
    pub backend: Option<ServicePortKey>,
}

/// One opaque connection.
#[derive(Clone, Debug)]
pub struct ConnectionRecord {
    /// What every journey has.
    pub journey: Journey,
    /// What it speaks, when that is known.
    pub protocol: Option<ProtocolLabel>,
    /// The rule that took it.
    pub rule: Option<Arc<Rule>>,
    /// The Service port that its rule chose; without a rule, none.
    pub backend: Option<ServicePortKey>,
}

impl ConnectionRecord {
    /// A connection of which nothing is known but its journey.
    #[must_use]
    pub const fn new(journey: Journey) -> Self {
        Self { journey, protocol: None, rule: None, backend: None }
    }
}

/// A session of datagrams.
#[derive(Clone, Debug)]
pub struct SessionRecord {
    /// What it has in common with a connection.
    pub connection: ConnectionRecord,
    /// Datagrams from the source to the destination.
    pub datagrams_sent: u64,
    /// Datagrams from the destination to the source.
    pub datagrams_received: u64,
}

impl SessionRecord {
    /// A session in which nothing was said so far.
    #[must_use]
    pub const fn new(connection: ConnectionRecord) -> Self {
        Self { connection, datagrams_sent: 0, datagrams_received: 0 }
    }

    /// Notes a datagram to the destination.
    pub const fn note_sent(&mut self, bytes: usize) {
        self.datagrams_sent += 1;
        self.connection.journey.bytes_sent += bytes as u64;
    }

    /// Notes a datagram to the source.
    pub const fn note_received(&mut self, bytes: usize) {
        self.datagrams_received += 1;
        self.connection.journey.bytes_received += bytes as u64;
    }
}

mod sealed {
    /// Only the records of this module are records.
    pub trait Sealed {}
    impl Sealed for super::RequestRecord {}
    impl Sealed for super::ConnectionRecord {}
    impl Sealed for super::SessionRecord {}
}

/// What a [`Recording`] can hold.
pub trait Record: sealed::Sealed {
    /// The part that every record has.
    fn journey(&mut self) -> &mut Journey;
    /// Counts the beginning, for records that have a counter for it.
    fn count_opened(&self, telemetry: &Telemetry);
    /// Counts the end, and writes the line.
    fn conclude(&self, telemetry: &Telemetry);
}

impl Record for RequestRecord {
    fn journey(&mut self) -> &mut Journey {
        &mut self.journey
    }

    fn count_opened(&self, _telemetry: &Telemetry) {}

    fn conclude(&self, telemetry: &Telemetry) {
        handles::count_request(telemetry.metrics(), self);
        telemetry.access().write(|line| line::request(line, self));
    }
}

impl Record for ConnectionRecord {
    fn journey(&mut self) -> &mut Journey {
        &mut self.journey
    }

    fn count_opened(&self, telemetry: &Telemetry) {
        handles::count_opened(telemetry.metrics(), self);
    }

    fn conclude(&self, telemetry: &Telemetry) {
        handles::count_closed(telemetry.metrics(), self);
        telemetry.access().write(|line| line::connection(line, self));
    }
}

impl Record for SessionRecord {
    fn journey(&mut self) -> &mut Journey {
        &mut self.connection.journey
    }

    fn count_opened(&self, telemetry: &Telemetry) {
        handles::count_session_opened(telemetry.metrics(), &self.connection);
    }

    fn conclude(&self, telemetry: &Telemetry) {
        handles::count_session_closed(telemetry.metrics(), &self.connection);
        telemetry.access().write(|line| line::session(line, self));
    }
}

/// How far a recording has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Pending,
    Opened,
    Complete,
    Dismissed,
}

/// A record under way. Writes it exactly once: when finished, or when dropped.
///
/// Dropped without [`finish`](Self::finish) and without a reason, the journey was cancelled: the client left.
#[derive(Debug)]
pub struct Recording<R: Record> {
    telemetry: Telemetry,
    /// Passed on from stage to stage, and too large for that.
    record: Box<R>,
    stage: Stage,
}

impl<R: Record> Recording<R> {
    pub(crate) fn new(telemetry: Telemetry, record: R) -> Self {
        Self { telemetry, record: Box::new(record), stage: Stage::Pending }
    }

    /// Counts the connection as opened now rather than at its end. Call it when what it is, is settled.
    pub fn opened(&mut self) {
        if self.stage == Stage::Pending {
            self.record.count_opened(&self.telemetry);
            self.stage = Stage::Opened;
        }
    }

    /// The journey is over in its own way, well or with a reason.
    pub fn finish(mut self) {
        self.opened();
        self.stage = Stage::Complete;
    }

    /// The journey goes on as others (a connection that turned out to carry requests): nothing is written.
    ///
    /// Only before [`opened`](Self::opened): afterwards the end has to be counted, and it is.
    pub fn dismiss(mut self) {
        if self.stage == Stage::Pending {
            self.stage = Stage::Dismissed;
        }
    }
}

impl<R: Record> Deref for Recording<R> {
    type Target = R;

    fn deref(&self) -> &R {
        &self.record
    }
}

impl<R: Record> DerefMut for Recording<R> {
    fn deref_mut(&mut self) -> &mut R {
        &mut self.record
    }
}

impl<R: Record> Drop for Recording<R> {
    fn drop(&mut self) {
        if self.stage == Stage::Dismissed {
            return;
        }
        self.opened();
        if self.stage != Stage::Complete {
            self.record.journey().fail(FailureReason::ClientClosed, "ended before it was complete");
        }
        self.record.conclude(&self.telemetry);
    }
}
