//! What is counted of the controller's work.

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts};
use tokio::time::Duration;

use super::crds::Found;
use crate::telemetry::{Metrics, TelemetryError};

/// In seconds: from one write alone to what nobody should wait for.
const DELAY_BUCKETS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteResult {
    /// Somebody else had written meanwhile.
    Conflict,
    /// There was no answer, or none that helps.
    Failed,
    /// The API server does not take it.
    Refused,
    /// It was written.
    Written,
}

impl WriteResult {
    const fn as_label(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Written => "written",
        }
    }
}

/// The controller's metrics.
#[derive(Clone, Debug)]
pub struct ControllerMetrics {
    leading: IntGauge,
    queued: IntGauge,
    writes: IntCounterVec,
    delay: Histogram,
    left_out: IntGauge,
    crds: IntGaugeVec,
}

impl ControllerMetrics {
    /// Registers them beside those of the process.
    ///
    /// # Errors
    /// If a name is taken, which is a mistake in this file.
    pub fn register(metrics: &Metrics) -> Result<Self, TelemetryError> {
        let delay = HistogramOpts::new(
            "gammarus_status_delay_seconds",
            "From a change that was seen to the status that says what follows from it.",
        );
        let crds =
            Opts::new("gammarus_gateway_api_crd", "1 for what is found of each CRD of the Gateway API.");
        let writes = Opts::new("gammarus_status_writes_total", "Writes of statuses, by what became of them.");
        Ok(Self {
            leading: metrics.add(IntGauge::new(
                "gammarus_controller_leading",
                "1 while this controller is the one that writes.",
            )?)?,
            queued: metrics.add(IntGauge::new(
                "gammarus_status_queue_length",
                "Objects whose status is to be looked at.",
            )?)?,
            writes: metrics.add(IntCounterVec::new(writes, &["result"])?)?,
            delay: metrics.add(Histogram::with_opts(delay.buckets(DELAY_BUCKETS.to_vec()))?)?,
            left_out: metrics.add(IntGauge::new(
                "gammarus_status_left_out",
                "Entries that a status has no room for: it has as many as it may have, of all controllers together.",
            )?)?,
            crds: metrics.add(IntGaugeVec::new(crds, &["crd", "state"])?)?,
        })
    }

    /// Whether this controller writes.
    pub fn set_leading(&self, leading: bool) {
        self.leading.set(i64::from(leading));
    }

    pub(super) fn set_queued(&self, count: usize) {
        self.queued.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn set_left_out(&self, count: usize) {
        self.left_out.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn wrote(&self, result: WriteResult) {
        self.writes.with_label_values(&[result.as_label()]).inc();
    }

    pub(super) fn delayed(&self, delay: Duration) {
        self.delay.observe(delay.as_secs_f64());
    }

    pub(super) fn set_crds<'a>(&self, found: impl Iterator<Item = (&'a str, Found)>) {
        self.crds.reset();
        for (crd, found) in found {
            self.crds.with_label_values(&[crd, found.as_label()]).set(1);
        }
    }
}
