//! How long to leave the API server alone: doubling up to a cap, and of that any part (full jitter), so that nodes that
//! lost it together do not come back together.

use std::time::Duration;

use crate::balance::random;

/// After the first failure, at most.
const FIRST: Duration = Duration::from_millis(500);
/// After many, at most.
const LONGEST: Duration = Duration::from_secs(30);
/// The same of a kind that the server does not have: nobody waits for the answer of a node.
const LONGEST_ABSENCE: Duration = Duration::from_secs(60);

/// Pauses between tries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    failures: u32,
    longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { failures: 0, longest: LONGEST }
    }
}

impl Backoff {
    /// For a kind that is not there.
    pub(super) const fn of_absence() -> Self {
        Self { failures: 0, longest: LONGEST_ABSENCE }
    }

    /// All is well again.
    pub(super) const fn reset(&mut self) {
        self.failures = 0;
    }

    /// The next pause.
    pub(super) fn next(&mut self) -> Duration {
        let most = self.most();
        self.failures = self.failures.saturating_add(1);
        most.mul_f64(random_part())
    }

    fn most(self) -> Duration {
        FIRST.saturating_mul(1 << self.failures.min(10)).min(self.longest)
    }
}

/// As long, and as much again at random.
pub(super) fn spread(time: Duration) -> Duration {
    time.mul_f64(1.0 + random_part())
}

/// From 0 up to 1.
fn random_part() -> f64 {
    // The upper half is as much as a float of this range can tell apart.
    f64::from(u32::try_from(random() >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_cap_and_are_any_part_of_that() {
        let mut backoff = Backoff::default();
        let most: Vec<u128> = (0..9)
            .map(|_| {
                let most = backoff.most();
                assert!(backoff.next() <= most);
                most.as_millis()
            })
            .collect();
        assert_eq!(most, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        backoff.reset();
        assert_eq!(backoff.most(), FIRST);
        let many: Vec<Duration> =
            (0..1000).map(|_| Backoff { failures: 20, ..Backoff::of_absence() }.next()).collect();
        assert!(
            many.iter().any(|pause| pause.as_secs() < 6) && many.iter().any(|pause| pause.as_secs() > 54)
        );
        assert!((0..100).all(|_| (LIFE..=LIFE * 2).contains(&spread(LIFE))));
    }

    const LIFE: Duration = Duration::from_secs(300);
}
