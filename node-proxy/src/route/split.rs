//! A rule's backends by weight.
//!
//! `route` finds the rule, this the backend of one request. It never judges backends: invalid ones keep their
//! share, which the caller answers.

use std::sync::Arc;

use super::{Backend, Filters};

/// A backend of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedBackend {
    /// Where its share goes.
    pub backend: Backend,
    /// Its share is this of the sum of all.
    pub weight: u32,
    /// What is done to the requests of this share: the rule's filters, and then its own.
    pub filters: Arc<Filters>,
}

/// Backends with their weights.
#[derive(Clone, Debug, Default)]
pub struct Split {
    backends: Vec<WeightedBackend>,
    total: u64,
}

impl Split {
    /// Backends with their weights, in the order of the rule.
    #[must_use]
    pub fn new(backends: Vec<WeightedBackend>) -> Self {
        let total = backends.iter().map(|backend| u64::from(backend.weight)).sum();
        Self { backends, total }
    }

    /// All backends, those of weight zero included.
    #[must_use]
    pub fn backends(&self) -> &[WeightedBackend] {
        &self.backends
    }

    /// The backend for a uniformly random number; `None` when no weight is above zero, which is answered as
    /// an invalid backend is: the rule matches, and nothing may take the request.
    #[must_use]
    pub fn pick(&self, random: u64) -> Option<&WeightedBackend> {
        let mut place = random.checked_rem(self.total)?;
        for backend in &self.backends {
            match place.checked_sub(u64::from(backend.weight)) {
                Some(rest) => place = rest,
                None => return Some(backend),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::objects::ObjectKey;
    use crate::error::FailureReason;
    use crate::snapshot::service::ServicePortKey;

    fn service(name: &str) -> Backend {
        Backend::Service(ServicePortKey::tcp(ObjectKey::new("shop", name), 80))
    }

    fn split(backends: &[(Backend, u32)]) -> Split {
        let weigh = |(backend, weight): &(Backend, u32)| WeightedBackend {
            backend: backend.clone(),
            weight: *weight,
            filters: Arc::default(),
        };
        Split::new(backends.iter().map(weigh).collect())
    }

    fn pick(split: &Split, random: u64) -> Option<&Backend> {
        split.pick(random).map(|share| &share.backend)
    }

    #[track_caller]
    fn check(weights: &[u32]) {
        let backends: Vec<_> =
            weights.iter().enumerate().map(|(at, weight)| (service(&at.to_string()), *weight)).collect();
        let split = split(&backends);
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let mut counts = vec![0_u32; weights.len()];
        for random in 0..total {
            let picked = pick(&split, random).expect("a weight is above zero");
            counts[backends.iter().position(|(backend, _)| backend == picked).expect("one of them")] += 1;
        }
        assert_eq!(counts, weights);
    }

    //= gateway-api BackendRef.weight
    //# This is computed as weight/(sum of all weights in this BackendRefs list).
    #[test]
    fn every_backend_gets_exactly_its_share() {
        check(&[1]);
        check(&[90, 10]);
        check(&[1, 2, 3, 4]);
        check(&[1; 16]);
        check(&[100_000, 1]);
    }

    //= gateway-api BackendRef.weight
    //# If weight is set to 0, no traffic should be forwarded for this entry.
    #[test]
    fn weight_zero_backend_gets_no_requests() {
        check(&[0, 5]);
        check(&[5, 0]);
        check(&[0, 3, 0, 0, 2, 0]);
    }

    #[test]
    fn without_a_weight_above_zero_nothing_is_picked() {
        for split in [Split::default(), split(&[(service("a"), 0), (service("b"), 0)])] {
            assert_eq!(pick(&split, 0), None);
            assert_eq!(pick(&split, u64::MAX), None);
        }
    }

    #[test]
    fn sixteen_of_the_largest_weights_are_told_apart() {
        let backends: Vec<_> = (0..16).map(|at: u32| (service(&at.to_string()), 1_000_000)).collect();
        let split = split(&backends);
        for at in 0..16_u64 {
            let backend = &backends[usize::try_from(at).expect("small")].0;
            assert_eq!(pick(&split, at * 1_000_000), Some(backend));
            assert_eq!(pick(&split, at * 1_000_000 + 999_999), Some(backend));
        }
        assert_eq!(pick(&split, 16_000_000), Some(&backends[0].0));
    }

    //= gateway-api HTTPRouteRule.backendRefs
    //# For example, if two backends are specified with equal weights, and one is invalid, 50 percent of traffic must receive a 500.
    #[test]
    fn invalid_backends_keep_their_share() {
        let failing = Backend::Failing(FailureReason::InvalidBackend);
        let split = split(&[(service("a"), 1), (failing.clone(), 1)]);
        let failed = (0..1000).filter(|random| pick(&split, *random) == Some(&failing)).count();
        assert_eq!(failed, 500);
    }
}
