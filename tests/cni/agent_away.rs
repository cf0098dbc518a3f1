//! With the node's proxy dead: pods of the mesh wait, all others start, and every pod can go.

use nix::sys::signal::Signal;
use node_proxy::demo::command::until;

use super::rig::{Bench, NODE, PATIENCE};

#[test]
fn without_the_proxy_only_pods_of_the_mesh_wait_and_nothing_else_is_hurt() {
    let mut bench = Bench::set("1.1.0");
    let before = bench.sandbox("shop", "before");
    bench.add(&before);
    let [waits, stranger] =
        [("shop", "waits"), ("outside", "stranger")].map(|(ns, name)| bench.sandbox(ns, name));
    let early = bench.unseen_sandbox("later", "early");
    bench.world.proxy(NODE).unwrap().stop(Signal::SIGKILL, PATIENCE).unwrap();

    bench.cnitool("status", &before).assert_success();
    let socket = bench.world.running_node(NODE).unwrap().socket();
    let reason =
        ["does not answer on", &socket.display().to_string(), "pod shop/waits is of an enrolled namespace"];
    bench.cnitool("add", &waits).assert_failure(&reason);
    assert_eq!(bench.tables(&waits), "");
    bench.cnitool("del", &waits).assert_success();
    bench.cnitool("check", &before).assert_failure(&["does not answer on"]);

    bench.add(&stranger);
    bench.cnitool("check", &stranger).assert_success();
    // Nobody has ever seen the namespace of this one.
    bench.cnitool("add", &early).assert_success();
    assert_eq!(bench.tables(&early), "");
    // What is enrolled refuses, rather than passing in plain text; and it can go.
    assert!(bench.tables(&before).contains("gammarus"));
    assert!(bench.ask(&before, "/").contains("curl: (7)"), "{}", bench.ask(&before, "/"));
    bench.cnitool("del", &before).assert_success();
    bench.cnitool("del", &before).assert_success();
    bench.cnitool("del", &stranger).assert_success();

    // The proxy is back, and what it has missed turns out to be of the mesh.
    bench.world.namespace("later", &[("gammarus.io/mesh", "enabled")]).unwrap();
    bench.cnitool("check", &early).assert_success();
    bench.write_pod(&early, &[]);
    bench.world.restart_proxy(NODE).unwrap();
    assert!(until(PATIENCE, || bench.is_marked(&early)), "the pod was not enrolled");
    assert!(bench.tables(&early).contains("gammarus"));
    bench.cnitool("check", &early).assert_success();
    bench.check_meshed(&early);
    bench.cnitool("add", &waits).assert_success();
    assert!(bench.tables(&waits).contains("gammarus"));
    for pod in [&early, &waits] {
        bench.cnitool("del", pod).assert_success();
    }
}
