//! Leaves that live for seconds: renewed under load, and hops made anew.

use std::time::Duration;

use node_proxy::demo::world::World;

use crate::counts::Kind;
use crate::load::Load;
use crate::stage::{Mesh, Stage};

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

/// Lets the load go on until each identity has been renewed so many times.
#[track_caller]
fn pass_renewals(load: &Load, stage: &mut Stage, renewals: usize) {
    let before = fetched(stage);
    for renewal in 1..=renewals {
        while fetched(stage) < before + renewal {
            load.pass(Duration::from_millis(500));
        }
        load.note(&format!("all leaves were renewed, {renewal}"));
    }
}

#[test]
fn a_renewal_fails_nothing() {
    // What is open lives as long as the leaves that it began with, so all of this happens within one life.
    let mut stage = stage_with("30");
    let load = Load::start(&stage);
    pass_renewals(&load, &mut stage, 1);
    load.pass(Duration::from_secs(2));
    let counts = load.finish("leaves of 30 s, renewed");
    counts.check();
    assert_eq!(counts.grpc_connections, 1, "connections of the gRPC client");
}

#[test]
fn whole_lives_of_leaves_fail_nothing() {
    // The shortest that the CA gives. Connections that are held for longer end with the leaves that they began with.
    let mut stage = stage_with("10");
    let load = Load::start_with(&stage, &[Kind::Http, Kind::Grpc, Kind::Fresh]);
    pass_renewals(&load, &mut stage, 3);
    let counts = load.finish("leaves of 10 s, three times renewed");
    counts.check();
    assert_eq!(counts.grpc_connections, 1, "connections of the gRPC client");
}
