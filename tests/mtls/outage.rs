//! What is left when a process of the mesh is gone: never plain text, and never a stranger in its place.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::rig::{
    End, PATIENCE, accepted, connect, curl, curl_on_node, listen_in, logged, read_to_end, service, settle,
    stage, timed, url_of,
};

/// Kills the proxy of `node`; what goes through it is refused at once, and none of it is readable.
#[track_caller]
fn check_killed(node: &str) {
    let mut world = stage();
    world.pod("stranger").namespace("outside").on(node).app("stranger").unwrap().start().unwrap();
    let wire = world.capture().unwrap();
    world.proxy(node).unwrap().stop(Signal::SIGKILL, PATIENCE).unwrap();
    for url in [
        "http://server.shop/marker-killed",
        "http://guarded.vault/marker-killed",
        &url_of(&world, "server", "/marker-killed"),
    ] {
        let (refused, took) = timed(|| curl(&world, "client", &["--fail", url]));
        assert!(!refused.success(), "{url}: {refused:?}");
        assert!(took < Duration::from_secs(2), "{url} was refused only after {took:?}");
    }
    // Those who are in no mesh are untouched, on this node as well.
    let [asks, answers] = if node == "node-a" { ["stranger", "stranger"] } else { ["outsider", "stranger"] };
    let control = curl(&world, asks, &[&url_of(&world, answers, "/marker-control")]);
    assert!(control.stdout.starts_with("stranger: GET /marker-control"), "{control:?}");
    let across = curl(
        &world,
        if node == "node-a" { "stranger" } else { "outsider" },
        &[&url_of(&world, "server", "/marker-plain")],
    );
    assert_eq!(across.success(), node == "node-a", "{across:?}");
    let recording = wire.stop().unwrap();
    assert!(!recording.shows("marker-killed"), "a request was readable between the nodes");
    let seen = if node == "node-a" { "marker-plain" } else { "marker-control" };
    assert!(recording.shows(seen), "the capture sees nothing");
}

#[test]
fn a_killed_proxy_of_the_servers_node_means_refused() {
    check_killed("node-b");
}

#[test]
fn a_killed_proxy_of_the_clients_node_means_refused() {
    check_killed("node-a");
}

/// Ends the proxy of `node` while a connection between two pods is open; neither end takes its part for the whole.
#[track_caller]
fn check_cut_off(node: &str, signal: Signal) {
    let mut world = stage();
    let application = listen_in(&world, "server");
    let mut client = connect(&world, "client", service(&world, "server.shop", 9000)).unwrap();
    client.write_all(b"\x01a part").unwrap();
    let mut accepted = accepted(&application);
    accepted.write_all(b"a part").unwrap();
    let mut part = [0; 6];
    client.read_exact(&mut part).unwrap();
    accepted.read_exact(&mut part).unwrap();
    world.proxy(node).unwrap().stop(signal, PATIENCE).unwrap();
    assert_eq!(read_to_end(&mut client).1, End::Broken, "{node}, {signal}: the client's end");
    assert_eq!(read_to_end(&mut accepted).1, End::Broken, "{node}, {signal}: the server's end");
}

#[test]
fn a_proxy_that_is_stopped_or_killed_ends_no_connection_as_a_whole_one() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        for node in ["node-a", "node-b"] {
            check_cut_off(node, signal);
        }
    }
}

#[test]
fn without_the_ca_leaves_go_on_working_and_new_identities_wait() {
    let mut world = stage();
    world.stop_ca().unwrap();
    let answer = curl(&world, "client", &["http://server.shop/without-a-ca"]);
    assert!(answer.stdout.starts_with("server: GET /without-a-ca"), "{answer:?}");
    // The same identity needs nothing new, another one does.
    world.pod("client-2").namespace("shop").service_account("client").on("node-a").start().unwrap();
    settle(&world, "client-2", "http://server.shop/same-identity", "server");
    world.pod("newcomer").namespace("shop").service_account("newcomer").on("node-a").start().unwrap();
    let wire = world.capture().unwrap();
    let refused = curl(&world, "newcomer", &["-i", "http://server.shop/marker-newcomer"]);
    assert!(refused.stdout.starts_with("HTTP/1.1 503"), "{refused:?}");
    assert!(refused.stdout.contains("gammarus-reason: no_certificate"), "{refused:?}");
    logged(&world, "node-a", &["direction=outbound", "src.workload=newcomer", "reason=no_certificate"]);
    assert!(!wire.stop().unwrap().shows("marker-newcomer"));
    // And it is in nobody's way.
    let probe = curl_on_node(&world, "node-b", &[&url_of(&world, "guarded", "/probe")]);
    assert!(probe.success(), "{probe:?}");
    world.start_ca().unwrap();
    settle(&world, "newcomer", "http://server.shop/with-a-ca", "server");
}
