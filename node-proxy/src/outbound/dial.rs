//! Which endpoint, and a connection to it: another one when a dial fails before any byte was sent.

use std::net::SocketAddr;

use super::Session;
use crate::balance::InFlight;
use crate::connect::idle::{IdleConnection, Repeatable};
use crate::connect::{self, ConnectError, Content, Destination, Dialled, HopKey};
use crate::error::{FailureReason, with_causes};
use crate::http1::ReadBuffer;
use crate::snapshot::service::{Endpoint, ServicePort};
use crate::telemetry::{Journey, Peer};

/// How many endpoints one request may try: with more, a client waits longer than it wants to.
pub(super) const MAX_TRIES: usize = 3;

/// An endpoint with a connection to it.
#[derive(Debug)]
pub(super) struct Chosen {
    /// The connection.
    pub(super) dialled: Dialled,
    /// Its read buffer.
    pub(super) buffer: ReadBuffer,
    /// Where it goes back to when it can be used again.
    pub(super) key: HopKey,
    /// Whether it has carried requests before.
    pub(super) origin: Origin,
    /// Whether an authentication scheme has made it the client's own (NTLM, Negotiate).
    pub(super) is_bound: bool,
    /// Counts as load on the endpoint while the connection is in use.
    pub(super) load: Option<InFlight>,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Dialled now.
    Fresh,
    /// Kept since an earlier request: its server may have just closed it.
    Pooled,
}

/// Which endpoints a request wants.
#[derive(Debug, Default)]
pub(super) struct Wish {
    /// Endpoints that were tried; another try takes another one, if there is.
    pub(super) tried: Vec<SocketAddr>,
    /// The endpoint that its client's session is with: taken before any other, unless it was tried.
    pub(super) stays_with: Option<u64>,
    /// What is spoken there.
    pub(super) content: Content,
    /// Whether the request may be sent again at no risk, on a connection in place of one that turns out to be dead.
    pub(super) may_repeat: bool,
    /// Whether the last connection was such a one.
    pub(super) was_stale: bool,
}

impl Wish {
    /// Whether the request goes to the same endpoint once more: its connection had been dead before it was sent.
    pub(super) fn forgives(&mut self) -> bool {
        let again = std::mem::take(&mut self.was_stale) && self.may_repeat;
        if again {
            self.tried.pop();
        }
        again
    }
}

/// How a request may use the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reuse {
    /// Pooled connections are fine, as far as the request allows.
    Pooled(Repeatable),
    /// A new connection only.
    Never,
}

/// Dials an endpoint of the port; a new connection always.
pub(super) async fn choose_and_dial(
    session: &Session,
    port: &ServicePort,
    journey: &mut Journey,
) -> Result<Chosen, FailureReason> {
    choose((session, port), (Reuse::Never, &mut Wish::default()), journey).await
}

/// Chooses an endpoint of the port and a connection to it, and notes in the journey who it is or why there is none.
/// Endpoints that were tried are taken only when there is no other.
pub(super) async fn choose(
    (session, port): (&Session, &ServicePort),
    (reuse, wish): (Reuse, &mut Wish),
    journey: &mut Journey,
) -> Result<Chosen, FailureReason> {
    let connect =
        async |key, destination: &Destination| find_connection(session, key, destination, reuse).await;
    let (mut chosen, load) = try_endpoints((session, port), wish, journey, connect).await?;
    journey.hop = Some(chosen.dialled.hop);
    chosen.load = Some(load);
    Ok(chosen)
}

/// Tries endpoints of the port that were not tried until `connect` succeeds with one; each that was chosen has been
/// tried afterwards. Notes in the journey whom it goes to, or why to nobody.
pub(super) async fn try_endpoints<T>(
    (session, port): (&Session, &ServicePort),
    wish: &mut Wish,
    journey: &mut Journey,
    connect: impl AsyncFn(HopKey, &Destination) -> Result<T, ConnectError>,
) -> Result<(T, InFlight), FailureReason> {
    let mut last: Option<ConnectError> = None;
    let client = journey.client_ip();
    let mut next = session.choose(port, (wish, client));
    if next.is_none() && !wish.tried.is_empty() {
        wish.tried.clear();
        next = session.choose(port, (wish, client));
    }
    let most = wish.tried.len() + MAX_TRIES;
    while let Some(endpoint) = next.take() {
        wish.tried.push(endpoint.address);
        note_destination(journey, endpoint);
        let mut destination = Destination::from(&**endpoint);
        destination.tls = session.originate_tls(port, wish.content);
        let key = HopKey::new(&session.pod.pod, session.source(), &destination);
        let load = InFlight::begin(&endpoint.load);
        match connect(key, &destination).await {
            Ok(connection) => return Ok((connection, load)),
            Err(error) => {
                tracing::debug!(%error, client = %session.pod.pod.pod, "an endpoint was not reached");
                let is_of_the_endpoint = error.is_of_the_endpoint();
                last = Some(error);
                if is_of_the_endpoint {
                    session.note_failure(port, &load);
                    next = (wish.tried.len() < most).then(|| session.choose(port, (wish, client))).flatten();
                }
            }
        }
    }
    let (reason, error) = match last {
        Some(error) => (error.reason(), with_causes(&error)),
        None => (FailureReason::NoEndpoint, "the service has no endpoint that is ready".to_owned()),
    };
    journey.fail(reason, error);
    Err(reason)
}

async fn find_connection(
    session: &Session,
    key: HopKey,
    destination: &Destination,
    reuse: Reuse,
) -> Result<Chosen, ConnectError> {
    if let Reuse::Pooled(repeatable) = reuse {
        let pooled = session.worker.idle.borrow_mut().take(&key, repeatable);
        if let Some(IdleConnection { dialled, buffer, .. }) = pooled {
            return Ok(Chosen { dialled, buffer, key, origin: Origin::Pooled, is_bound: false, load: None });
        }
    }
    let dialling = connect::open(&session.worker, &session.pod, &key, destination);
    let dialled = Box::pin(dialling).await?;
    let (buffer, origin) = (ReadBuffer::default(), Origin::Fresh);
    Ok(Chosen { dialled, buffer, key, origin, is_bound: false, load: None })
}

/// Notes whom a journey goes to.
pub(super) fn note_destination(journey: &mut Journey, endpoint: &Endpoint) {
    journey.destination = Peer {
        address: Some(endpoint.address),
        pod: endpoint.workload.as_ref().map(|workload| workload.pod.clone()),
        identity: endpoint.workload.as_ref().map(|workload| workload.identity.clone()),
    };
}
