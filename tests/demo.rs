//! The demo and the worlds it is played on: the bare network first, then the whole story.

#![allow(clippy::unwrap_used, clippy::panic, reason = "the way in which a test fails")]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use node_proxy::demo::address::Families;
use node_proxy::demo::command::until;
use node_proxy::demo::pod::APP_PORT;
use node_proxy::demo::world::World;

/// Two pods on two nodes of a world without a mesh.
#[track_caller]
fn bare_world(families: Families) -> World {
    let mut world = World::builder().families(families).without_mesh().start().unwrap();
    world.node("node-a").unwrap();
    world.node("node-b").unwrap();
    world.pod("client").on("node-a").start().unwrap();
    world.pod("server").on("node-b").app("my-server").unwrap().start().unwrap();
    world
}

/// What is left of a world: namespaces, folders, processes in its namespaces.
fn remains(prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for place in ["/run/netns", "/etc/netns", "/tmp/gammarus-worlds"] {
        let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        found.extend(names.filter(|name| format!("{name}-").starts_with(prefix)));
    }
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        if command.contains(&format!("/{}/", prefix.trim_end_matches('-'))) {
            found.push(command);
        }
    }
    found
}

#[track_caller]
fn check_reach(families: Families) {
    let world = bare_world(families);
    for (number, address) in world.running_pod("server").unwrap().addresses.iter().enumerate() {
        let authority = std::net::SocketAddr::new(*address, APP_PORT);
        let url = format!("http://{authority}/marker-{number}");
        let answer = world.exec("client", &["curl", "-sS", "--max-time", "5", &url]).unwrap();
        let client = world.running_pod("client").unwrap().addresses[number];
        let expected = format!("my-server: GET /marker-{number} from {client}\n");
        assert_eq!(answer.stdout, expected, "{}", answer.stderr);
    }
}

#[test]
fn pods_of_two_nodes_reach_one_another_by_both_families_with_their_own_addresses() {
    check_reach(Families::Dual);
}

#[test]
fn a_world_of_one_family_has_that_family_only() {
    check_reach(Families::V4);
    check_reach(Families::V6);
}

#[test]
fn a_capture_between_the_nodes_shows_plain_text() {
    let world = bare_world(Families::Dual);
    let [client, server] = ["client", "server"].map(|name| world.running_pod(name).unwrap().addresses[0]);
    let capture = world.capture().unwrap();
    let url = format!("http://{server}:{APP_PORT}/marker-on-the-wire");
    world.exec("client", &["curl", "-sS", "--max-time", "5", &url]).unwrap().checked().unwrap();
    let recording = capture.stop().unwrap();
    assert!(recording.shows("marker-on-the-wire"));
    assert!(!recording.shows("marker-that-nobody-sent"));
    assert!(recording.packets(client, server).unwrap() >= 2);
}

#[test]
fn services_resolve_in_pods_under_the_names_of_cluster_dns() {
    let mut world = bare_world(Families::Dual);
    let service = "{apiVersion: v1, kind: Service, metadata: {name: my-server, namespace: shop}, \
                   spec: {ports: [{port: 80}], selector: {app: my-server}}}";
    world.apply(service).unwrap();
    world.pod("shopper").namespace("shop").start().unwrap();
    let resolves = |pod: &str, name: &str| world.exec(pod, &["getent", "hosts", name]).unwrap().success();
    for name in ["my-server.shop", "my-server.shop.svc", "my-server.shop.svc.cluster.local"] {
        assert!(resolves("client", name) && resolves("shopper", name), "{name}");
    }
    assert!(resolves("shopper", "my-server"));
    assert!(!resolves("client", "my-server"), "a short name is of one's own namespace");
}

#[test]
fn a_dropped_world_leaves_nothing_behind() {
    let world = bare_world(Families::Dual);
    let prefix = world.prefix().to_owned();
    assert!(!remains(&prefix).is_empty(), "nothing of a living world was found");
    drop(world);
    assert_eq!(remains(&prefix), Vec::<String>::new());
}

#[test]
fn a_world_that_panics_leaves_nothing_behind() {
    let (send, receive) = std::sync::mpsc::channel();
    let outcome = std::thread::spawn(move || {
        let world = bare_world(Families::V4);
        send.send(world.prefix().to_owned()).unwrap();
        panic!("as a failing test does");
    })
    .join();
    assert!(outcome.is_err());
    assert_eq!(remains(&receive.recv().unwrap()), Vec::<String>::new());
}

/// The demo as a process, stopped in the middle: its first node is there.
fn half_a_demo() -> (Child, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_node-proxy"));
    let demo = command.arg("demo").stdout(Stdio::null()).spawn().unwrap();
    let prefix = format!("gmr{}-0-", demo.id());
    let node = format!("/run/netns/{prefix}node-a");
    let begun = until(Duration::from_secs(60), || std::path::Path::new(&node).exists());
    assert!(begun, "the demo did not come to its first node");
    (demo, prefix)
}

#[test]
fn the_demo_plays_to_its_end_and_every_claim_holds() {
    let demo = Command::new(env!("CARGO_BIN_EXE_node-proxy")).arg("demo").output().unwrap();
    let text = String::from_utf8_lossy(&demo.stdout);
    assert!(demo.status.success(), "{text}\n{}", String::from_utf8_lossy(&demo.stderr));
    let last = text.lines().last().unwrap_or_default();
    assert!(last.ends_with(" checks passed, 0 failed") && !last.starts_with("0 "), "{last}");
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let (mut demo, prefix) = half_a_demo();
        kill(Pid::from_raw(demo.id().cast_signed()), signal).unwrap();
        assert_eq!(demo.wait().unwrap().code(), Some(code));
        assert_eq!(remains(&prefix), Vec::<String>::new());
    }
}

#[test]
fn what_a_killed_demo_left_is_swept_when_the_next_world_is_made() {
    let (mut demo, prefix) = half_a_demo();
    demo.kill().unwrap();
    demo.wait().unwrap();
    // And one that was killed while it took its world down.
    let half_removed = std::path::Path::new("/tmp/gammarus-worlds/gmr1-0");
    std::fs::create_dir_all(half_removed.join("node-a")).unwrap();
    // A command that the demo was starting when it was killed holds its claim until it has started.
    let swept = || {
        drop(World::builder().without_mesh().start().unwrap());
        remains(&prefix).is_empty() && !half_removed.exists()
    };
    assert!(until(Duration::from_secs(10), swept), "{:?}", remains(&prefix));
}
