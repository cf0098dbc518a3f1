//! How many requests one caller may make: a bucket each, which fills up again with time.
//!
//! A node asks for all its identities at once when it starts, and for each of them twice a leaf life from then on:
//! the bucket is wide, and fills slowly. Whoever finds it empty is told when to come again. A pod that asks for itself has
//! a bucket of its own, which is neither that of its node nor that of another pod of its service account.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::authorize::Caller;

/// Callers that are remembered; those whose buckets are full are forgotten first.
const MAX_CALLERS: usize = 16 * 1024;

/// Whose bucket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CallerKey {
    /// Whoever has shown a token that was good.
    Known(Caller),
    /// Whoever has shown none that is.
    Stranger(IpAddr),
}

/// How much a caller may ask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Requests at once.
    pub burst: f64,
    /// Requests in a second, for long.
    pub per_second: f64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn fill(&mut self, rate: Rate, now: Instant) {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + seconds * rate.per_second).min(rate.burst);
        self.at = now;
    }
}

/// The buckets of all callers.
#[derive(Debug)]
pub struct RateLimit {
    rate: Rate,
    buckets: Mutex<HashMap<CallerKey, Bucket>>,
}

impl RateLimit {
    /// The same rate for each caller.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self { rate, buckets: Mutex::default() }
    }

    /// Whether a caller's bucket is empty at `now`: if so, for how long.
    #[must_use]
    pub fn is_spent(&self, caller: &CallerKey, now: Instant) -> Option<Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.get_mut(caller)?;
        bucket.fill(self.rate, now);
        (bucket.left < 1.0).then(|| self.wait(*bucket))
    }

    fn wait(&self, bucket: Bucket) -> Duration {
        Duration::from_secs_f64((1.0 - bucket.left) / self.rate.per_second).max(Duration::from_secs(1))
    }

    /// Takes one request out of a caller's bucket at `now`.
    ///
    /// # Errors
    /// When it is empty: how long to wait until there is one again, at least a second.
    pub fn take(&self, caller: &CallerKey, now: Instant) -> Result<(), Duration> {
        let rate = self.rate;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_CALLERS && !buckets.contains_key(caller) {
            buckets.retain(|_, bucket| {
                bucket.fill(rate, now);
                bucket.left < rate.burst
            });
            if buckets.len() >= MAX_CALLERS {
                return Err(Duration::from_secs(1));
            }
        }
        let bucket = buckets.entry(caller.clone()).or_insert(Bucket { left: rate.burst, at: now });
        bucket.fill(rate, now);
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            return Ok(());
        }
        Err(self.wait(*bucket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorize::OwnPod;

    fn node(name: &str) -> CallerKey {
        CallerKey::Known(Caller::NodeProxy(name.to_owned()))
    }

    fn pod(namespace: &str, name: &str) -> CallerKey {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        CallerKey::Known(Caller::Pod(OwnPod { namespace, name, service_account: "front".to_owned() }))
    }

    #[test]
    fn a_caller_has_a_burst_then_a_rate_and_nobody_elses() {
        let limit = RateLimit::new(Rate { burst: 3.0, per_second: 0.5 });
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(limit.take(&node("a"), start), Ok(()));
        }
        assert_eq!(limit.take(&node("a"), start), Err(Duration::from_secs(2)));
        assert_eq!(limit.is_spent(&node("a"), start), Some(Duration::from_secs(2)));
        assert_eq!(limit.is_spent(&node("b"), start), None);
        assert_eq!(limit.take(&node("b"), start), Ok(()));
        assert_eq!(limit.take(&CallerKey::Stranger([10, 0, 0, 1].into()), start), Ok(()));
        assert_eq!(limit.take(&node("a"), start + Duration::from_secs(2)), Ok(()));
        assert!(limit.take(&node("a"), start + Duration::from_secs(2)).is_err());
        let later = start + Duration::from_secs(3600);
        assert_eq!(
            (0..9).filter(|_| limit.take(&node("a"), later).is_ok()).count(),
            3,
            "no more than a burst"
        );
    }

    #[test]
    fn a_pod_that_asks_for_itself_has_a_bucket_of_its_own() {
        let limit = RateLimit::new(Rate { burst: 1.0, per_second: 1.0 });
        let now = Instant::now();
        assert_eq!(limit.take(&pod("shop", "front-1"), now), Ok(()));
        assert!(limit.take(&pod("shop", "front-1"), now).is_err());
        for other in [pod("shop", "front-2"), pod("other", "front-1"), node("front-1"), node("shop/front-1")]
        {
            assert_eq!(limit.take(&other, now), Ok(()), "{other:?}");
        }
    }

    #[test]
    fn callers_that_are_quiet_are_forgotten_and_the_others_are_not() {
        let limit = RateLimit::new(Rate { burst: 2.0, per_second: 1.0 });
        let start = Instant::now();
        let busy = node("busy");
        for number in 0..MAX_CALLERS - 1 {
            let address = IpAddr::from(u32::try_from(number).unwrap().to_be_bytes());
            limit.take(&CallerKey::Stranger(address), start).unwrap();
        }
        let later = start + Duration::from_secs(10);
        assert_eq!((limit.take(&busy, later), limit.take(&busy, later)), (Ok(()), Ok(())));
        assert_eq!(limit.take(&node("one more"), later), Ok(()));
        assert_eq!(limit.buckets.lock().unwrap().len(), 2);
        assert!(limit.take(&busy, later).is_err());
    }
}
