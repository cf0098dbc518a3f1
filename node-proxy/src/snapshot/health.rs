//! Whether an endpoint is spared for a while, because it has failed several times in a row.
//!
//! Kept per endpoint, whatever Service or route leads there, and in atomics: who chooses looks at one number. An
//! endpoint that has failed [`FAILURES`] times without an answer in between is *out* for a penalty, which doubles from
//! one to the next. When that is over, one request tries it while all others still spare it, and an answer lets it in.
//!
//! There is no clock here: whoever asks says what time it is, in milliseconds since whenever.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// How many failures in a row put an endpoint out.
pub const FAILURES: u32 = 5;
/// The first penalty, in milliseconds.
const FIRST_PENALTY: u32 = 1_000;
/// The longest penalty, in milliseconds. One that has been in for as long begins anew.
const LONGEST_PENALTY: u32 = 60_000;
/// How long the request that tries an endpoint may take, in milliseconds; then another one tries.
const TRIAL: u64 = 10_000;

/// How an endpoint has fared.
#[derive(Debug, Default)]
pub struct Health {
    /// Failures since the last answer.
    failures: AtomicU32,
    /// The last penalty, in milliseconds.
    penalty: AtomicU32,
    standing: AtomicU64,
}

/// Whether an endpoint was in or out at one moment, and since or until when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing(u64);

impl Standing {
    const fn in_since(time: u64) -> Self {
        Self(time << 1)
    }

    const fn out_until(time: u64) -> Self {
        Self((time << 1) | 1)
    }

    /// Whether the endpoint is spared.
    #[must_use]
    pub const fn is_out(self) -> bool {
        self.0 & 1 == 1
    }

    const fn time(self) -> u64 {
        self.0 >> 1
    }
}

impl Health {
    /// How it stands now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing(self.standing.load(Ordering::Relaxed))
    }

    fn change(&self, from: Standing, to: Standing) -> bool {
        self.standing.compare_exchange(from.0, to.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether the caller is the one that tries an endpoint whose penalty is over.
    pub fn take_trial(&self, now: u64) -> bool {
        let standing = self.standing();
        standing.is_out() && standing.time() <= now && self.change(standing, Standing::out_until(now + TRIAL))
    }

    /// Notes an answer to a request that began when it stood so. Gives whether that has let it in: what was under way
    /// before it went out says nothing new.
    pub fn note_answer(&self, begun: Standing, now: u64) -> bool {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        let standing = self.standing();
        standing.is_out() && standing == begun && self.change(standing, Standing::in_since(now))
    }

    /// Notes a failure of a request that began when it stood so. Gives the penalty, if there is one. One that is in
    /// goes out only if it may: `may_go` is asked when it comes to that.
    pub fn note_failure(&self, begun: Standing, now: u64, may_go: impl FnOnce() -> bool) -> Option<Duration> {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let standing = self.standing();
        // A trial that was let in by the head of its answer has failed all the same when the rest breaks off.
        let was_trial = begun.is_out() && now - standing.time().min(now) < TRIAL;
        let is_due = if standing.is_out() {
            standing == begun
        } else {
            (failures >= FAILURES || was_trial) && may_go()
        };
        if !is_due {
            return None;
        }
        let was_good = !standing.is_out() && now - standing.time().min(now) > u64::from(LONGEST_PENALTY);
        let last = if was_good { 0 } else { self.penalty.load(Ordering::Relaxed) };
        let penalty = last.saturating_mul(2).clamp(FIRST_PENALTY, LONGEST_PENALTY);
        if !self.change(standing, Standing::out_until(now + u64::from(penalty))) {
            return None;
        }
        self.penalty.store(penalty, Ordering::Relaxed);
        Some(Duration::from_millis(penalty.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails as often as it takes, one request after another; gives the penalty in milliseconds.
    fn put_out(health: &Health, now: u64) -> u128 {
        for _ in 1..FAILURES {
            assert_eq!(health.note_failure(health.standing(), now, || true), None);
        }
        health.note_failure(health.standing(), now, || true).expect("one too many").as_millis()
    }

    #[test]
    fn failures_in_a_row_put_it_out_and_one_request_at_a_time_tries_it() {
        let health = Health::default();
        let early = health.standing();
        for _ in 0..100 {
            // Never in a row.
            assert_eq!(health.note_failure(early, 5, || true), None);
            assert!(!health.note_answer(early, 5));
        }
        assert_eq!(put_out(&health, 10_000), 1_000);
        assert!(health.standing().is_out());
        // What was under way says nothing new, neither good nor bad.
        assert_eq!(health.note_failure(early, 10_001, || true), None);
        assert!(!health.note_answer(early, 10_001));
        assert!(!health.take_trial(10_999));
        assert!(health.take_trial(11_000) && !health.take_trial(11_000), "one tries it");
        // Nobody says what became of the trial: the next one.
        assert!(!health.take_trial(20_999) && health.take_trial(21_000));
        let trial = health.standing();
        assert!(trial.is_out(), "as long as the trial lasts");
        assert!(health.note_answer(trial, 21_500));
        assert!(!health.standing().is_out());
    }

    #[test]
    fn penalties_grow_to_a_minute_and_begin_anew_after_a_good_time() {
        let health = Health::default();
        let mut now = 100_000;
        let mut penalties = vec![put_out(&health, now)];
        for _ in 0..7 {
            now += 60_000;
            assert!(health.take_trial(now));
            let failed = health.note_failure(health.standing(), now, || true);
            penalties.push(failed.expect("a trial that fails").as_millis());
        }
        assert_eq!(penalties, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
        now += 60_000;
        assert!(health.take_trial(now) && health.note_answer(health.standing(), now));
        assert_eq!(put_out(&health, now + 1_000), 60_000, "a moment later");
        now += 70_000;
        assert!(health.take_trial(now) && health.note_answer(health.standing(), now));
        assert_eq!(put_out(&health, now + 60_001), 1_000);
    }

    #[test]
    fn a_trial_whose_answer_breaks_off_has_failed_although_its_head_has_let_it_in() {
        let health = Health::default();
        put_out(&health, 10_000);
        for (let_in, broken, penalty) in [(12_000, 12_500, Some(2_000)), (15_000, 25_000, None)] {
            assert!(health.take_trial(let_in));
            let trial = health.standing();
            assert!(health.note_answer(trial, let_in));
            let found = health.note_failure(trial, broken, || true);
            assert_eq!(found.map(|penalty| penalty.as_millis()), penalty, "at {broken}");
        }
    }

    #[test]
    fn one_that_must_not_go_stays_and_is_asked_for_again() {
        let health = Health::default();
        for _ in 0..20 {
            assert_eq!(health.note_failure(health.standing(), 1, || false), None);
        }
        assert!(!health.standing().is_out());
        assert!(health.note_failure(health.standing(), 2, || true).is_some());
    }
}
