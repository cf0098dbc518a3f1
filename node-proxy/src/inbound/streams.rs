//! The streams of a hop that has arrived at a pod: each becomes a connection of its own, to the application or, at a Gateway,
//! to its listener.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use gammarus_ca::SpiffeId;
use rustls::ServerConnection;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use super::{Session, copy, local};
use crate::accept::{JoinedPod, Seat, Worker};
use crate::error::FailureReason;
use crate::forward::Socket;
use crate::hop::switch::Side;
use crate::hop::{self, Arrival, Deadline, Owner, Purpose};
use crate::http1::ReadBuffer;
use crate::pod::Direction;
use crate::telemetry::{ConnectionRecord, Hop, Journey, Peer, Recording};
use crate::tls::FirstEnd;
use crate::turns;

/// How long the application may take to accept: less than the client's side waits for a hop.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(3);
/// For how long a connection to the application that was dialled early is as good as new.
const FRESH: Duration = Duration::from_secs(1);

/// Where the streams of a hop lead.
pub(crate) trait Behind: 'static {
    /// Serves one of them.
    fn serve(&self, peers: &Rc<Peers>, arrival: Arrival) -> impl Future<Output = ()> + 'static;

    /// The hop was not opened for connections, but has come to continue another one.
    fn not_wanted(&self) -> impl Future<Output = ()> {
        std::future::ready(())
    }
}

/// The pod's application.
pub(super) struct Applications {
    /// A connection that was dialled early: the first stream's.
    pub(super) dialled: Cell<Option<(Socket, ReadBuffer)>>,
}

impl Behind for Applications {
    fn serve(&self, peers: &Rc<Peers>, arrival: Arrival) -> impl Future<Output = ()> + 'static {
        let fresh = self.dialled.take().filter(|_| peers.begin.elapsed() < FRESH);
        Rc::clone(peers).serve_stream(arrival, fresh)
    }

    async fn not_wanted(&self) {
        // It was not dialled for an application, which shall not wait for a first word.
        if let Some((mut unused, _)) = self.dialled.take() {
            let _ = unused.shutdown().await;
        }
    }
}

/// What all streams of one hop have in common.
pub(crate) struct Peers {
    pub(crate) worker: Rc<Worker>,
    pub(crate) pod: Arc<JoinedPod>,
    pub(crate) client: SocketAddr,
    pub(crate) destination: SocketAddr,
    /// Who has opened the hop, as its handshake has proven.
    pub(crate) source: Peer,
    /// When the hop was there.
    begin: Instant,
    /// When the first of the hop's own leaves ends.
    ends: FirstEnd,
}

/// Serves the streams of a hop whose peer is authorized.
pub(super) async fn serve(
    session: Session,
    (socket, connection, ends): (Socket, ServerConnection, FirstEnd),
    behind: impl Behind,
) {
    let Session { worker, pod, client, destination, record } = session;
    let source = record.journey.source.clone();
    // What is told are the streams: they are what applications know as connections.
    record.dismiss();
    socket.give_up_after(hop::SILENCE);
    let (hop, driver) = hop::Hop::new(Side::Server, socket, connection.into());
    let deadline = Deadline::new(ends);
    // The pods that call this one are each other's neighbours, too.
    let share = worker.share_beside(&pod);
    let peers = Rc::new(Peers { worker, pod, client, destination, source, begin: Instant::now(), ends });
    let registered = hop.proof().zip(peers.owner());
    let registered = registered.map(|(proof, owner)| peers.pod.hops.enter(proof, owner, deadline.clone()));

    let streams = share.clone();
    let expiring = hop.clone();
    let serving = async move {
        let _expiry = turns::accompany(deadline.enforce(expiring));
        let _registered = registered;
        let accepting = async {
            while let Some(arrival) = hop.arrival().await {
                if arrival.purpose() == Purpose::Continuation {
                    behind.not_wanted().await;
                    peers.continue_older(arrival).await;
                    continue;
                }
                peers.pod.pod.standing.mesh_is_used();
                let serving = behind.serve(&peers, arrival);
                peers.worker.run((&peers.pod, &streams), serving);
            }
        };
        // Another proxy takes what comes next.
        let superseded = async {
            peers.worker.mesh.drain.begun().await;
            hop.go_away();
            std::future::pending().await
        };
        let ended = tokio::select! {
            (ended, ()) = async { tokio::join!(driver.run(), accepting) } => ended,
            never = superseded => never,
        };
        if let Err(error) = ended {
            let identity = peers.source.identity.as_ref().map(SpiffeId::to_string);
            tracing::debug!(%error, %client, identity, "a hop has ended");
        }
    };
    share.run(serving).await;
}

impl Peers {
    fn owner(&self) -> Option<Owner> {
        let identity = self.source.identity.clone()?;
        Some(Owner { identity, address: self.client.ip() })
    }

    /// Lets an older hop of the same client's pod live on, if it is there. A client that is slow to say which delays
    /// nothing but its own streams.
    async fn continue_older(&self, mut arrival: Arrival) {
        let Ok(proof) = arrival.proof().await else { return };
        let (client, until) = (self.client, self.ends);
        if self.owner().is_some_and(|owner| self.pod.hops.put_off(&proof, &owner, until)) {
            tracing::debug!(%client, %until, "an older hop is continued by this one");
            arrival.grant();
        } else {
            tracing::info!(%client, "an older hop is not continued: there is none of this client here");
            arrival.refuse();
        }
    }

    fn record(&self) -> Recording<ConnectionRecord> {
        let own = self.pod.as_peer(self.destination);
        let mut journey = Journey::new(Direction::Inbound, self.source.clone(), own);
        journey.hop = Some(Hop::Mutual);
        self.worker.mesh.telemetry.connection(ConnectionRecord::new(journey))
    }

    /// Before the other side loses its patience with the hop, when it is the application that does not answer.
    async fn connect(&self) -> io::Result<Socket> {
        let connecting = local::connect(&self.pod, self.client, self.destination);
        match tokio::time::timeout(LOCAL_TIMEOUT, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    async fn serve_stream(self: Rc<Self>, arrival: Arrival, dialled: Option<(Socket, ReadBuffer)>) {
        let mut record = self.record();
        let _seat = match Seat::take(&self.pod, &self.worker.mesh.limits) {
            Ok(seat) => seat,
            Err((reason, error)) => {
                record.journey.fail(reason, error);
                arrival.refuse();
                return record.finish();
            }
        };
        let server = match dialled {
            Some(server) => Ok(server),
            None => tokio::select! {
                connected = self.connect() => connected.map(|server| (server, ReadBuffer::default())),
                () = arrival.broken_off() => {
                    record.journey.fail(FailureReason::ClientClosed, "before the application was reached");
                    return record.finish();
                }
            },
        };
        match server {
            Ok(server) => copy(record, (arrival.accept(), ReadBuffer::default()), server).await,
            Err(error) => {
                record.journey.fail(FailureReason::ConnectFailed, error.to_string());
                arrival.refuse();
                record.finish();
            }
        }
    }
}
