//! Clients that stay with their endpoint (`sessionAffinity: ClientIP`), as kube-proxy has it: by the client's address
//! and the Service's port, until it has asked nothing for a time.
//!
//! A client is a pod here, so what it keeps is kept with the pod, for all threads, in one number per Service port.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use foldhash::fast::FixedState;

use super::{AddressFamilies, choose, is_in_or_on_trial, is_out, now};
use crate::snapshot::service::{Endpoint, EndpointSet, ServicePortKey};

/// What a client keeps of one Service port, for IPv4 and for IPv6.
type Kept = [AtomicU64; 2];

/// The endpoints that one client stays with.
#[derive(Debug, Default)]
pub struct Affinities(ArcSwap<HashMap<ServicePortKey, Arc<Kept>>>);

/// An endpoint that a client has, by a hash of 32 bits, and the second in which it last asked for it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stay {
    second: u32,
    endpoint: u32,
}

impl Stay {
    fn of(endpoint: &Endpoint, second: u32) -> Self {
        let uid = endpoint.workload.as_ref().map(|workload| &workload.uid);
        let hash = FixedState::default().hash_one((endpoint.address, uid));
        Self { second, endpoint: u32::try_from(hash >> 32).unwrap_or_default() }
    }

    /// Nothing is kept where both are zero: seconds begin with one.
    const fn decode(number: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = number.to_be_bytes();
        Self { second: u32::from_be_bytes([a, b, c, d]), endpoint: u32::from_be_bytes([e, f, g, h]) }
    }

    fn encode(self) -> u64 {
        (u64::from(self.second) << 32) | u64::from(self.endpoint)
    }

    fn is_over(self, second: u32, patience: Duration) -> bool {
        self.second == 0 || u64::from(second.saturating_sub(self.second)) >= patience.as_secs()
    }
}

/// The endpoint of a client that is no pod of this node, by its address alone: as long as the endpoints stay the same, so does
/// what every proxy chooses, and one that goes or comes moves no clients but its own (rendezvous hashing). Nothing is kept, so
/// that a stay ends with its endpoint and not by time.
#[must_use]
pub fn choose_by_address<'e>(
    client: IpAddr,
    set: &'e EndpointSet,
    families: AddressFamilies,
    tried: &[SocketAddr],
) -> Option<&'e Arc<Endpoint>> {
    let may_be_had = |endpoint: &&Arc<Endpoint>| {
        families.contains(endpoint.address.ip()) && !tried.contains(&endpoint.address)
    };
    let rank = |endpoint: &&Arc<Endpoint>| {
        FixedState::default().hash_one((client, Stay::of(endpoint, 0).endpoint, endpoint.address))
    };
    let candidates = || set.endpoints.iter().filter(may_be_had);
    let first = candidates().max_by_key(rank)?;
    if is_in_or_on_trial(first) {
        return Some(first);
    }
    candidates()
        .filter(|endpoint| !is_out(endpoint))
        .max_by_key(rank)
        .or_else(|| choose(set, families, tried))
}

impl Affinities {
    fn kept(&self, port: &ServicePortKey) -> Arc<Kept> {
        if let Some(kept) = self.0.load().get(port) {
            return Arc::clone(kept);
        }
        self.0.rcu(|all| {
            let mut all = HashMap::clone(all);
            all.entry(port.clone()).or_default();
            all
        });
        self.0.load().get(port).map(Arc::clone).unwrap_or_default()
    }

    /// The endpoint of before, if it is there and well and the client's last request was less than `patience` ago;
    /// else a new one, which the client then stays with.
    pub fn choose<'e>(
        &self,
        (port, set): (&ServicePortKey, &'e EndpointSet),
        patience: Duration,
        families: AddressFamilies,
        tried: &[SocketAddr],
    ) -> Option<&'e Arc<Endpoint>> {
        let second = u32::try_from(now() / 1000 + 1).unwrap_or(u32::MAX);
        let kept = &self.kept(port)[usize::from(families == AddressFamilies::V6)];
        let find = |stay: Stay| {
            if stay.is_over(second, patience) {
                return None;
            }
            let is_his = |endpoint: &&Arc<Endpoint>| {
                Stay::of(endpoint, 0).endpoint == stay.endpoint
                    && families.contains(endpoint.address.ip())
                    && !tried.contains(&endpoint.address)
            };
            set.endpoints.iter().find(is_his).filter(|endpoint| is_in_or_on_trial(endpoint))
        };
        let before = kept.load(Ordering::Relaxed);
        if let Some(endpoint) = find(Stay::decode(before)) {
            if Stay::decode(before).second != second {
                kept.store(Stay::of(endpoint, second).encode(), Ordering::Relaxed);
            }
            return Some(endpoint);
        }
        let endpoint = choose(set, families, tried)?;
        let stay = Stay::of(endpoint, second).encode();
        match kept.compare_exchange(before, stay, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => Some(endpoint),
            // Another thread was faster: what it has chosen is what the client stays with.
            Err(other) => find(Stay::decode(other)).or(Some(endpoint)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::balance::tests::many;

    fn choose_for(affinities: &Affinities, set: &EndpointSet, tried: &[SocketAddr]) -> SocketAddr {
        let port = ServicePortKey::default();
        let patience = Duration::from_secs(60);
        let chosen = affinities.choose((&port, set), patience, AddressFamilies::V4, tried);
        chosen.expect("one is left").address
    }

    #[test]
    fn a_client_stays_and_clients_are_spread() {
        let set = many(10);
        let first = |affinities: &Affinities| choose_for(affinities, &set, &[]);
        let clients: Vec<Affinities> = (0..100).map(|_| Affinities::default()).collect();
        let chosen: Vec<SocketAddr> = clients.iter().map(first).collect();
        assert!(chosen.iter().collect::<HashSet<_>>().len() > 5, "{chosen:?}");
        for (client, before) in clients.iter().zip(&chosen) {
            assert!((0..20).all(|_| first(client) == *before));
        }
    }

    #[test]
    fn clients_of_a_gateway_are_spread_by_their_addresses_and_move_only_with_their_endpoints() {
        let set = many(10);
        let clients: Vec<IpAddr> = (0..200).map(|last| IpAddr::from([198, 51, 100, last])).collect();
        let choose = |set: &EndpointSet, client: &IpAddr, tried: &[SocketAddr]| {
            choose_by_address(*client, set, AddressFamilies::V4, tried).expect("one is left").address
        };
        let chosen: Vec<SocketAddr> = clients.iter().map(|client| choose(&set, client, &[])).collect();
        assert_eq!(chosen.iter().collect::<HashSet<_>>().len(), 10, "{chosen:?}");
        assert!(clients.iter().zip(&chosen).all(|(client, before)| choose(&set, client, &[]) == *before));
        let gone = chosen[0];
        let rest = set.endpoints.iter().filter(|endpoint| endpoint.address != gone).cloned().collect();
        let rest = EndpointSet { endpoints: rest };
        for (client, before) in clients.iter().zip(&chosen) {
            let after = choose(&rest, client, &[]);
            assert_eq!(after == *before, *before != gone, "{client}");
            assert_eq!(after, choose(&set, client, &[gone]), "{client} tries the same one next");
        }
    }

    #[test]
    fn a_client_moves_when_its_endpoint_cannot_be_had_and_stays_there() {
        let (set, client) = (many(10), Affinities::default());
        let first = choose_for(&client, &set, &[]);
        let second = choose_for(&client, &set, &[first]);
        assert_ne!(first, second);
        assert!((0..20).all(|_| choose_for(&client, &set, &[]) == second));
        let rest = set.endpoints.iter().filter(|endpoint| endpoint.address != second).cloned().collect();
        let third = choose_for(&client, &EndpointSet { endpoints: rest }, &[]);
        assert_ne!(second, third);
        assert!((0..20).all(|_| choose_for(&client, &set, &[]) == third), "also when the old one is back");
    }

    #[test]
    fn an_old_stay_is_over() {
        let stay = Stay { second: 100, endpoint: 7 };
        assert!(Stay::decode(stay.encode()) == stay);
        assert!(!stay.is_over(159, Duration::from_secs(60)) && stay.is_over(160, Duration::from_secs(60)));
        assert!(Stay::decode(0).is_over(1, Duration::from_secs(60)));
    }

    #[test]
    fn threads_agree_on_one_endpoint() {
        let (set, client) = (many(50), Affinities::default());
        let chosen: HashSet<SocketAddr> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..100).map(|_| choose_for(&client, &set, &[])).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(chosen.len(), 1, "{chosen:?}");
    }
}
