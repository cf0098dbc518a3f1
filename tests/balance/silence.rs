//! A peer that has gone without a word: sent bytes are not waited for until the kernel's own patience ends.

use std::time::{Duration, Instant};

use node_proxy::demo::command::until;
use node_proxy::demo::world::World;

use crate::stage::{PATIENCE, ask, count, start_server};

const CUT: &str = "nft 'add table inet cut; add chain inet cut way { type filter hook forward priority -10; }; \
                   add rule inet cut way drop'";

#[test]
fn a_kept_connection_through_a_dead_network_ends_within_a_minute() {
    let mut world = World::builder().start().unwrap();
    world.node("node-a").unwrap();
    world.node("node-b").unwrap();
    world.namespace("shop", &[("gammarus.io/mesh", "enabled")]).unwrap();
    world.pod("client").namespace("shop").on("node-a").program(&["sleep", "infinity"]).start().unwrap();
    start_server(&mut world, "far", "far", "node-b");
    let service = "{apiVersion: v1, kind: Service, metadata: {name: far}, spec: {selector: {app: far}, \
                   ports: [{name: http, port: 80, targetPort: 8080}]}}";
    world.apply_in("shop", "service", service).unwrap();
    let answers = || count(&ask(&world, "client", "http://far/settle", &[], 1), "200") == 1;
    assert!(until(PATIENCE, answers));
    let hop = || world.access_log("node-a").unwrap().contains("mtls=yes");
    assert!(until(PATIENCE, || answers() && hop()));
    // A request goes out on the connection that is kept, and nothing ever comes back.
    assert!(answers());
    world.exec_on_node("node-b", &["sh", "-c", CUT]).unwrap().checked().unwrap();
    let begun = Instant::now();
    let full =
        ["curl", "-s", "--max-time", "120", "-o", "/dev/null", "-w", "%{http_code}", "http://far/lost"];
    let status = world.exec("client", &full).unwrap().stdout;
    let waited = begun.elapsed();
    println!("a request into a dead network: {status} after {waited:?}");
    // Left alone, the kernel tries for a quarter of an hour.
    assert!(
        (Duration::from_secs(15)..Duration::from_secs(45)).contains(&waited),
        "{status} after {waited:?}"
    );
    assert!(matches!(status.as_str(), "502" | "503"), "{status}");
    world.exec_on_node("node-b", &["nft", "delete table inet cut"]).unwrap().checked().unwrap();
    assert!(until(PATIENCE, answers), "it does not come back");
}
