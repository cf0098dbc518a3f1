//! How many sessions there may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus::IntGauge;

use crate::accept::PodLimits;
use crate::telemetry::Metrics;

/// How many sessions a socket may have in any case, however many the others have.
const GUARANTEED: usize = 64;

/// How many sessions there are, on all ports and threads.
#[derive(Debug)]
pub struct Occupancy {
    most: usize,
    sessions: AtomicUsize,
    gauge: IntGauge,
}

impl Occupancy {
    /// None so far. They may become half of the connections that the pod may have: the other half stays free for TCP,
    /// whatever comes by datagrams, whose senders can be anybody.
    #[must_use]
    pub fn new(metrics: &Metrics, limits: &PodLimits) -> Self {
        let gauge = metrics.udp.sessions.clone();
        Self { most: limits.connections / 2, sessions: AtomicUsize::new(0), gauge }
    }
}

/// A session's place among all.
#[derive(Debug)]
pub(super) struct Place(Arc<Occupancy>);

impl Place {
    /// A place, if there is one left for a socket that has so many already.
    pub(super) fn take(occupancy: &Arc<Occupancy>, own: usize) -> Option<Self> {
        // Dropping it gives it back, also when it is one too many.
        let place = Self(Arc::clone(occupancy));
        occupancy.gauge.inc();
        let all = occupancy.sessions.fetch_add(1, Ordering::Relaxed);
        (all < occupancy.most || own < GUARANTEED).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
        self.0.gauge.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_have_half_of_the_pods_connections_and_each_socket_a_few_in_any_case() {
        let metrics = Metrics::new().unwrap();
        let limits = PodLimits { connections: 400, handshakes_per_second: 1, buffered_bytes: 1 };
        let occupancy = Arc::new(Occupancy::new(&metrics, &limits));
        let one: Vec<Place> = (0..500).map_while(|own| Place::take(&occupancy, own)).collect();
        assert_eq!((one.len(), metrics.udp.sessions.get()), (200, 200));
        let other: Vec<Place> = (0..500).map_while(|own| Place::take(&occupancy, own)).collect();
        assert_eq!((other.len(), metrics.udp.sessions.get()), (GUARANTEED, 264));
        drop(one);
        assert!(Place::take(&occupancy, 100).is_some());
        drop(other);
        assert_eq!(metrics.udp.sessions.get(), 0);
    }
}
