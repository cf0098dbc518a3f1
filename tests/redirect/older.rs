//! Pods that are older than the plugin: they join when they are to, as all others, and never one in another's place.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use node_proxy::demo::command::until;
use node_proxy::demo::world::World;

use crate::rig::run;

const PATIENCE: Duration = Duration::from_secs(60);
const ENABLED: [(&str, &str); 1] = [("gammarus.io/mesh", "enabled")];
const FLAGS: [&str; 3] = ["--lag-seconds=1", "--release-seconds=1", "--inspection-seconds=2"];

/// A world in which the pod `old` of `node-a` is older than the plugin; its namespace `shop` is not of the mesh yet. The
/// pod `peer` of `node-b` is, with a Service for each.
#[track_caller]
fn world() -> World {
    let mut world = World::builder().proxy_arguments(&FLAGS).start().unwrap();
    world.node("node-a").unwrap();
    world.node("node-b").unwrap();
    world.namespace("shop", &[]).unwrap();
    world.namespace("peers", &ENABLED).unwrap();
    for (namespace, name) in [("shop", "old"), ("peers", "peer")] {
        let service = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, \
             spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}}}"
        );
        world.apply_in(namespace, name, &service).unwrap();
    }
    let old =
        world.pod("old").namespace("shop").service_account("old").on("node-a").labels(&[("app", "old")]);
    old.before_plugin().app("old").unwrap().start().unwrap();
    let peer = world.pod("peer").namespace("peers").service_account("peer").on("node-b");
    peer.labels(&[("app", "peer")]).app("peer").unwrap().start().unwrap();
    world
}

fn is_marked(world: &World) -> bool {
    world.objects_dir().join("status/pods/shop.old.yaml").exists()
}

#[track_caller]
fn rules(netns: &str) -> String {
    run(&format!("ip netns exec {netns} nft list ruleset"))
}

#[track_caller]
fn must_join(world: &World) {
    assert!(until(PATIENCE, || is_marked(world)), "{}", world.admin("node-a", "/status").unwrap());
    assert!(rules(&world.running_pod("old").unwrap().netns).contains("redirect to :15006"));
}

/// Requests both ways are carried by mTLS with the pod's own identity.
#[track_caller]
fn must_be_meshed(world: &World, path: &str) {
    for (client, server) in [("old", "peer.peers"), ("peer", "old.shop")] {
        let url = format!("http://{server}{path}");
        let answered = || {
            let answer = world.exec(client, &["curl", "-sS", "--max-time", "3", &url]).unwrap();
            answer.stdout.contains(path)
        };
        let node = if client == "old" { "node-a" } else { "node-b" };
        let source = format!("src.workload={client} ");
        let expected = [&source, path, "mtls=yes", "/ns/shop/sa/old"];
        let carried = || {
            let log = world.access_log(node).unwrap();
            answered() && log.lines().any(|line| expected.iter().all(|part| line.contains(part)))
        };
        assert!(until(PATIENCE, carried), "{client} to {server}: {}", world.access_log(node).unwrap());
    }
}

/// A namespace with the addresses of `old` that is nobody's; deleted at the end.
struct Twin(String);

impl Twin {
    #[track_caller]
    fn of_old(world: &World) -> Self {
        let twin = Self(format!("{}twin", world.prefix()));
        run(&format!("ip netns add {}", twin.0));
        run(&format!("ip -n {} link add eth0 type veth peer name eth1", twin.0));
        for address in &world.running_pod("old").unwrap().addresses {
            run(&format!("ip -n {} addr add {address} dev eth0 nodad", twin.0));
        }
        twin
    }

    /// Where it is on a node; gone with what is returned.
    #[track_caller]
    fn on(&self, world: &World, node: &str) -> PathBuf {
        let named = world.running_node(node).unwrap().host_root().join("run/netns/twin");
        symlink(Path::new("/run/netns").join(&self.0), &named).unwrap();
        named
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

#[test]
fn a_pod_that_is_older_than_the_plugin_joins_with_its_label_and_is_then_as_all_others() {
    let mut world = world();
    let twin = Twin::of_old(&world);
    twin.on(&world, "node-b");
    world.namespace("shop", &ENABLED).unwrap();
    must_join(&world);
    must_be_meshed(&world, "/joined");
    let capture = world.capture().unwrap();
    must_be_meshed(&world, "/only-for-peers");
    assert!(!capture.stop().unwrap().shows("/only-for-peers"));
    assert_eq!(rules(&twin.0), "", "an address on another node is nothing to this one");

    // It has a record by now: the next proxy knows it, and its connections never pass in between.
    world.proxy("node-a").unwrap().stop(Signal::SIGKILL, PATIENCE).unwrap();
    let refused = world.exec("peer", &["curl", "-sS", "--max-time", "3", "http://old.shop/gap"]).unwrap();
    assert!(!refused.stdout.contains("/gap"), "{refused:?}");
    world.restart_proxy("node-a").unwrap();
    must_be_meshed(&world, "/again");
    let logs = fs::read_to_string(world.running_node("node-a").unwrap().dir.join("proxy-2.log")).unwrap();
    assert!(!logs.contains("no ADD has told of"), "{logs}");

    world.namespace("shop", &[]).unwrap();
    let netns = world.running_pod("old").unwrap().netns.clone();
    // What was redirected, such as an idle hop, lives on; nothing new is.
    let is_released = || !is_marked(&world) && !rules(&netns).contains("redirect to");
    assert!(until(PATIENCE, is_released), "{}", rules(&netns));
    world.namespace("shop", &ENABLED).unwrap();
    must_join(&world);
    world.remove_pod("old").unwrap();
    assert!(until(PATIENCE, || !is_marked(&world)), "the mark outlived its pod");
}

#[test]
fn an_address_that_two_namespaces_of_a_node_hold_is_taken_for_nobodys_until_one_goes() {
    let mut world = world();
    let twin = Twin::of_old(&world);
    let named = twin.on(&world, "node-a");
    world.namespace("shop", &ENABLED).unwrap();
    let status = || world.admin("node-a", "/status").unwrap();
    assert!(until(PATIENCE, || status().contains("namespace_ambiguous")), "{}", status());
    assert!(status().contains(&named.display().to_string()), "{}", status());
    for netns in [&twin.0, &world.running_pod("old").unwrap().netns] {
        assert_eq!(rules(netns), "");
    }
    let metrics = world.admin("node-a", "/metrics").unwrap();
    assert!(metrics.contains("gammarus_pods_unenrolled{reason=\"namespace_ambiguous\"} 1"), "{metrics}");
    fs::remove_file(named).unwrap();
    must_join(&world);
    assert!(until(PATIENCE, || !status().contains("namespace_ambiguous")), "{}", status());
}

#[test]
fn a_pod_whose_namespace_has_no_name_is_found_by_its_processes() {
    let mut world = world();
    let process = world.application("old").unwrap().id().to_string();
    let root = world.running_node("node-a").unwrap().host_root();
    // The pod ends with its name there, as all others.
    fs::remove_file(root.join("run/netns/old")).unwrap();
    world.namespace("shop", &ENABLED).unwrap();
    let status = || world.admin("node-a", "/status").unwrap();
    assert!(until(PATIENCE, || status().contains("namespace_not_found")), "{}", status());
    fs::create_dir(root.join("proc")).unwrap();
    symlink(Path::new("/proc").join(&process), root.join("proc").join(&process)).unwrap();
    must_join(&world);
    must_be_meshed(&world, "/by-process");
}
