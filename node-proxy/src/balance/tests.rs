//! Tests of choosing endpoints.

use std::collections::HashMap;

use super::*;
use crate::snapshot::health::Health;

fn set(addresses: &[&str]) -> EndpointSet {
    let endpoint = |address: &&str| {
        let address = address.parse().expect("an address");
        Arc::new(Endpoint { address, workload: None, load: Arc::default() })
    };
    EndpointSet { endpoints: addresses.iter().map(endpoint).collect() }
}

pub(super) fn many(count: usize) -> EndpointSet {
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

/// Has an endpoint fail until it is spared, or until it is clear that it will not be.
fn fail(set: &EndpointSet, index: usize) -> bool {
    let load = &set.endpoints[index].load;
    (0..10).any(|_| InFlight::begin(load).note_failure(set).is_some())
}

#[test]
fn what_keeps_failing_is_spared_and_the_others_share_evenly() {
    let set = many(5);
    assert!(fail(&set, 0) && fail(&set, 3));
    let counts = counts(&set, AddressFamilies::Dual, &[]);
    assert_eq!(counts.len(), 3, "{counts:?}");
    assert!(counts.values().all(|count| (3_000..3_700).contains(count)), "{counts:?}");
    // Of what is left nothing may go: more than half would be spared.
    assert!(!fail(&set, 1) && !is_out(&set.endpoints[1]));
}

#[test]
fn half_may_be_spared_and_the_last_of_two_never() {
    let (pair, alone) = (many(2), many(1));
    assert!(fail(&pair, 0) && !fail(&pair, 1));
    assert_eq!(counts(&pair, AddressFamilies::Dual, &[]).len(), 1);
    assert!(!fail(&alone, 0));
    // One that was put out among others is taken where there is no other.
    let endpoints = vec![Arc::clone(&pair.endpoints[0])];
    assert_eq!(counts(&EndpointSet { endpoints }, AddressFamilies::Dual, &[]).len(), 1);
    // And rather than nothing, when the other one was tried.
    let tried = [pair.endpoints[1].address];
    assert_eq!(counts(&pair, AddressFamilies::Dual, &tried).len(), 1);
}

#[test]
fn where_most_would_be_spared_nobody_is() {
    let set = many(4);
    assert!(fail(&set, 0) && fail(&set, 1));
    let shrunk = EndpointSet { endpoints: set.endpoints[..3].to_vec() };
    assert_eq!(counts(&shrunk, AddressFamilies::Dual, &[]).len(), 3);
}

#[test]
fn each_family_has_a_half_of_its_own() {
    let set = set(&["10.0.0.1:80", "[fd00::1]:80", "10.0.0.2:80", "[fd00::2]:80"]);
    assert!(fail(&set, 0) && !fail(&set, 2) && fail(&set, 1) && !fail(&set, 3));
}

#[tokio::test(start_paused = true)]
async fn one_request_tries_what_was_spared_and_its_answer_ends_it() {
    let set = many(3);
    assert!(fail(&set, 0));
    tokio::time::advance(Duration::from_secs(2)).await;
    let choose = || choose(&set, AddressFamilies::Dual, &[]).expect("some");
    let trials = (0..100).filter(|_| Arc::ptr_eq(choose(), &set.endpoints[0])).count();
    assert_eq!(trials, 1);
    let trial = InFlight::begin(&set.endpoints[0].load);
    assert!(trial.note_answer() && !trial.note_answer());
    drop(trial);
    assert_eq!(counts(&set, AddressFamilies::Dual, &[]).len(), 3);
}

#[test]
fn of_many_threads_one_puts_it_out_and_one_tries_it() {
    let health = Health::default();
    let count = |work: &(dyn Fn() -> bool + Sync)| {
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(move || (0..1000).filter(|_| work()).count())).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum::<usize>()
        })
    };
    let early = health.standing();
    assert_eq!(count(&|| health.note_failure(early, 1, || true).is_some()), 1);
    assert_eq!(count(&|| health.take_trial(5_000)), 1);
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
