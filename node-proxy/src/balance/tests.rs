//! Tests of choosing endpoints.

use std::collections::HashMap;

use super::*;

fn set(addresses: &[&str]) -> EndpointSet {
    let endpoint = |address: &&str| {
        let address = address.parse().expect("an address");
        Arc::new(Endpoint { address, workload: None, load: Arc::default() })
    };
    EndpointSet { endpoints: addresses.iter().map(endpoint).collect() }
}

fn many(count: usize) -> EndpointSet {
    let addresses: Vec<String> = (0..count).map(|at| format!("10.0.{}.{}:80", at / 250, at % 250)).collect();
    set(&addresses.iter().map(String::as_str).collect::<Vec<_>>())
}

fn counts(set: &EndpointSet, families: AddressFamilies, tried: &[SocketAddr]) -> HashMap<SocketAddr, u32> {
    let mut counts = HashMap::new();
    for _ in 0..10_000 {
        let chosen = choose(set, families, tried).expect("one is left");
        *counts.entry(chosen.address).or_default() += 1;
    }
    counts
}

#[test]
fn equally_loaded_endpoints_get_equal_shares() {
    let counts = counts(&many(5), AddressFamilies::Dual, &[]);
    assert_eq!(counts.len(), 5);
    assert!(counts.values().all(|count| (1_700..2_300).contains(count)), "{counts:?}");
}

#[test]
fn the_busier_of_two_is_not_chosen() {
    let set = many(2);
    let held = InFlight::begin(&set.endpoints[0].load);
    let busy = counts(&set, AddressFamilies::Dual, &[]);
    assert_eq!(busy.get(&set.endpoints[1].address), Some(&10_000));
    drop(held);
    assert_eq!(counts(&set, AddressFamilies::Dual, &[]).len(), 2);
}

#[test]
fn load_that_is_held_stays_level() {
    let set = many(10);
    let held: Vec<InFlight> = (0..1_000)
        .map(|_| InFlight::begin(&choose(&set, AddressFamilies::Dual, &[]).expect("some").load))
        .collect();
    let loads = || set.endpoints.iter().map(|endpoint| endpoint.load.in_flight.load(Ordering::Relaxed));
    assert!(loads().all(|load| (90..=110).contains(&load)), "{:?}", loads().collect::<Vec<_>>());
    drop(held);
    assert!(loads().all(|load| load == 0));
}

#[test]
fn tried_endpoints_are_never_chosen_until_none_is_left() {
    for size in [0, 1, 2, 3, 40] {
        let set = many(size);
        let mut tried = Vec::new();
        while let Some(endpoint) = choose(&set, AddressFamilies::Dual, &tried) {
            assert!(!tried.contains(&endpoint.address));
            tried.push(endpoint.address);
        }
        assert_eq!(tried.len(), size);
    }
}

#[test]
fn what_is_left_is_chosen_evenly() {
    let set = many(40);
    let tried: Vec<SocketAddr> = set.endpoints[3..].iter().map(|endpoint| endpoint.address).collect();
    let counts = counts(&set, AddressFamilies::Dual, &tried);
    assert_eq!(counts.len(), 3);
    assert!(counts.values().all(|count| (3_000..3_700).contains(count)), "{counts:?}");
}

#[test]
fn only_families_that_the_client_has_are_chosen() {
    let set = set(&["10.0.0.1:80", "[fd00::1]:80", "10.0.0.2:80", "[fd00::2]:80"]);
    assert!(counts(&set, AddressFamilies::V4, &[]).keys().all(SocketAddr::is_ipv4));
    assert!(counts(&set, AddressFamilies::V6, &[]).keys().all(SocketAddr::is_ipv6));
    assert_eq!(counts(&set, AddressFamilies::Dual, &[]).len(), 4);
    assert!(choose(&many(3), AddressFamilies::V6, &[]).is_none());
    assert!(choose(&many(1), AddressFamilies::V6, &[]).is_none());
}

#[test]
fn families_follow_from_addresses() {
    let (v4, v6): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [0xfd00, 0, 0, 0, 0, 0, 0, 1].into());
    assert_eq!(AddressFamilies::of(&[]), None);
    assert_eq!(AddressFamilies::of(&[v4]), Some(AddressFamilies::V4));
    assert_eq!(AddressFamilies::of(&[v6]), Some(AddressFamilies::V6));
    assert_eq!(AddressFamilies::of(&[v6, v4]), Some(AddressFamilies::Dual));
}

#[test]
fn two_different_places_are_drawn_at_the_edges() {
    for random in [0, 1, u64::MAX / 2, u64::MAX] {
        for count in 2..20 {
            let (one, other) = draw_two(count, &mut || random);
            assert!(one != other && one < count && other < count);
        }
    }
}

#[test]
fn threads_have_sequences_of_their_own() {
    let here = random();
    let there = std::thread::spawn(random).join().expect("no panic");
    assert!(here != there && here != random());
}
