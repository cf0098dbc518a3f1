//! Hops to endpoints: dialled in the client pod's namespace, kept, and shared by all streams of the pod they
//! belong to. What they carry when their certificates end is seen to by `continuation`.
//!
//! A hop belongs to one client pod, its source address, and one endpoint's pod (design D2): a reused address
//! is another endpoint, and no pod ever speaks on another pod's connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use gammarus_ca::SpiffeId;
use rustls::pki_types::ServerName;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::continuation::Continuation;
use super::shared::{self, Shareable};
use super::{ConnectError, Content, Destination, Dialled, Origination, Transport, dial, find_certificate};
use crate::accept::{JoinedPod, Worker};
use crate::error::FailureReason;
use crate::hop::switch::Side;
use crate::hop::{self, Deadline, OpenError};
use crate::pod::EnrolledPod;
use crate::snapshot::workload::{Enrolment, MtlsMode};
use crate::telemetry::Hop;
use crate::tls::{FirstEnd, verify};
use crate::turns;

/// A hop takes no new streams when it is older than this.
pub const MAX_AGE: Duration = Duration::from_secs(600);
/// How long a hop without streams is kept.
const MAX_IDLE: Duration = Duration::from_secs(60);
/// Streams on one hop. More share records better; fewer spread better over the destination's threads.
const MAX_STREAMS: usize = 256;
/// How long a dial may take, with its handshake. Long enough for a lost SYN.
const DIAL_TIMEOUT: Duration = Duration::from_secs(4);
/// How long the other side may take to connect the application to a stream. A hop that does not answer is not asked
/// again.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_secs(4);

/// Whose connection to whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HopKey {
    /// The client pod's uid.
    pub client: Arc<str>,
    /// The client pod's address on the connection.
    pub source: IpAddr,
    /// The endpoint.
    pub address: SocketAddr,
    /// The endpoint's pod uid.
    pub workload: Option<Arc<str>>,
    /// How the endpoint was to be spoken with: its mark may come and go, and its namespace turn strict. A
    /// connection in plain text is never used again once mTLS is due.
    pub terms: Option<(Enrolment, MtlsMode)>,
    /// What tells the TLS that is begun with the endpoint from any other, if there is any besides the hop's.
    pub tls: Option<(u64, Content)>,
    /// Whether the client pod was on its way into the mesh or out of it: it speaks plain text then where it may.
    pub is_between: bool,
}

impl HopKey {
    /// The key of connections from a pod to a destination.
    #[must_use]
    pub fn new(client: &EnrolledPod, source: IpAddr, destination: &Destination) -> Self {
        let workload = destination.workload.as_ref();
        Self {
            client: Arc::clone(&client.uid),
            source,
            address: destination.address,
            workload: workload.map(|workload| Arc::clone(&workload.uid)),
            terms: workload
                .map(|workload| (workload.enrolment_at(destination.address.port()), workload.mtls)),
            tls: destination.tls.as_ref().map(Origination::id),
            is_between: client.standing.is_between(),
        }
    }
}

/// A hop of the pool.
#[derive(Clone, Debug)]
pub struct PooledHop {
    pub(super) hop: hop::Hop,
    usable_until: Instant,
    /// When the first of its leaves ends.
    pub(super) end: FirstEnd,
}

impl Shareable for PooledHop {
    fn is_usable(&self) -> bool {
        let now = Instant::now();
        let is_idle = self.hop.idle_since().is_some_and(|since| now - since >= MAX_IDLE);
        self.hop.is_open() && now < self.usable_until && !is_idle
    }

    fn has_room(&self) -> bool {
        self.is_usable() && self.hop.streams() < MAX_STREAMS
    }

    fn is_crowded(&self) -> bool {
        self.hop.is_crowded()
    }

    fn retire(&self) {
        self.hop.close();
    }

    fn reset(&self) {
        self.hop.reset();
    }
}

/// Opens a stream to a pod of the mesh, on a hop that is there or on a new one.
///
/// # Errors
/// When there is no hop, or the application does not take the connection.
pub(super) async fn open(
    worker: &Rc<Worker>,
    pod: &Arc<JoinedPod>,
    key: &HopKey,
    (destination, peer): (&Destination, &SpiffeId),
) -> Result<Dialled, ConnectError> {
    let address = key.address;
    loop {
        let mut is_new = false;
        let dialling = async || {
            is_new = true;
            dial_in_time(worker, pod, key, (destination, peer)).await
        };
        let PooledHop { hop, usable_until, .. } =
            shared::open(&worker.hops, (key, destination), |_| true, dialling).await?;
        match timeout(OPEN_TIMEOUT, hop.open()).await {
            Ok(Ok(stream)) => {
                let (transport, endpoint) = (Transport::Hop(stream), destination.endpoint.clone());
                return Ok(Dialled { transport, hop: Hop::Mutual, usable_until, endpoint });
            }
            Ok(Err(refused @ OpenError::Refused)) => {
                let source = Arc::new(io::Error::new(io::ErrorKind::ConnectionRefused, refused));
                return Err(ConnectError::Dial { address, source });
            }
            Ok(Err(ended @ OpenError::Ended(_))) if is_new => {
                let reason = FailureReason::HandshakeFailed;
                return Err(ConnectError::Handshake { address, reason, text: ended.to_string() });
            }
            // It ended just as it was chosen, or was dialled to a proxy that another one supersedes: nothing was said
            // on it.
            Ok(Err(OpenError::Ended(_) | OpenError::SentAway)) => {}
            Err(_) => {
                hop.close();
                return Err(ConnectError::Timeout(address));
            }
        }
    }
}

/// A hop of the pool whose leaves end after `end`; dialled now, with the leaves of now, if there is none. What is dialled
/// may end no later, either.
///
/// # Errors
/// When the endpoint cannot be reached, or is not who it must be.
pub(super) async fn find_newer(
    worker: &Rc<Worker>,
    pod: &Arc<JoinedPod>,
    key: &HopKey,
    (destination, peer, end): (&Destination, &SpiffeId, FirstEnd),
) -> Result<PooledHop, ConnectError> {
    let dialling = async || dial_in_time(worker, pod, key, (destination, peer)).await;
    shared::open(&worker.hops, (key, destination), |pooled| pooled.end > end, dialling).await
}

/// Less than a caller's own patience: a dial that is dropped would tell those who wait for it nothing.
async fn dial_in_time(
    worker: &Rc<Worker>,
    pod: &Arc<JoinedPod>,
    key: &HopKey,
    whom: (&Destination, &SpiffeId),
) -> Result<PooledHop, ConnectError> {
    let shaking = handshake(worker, pod, key, whom);
    timeout(DIAL_TIMEOUT, shaking).await.unwrap_or(Err(ConnectError::Timeout(key.address)))
}

async fn handshake(
    worker: &Rc<Worker>,
    pod: &Arc<JoinedPod>,
    key: &HopKey,
    (destination, peer): (&Destination, &SpiffeId),
) -> Result<PooledHop, ConnectError> {
    let address = key.address;
    let no_certificate = || ConnectError::NoCertificate(pod.pod.identity.clone());
    let certificate = find_certificate(&worker.mesh, pod).await.ok_or_else(no_certificate)?;
    let config = certificate.client_config(peer).map_err(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, "a certificate cannot be used");
        no_certificate()
    })?;
    if !pod.take_handshake(&worker.mesh.limits) {
        return Err(ConnectError::HandshakeLimit);
    }
    let connector = TlsConnector::from(config);
    let stream = dial(pod, key.source, address).await?;
    let handshake = connector.connect(ServerName::IpAddress(address.ip().into()), stream);
    let stream = Box::pin(handshake).await.map_err(|error| {
        let (reason, text) = verify::explain(&error);
        if verify::has_unknown_issuer(&error) {
            worker.mesh.certs.doubt_trust();
        }
        ConnectError::Handshake { address, reason, text }
    })?;
    let (socket, connection) = stream.into_inner();
    socket.give_up_after(hop::SILENCE);
    let end = FirstEnd::of(&certificate, connection.peer_certificates());
    let usable_until = Instant::now() + MAX_AGE.min(end.usable_for());
    let (hop, driver) = hop::Hop::new(Side::Client, socket, connection.into());
    let (expiring, deadline) = (hop.clone(), Deadline::new(end));
    let continuation = Continuation {
        worker: Rc::clone(worker),
        pod: Arc::clone(pod),
        key: key.clone(),
        destination: destination.clone(),
        peer: peer.clone(),
        hop: hop.clone(),
        deadline: deadline.clone(),
    };
    turns::spawn(pod.while_there(async move {
        let _expiry = turns::accompany(deadline.enforce(expiring));
        let _continuing = turns::accompany(continuation.go_on());
        if let Err(error) = driver.run().await {
            tracing::debug!(%error, %address, "a hop has ended");
        }
    }));
    Ok(PooledHop { hop, usable_until, end })
}
