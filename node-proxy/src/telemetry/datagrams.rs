//! The metrics of UDP: sessions, their datagrams, and what was dropped for which reason.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::metrics::{CONNECTION_LABELS, SESSION_CLOSED_LABELS, register};
use super::{Metrics, TelemetryError};
use crate::error::FailureReason;

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// A socket had no room for it.
    BufferFull,
    /// It would have begun a session of a proxy that is about to end.
    Draining,
    /// It was for a backend that does not exist or may not be used.
    InvalidBackend,
    /// It was for a Service without a ready endpoint.
    NoEndpoint,
    /// No route holds on the port.
    NoMatchingRule,
    /// The pod has as many connections and sessions as it may.
    PodLimit,
    /// The process has no descriptor left.
    ProxyLimit,
    /// It is longer than the way it should go allows.
    TooLong,
    /// There is no way to where it should go.
    Unreachable,
}

impl DropReason {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 9] = [
        Self::BufferFull,
        Self::Draining,
        Self::InvalidBackend,
        Self::NoEndpoint,
        Self::NoMatchingRule,
        Self::PodLimit,
        Self::ProxyLimit,
        Self::TooLong,
        Self::Unreachable,
    ];

    /// Why what belongs to a session that failed for this reason is dropped.
    #[must_use]
    pub const fn of(reason: FailureReason) -> Self {
        match reason {
            FailureReason::BufferLimit => Self::BufferFull,
            FailureReason::NoEndpoint => Self::NoEndpoint,
            FailureReason::NoMatchingRule => Self::NoMatchingRule,
            FailureReason::PodLimit => Self::PodLimit,
            FailureReason::ProxyLimit => Self::ProxyLimit,
            _ => Self::InvalidBackend,
        }
    }

    /// The text of the label: stable.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::BufferFull => "buffer_full",
            Self::Draining => "draining",
            Self::InvalidBackend => "invalid_backend",
            Self::NoEndpoint => "no_endpoint",
            Self::NoMatchingRule => "no_matching_rule",
            Self::PodLimit => "pod_limit",
            Self::ProxyLimit => "proxy_limit",
            Self::TooLong => "too_long",
            Self::Unreachable => "unreachable",
        }
    }
}

/// Sessions of datagrams.
#[derive(Debug)]
pub(crate) struct UdpMetrics {
    pub(crate) sessions: IntGauge,
    pub(crate) opened: IntCounterVec,
    pub(crate) closed: IntCounterVec,
    pub(crate) sent_datagrams: IntCounterVec,
    pub(crate) received_datagrams: IntCounterVec,
    pub(crate) sent_bytes: IntCounterVec,
    pub(crate) received_bytes: IntCounterVec,
    /// In the order of [`DropReason::ALL`]: under a flood nothing is looked up.
    dropped: [IntCounter; DropReason::ALL.len()],
}

impl UdpMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, TelemetryError> {
        let counters = |name, help, labels: &[&str]| {
            register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let of_sessions = |name, help| counters(name, help, &CONNECTION_LABELS);
        let dropped = counters(
            "gammarus_udp_datagrams_dropped_total",
            "Datagrams that were dropped, and why.",
            &["reason"],
        )?;
        Ok(Self {
            sessions: register(
                registry,
                IntGauge::new("gammarus_udp_sessions", "UDP sessions that there are.")?,
            )?,
            opened: of_sessions("gammarus_udp_sessions_opened_total", "UDP sessions that began.")?,
            closed: counters(
                "gammarus_udp_sessions_closed_total",
                "UDP sessions that ended, and how.",
                &SESSION_CLOSED_LABELS,
            )?,
            sent_datagrams: of_sessions(
                "gammarus_udp_sent_datagrams_total",
                "Datagrams from the source to the destination.",
            )?,
            received_datagrams: of_sessions(
                "gammarus_udp_received_datagrams_total",
                "Datagrams from the destination to the source.",
            )?,
            sent_bytes: of_sessions(
                "gammarus_udp_sent_bytes_total",
                "Bytes of datagrams from the source to the destination.",
            )?,
            received_bytes: of_sessions(
                "gammarus_udp_received_bytes_total",
                "Bytes of datagrams from the destination to the source.",
            )?,
            dropped: DropReason::ALL.map(|reason| dropped.with_label_values(&[reason.as_label()])),
        })
    }
}

impl Metrics {
    /// A datagram was dropped.
    pub fn datagram_dropped(&self, why: DropReason) {
        self.udp.dropped[why as usize].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_counter() {
        let metrics = Metrics::new().unwrap();
        for (times, reason) in (1..).zip(DropReason::ALL) {
            (0..times).for_each(|_| metrics.datagram_dropped(reason));
        }
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        for (times, reason) in (1..).zip(DropReason::ALL) {
            let line =
                format!("gammarus_udp_datagrams_dropped_total{{reason=\"{}\"}} {times}", reason.as_label());
            assert!(text.lines().any(|said| said == line), "{line}");
        }
    }
}
