//! What the proxy says about itself: the access log, metrics and its own log.
//!
//! A stage of the data path fills a [`RequestRecord`] or a [`ConnectionRecord`] while the journey goes on, inside a
//! [`Recording`]. When that ends, in whatever way, one access line is written and the counters move, once.
//! Nothing here may block a data path thread: lines that the writer cannot take are counted and dropped.

pub mod access;
mod cluster;
mod datagrams;
mod handles;
mod line;
pub mod log;
pub mod metrics;
pub mod panics;
mod text;
mod writer;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use access::{
    ClientAddress, ConnectionRecord, Course, Hop, Journey, Peer, PlaintextReason, ProtocolLabel, Record,
    Recording, RequestRecord, SessionRecord,
};
pub use cluster::WatchEnd;
pub use datagrams::DropReason;
pub use handles::DatagramCounters;
pub use log::{LogControl, LogFormat};
pub use metrics::Metrics;
pub use writer::{AccessLog, AccessOutput};

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The file of the access log could not be opened for appending.
    #[error("cannot open the access log {path}")]
    AccessFile {
        /// The file.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The thread that writes access lines could not be started.
    #[error("cannot start the writer of access lines")]
    AccessThread(#[source] std::io::Error),
    /// A subscriber for the log is installed already in this process.
    #[error("a log is already set up in this process")]
    LogAlreadySet(#[source] tracing_subscriber::util::TryInitError),
    /// The log is gone, so its filter cannot change.
    #[error("the filter of the log cannot be changed")]
    LogGone(#[source] tracing_subscriber::reload::Error),
    /// A log filter is not one.
    #[error("log filter {text:?} is not a list of [target=]level")]
    LogFilter {
        /// What was given.
        text: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// A metric could not be registered.
    #[error("cannot register a metric")]
    Metric(#[from] prometheus::Error),
}

/// What a stage needs to record journeys. Cheap to clone; one per process.
#[derive(Clone, Debug)]
pub struct Telemetry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    metrics: Arc<Metrics>,
    access: AccessLog,
}

impl Telemetry {
    /// Joins the metrics and the access log of this process.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, access: AccessLog) -> Self {
        Self { shared: Arc::new(Shared { metrics, access }) }
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Starts recording one HTTP request. Fill the record through the guard; it is written when the guard goes.
    #[must_use]
    pub fn request(&self, record: RequestRecord) -> Recording<RequestRecord> {
        Recording::new(self.clone(), record)
    }

    /// Starts recording one opaque connection. Nothing is counted before [`Recording::opened`] or the end.
    #[must_use]
    pub fn connection(&self, record: ConnectionRecord) -> Recording<ConnectionRecord> {
        Recording::new(self.clone(), record)
    }

    /// Starts recording one session of datagrams. Nothing is counted before [`Recording::opened`] or the end.
    #[must_use]
    pub fn session(&self, record: SessionRecord) -> Recording<SessionRecord> {
        Recording::new(self.clone(), record)
    }

    /// What counts the datagrams of a session of which it is settled where it goes.
    #[must_use]
    pub fn datagram_counters(&self, record: &SessionRecord) -> DatagramCounters {
        handles::datagram_counters(self.metrics(), &record.connection)
    }

    /// Waits until every access line so far is written, at most two seconds. For the end of the process.
    pub fn flush(&self) {
        self.shared.access.flush();
    }

    pub(crate) fn access(&self) -> &AccessLog {
        &self.shared.access
    }
}
