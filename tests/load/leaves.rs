//! Leaves that live for seconds: renewed under load, and hops made anew or continued.

use std::time::{Duration, Instant};

use node_proxy::demo::command::until;
use node_proxy::demo::world::World;

use crate::counts::PATIENCE;
use crate::load::Load;
use crate::stage::{CLIENTS, Mesh, Stage};

/// Who has leaves on which node.
const IDENTITIES: [(&str, &str); 6] = [
    ("node-a", "client-a"),
    ("node-b", "client-b"),
    ("node-a", "web"),
    ("node-b", "web"),
    ("node-a", "steady"),
    ("node-b", "steady"),
];

#[track_caller]
fn stage_with(lifetime_seconds: &str) -> Stage {
    let builder = World::builder().ca_arguments(&["--leaf-lifetime-seconds", lifetime_seconds]);
    Stage::set_in(builder, Mesh::On)
}

/// How many leaves the nodes have fetched, for the identity that has had the fewest.
#[track_caller]
fn fetched(stage: &mut Stage) -> usize {
    let counts = IDENTITIES.map(|(node, account)| {
        let log = stage.world.proxy(node).unwrap().log();
        let identity = format!("spiffe://cluster.local/ns/shop/sa/{account} ");
        log.lines().filter(|line| line.contains(&identity) && line.contains("certificate fetched")).count()
    });
    counts.into_iter().min().unwrap_or_default()
}

/// That each node has had hops continued, whose held connections would have been cut.
#[track_caller]
fn check_continued(stage: &mut Stage) {
    for (_, node) in CLIENTS {
        let log = stage.world.proxy(node).unwrap().log();
        let continued = log.matches("a hop is continued").count();
        assert!(continued > 0, "{node} has continued no hop");
    }
}

#[test]
fn a_renewal_fails_nothing() {
    const LIFE: u64 = 12;
    let mut stage = stage_with(&LIFE.to_string());
    let load = Load::start(&stage);
    let (begun, before) = (Instant::now(), fetched(&mut stage));
    while fetched(&mut stage) == before {
        load.pass(Duration::from_millis(500));
    }
    load.note("all leaves were renewed");
    // And until those have ended that what is held was made with.
    load.pass(Duration::from_secs(LIFE + 2).saturating_sub(begun.elapsed()));
    let counts = load.finish(&format!("leaves of {LIFE} s, renewed"));
    counts.check();
    assert_eq!(counts.grpc_connections, 1, "connections of the gRPC client");
    check_continued(&mut stage);
}

/// For how many seconds the leaf holds that ends first.
#[track_caller]
fn seconds_left(stage: &Stage) -> f64 {
    let mut left = Vec::new();
    for (_, node) in CLIENTS {
        let metrics = stage.world.admin(node, "/metrics").unwrap();
        let samples = metrics.lines().filter(|line| line.starts_with("gammarus_cert_expiry_seconds{"));
        left.extend(samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()));
    }
    assert_eq!(left.len(), IDENTITIES.len(), "{left:?}");
    left.into_iter().fold(f64::MAX, f64::min)
}

#[test]
fn a_ca_that_is_away_for_two_fifths_of_a_life_fails_nothing() {
    const LIFE: f64 = 30.0;
    let mut stage = stage_with(&LIFE.to_string());
    let load = Load::start(&stage);
    let begun = Instant::now();
    // Renewals are due at about half of a life: the CA goes before the first and comes back after the last.
    let (goes, returns) = (0.6 * LIFE, 0.2 * LIFE);
    let is_time = until(Duration::from_secs(30), || seconds_left(&stage) <= goes);
    assert!(is_time, "the leaves do not age: {:?}", seconds_left(&stage));
    load.note("the CA goes");
    stage.world.stop_ca().unwrap();
    let before = fetched(&mut stage);
    let is_time = until(Duration::from_secs(30), || seconds_left(&stage) <= returns);
    assert!(is_time && fetched(&mut stage) == before, "somebody renews without a CA");
    load.note("the CA is back");
    stage.world.start_ca().unwrap();
    let renewed = until(PATIENCE, || seconds_left(&stage) > goes);
    assert!(renewed, "not renewed after the CA was back: {:?}", seconds_left(&stage));
    load.note("all leaves were renewed");
    load.pass(Duration::from_secs_f64(LIFE + 2.0).saturating_sub(begun.elapsed()));
    let counts = load.finish("a CA that was away for 12 s of a life of 30 s");
    counts.check();
    assert_eq!(counts.grpc_connections, 1, "connections of the gRPC client");
    check_continued(&mut stage);
}
