//! A pod that asks as much as it can, beside one that does not.

use node_proxy::demo::command::until;
use node_proxy::demo::world::World;

use crate::stage::{PATIENCE, check_innocent, failures, get, stage};

#[test]
fn a_flood_of_one_pod_is_refused_beyond_its_limit_and_its_neighbour_is_served() {
    let world = stage(World::builder().proxy_arguments(&["--max-connections-per-pod=200"]), 0);
    // Until the servers listened, whoever asked was told so.
    let begun = world.access_log("node-a").unwrap().len();
    let alone = check_innocent(&world, 100);
    // More connections than it may have, each tried again and again, and as many requests as go through them.
    let flood = ["wrk", "-t2", "-c400", "-d120s", "http://server/"];
    let flood = world.spawn("client", "flood", &flood).unwrap();
    let floods_over = || failures(&world, "node-a", "outbound", "pod_limit") > 100.0;
    assert!(until(PATIENCE, floods_over), "the flood is not refused");
    let beside = check_innocent(&world, 300);
    let refused = failures(&world, "node-a", "outbound", "pod_limit");
    println!(
        "longest request of an innocent pod: {alone:?} alone, {beside:?} beside a flood; {refused} refused"
    );
    let log = world.access_log("node-a").unwrap();
    let failed = |line: &&str| line.contains("src.workload=innocent ") && line.contains("reason=");
    assert_eq!(log[begun..].lines().filter(failed).collect::<Vec<_>>(), Vec::<&str>::new());
    drop(flood);
    assert!(
        until(PATIENCE, || get(&world, "client", "server") == "200"),
        "the pod's own seats are free again"
    );
}
