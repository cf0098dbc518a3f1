//! How far behind the API server this node is.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use prometheus::{Gauge, GaugeVec, Histogram, HistogramOpts, IntCounterVec, Opts, Registry};
use tokio::time::Instant;

use super::TelemetryError;
use super::metrics::{Metrics, lock, register};

/// In seconds. The times of writes that delays are counted from have no fractions.
const DELAY_BUCKETS: [f64; 8] = [1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0];

/// Why the watch of a kind ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchEnd {
    /// The server ended it, as it does after some time.
    Closed,
    /// The server no longer knows the version to go on from: everything is listed again.
    Expired,
    /// It failed.
    Failed,
}

impl WatchEnd {
    const fn as_label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Expired => "expired",
            Self::Failed => "failed",
        }
    }
}

/// What is known of the API server.
#[derive(Debug)]
pub(super) struct ClusterMetrics {
    silence: GaugeVec,
    delay: Histogram,
    old_state: Gauge,
    read: IntCounterVec,
    ended: IntCounterVec,
    heard: Mutex<BTreeMap<&'static str, Instant>>,
    state_of: Mutex<Option<SystemTime>>,
}

impl ClusterMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, TelemetryError> {
        let silence = Opts::new(
            "gammarus_cluster_silence_seconds",
            "Seconds since the API server last said something about a kind; about every minute if nothing changes.",
        );
        let delay = HistogramOpts::new(
            "gammarus_cluster_change_delay_seconds",
            "From the write of an object, as it says itself and by whole seconds, until it holds on this node.",
        );
        let read = Opts::new(
            "gammarus_cluster_read_bytes_total",
            "Bytes of objects that were read from the API server.",
        );
        let ended = Opts::new(
            "gammarus_cluster_watches_ended_total",
            "Watches that ended and were begun again, and why.",
        );
        Ok(Self {
            silence: register(registry, GaugeVec::new(silence, &["kind"])?)?,
            delay: register(registry, Histogram::with_opts(delay.buckets(DELAY_BUCKETS.to_vec()))?)?,
            old_state: register(
                registry,
                Gauge::new(
                    "gammarus_cluster_old_state_seconds",
                    "Age of the state from the disk while that is in use; else 0.",
                )?,
            )?,
            read: register(registry, IntCounterVec::new(read, &["kind"])?)?,
            ended: register(registry, IntCounterVec::new(ended, &["kind", "reason"])?)?,
            heard: Mutex::default(),
            state_of: Mutex::default(),
        })
    }

    /// The gauges that depend on the time of the scrape.
    pub(super) fn refresh(&self) {
        for (kind, at) in &*lock(&self.heard) {
            self.silence.with_label_values(&[kind]).set(at.elapsed().as_secs_f64());
        }
        let age = lock(&self.state_of).map(|time| SystemTime::now().duration_since(time).unwrap_or_default());
        self.old_state.set(age.unwrap_or_default().as_secs_f64());
    }
}

impl Metrics {
    /// The API server has said something about a kind, in so many bytes.
    pub fn cluster_heard(&self, kind: &'static str, bytes: usize) {
        lock(&self.cluster.heard).insert(kind, Instant::now());
        self.cluster.read.with_label_values(&[kind]).inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// The watch of a kind has ended.
    pub fn watch_ended(&self, kind: &'static str, why: WatchEnd) {
        self.cluster.ended.with_label_values(&[kind, why.as_label()]).inc();
    }

    /// A change of an object holds on this node, so long after it was written.
    pub fn cluster_change_applied(&self, delay: Duration) {
        self.cluster.delay.observe(delay.as_secs_f64());
    }

    /// The state in use is one from the disk, of this time; or it is not.
    pub fn set_cluster_state_of(&self, time: Option<SystemTime>) {
        *lock(&self.cluster.state_of) = time;
    }
}
