//! How many requests may be tried again: a share of all, so that a backend that is down does not get more than its
//! share of work from those who wait for it.

use std::time::Duration;

use tokio::time::Instant;

/// Retries come to one of so many requests at most.
const REQUESTS_PER_RETRY: u32 = 5;
/// Retries that are saved up at most.
const SAVED: u32 = 100 * REQUESTS_PER_RETRY;
/// What there is every second however few requests there are: ten retries.
const EVERY_SECOND: u32 = 10 * REQUESTS_PER_RETRY;

/// The retries of one Service port on one thread.
#[derive(Clone, Copy, Debug)]
pub struct RetryBudget {
    /// In requests.
    saved: u32,
    refilled: Instant,
}

impl RetryBudget {
    /// A budget that begins with what a second gives.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { saved: EVERY_SECOND, refilled: now }
    }

    /// Notes a request.
    pub const fn deposit(&mut self) {
        if self.saved < SAVED {
            self.saved += 1;
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        now - self.refilled >= Duration::from_secs(1)
    }

    /// Takes a retry, if there is one.
    pub fn withdraw(&mut self, now: Instant) -> bool {
        if self.is_due(now) {
            self.refilled = now;
            self.saved = self.saved.max(EVERY_SECOND);
        }
        match self.saved.checked_sub(REQUESTS_PER_RETRY) {
            Some(left) => {
                self.saved = left;
                true
            }
            None => false,
        }
    }

    /// Whether nothing is lost by beginning anew.
    #[must_use]
    pub fn is_idle(&self, now: Instant) -> bool {
        now - self.refilled > Duration::from_secs(60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_share_of_the_requests_and_a_few_each_second() {
        let start = Instant::now();
        let mut budget = RetryBudget::new(start);
        let take = |budget: &mut RetryBudget, now| (0..1000).filter(|_| budget.withdraw(now)).count();
        assert_eq!(take(&mut budget, start), 10);
        assert!(!budget.withdraw(start));
        (0..100).for_each(|_| budget.deposit());
        assert_eq!(take(&mut budget, start), 20);
        assert_eq!(take(&mut budget, start + Duration::from_secs(1)), 10);
        (0..100_000).for_each(|_| budget.deposit());
        assert_eq!(take(&mut budget, start), 100);
    }
}
