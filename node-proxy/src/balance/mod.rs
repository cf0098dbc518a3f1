//! Which endpoint takes a request: the less loaded of two random ones (power of two choices).
//!
//! `route` has found the Service port, `connect` dials what is chosen here. It never waits, never locks and
//! never chooses what was already tried. What keeps failing is spared ([`crate::snapshot::health`]), unless that would
//! be more than half of all: a bad moment is not to become an outage.

mod affinity;
mod budget;
mod random;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::time::Instant;

use crate::snapshot::health::Standing;
use crate::snapshot::service::{Endpoint, EndpointLoad, EndpointSet};

pub use affinity::{Affinities, choose_by_address};
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

/// When this process first asked for the time.
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The milliseconds since then.
fn now() -> u64 {
    u64::try_from(BEGINNING.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Counts one request or connection on an endpoint for as long as it is held.
#[derive(Debug)]
pub struct InFlight {
    load: Arc<EndpointLoad>,
    begun: Standing,
}

/// An endpoint that is spared from now on.
#[derive(Debug)]
pub struct Ejection<'e> {
    /// Which one.
    pub endpoint: &'e Endpoint,
    /// For how long.
    pub penalty: Duration,
}

impl InFlight {
    /// Begins to count.
    #[must_use]
    pub fn begin(load: &Arc<EndpointLoad>) -> Self {
        load.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { load: Arc::clone(load), begun: load.health.standing() }
    }

    /// Whether the endpoint was spared when this began: it tries whether that is still right.
    #[must_use]
    pub const fn is_trial(&self) -> bool {
        self.begun.is_out()
    }

    /// Notes that the endpoint has answered. Gives whether it is chosen again because of that.
    #[must_use]
    pub fn note_answer(&self) -> bool {
        let is_news = self.load.health.standing().is_out();
        self.load.health.note_answer(self.begun, if is_news { now() } else { 0 })
    }

    /// Notes that the endpoint, which is one of `set`, has failed. Gives what follows, if anything does.
    #[must_use]
    pub fn note_failure<'e>(&self, set: &'e EndpointSet) -> Option<Ejection<'e>> {
        let mut all = set.endpoints.iter();
        let endpoint = all.find(|endpoint| Arc::ptr_eq(&endpoint.load, &self.load))?;
        let may_go = || {
            let family = set.endpoints.iter().filter(|other| is_of_one_family(other, endpoint));
            let (all, out) =
                family.fold((0, 0), |(all, out), other| (all + 1, out + usize::from(is_out(other))));
            2 * (out + 1) <= all
        };
        let penalty = self.load.health.note_failure(self.begun, now(), may_go)?;
        Some(Ejection { endpoint, penalty })
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

fn is_of_one_family(one: &Endpoint, other: &Endpoint) -> bool {
    one.address.is_ipv4() == other.address.is_ipv4()
}

fn is_out(endpoint: &Endpoint) -> bool {
    endpoint.load.health.standing().is_out()
}

/// Whether an endpoint is in, or is to be tried by this very request.
#[must_use]
pub fn is_in_or_on_trial(endpoint: &Endpoint) -> bool {
    !is_out(endpoint) || endpoint.load.health.take_trial(now())
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
                let (one, other) = (&all[one], &all[other]);
                if !may_take(one) || !may_take(other) {
                    continue;
                }
                match (is_out(one), is_out(other)) {
                    (false, false) => return Some(less_loaded(one, other)),
                    (true, _) if is_in_or_on_trial(one) => return Some(one),
                    (_, true) if is_in_or_on_trial(other) => return Some(other),
                    _ => {}
                }
            }
        }
    }
    choose_counted(set, may_take, random)
}

/// Chooses after having looked at all of them.
fn choose_counted(
    set: &EndpointSet,
    may_take: impl Fn(&Endpoint) -> bool,
    mut random: impl FnMut() -> u64,
) -> Option<&Arc<Endpoint>> {
    let allowed = || set.endpoints.iter().filter(|endpoint| may_take(endpoint));
    let (mut count, mut out) = (0, 0);
    for endpoint in allowed() {
        count += 1;
        if is_out(endpoint) {
            if endpoint.load.health.take_trial(now()) {
                return Some(endpoint);
            }
            out += 1;
        }
    }
    // Sparing more than half would leave too much to the rest.
    let spares = 2 * out <= count;
    let candidates = || allowed().filter(|endpoint| !spares || !is_out(endpoint));
    let count = if spares { count - out } else { count };
    if count < 2 {
        return candidates().next();
    }
    let (one, other) = draw_two(count, &mut random);
    // One of them may have gone out a moment ago, by what another thread has seen.
    match (candidates().nth(one), candidates().nth(other)) {
        (Some(one), Some(other)) => Some(less_loaded(one, other)),
        (one, other) => one.or(other).or_else(|| allowed().next()),
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
