//! How long to leave the API server alone: doubling up to a cap, and of that any part (full jitter), so that nodes that
//! lost it together do not come back together.

use std::time::Duration;

use crate::balance::random;

/// What a pause has at most: twice as much after each failure, up to a cap.
#[derive(Clone, Copy, Debug)]
pub struct Doubling {
    /// After the first failure.
    pub first: Duration,
    /// After many.
    pub longest: Duration,
}

impl Doubling {
    /// What a pause has at most after one more failure than these.
    #[must_use]
    pub fn after(self, failures: u32) -> Duration {
        self.first.saturating_mul(2_u32.saturating_pow(failures)).min(self.longest)
    }
}

/// Pauses between tries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    failures: u32,
    most: Doubling,
}

impl Backoff {
    /// For a kind that cannot be watched.
    pub(super) const OF_TROUBLE: Self = Self::new(Duration::from_secs(30));
    /// For a kind that the server does not have: nobody waits for the answer of a node.
    pub(super) const OF_ABSENCE: Self = Self::new(Duration::from_secs(60));

    const fn new(longest: Duration) -> Self {
        Self { failures: 0, most: Doubling { first: Duration::from_millis(500), longest } }
    }

    /// All is well again.
    pub(super) const fn reset(&mut self) {
        self.failures = 0;
    }

    /// The next pause.
    pub(super) fn next(&mut self) -> Duration {
        let most = self.most.after(self.failures);
        self.failures = self.failures.saturating_add(1);
        any_part(most)
    }
}

/// From nothing up to all of it.
#[must_use]
pub fn any_part(time: Duration) -> Duration {
    // The upper half is as much as a float of this range can tell apart.
    time.mul_f64(f64::from(u32::try_from(random() >> 32).unwrap_or_default()) / f64::from(u32::MAX))
}

/// As long, and as much again at random.
pub(super) fn spread(time: Duration) -> Duration {
    time + any_part(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_cap_and_are_any_part_of_that() {
        let mut backoff = Backoff::OF_TROUBLE;
        let most: Vec<u128> = (0..9)
            .map(|_| {
                let most = backoff.most.after(backoff.failures);
                assert!(backoff.next() <= most);
                most.as_millis()
            })
            .collect();
        assert_eq!(most, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        backoff.reset();
        assert_eq!(backoff.most.after(backoff.failures), backoff.most.first);
        assert_eq!(backoff.most.after(u32::MAX), backoff.most.longest);
        let many: Vec<Duration> =
            (0..1000).map(|_| Backoff { failures: 20, ..Backoff::OF_ABSENCE }.next()).collect();
        assert!(
            many.iter().any(|pause| pause.as_secs() < 6) && many.iter().any(|pause| pause.as_secs() > 54)
        );
        assert!((0..100).all(|_| (LIFE..=LIFE * 2).contains(&spread(LIFE))));
    }

    const LIFE: Duration = Duration::from_secs(300);
}
