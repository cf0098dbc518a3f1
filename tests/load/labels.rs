//! Pods that run join the mesh and leave it as their labels say, under load.

use std::time::Duration;

use node_proxy::demo::command::until;
use node_proxy::demo::world::World;
use node_proxy::demo::world::WorldBuilder;

use crate::load::Load;
use crate::stage::{CLIENTS, Mesh, Stage};

/// Each step waits for several of the proxies' own times.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the proxies are told, in seconds: how far a view may be behind, and how long a release waits for peers.
const LAG: u64 = 2;
const SERVERS: [&str; 4] = ["steady-0", "steady-1", "web-0", "web-1"];

fn builder() -> WorldBuilder {
    World::builder().proxy_arguments(&["--lag-seconds=2", "--release-seconds=3", "--inspection-seconds=2"])
}

fn is_captured(stage: &Stage, pod: &str) -> bool {
    stage.world.exec(pod, &["nft", "list", "ruleset"]).unwrap().stdout.contains("redirect to :15001")
}

fn is_marked(stage: &Stage, pod: &str) -> bool {
    stage.world.objects_dir().join(format!("status/pods/shop.{pod}.yaml")).exists()
}

#[track_caller]
fn wait_for_members(stage: &Stage, load: &Load, pods: &[&str]) {
    for pod in pods {
        let joined = until(PATIENCE, || is_marked(stage, pod));
        assert!(joined && is_captured(stage, pod), "{pod} has not joined: {}", troubles(stage));
    }
    load.note("all are marked");
    load.pass(Duration::from_secs(LAG + 1));
}

#[track_caller]
fn wait_for_released(stage: &Stage, load: &Load, pods: &[&str]) {
    for pod in pods {
        let released = until(PATIENCE, || !is_marked(stage, pod) && !is_captured(stage, pod));
        assert!(released, "{pod} is not released");
    }
    load.note("none is captured");
    load.pass(Duration::from_secs(1));
}

fn troubles(stage: &Stage) -> String {
    CLIENTS.map(|(_, node)| stage.world.admin(node, "/status").unwrap_or_default()).join("\n")
}

/// How many connections and requests were carried by the hop so far.
fn carried(stage: &Stage) -> usize {
    let lines = |node| stage.world.access_log(node).unwrap().matches("mtls=yes").count();
    CLIENTS.iter().map(|(_, node)| lines(node)).sum()
}

/// The load uses the hop, or does not.
#[track_caller]
fn check_hop(stage: &Stage, load: &Load, is_used: bool) {
    // What is under way was begun before.
    load.pass(Duration::from_secs(1));
    let before = carried(stage);
    load.pass(Duration::from_secs(1));
    assert_eq!(carried(stage) > before, is_used, "{before} before, {} after", carried(stage));
}

#[test]
fn the_label_of_a_namespace_comes_and_goes_and_fails_nothing() {
    let all: Vec<&str> = SERVERS.into_iter().chain(CLIENTS.map(|(client, _)| client)).collect();
    let mut stage = Stage::set_in(builder(), Mesh::Off);
    // Its held connections are older than the mesh, and those of the second one older than the release.
    let plain = Load::start(&stage);
    stage.label(Mesh::On);
    plain.note("labelled");
    wait_for_members(&stage, &plain, &all);
    check_hop(&stage, &plain, true);
    let meshed = Load::start(&stage);
    stage.label(Mesh::Off);
    plain.note("unlabelled");
    meshed.note("unlabelled");
    wait_for_released(&stage, &plain, &all);
    plain.finish("older than the mesh").check();
    stage.label(Mesh::On);
    meshed.note("labelled again");
    wait_for_members(&stage, &meshed, &all);
    check_hop(&stage, &meshed, true);
    let counts = meshed.finish("older than the release");
    counts.check();
    assert_eq!(counts.grpc_connections, 1, "connections of the gRPC client");
    stage.label(Mesh::Off);
    for pod in all {
        let gone = || stage.world.exec(pod, &["nft", "list", "tables"]).unwrap().stdout.is_empty();
        assert!(until(PATIENCE, gone), "{pod} keeps its rules after its last connection");
    }
}

#[test]
fn servers_and_clients_opt_out_and_back_in_either_order_and_fail_nothing() {
    let mut stage = Stage::set_in(builder(), Mesh::On);
    let clients = CLIENTS.map(|(client, _)| client);
    let load = Load::start(&stage);
    for (first, second) in [(&SERVERS[..], &clients[..]), (&clients[..], &SERVERS[..])] {
        for pods in [first, second] {
            pods.iter().for_each(|pod| stage.world.label_pod(pod, "gammarus.io/mesh", "disabled").unwrap());
            load.note(&format!("{pods:?} opt out"));
            wait_for_released(&stage, &load, pods);
        }
        for pods in [first, second] {
            pods.iter().for_each(|pod| stage.world.label_pod(pod, "gammarus.io/mesh", "enabled").unwrap());
            load.note(&format!("{pods:?} are back"));
            wait_for_members(&stage, &load, pods);
        }
        check_hop(&stage, &load, true);
    }
    let counts = load.finish("out and in, in either order");
    counts.check();
    assert_eq!(counts.grpc_connections, 1, "connections of the gRPC client");
}

#[test]
fn a_release_that_is_taken_back_at_any_point_fails_nothing() {
    let all: Vec<&str> = SERVERS.into_iter().chain(CLIENTS.map(|(client, _)| client)).collect();
    let mut stage = Stage::set_in(builder(), Mesh::On);
    let load = Load::start(&stage);
    for pause in [300, 1800, 4500] {
        stage.label(Mesh::Off);
        load.note("unlabelled");
        load.pass(Duration::from_millis(pause));
        stage.label(Mesh::On);
        load.note("labelled again");
        wait_for_members(&stage, &load, &all);
    }
    check_hop(&stage, &load, true);
    load.finish("taken back").check();
}
