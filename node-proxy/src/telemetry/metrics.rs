//! Every metric of the proxy, registered in one place, a struct per layer.
//!
//! Names are `gammarus_` and the layer. Labels are bounded: Services, routes, statuses and reasons, never an address,
//! a path or a host that a client sent. Nothing here runs per request; see `handles` for that.
//!
//! Stable, kept from release to release: `gammarus_http_requests_total`, `gammarus_http_request_duration_seconds`,
//! `gammarus_tcp_*`, `gammarus_udp_*`, `gammarus_endpoint_ejections_total`, `gammarus_failures_total`, `gammarus_panics_total`,
//! `gammarus_pods_enrolled`, `gammarus_*_expiry_seconds`, `gammarus_cluster_silence_seconds`,
//! `gammarus_cluster_change_delay_seconds`, `gammarus_cluster_old_state_seconds`. All others serve whoever works on the proxy and may change.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use tokio::time::Instant;

use super::cluster::ClusterMetrics;
use super::datagrams::UdpMetrics;
use super::{ProtocolLabel, TelemetryError};
use crate::snapshot::service::ServicePortKey;
use crate::tls::Expiries;

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

pub(crate) const SERVICE_LABELS: [&str; 4] = ["reporter", "service_namespace", "service", "port"];
const ROUTE_LABELS: [&str; 7] = [
    "route_kind",
    "route_namespace",
    "route_name",
    "route_rule",
    "backend_namespace",
    "backend",
    "backend_port",
];
pub(crate) const CONNECTION_LABELS: [&str; 11] = join(SERVICE_LABELS, ROUTE_LABELS);
pub(crate) const CLOSED_LABELS: [&str; 13] = join(CONNECTION_LABELS, ["mtls", "reason"]);
pub(crate) const SESSION_CLOSED_LABELS: [&str; 12] = join(CONNECTION_LABELS, ["reason"]);
pub(crate) const HTTP_REQUEST_LABELS: [&str; 14] = join(CONNECTION_LABELS, ["protocol", "status", "reason"]);

/// One list of labels behind another. Lists whose lengths do not fit do not compile.
const fn join<const A: usize, const B: usize, const ALL: usize>(
    first: [&'static str; A],
    second: [&'static str; B],
) -> [&'static str; ALL] {
    assert!(A + B == ALL);
    let mut all = [""; ALL];
    let mut at = 0;
    while at < ALL {
        all[at] = if at < A { first[at] } else { second[at - A] };
        at += 1;
    }
    all
}

/// In seconds: from a quick answer in the same rack to what people give up on.
const DURATION_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];
/// In seconds: a build must stay far below the debounce.
const BUILD_BUCKETS: [f64; 8] = [0.0001, 0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5];

/// Requests, as the HTTP stages count them.
#[derive(Debug)]
pub(crate) struct HttpMetrics {
    pub(crate) requests: IntCounterVec,
    pub(crate) duration: HistogramVec,
}

impl HttpMetrics {
    fn register(registry: &Registry) -> Result<Self, TelemetryError> {
        let opts = Opts::new("gammarus_http_requests_total", "HTTP requests, by who asked what of whom.");
        let duration = HistogramOpts::new(
            "gammarus_http_request_duration_seconds",
            "From the request head to the last byte of the answer.",
        );
        Ok(Self {
            requests: register(registry, IntCounterVec::new(opts, &HTTP_REQUEST_LABELS)?)?,
            duration: register(
                registry,
                HistogramVec::new(duration.buckets(DURATION_BUCKETS.to_vec()), &SERVICE_LABELS)?,
            )?,
        })
    }
}

/// Opaque connections.
#[derive(Debug)]
pub(crate) struct TcpMetrics {
    pub(crate) opened: IntCounterVec,
    pub(crate) closed: IntCounterVec,
    pub(crate) sent: IntCounterVec,
    pub(crate) received: IntCounterVec,
    pub(crate) detected: IntCounterVec,
}

impl TcpMetrics {
    fn register(registry: &Registry) -> Result<Self, TelemetryError> {
        let counters = |name, help, labels: &[&str]| {
            register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        Ok(Self {
            opened: counters(
                "gammarus_tcp_connections_opened_total",
                "Opaque connections that began.",
                &CONNECTION_LABELS,
            )?,
            closed: counters(
                "gammarus_tcp_connections_closed_total",
                "Opaque connections that ended, and how.",
                &CLOSED_LABELS,
            )?,
            sent: counters(
                "gammarus_tcp_sent_bytes_total",
                "Bytes of opaque connections from the source to the destination.",
                &CONNECTION_LABELS,
            )?,
            received: counters(
                "gammarus_tcp_received_bytes_total",
                "Bytes of opaque connections from the destination to the source.",
                &CONNECTION_LABELS,
            )?,
            detected: counters(
                "gammarus_detected_protocol_total",
                "Connections to a port that declares no protocol, by what was spoken.",
                &["service_namespace", "service", "port", "protocol"],
            )?,
        })
    }
}

/// What the control side knows.
#[derive(Debug)]
struct ControlMetrics {
    pods_enrolled: IntGauge,
    pods_unenrolled: IntGaugeVec,
    repairs: IntCounterVec,
    events_dropped: IntCounter,
    snapshot_build: Histogram,
    snapshot_generation: IntGauge,
    snapshot_age: Gauge,
    expiries: ExpiryMetrics,
    published: Mutex<Option<Instant>>,
}

/// When certificates end.
#[derive(Debug)]
struct ExpiryMetrics {
    leaves: GaugeVec,
    listeners: GaugeVec,
    clients: GaugeVec,
    issuers: GaugeVec,
    roots: GaugeVec,
}

impl ExpiryMetrics {
    fn register(registry: &Registry) -> Result<Self, TelemetryError> {
        let expiry = |of, label, help| {
            let name = format!("gammarus_{of}_expiry_seconds");
            register(registry, GaugeVec::new(Opts::new(name, help), &[label])?)
        };
        Ok(Self {
            leaves: expiry(
                "cert",
                "identity",
                "Seconds until the certificate of a local identity expires; negative once it has.",
            )?,
            listeners: expiry(
                "listener_cert",
                "secret",
                "Seconds until a certificate expires that a listener of the Gateway shows; negative once it has.",
            )?,
            clients: expiry(
                "client_cert",
                "secret",
                "Seconds until the certificate expires that the Gateway shows to backends; negative once it has.",
            )?,
            issuers: expiry(
                "issuer",
                "fingerprint",
                "Seconds until an issuer of local certificates expires.",
            )?,
            roots: expiry(
                "root",
                "fingerprint",
                "Seconds until a root expires that peers are verified against.",
            )?,
        })
    }
}

impl ControlMetrics {
    fn register(registry: &Registry) -> Result<Self, TelemetryError> {
        let gauge = |name, help| register(registry, IntGauge::new(name, help)?);
        let build = HistogramOpts::new(
            "gammarus_snapshot_build_seconds",
            "Time to make a snapshot out of a change of the cluster.",
        );
        let unenrolled = Opts::new(
            "gammarus_pods_unenrolled",
            "Pods of this node that should be in the mesh and are not, and why.",
        );
        let repairs = Opts::new(
            "gammarus_repairs_total",
            "What somebody had taken away or changed in a pod's network namespace, and was put back.",
        );
        Ok(Self {
            pods_enrolled: gauge("gammarus_pods_enrolled", "Pods of this node in the mesh.")?,
            pods_unenrolled: register(registry, IntGaugeVec::new(unenrolled, &["reason"])?)?,
            repairs: register(registry, IntCounterVec::new(repairs, &["what"])?)?,
            events_dropped: register(
                registry,
                IntCounter::new(
                    "gammarus_events_dropped_total",
                    "Events of pods that were not written because the API server was away or behind.",
                )?,
            )?,
            snapshot_build: register(registry, Histogram::with_opts(build.buckets(BUILD_BUCKETS.to_vec()))?)?,
            snapshot_generation: gauge(
                "gammarus_snapshot_generation",
                "Counts the snapshots of this process.",
            )?,
            snapshot_age: register(
                registry,
                Gauge::new("gammarus_snapshot_age_seconds", "Seconds since the last snapshot.")?,
            )?,
            expiries: ExpiryMetrics::register(registry)?,
            published: Mutex::new(None),
        })
    }

    /// The gauge that depends on the time of the scrape alone.
    fn refresh(&self) {
        if let Some(at) = *lock(&self.published) {
            self.snapshot_age.set(at.elapsed().as_secs_f64());
        }
    }
}

/// All metrics of this process.
#[derive(Debug)]
pub struct Metrics {
    /// Tells two of them apart in the caches of threads.
    pub(crate) id: u64,
    pub(crate) http: HttpMetrics,
    pub(crate) tcp: TcpMetrics,
    pub(crate) udp: UdpMetrics,
    pub(crate) failures: IntCounterVec,
    pub(crate) access_lines_dropped: IntCounter,
    stale_peers: IntCounter,
    ejections: IntCounterVec,
    panics: IntCounter,
    control: ControlMetrics,
    pub(super) cluster: ClusterMetrics,
    registry: Registry,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// If a name or label is refused, which is a mistake in this file.
    pub fn new() -> Result<Self, TelemetryError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let registry = Registry::new();
        let failures = Opts::new(
            "gammarus_failures_total",
            "Requests and connections that the proxy refused or could not serve.",
        );
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            http: HttpMetrics::register(&registry)?,
            tcp: TcpMetrics::register(&registry)?,
            udp: UdpMetrics::register(&registry)?,
            failures: register(&registry, IntCounterVec::new(failures, &["direction", "reason"])?)?,
            access_lines_dropped: register(
                &registry,
                IntCounter::new(
                    "gammarus_access_lines_dropped_total",
                    "Access lines that were not written because the writer was behind or failed.",
                )?,
            )?,
            stale_peers: register(
                &registry,
                IntCounter::new(
                    "gammarus_stale_peer_total",
                    "Plain connections from pods that should have known that their peer is in the mesh.",
                )?,
            )?,
            ejections: register(
                &registry,
                IntCounterVec::new(
                    Opts::new(
                        "gammarus_endpoint_ejections_total",
                        "How often an endpoint that kept failing was ejected for a while.",
                    ),
                    &SERVICE_LABELS[1..],
                )?,
            )?,
            panics: register(
                &registry,
                IntCounter::new("gammarus_panics_total", "Panics: each has cost its own task alone.")?,
            )?,
            control: ControlMetrics::register(&registry)?,
            cluster: ClusterMetrics::register(&registry)?,
            registry,
        })
    }

    /// Everything in the text format of Prometheus ([`CONTENT_TYPE`]).
    ///
    /// # Errors
    /// If a metric cannot be encoded.
    pub fn render(&self) -> Result<Vec<u8>, TelemetryError> {
        self.control.refresh();
        self.cluster.refresh();
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// Takes in the metrics of one mode alone.
    ///
    /// # Errors
    /// If there is one of that name.
    pub fn add<C: Collector + Clone + 'static>(&self, metric: C) -> Result<C, TelemetryError> {
        register(&self.registry, metric)
    }

    /// How many pods of this node are enrolled now.
    pub fn set_pods_enrolled(&self, count: usize) {
        self.control.pods_enrolled.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The pods that should be enrolled and are not, counted by reason.
    pub fn set_pods_unenrolled(&self, counts: &BTreeMap<&'static str, i64>) {
        self.control.pods_unenrolled.reset();
        for (reason, count) in counts {
            self.control.pods_unenrolled.with_label_values(&[reason]).set(*count);
        }
    }

    /// Something was put back in a pod's namespace: `rules`, `routing`, `settings` or `listeners`.
    pub fn repaired(&self, what: &'static str) {
        self.control.repairs.with_label_values(&[what]).inc();
    }

    /// An Event was not written.
    pub fn event_dropped(&self) {
        self.control.events_dropped.inc();
    }

    /// A snapshot was published.
    pub fn snapshot_published(&self, generation: u64, build: Duration) {
        self.control.snapshot_build.observe(build.as_secs_f64());
        self.control.snapshot_generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        *lock(&self.control.published) = Some(Instant::now());
    }

    /// When the certificates of now end.
    pub fn set_cert_expiries(&self, expiries: &Expiries) {
        let gauges = &self.control.expiries;
        let Expiries { leaves, listeners, clients, issuers, roots } = expiries;
        let of_one_name = [
            (&gauges.listeners, listeners),
            (&gauges.clients, clients),
            (&gauges.issuers, issuers),
            (&gauges.roots, roots),
        ];
        gauges.leaves.reset();
        of_one_name.iter().for_each(|(gauge, _)| gauge.reset());
        let now = SystemTime::now();
        let set = |gauge: &GaugeVec, label: &str, expiry: SystemTime| {
            let left = match expiry.duration_since(now) {
                Ok(left) => left.as_secs_f64(),
                Err(past) => -past.duration().as_secs_f64(),
            };
            gauge.with_label_values(&[label]).set(left);
        };
        for (identity, expiry) in leaves {
            if let Some(expiry) = expiry {
                set(&gauges.leaves, &identity.to_string(), *expiry);
            }
        }
        for (gauge, expiries) in of_one_name {
            for (name, expiry) in expiries {
                set(gauge, name, *expiry);
            }
        }
    }

    /// A pod of the mesh spoke plain text to another, as it did not yet know of its mark.
    pub fn stale_peer(&self) {
        self.stale_peers.inc();
    }

    /// An endpoint of a Service port is not chosen for a while.
    pub fn endpoint_ejected(&self, service: &ServicePortKey) {
        let port = service.port.to_string();
        let ServicePortKey { service, .. } = service;
        self.ejections.with_label_values(&[&*service.namespace, &*service.name, &port]).inc();
    }

    /// A task has panicked.
    pub(super) fn panicked(&self) {
        self.panics.inc();
    }

    /// How many tasks have panicked.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.panics.get()
    }

    /// What a connection to a port without a declared protocol turned out to speak.
    pub fn detected_protocol(&self, service: &ServicePortKey, protocol: ProtocolLabel) {
        let port = service.port.to_string();
        let ServicePortKey { service, .. } = service;
        self.tcp
            .detected
            .with_label_values(&[&*service.namespace, &*service.name, &port, protocol.as_label()])
            .inc();
    }
}

pub(super) fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> Result<C, TelemetryError> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// These maps stay whole at every step, so a panic elsewhere does not spoil them.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
