//! Which endpoint takes a request: the less loaded of two random ones (power of two choices).
//!
//! `route` has found the Service port, `connect` dials what is chosen here. It never waits, never locks and
//! never chooses what was already tried.

mod budget;
mod random;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::snapshot::service::{Endpoint, EndpointLoad, EndpointSet};

pub use budget::RetryBudget;
pub use random::random;

/// How often two endpoints are drawn before those that may be chosen are counted.
const DRAWS: u32 = 4;

/// The address families in which a client pod can dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressFamilies {
    /// Both.
    Dual,
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
}

impl AddressFamilies {
    /// The families of a pod's addresses; `None` when it has no address.
    #[must_use]
    pub fn of(addresses: &[IpAddr]) -> Option<Self> {
        match (addresses.iter().any(IpAddr::is_ipv4), addresses.iter().any(IpAddr::is_ipv6)) {
            (true, true) => Some(Self::Dual),
            (true, false) => Some(Self::V4),
            (false, true) => Some(Self::V6),
            (false, false) => None,
        }
    }

    /// Whether an address is of one of them.
    #[must_use]
    pub const fn contains(self, address: IpAddr) -> bool {
        match self {
            Self::Dual => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// Counts one request or connection on an endpoint for as long as it is held.
#[derive(Debug)]
pub struct InFlight {
    load: Arc<EndpointLoad>,
}

impl InFlight {
    /// Begins to count.
    #[must_use]
    pub fn begin(load: &Arc<EndpointLoad>) -> Self {
        load.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { load: Arc::clone(load) }
    }

    /// What stands for the endpoint in sessions.
    #[must_use]
    pub fn endpoint_id(&self) -> u64 {
        self.load.id
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.load.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The less loaded of two random endpoints that `families` reach and that are not among `tried`; `None` when
/// there is no such endpoint (left).
#[must_use]
pub fn choose<'e>(
    set: &'e EndpointSet,
    families: AddressFamilies,
    tried: &[SocketAddr],
) -> Option<&'e Arc<Endpoint>> {
    choose_by(set, families, tried, random)
}

fn choose_by<'e>(
    set: &'e EndpointSet,
    families: AddressFamilies,
    tried: &[SocketAddr],
    mut random: impl FnMut() -> u64,
) -> Option<&'e Arc<Endpoint>> {
    let may_take =
        |endpoint: &Endpoint| families.contains(endpoint.address.ip()) && !tried.contains(&endpoint.address);
    match &*set.endpoints {
        [] => return None,
        [only] => return may_take(only).then_some(only),
        all => {
            // As a rule all may be chosen: draw, and count only when that keeps failing. Refusing a whole pair
            // leaves every allowed pair equally likely.
            for _ in 0..DRAWS {
                let (one, other) = draw_two(all.len(), &mut random);
                if may_take(&all[one]) && may_take(&all[other]) {
                    return Some(less_loaded(&all[one], &all[other]));
                }
            }
        }
    }
    let left: Vec<&Arc<Endpoint>> = set.endpoints.iter().filter(|endpoint| may_take(endpoint)).collect();
    match &*left {
        [] => None,
        [only] => Some(only),
        several => {
            let (one, other) = draw_two(several.len(), &mut random);
            Some(less_loaded(several[one], several[other]))
        }
    }
}

/// Two different places below `count`, which is at least two.
fn draw_two(count: usize, random: &mut impl FnMut() -> u64) -> (usize, usize) {
    let one = below(count, random());
    let other = below(count - 1, random());
    (one, if other >= one { other + 1 } else { other })
}

/// Scales a random number to `0..count` by its high bits.
fn below(count: usize, random: u64) -> usize {
    ((random as u128 * count as u128) >> 64) as usize
}

fn less_loaded<'e>(one: &'e Arc<Endpoint>, other: &'e Arc<Endpoint>) -> &'e Arc<Endpoint> {
    let load = |endpoint: &Endpoint| endpoint.load.in_flight.load(Ordering::Relaxed);
    if load(other) < load(one) { other } else { one }
}

#[cfg(test)]
mod tests;
