//! Datagrams of clients of a Gateway: port → session by the client's address → endpoint, and answers the same way back.
//!
//! A session has a socket of its own that is connected with its endpoint, so that the kernel tells which answer is whose and
//! that nobody listens there. Each thread has sockets of its own for a port, among which the kernel deals clients, so
//! that all of a session is done on one thread, without a lock. Nothing waits: what the other side's buffer has no room
//! for is dropped and counted, as any router on the way would do.

mod course;
mod occupancy;
mod socket;
mod table;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use async_task::Task;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::accept::listener::ends_in_a_panic;
use crate::accept::{JoinedPod, Seat, Worker};
use crate::balance::{InFlight, random};
use crate::error::FailureReason;
use crate::forward::OpenSocket;
use crate::outbound::plan::{ConnectionPlan, plan_connection_for_gateway};
use crate::outbound::{choose_endpoint, fare};
use crate::pod::Direction;
use crate::snapshot::service::{Endpoint, ServicePort};
use crate::telemetry::{
    ConnectionRecord, DatagramCounters, DropReason, Journey, Peer, ProtocolLabel, Recording, SessionRecord,
};
use crate::turns;
use course::{Course, Target};
pub use occupancy::Occupancy;
use occupancy::Place;
use socket::{BUFFER, Return};
use table::{Key, Line, Table};

/// How long a port rests after a panic.
const REST: Duration = Duration::from_millis(100);
/// How often silent sessions are looked for.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);
/// How many datagrams are taken from a socket before it is another one's turn.
const BURST: usize = 32;
/// What a datagram costs at least, in bytes that a step may carry: two system calls.
const LEAST_CARRIED: usize = 4096;

thread_local! {
    /// What a datagram is read into. Nothing is kept in it from one to the next.
    static SPACE: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

/// One thread's socket of a port.
#[derive(Debug)]
pub struct PortSocket {
    /// The port.
    pub number: u16,
    /// The socket, which does not block.
    pub socket: std::net::UdpSocket,
    /// What the sockets of all ports have in common.
    pub occupancy: Arc<Occupancy>,
    /// Its sender goes when the port is closed.
    pub open: watch::Receiver<()>,
}

/// A port on one thread.
struct Port {
    number: u16,
    socket: UdpSocket,
    occupancy: Arc<Occupancy>,
    worker: Rc<Worker>,
    pod: Arc<JoinedPod>,
    course: RefCell<Course>,
    sessions: RefCell<Table<Session>>,
}

/// A session of a client.
struct Session {
    kind: SessionKind,
    _place: Place,
}

enum SessionKind {
    /// With an endpoint.
    Live(Box<Live>),
    /// With nobody: what is sent is dropped, so that a share is that of datagrams, too, and not only of first ones.
    Void(Target, Recording<SessionRecord>),
    /// Nobody listens at this endpoint: the next datagram is for another one.
    Refused(SocketAddr),
}

struct Live {
    target: Target,
    endpoint: SocketAddr,
    upstream: Rc<UdpSocket>,
    back: Return,
    record: Recording<SessionRecord>,
    counters: DatagramCounters,
    service: Arc<ServicePort>,
    load: InFlight,
    /// Whether the endpoint has ever answered.
    is_answered: Cell<bool>,
    /// Reads answers until it is dropped.
    _reader: Task<()>,
    _seat: Seat,
    _socket: OpenSocket,
}

/// Serves a port on this thread until it is closed.
pub async fn serve(worker: Rc<Worker>, pod: Arc<JoinedPod>, listening: PortSocket) {
    let PortSocket { number, socket, occupancy, mut open } = listening;
    let socket = match UdpSocket::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(port = number, %error, "cannot watch a socket for datagrams");
            return;
        }
    };
    let course = RefCell::new(Course::find(&worker.mesh.snapshot.load(), number));
    let port = Rc::new(Port { number, socket, occupancy, worker, pod, course, sessions: RefCell::default() });
    // A panic costs the datagram that was being dealt and no other.
    while ends_in_a_panic(pin!(port.run(&mut open))).await {
        tracing::error!(port = number, "a panic while a datagram was dealt: the port is served on");
        tokio::time::sleep(REST).await;
    }
    port.close();
}

impl Port {
    async fn run(self: &Rc<Self>, open: &mut watch::Receiver<()>) {
        let mut sweep = tokio::time::interval(SWEEP_PERIOD);
        loop {
            poll_fn(|cx| turns::poll_may_carry(cx)).await;
            tokio::select! {
                // Nothing is ever sent: it is the end of the sender that is waited for.
                _ = open.changed() => return,
                _ = sweep.tick() => self.sweep(),
                ready = self.socket.readable() => match ready {
                    Ok(()) => self.receive(),
                    Err(error) => {
                        tracing::error!(port = self.number, %error, "a socket for datagrams cannot be watched any more");
                        return;
                    }
                },
            }
        }
    }

    fn count_dropped(&self, why: DropReason) {
        self.worker.mesh.telemetry.metrics().datagram_dropped(why);
    }

    /// Takes what clients have sent, up to a burst.
    fn receive(self: &Rc<Self>) {
        self.follow();
        SPACE.with_borrow_mut(|space| {
            for _ in 0..BURST {
                match socket::receive(&self.socket, space) {
                    Ok(received) => {
                        turns::carry(received.length.max(LEAST_CARRIED));
                        let key = Key { client: received.client, local: received.local };
                        self.take(key, &space[..received.length]);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                    // One that nobody could answer, or a signal: the next one may be fine.
                    Err(_) => {}
                }
                if !turns::may_carry() {
                    return;
                }
            }
        });
    }

    /// Takes one datagram of a client.
    fn take(self: &Rc<Self>, key: Key, datagram: &[u8]) {
        let mut refused_by = None;
        let mut sessions = self.sessions.borrow_mut();
        if let Some(session) = sessions.find(&key) {
            match &mut session.kind {
                SessionKind::Live(live) => {
                    let sent = socket::send(&live.upstream, datagram);
                    if !is_refusal(&sent) {
                        let line = if live.is_answered.get() { Line::Lasting } else { Line::Brief };
                        match sent {
                            Ok(()) => live.note_sent(datagram.len()),
                            Err(error) => self.count_dropped(why_not_sent(&error)),
                        }
                        return sessions.touch(&key, line, Instant::now());
                    }
                    // That was about an earlier one: this one is for another endpoint.
                    refused_by = Some(live.endpoint);
                    if let Some(session) = sessions.remove(&key) {
                        session.refuse(&self.worker);
                    }
                }
                SessionKind::Void(target, _) => {
                    self.count_dropped(DropReason::of(target.reason()));
                    return sessions.touch(&key, Line::Brief, Instant::now());
                }
                SessionKind::Refused(endpoint) => {
                    refused_by = Some(*endpoint);
                    drop(sessions.remove(&key));
                }
            }
        }
        drop(sessions);
        if let Err(why) = self.begin(key, datagram, refused_by) {
            self.count_dropped(why);
        }
    }

    /// Begins a session with a client's first datagram.
    fn begin(
        self: &Rc<Self>,
        key: Key,
        datagram: &[u8],
        refused_by: Option<SocketAddr>,
    ) -> Result<(), DropReason> {
        if self.worker.mesh.drain.has_begun() {
            return Err(DropReason::Draining);
        }
        let snapshot = self.worker.mesh.snapshot.load();
        let listener = self.course.borrow().listener().cloned().ok_or(DropReason::NoMatchingRule)?;
        let ConnectionPlan { rule, port } = plan_connection_for_gateway(&snapshot, &listener, None, random());
        let rule = rule.ok_or(DropReason::NoMatchingRule)?;
        let place = self.make_room().ok_or(DropReason::PodLimit)?;
        let mut record = self.record(key);
        record.connection.backend = port.as_ref().ok().map(|port| port.key.clone());
        record.connection.rule = Some(rule);
        let chosen = port.map_err(Target::Failing).and_then(|port| {
            let ends = (key.local, Some(key.client.ip().to_canonical()));
            let choose = |tried: &[SocketAddr]| choose_endpoint(&self.pod, ends, &port, tried).cloned();
            // With one endpoint alone it is tried again: it may be back.
            let endpoint = refused_by.and_then(|tried| choose(&[tried])).or_else(|| choose(&[]));
            match endpoint {
                Some(endpoint) => Ok((port, endpoint)),
                None => Err(Target::NoEndpoint(port.key.clone())),
            }
        });
        let kind = match chosen {
            Ok((service, endpoint)) => match self.connect(key, record, (service, &endpoint)) {
                Ok(mut live) => {
                    match socket::send(&live.upstream, datagram) {
                        Ok(()) => live.note_sent(datagram.len()),
                        Err(error) => self.count_dropped(why_not_sent(&error)),
                    }
                    SessionKind::Live(live)
                }
                Err(why) => return Err(why),
            },
            Err(target) => {
                record.connection.journey.fail(target.reason(), format!("on UDP port {}", self.number));
                record.opened();
                self.count_dropped(DropReason::of(target.reason()));
                SessionKind::Void(target, record)
            }
        };
        let session = Session { kind, _place: place };
        self.sessions.borrow_mut().insert(key, session, Instant::now());
        Ok(())
    }

    /// A place for one session more. Where there is none, the one here that has been silent for the longest gives way.
    fn make_room(&self) -> Option<Place> {
        let mut sessions = self.sessions.borrow_mut();
        if let Some(place) = Place::take(&self.occupancy, sessions.len()) {
            return Some(place);
        }
        let gone = sessions.give_way()?;
        gone.end(Some((
            FailureReason::SessionLimit,
            "another one has its place: there are as many as there may be",
        )));
        // Another thread may be faster: the next one to come there gives its place back.
        Place::take(&self.occupancy, 0)
    }

    fn record(&self, key: Key) -> Recording<SessionRecord> {
        let at = |address| Peer { address: Some(address), ..Peer::default() };
        let own = at(SocketAddr::new(key.local, self.number));
        let mut record = ConnectionRecord::new(Journey::new(Direction::Ingress, at(key.client), own));
        record.protocol = Some(ProtocolLabel::Udp);
        self.worker.mesh.telemetry.session(SessionRecord::new(record))
    }

    /// A session with an endpoint.
    fn connect(
        self: &Rc<Self>,
        key: Key,
        mut record: Recording<SessionRecord>,
        (service, endpoint): (Arc<ServicePort>, &Arc<Endpoint>),
    ) -> Result<Box<Live>, DropReason> {
        record.connection.journey.destination = Peer {
            address: Some(endpoint.address),
            pod: endpoint.workload.as_ref().map(|workload| workload.pod.clone()),
            identity: None,
        };
        let seat = match Seat::take(&self.pod, &self.worker.mesh.limits) {
            Ok(seat) => seat,
            // No line for each datagram: there may be very many.
            Err((reason, _)) => {
                record.dismiss();
                return Err(DropReason::of(reason));
            }
        };
        let load = InFlight::begin(&endpoint.load);
        let upstream = match socket::connect(endpoint.address) {
            Ok(upstream) => Rc::new(upstream),
            Err(error) => {
                fare::note_failure(self.worker.mesh.telemetry.metrics(), &service, &load);
                record.connection.journey.fail(FailureReason::ConnectFailed, error.to_string());
                record.finish();
                return Err(DropReason::Unreachable);
            }
        };
        record.opened();
        let reading = read(Rc::clone(self), key, Rc::clone(&upstream));
        Ok(Box::new(Live {
            target: Target::Endpoint(service.key.clone(), endpoint.load.id),
            endpoint: endpoint.address,
            upstream,
            back: Return::new(key.client, key.local),
            counters: self.worker.mesh.telemetry.datagram_counters(&record),
            record,
            service,
            load,
            is_answered: Cell::new(false),
            _reader: self.worker.run_beside(&self.pod, reading),
            _seat: seat,
            _socket: OpenSocket::new(),
        }))
    }

    /// Passes an answer on. Says whether the session is still there.
    fn answer(&self, key: &Key, answer: &[u8]) {
        let mut sessions = self.sessions.borrow_mut();
        let Some(Session { kind: SessionKind::Live(live), .. }) = sessions.find(key) else { return };
        if !live.is_answered.replace(true) {
            fare::note_answer(&live.service, &live.load);
        }
        match live.back.send(&self.socket, answer) {
            Ok(()) => live.note_received(answer.len()),
            Err(error) => self.count_dropped(why_not_sent(&error)),
        }
        sessions.touch(key, Line::Brief, Instant::now());
    }

    /// Ends a session whose endpoint does not listen, and remembers that for the client's next datagram.
    fn refuse(&self, key: Key) {
        let mut sessions = self.sessions.borrow_mut();
        let Some(session) = sessions.remove(&key) else { return };
        let SessionKind::Live(live) = &session.kind else { return };
        let endpoint = live.endpoint;
        session.refuse(&self.worker);
        if let Some(place) = Place::take(&self.occupancy, sessions.len()) {
            let kind = SessionKind::Refused(endpoint);
            sessions.insert(key, Session { kind, _place: place }, Instant::now());
        }
    }

    /// Ends sessions whose endpoint has gone, or whose route leads elsewhere now; their clients' next datagrams begin others.
    fn follow(&self) {
        let snapshot = self.worker.mesh.snapshot.load();
        let mut course = self.course.borrow_mut();
        if !course.follow(&snapshot, self.number) {
            return;
        }
        let mut sessions = self.sessions.borrow_mut();
        let is_wrong = |session: &Session| match &session.kind {
            SessionKind::Live(live) => !course.still_has(&live.target),
            SessionKind::Void(target, _) => !course.still_has(target),
            SessionKind::Refused(_) => false,
        };
        for key in sessions.select(is_wrong) {
            if let Some(session) = sessions.remove(&key) {
                session.end(None);
            }
        }
    }

    fn sweep(&self) {
        self.follow();
        let now = Instant::now();
        let mut sessions = self.sessions.borrow_mut();
        while let Some(session) = sessions.expire(now) {
            session.end(None);
        }
    }

    /// Ends all sessions.
    fn close(&self) {
        let mut sessions = self.sessions.borrow_mut();
        while let Some(session) = sessions.give_way() {
            session.end(None);
        }
    }
}

impl Session {
    /// Writes what is to be written of a session that ends.
    fn end(self, why: Option<(FailureReason, &str)>) {
        let record = match self.kind {
            SessionKind::Live(live) => live.record,
            SessionKind::Void(_, record) => record,
            SessionKind::Refused(_) => return,
        };
        let mut record = record;
        if let Some((reason, error)) = why {
            record.connection.journey.fail(reason, error);
        }
        record.finish();
    }

    /// Ends it, since nobody listens at its endpoint.
    fn refuse(self, worker: &Worker) {
        let SessionKind::Live(live) = &self.kind else { return };
        fare::note_failure(worker.mesh.telemetry.metrics(), &live.service, &live.load);
        let reason =
            if live.is_answered.get() { FailureReason::UpstreamReset } else { FailureReason::ConnectFailed };
        self.end(Some((reason, "nobody listens there")));
    }
}

impl Live {
    fn note_sent(&mut self, bytes: usize) {
        self.counters.note_sent(bytes);
        self.record.note_sent(bytes);
    }

    fn note_received(&mut self, bytes: usize) {
        self.counters.note_received(bytes);
        self.record.note_received(bytes);
    }
}

/// Reads what an endpoint answers, until the session is over.
async fn read(port: Rc<Port>, key: Key, upstream: Rc<UdpSocket>) {
    loop {
        poll_fn(|cx| turns::poll_may_carry(cx)).await;
        if upstream.readable().await.is_err() {
            return port.refuse(key);
        }
        let read = SPACE.with_borrow_mut(|space| -> io::Result<()> {
            for _ in 0..BURST {
                let length = upstream.try_recv(space)?;
                turns::carry(length.max(LEAST_CARRIED));
                port.answer(&key, &space[..length]);
                if !turns::may_carry() {
                    break;
                }
            }
            Ok(())
        });
        match read {
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return port.refuse(key);
            }
            Ok(()) | Err(_) => {}
        }
    }
}

fn is_refusal(sent: &io::Result<()>) -> bool {
    sent.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Why a datagram could not be sent.
fn why_not_sent(error: &io::Error) -> DropReason {
    match nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or_default()) {
        nix::errno::Errno::EAGAIN | nix::errno::Errno::ENOBUFS => DropReason::BufferFull,
        nix::errno::Errno::EMSGSIZE => DropReason::TooLong,
        _ => DropReason::Unreachable,
    }
}
