//! Metric handles, resolved once per set of labels and kept by each data path thread.
//!
//! Finding a metric by its label texts takes hundreds of nanoseconds and a lock; adding to one takes one. So each
//! thread keeps what it has found, under the references that a record holds. Snapshots come and go: keys are by value,
//! never by address, so a handle survives them.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash};
use std::sync::Arc;

use prometheus::{Histogram, IntCounter};

use super::Metrics;
use super::access::{ConnectionRecord, Course, Hop, ProtocolLabel, RequestRecord};
use super::line::direction_label;
use crate::error::FailureReason;
use crate::route::{RouteRef, Rule};
use crate::snapshot::service::ServicePortKey;

/// A thread that has met more sets of labels than this starts over, so that deleted routes do not pile up.
const MOST_HANDLES: usize = 4096;

/// A route's rule in labels.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct RuleView<'a> {
    route: &'a RouteRef,
    index: usize,
    name: Option<&'a str>,
}

/// What decides the labels of a request, borrowed from its record.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct RequestView<'a> {
    direction: Course,
    service: Option<&'a ServicePortKey>,
    rule: Option<RuleView<'a>>,
    backend: Option<&'a ServicePortKey>,
    protocol: ProtocolLabel,
    status: Option<u16>,
    reason: Option<FailureReason>,
}

impl<'a> RuleView<'a> {
    fn of(rule: &'a Arc<Rule>) -> Self {
        Self { route: &rule.route, index: rule.index, name: rule.name.as_deref() }
    }

    /// The label texts of a rule: its route's kind, namespace and name, and its own name or place; empty where there is
    /// none.
    fn texts(rule: Option<Self>) -> [String; 4] {
        let Some(Self { route, index, name }) = rule else { return [const { String::new() }; 4] };
        [
            route.kind.as_label().to_owned(),
            route.key.namespace.to_string(),
            route.key.name.to_string(),
            name.map_or_else(|| index.to_string(), str::to_owned),
        ]
    }
}

/// A [`RuleView`] that stays.
struct RuleKey {
    route: Arc<RouteRef>,
    index: usize,
    name: Option<Arc<str>>,
}

impl RuleKey {
    fn of(rule: &Arc<Rule>) -> Self {
        Self { route: Arc::clone(&rule.route), index: rule.index, name: rule.name.clone() }
    }

    fn view(&self) -> RuleView<'_> {
        RuleView { route: &self.route, index: self.index, name: self.name.as_deref() }
    }
}

impl<'a> RequestView<'a> {
    fn of(record: &'a RequestRecord) -> Self {
        Self {
            direction: record.journey.direction,
            service: record.journey.service.as_ref(),
            rule: record.rule.as_ref().map(RuleView::of),
            backend: record.backend.as_ref(),
            protocol: record.protocol,
            status: record.status.map(|status| status.as_u16()),
            reason: record.journey.reason,
        }
    }
}

/// A [`RequestView`] that stays.
struct RequestKey {
    direction: Course,
    service: Option<ServicePortKey>,
    rule: Option<RuleKey>,
    backend: Option<ServicePortKey>,
    protocol: ProtocolLabel,
    status: Option<u16>,
    reason: Option<FailureReason>,
}

impl RequestKey {
    fn of(record: &RequestRecord) -> Self {
        Self {
            direction: record.journey.direction,
            service: record.journey.service.clone(),
            rule: record.rule.as_ref().map(RuleKey::of),
            backend: record.backend.clone(),
            protocol: record.protocol,
            status: record.status.map(|status| status.as_u16()),
            reason: record.journey.reason,
        }
    }

    fn view(&self) -> RequestView<'_> {
        RequestView {
            direction: self.direction,
            service: self.service.as_ref(),
            rule: self.rule.as_ref().map(RuleKey::view),
            backend: self.backend.as_ref(),
            protocol: self.protocol,
            status: self.status,
            reason: self.reason,
        }
    }
}

struct RequestHandles {
    requests: IntCounter,
    duration: Histogram,
    failures: Option<IntCounter>,
}

#[derive(PartialEq, Eq, Hash)]
struct ConnectionView<'a> {
    direction: Course,
    service: Option<&'a ServicePortKey>,
    rule: Option<RuleView<'a>>,
    backend: Option<&'a ServicePortKey>,
    hop: Option<Hop>,
    reason: Option<FailureReason>,
}

impl<'a> ConnectionView<'a> {
    fn of(record: &'a ConnectionRecord) -> Self {
        let journey = &record.journey;
        Self {
            direction: journey.direction,
            service: journey.service.as_ref(),
            rule: record.rule.as_ref().map(RuleView::of),
            backend: record.backend.as_ref(),
            hop: journey.hop,
            reason: journey.reason,
        }
    }
}

struct ConnectionKey {
    direction: Course,
    service: Option<ServicePortKey>,
    rule: Option<RuleKey>,
    backend: Option<ServicePortKey>,
    hop: Option<Hop>,
    reason: Option<FailureReason>,
}

impl ConnectionKey {
    fn of(record: &ConnectionRecord) -> Self {
        let journey = &record.journey;
        Self {
            direction: journey.direction,
            service: journey.service.clone(),
            rule: record.rule.as_ref().map(RuleKey::of),
            backend: record.backend.clone(),
            hop: journey.hop,
            reason: journey.reason,
        }
    }

    fn view(&self) -> ConnectionView<'_> {
        ConnectionView {
            direction: self.direction,
            service: self.service.as_ref(),
            rule: self.rule.as_ref().map(RuleKey::view),
            backend: self.backend.as_ref(),
            hop: self.hop,
            reason: self.reason,
        }
    }
}

struct ConnectionHandles {
    opened: IntCounter,
    /// Resolved at an end: a connection that has only begun must not make a series of ends.
    closed: OnceCell<IntCounter>,
    sent: IntCounter,
    received: IntCounter,
    failures: Option<IntCounter>,
}

/// Handles by the hash of their view; what shares a hash is told apart by its key.
struct Shelf<K, H> {
    owner: u64,
    hasher: foldhash::fast::RandomState,
    slots: HashMap<u64, Vec<(K, H)>, foldhash::fast::RandomState>,
    len: usize,
}

impl<K, H> Default for Shelf<K, H> {
    fn default() -> Self {
        Self { owner: 0, hasher: Default::default(), slots: HashMap::default(), len: 0 }
    }
}

impl<K, H> Shelf<K, H> {
    /// The handles of a view, made by `make` when this thread has not met it.
    fn find_or_make(
        &mut self,
        (owner, view): (u64, &impl Hash),
        is_same: impl Fn(&K) -> bool,
        make: impl FnOnce() -> (K, H),
    ) -> &H {
        if self.owner != owner || self.len >= MOST_HANDLES {
            self.slots.clear();
            self.owner = owner;
            self.len = 0;
        }
        let slot = self.slots.entry(self.hasher.hash_one(view)).or_default();
        let place = slot.iter().position(|(key, _)| is_same(key)).unwrap_or_else(|| {
            slot.push(make());
            self.len += 1;
            slot.len() - 1
        });
        &slot[place].1
    }
}

/// What counts the datagrams of a session while it goes on: it may go on for days.
#[derive(Clone, Debug)]
pub struct DatagramCounters {
    sent: IntCounter,
    received: IntCounter,
    sent_bytes: IntCounter,
    received_bytes: IntCounter,
}

impl DatagramCounters {
    /// Counts a datagram to the destination.
    pub fn note_sent(&self, bytes: usize) {
        self.sent.inc();
        self.sent_bytes.inc_by(bytes as u64);
    }

    /// Counts a datagram to the source.
    pub fn note_received(&self, bytes: usize) {
        self.received.inc();
        self.received_bytes.inc_by(bytes as u64);
    }
}

struct SessionHandles {
    opened: IntCounter,
    counters: DatagramCounters,
    /// As of a connection.
    closed: OnceCell<IntCounter>,
    failures: Option<IntCounter>,
}

thread_local! {
    static REQUESTS: RefCell<Shelf<RequestKey, RequestHandles>> = RefCell::default();
    static CONNECTIONS: RefCell<Shelf<ConnectionKey, ConnectionHandles>> = RefCell::default();
    static SESSIONS: RefCell<Shelf<ConnectionKey, SessionHandles>> = RefCell::default();
}

/// Counts a request that has ended.
pub(crate) fn count_request(metrics: &Metrics, record: &RequestRecord) {
    let view = RequestView::of(record);
    REQUESTS.with_borrow_mut(|shelf| {
        let handles = shelf.find_or_make(
            (metrics.id, &view),
            |key| key.view() == view,
            || (RequestKey::of(record), resolve_request(metrics, &view)),
        );
        handles.requests.inc();
        handles.duration.observe(record.journey.duration().as_secs_f64());
        if let Some(failures) = &handles.failures {
            failures.inc();
        }
    });
}

/// Counts an opaque connection that has begun.
pub(crate) fn count_opened(metrics: &Metrics, record: &ConnectionRecord) {
    with_connection(metrics, record, |handles, _| handles.opened.inc());
}

/// Counts an opaque connection that has ended.
pub(crate) fn count_closed(metrics: &Metrics, record: &ConnectionRecord) {
    with_connection(metrics, record, |handles, view| {
        handles.closed.get_or_init(|| resolve_closed(metrics, view)).inc();
        handles.sent.inc_by(record.journey.bytes_sent);
        handles.received.inc_by(record.journey.bytes_received);
        if let Some(failures) = &handles.failures {
            failures.inc();
        }
    });
}

fn with_connection(
    metrics: &Metrics,
    record: &ConnectionRecord,
    count: impl FnOnce(&ConnectionHandles, &ConnectionView<'_>),
) {
    let view = ConnectionView::of(record);
    CONNECTIONS.with_borrow_mut(|shelf| {
        let handles = shelf.find_or_make(
            (metrics.id, &view),
            |key| key.view() == view,
            || (ConnectionKey::of(record), resolve_connection(metrics, &view)),
        );
        count(handles, &view);
    });
}

/// Counts a session of datagrams that has begun.
pub(crate) fn count_session_opened(metrics: &Metrics, record: &ConnectionRecord) {
    with_session(metrics, record, |handles, _| handles.opened.inc());
}

/// What counts the datagrams of a session.
pub(crate) fn datagram_counters(metrics: &Metrics, record: &ConnectionRecord) -> DatagramCounters {
    with_session(metrics, record, |handles, _| handles.counters.clone())
}

/// Counts a session of datagrams that has ended.
pub(crate) fn count_session_closed(metrics: &Metrics, record: &ConnectionRecord) {
    with_session(metrics, record, |handles, view| {
        let closed = || {
            let texts = connection_texts(view);
            let reason = view.reason.map_or("", FailureReason::as_label);
            let labels: Vec<&str> = texts.iter().map(String::as_str).chain([reason]).collect();
            metrics.udp.closed.with_label_values(&labels)
        };
        handles.closed.get_or_init(closed).inc();
        if let Some(failures) = &handles.failures {
            failures.inc();
        }
    });
}

fn with_session<T>(
    metrics: &Metrics,
    record: &ConnectionRecord,
    count: impl FnOnce(&SessionHandles, &ConnectionView<'_>) -> T,
) -> T {
    let view = ConnectionView::of(record);
    let make = || {
        let texts = connection_texts(&view);
        let labels = texts.each_ref().map(String::as_str);
        let handles = SessionHandles {
            opened: metrics.udp.opened.with_label_values(&labels),
            counters: DatagramCounters {
                sent: metrics.udp.sent_datagrams.with_label_values(&labels),
                received: metrics.udp.received_datagrams.with_label_values(&labels),
                sent_bytes: metrics.udp.sent_bytes.with_label_values(&labels),
                received_bytes: metrics.udp.received_bytes.with_label_values(&labels),
            },
            closed: OnceCell::new(),
            failures: resolve_failures(metrics, view.direction, view.reason),
        };
        (ConnectionKey::of(record), handles)
    };
    SESSIONS.with_borrow_mut(|shelf| {
        let handles = shelf.find_or_make((metrics.id, &view), |key| key.view() == view, make);
        count(handles, &view)
    })
}

/// The label texts of a Service port: namespace, name, port; empty where there is none.
fn service_texts(service: Option<&ServicePortKey>) -> [String; 3] {
    match service {
        Some(ServicePortKey { service, port, .. }) => {
            [service.namespace.to_string(), service.name.to_string(), port.to_string()]
        }
        None => [const { String::new() }; 3],
    }
}

fn resolve_failures(
    metrics: &Metrics,
    direction: Course,
    reason: Option<FailureReason>,
) -> Option<IntCounter> {
    // That a client has left is no failure of the proxy's.
    let reason = reason.filter(|reason| *reason != FailureReason::ClientClosed)?;
    Some(metrics.failures.with_label_values(&[direction_label(direction), reason.as_label()]))
}

fn resolve_request(metrics: &Metrics, view: &RequestView<'_>) -> RequestHandles {
    let reporter = reporter_label(view.direction);
    let [namespace, service, port] = service_texts(view.service);
    let [backend_namespace, backend, backend_port] = service_texts(view.backend);
    let [kind, route_namespace, route, rule] = RuleView::texts(view.rule);
    // An endpoint may answer with any three digits: labels stay bounded.
    let status = match view.status {
        Some(status @ 100..=599) => status.to_string(),
        Some(_) => "other".to_owned(),
        None => String::new(),
    };
    let labels = [
        reporter,
        &namespace,
        &service,
        &port,
        &kind,
        &route_namespace,
        &route,
        &rule,
        &backend_namespace,
        &backend,
        &backend_port,
        view.protocol.as_label(),
        &status,
        view.reason.map_or("", FailureReason::as_label),
    ];
    RequestHandles {
        requests: metrics.http.requests.with_label_values(&labels),
        duration: metrics.http.duration.with_label_values(&[reporter, &namespace, &service, &port]),
        failures: resolve_failures(metrics, view.direction, view.reason),
    }
}

fn resolve_connection(metrics: &Metrics, view: &ConnectionView<'_>) -> ConnectionHandles {
    let texts = connection_texts(view);
    let labels = texts.each_ref().map(String::as_str);
    ConnectionHandles {
        opened: metrics.tcp.opened.with_label_values(&labels),
        closed: OnceCell::new(),
        sent: metrics.tcp.sent.with_label_values(&labels),
        received: metrics.tcp.received.with_label_values(&labels),
        failures: resolve_failures(metrics, view.direction, view.reason),
    }
}

fn resolve_closed(metrics: &Metrics, view: &ConnectionView<'_>) -> IntCounter {
    let texts = connection_texts(view);
    let mtls = match view.hop {
        Some(Hop::Mutual) => "yes",
        Some(Hop::Plain(_)) => "no",
        None => "",
    };
    let reason = view.reason.map_or("", FailureReason::as_label);
    let labels: Vec<&str> = texts.iter().map(String::as_str).chain([mtls, reason]).collect();
    metrics.tcp.closed.with_label_values(&labels)
}

/// The texts of [`CONNECTION_LABELS`](super::metrics::CONNECTION_LABELS).
fn connection_texts(view: &ConnectionView<'_>) -> [String; 11] {
    let reporter = reporter_label(view.direction).to_owned();
    let [namespace, service, port] = service_texts(view.service);
    let [kind, route_namespace, route, rule] = RuleView::texts(view.rule);
    let [backend_namespace, backend, backend_port] = service_texts(view.backend);
    [
        reporter,
        namespace,
        service,
        port,
        kind,
        route_namespace,
        route,
        rule,
        backend_namespace,
        backend,
        backend_port,
    ]
}

/// Whose proxy counts: the client's sees what leaves its pod, the server's what reaches it.
const fn reporter_label(direction: Course) -> &'static str {
    match direction {
        Course::Inbound => "destination",
        Course::Ingress => "gateway",
        Course::Mirror => "mirror",
        Course::Outbound => "source",
    }
}
