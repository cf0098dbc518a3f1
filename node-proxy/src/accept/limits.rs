//! What one pod may have of the proxy, so that its neighbours keep theirs (design D9): connections, handshakes per
//! second, and the memory of all its buffers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};

use super::JoinedPod;
use crate::error::FailureReason;
use crate::forward::Socket;

/// Descriptors that are left for everything but the data path, and for dials under way.
const SPARE_DESCRIPTORS: u64 = 256;

/// What one pod may have, all threads and both directions together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodLimits {
    /// Connections that are open.
    pub connections: usize,
    /// TLS handshakes per second; after a quiet second as many at once.
    pub handshakes_per_second: usize,
    /// Bytes that its connections' buffers hold.
    pub buffered_bytes: usize,
}

/// A connection of a pod counts while this lives.
#[derive(Debug)]
pub struct Seat(Arc<JoinedPod>);

impl Seat {
    /// Takes a seat.
    ///
    /// # Errors
    /// When the pod has none left, or no memory, or the process no descriptors: the reason, and what to tell the log.
    pub fn take(pod: &Arc<JoinedPod>, limits: &PodLimits) -> Result<Self, (FailureReason, &'static str)> {
        let seat = Self(Arc::clone(pod));
        // Dropping the seat gives it back, also when it is one too many.
        if pod.pod.standing.connection_begins() >= limits.connections {
            return Err((FailureReason::PodLimit, "the pod has as many connections open as it may"));
        }
        if pod.memory.is_full() {
            return Err((FailureReason::BufferLimit, "the pod's connections hold as many bytes as they may"));
        }
        // Asked each time: it can be raised while the proxy runs, and a connection costs more than asking.
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        if u64::try_from(Socket::count()).unwrap_or(u64::MAX) >= descriptors.saturating_sub(SPARE_DESCRIPTORS)
        {
            return Err((FailureReason::ProxyLimit, "the proxy has no descriptors left (nofile)"));
        }
        Ok(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.pod.standing.connection_ends();
    }
}

/// How often something happens, and whether it may happen once more (a leaky bucket, kept as the time at which it
/// will be empty).
#[derive(Debug, Default)]
pub struct Rate {
    /// In nanoseconds.
    empty_at: AtomicU64,
}

impl Rate {
    /// Takes one of `per_second`, if there is one, so long after whatever is the beginning.
    pub fn take(&self, per_second: usize, now: Duration) -> bool {
        const SECOND: u64 = 1_000_000_000;
        let one = SECOND / u64::try_from(per_second).unwrap_or(u64::MAX).clamp(1, SECOND);
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let fill = |empty_at: u64| {
            let next = empty_at.max(now).saturating_add(one);
            (next - now <= SECOND).then_some(next)
        };
        self.empty_at.try_update(Ordering::Relaxed, Ordering::Relaxed, fill).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_second_gives_a_second_s_worth_and_no_more() {
        let rate = Rate::default();
        let take =
            |tenths: u64| (0..1000).filter(|_| rate.take(50, Duration::from_millis(tenths * 100))).count();
        assert_eq!(take(0), 50);
        assert_eq!(take(1), 5);
        assert_eq!(take(11), 50);
        assert_eq!(take(1000), 50);
        assert_eq!(take(999), 0, "a clock that is read late");
    }

    #[test]
    fn threads_share_it() {
        let rate = Rate::default();
        let taken = std::thread::scope(|scope| {
            let take = || (0..1000).filter(|_| rate.take(100, Duration::from_secs(1))).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum::<usize>()
        });
        assert_eq!(taken, 100);
    }
}
