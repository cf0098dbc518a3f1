//! A pod's life with a living proxy: ADD, CHECK, DEL, GC, STATUS in both versions of the specification.

use node_proxy::demo::command::until;

use super::rig::{Bench, PATIENCE, run};

#[track_caller]
fn check_life(version: &str) {
    let mut bench = Bench::set(version);
    let pod = bench.sandbox("shop", "walker");
    bench.cnitool("status", &pod).assert_success();
    bench.add(&pod);
    assert!(bench.tables(&pod).contains("gammarus"), "{version}: {}", bench.tables(&pod));
    assert!(bench.is_marked(&pod));
    bench.check_meshed(&pod);
    bench.cnitool("check", &pod).assert_success();

    // Somebody takes the rules away: CHECK says so.
    for table in bench.tables(&pod).lines().filter(|line| line.contains("gammarus")) {
        let delete = format!("delete {table}");
        run(&["ip", "netns", "exec", &pod.netns, "nft", &delete]).assert_success();
    }
    bench.cnitool("check", &pod).assert_failure(&["pod shop/walker is not enrolled as it should be"]);

    bench.cnitool("del", &pod).assert_success();
    assert!(until(PATIENCE, || !bench.is_marked(&pod)), "the mark outlived its pod");
    bench.cnitool("del", &pod).assert_success();
    // The same sandbox comes back.
    bench.add(&pod);
    bench.check_meshed(&pod);
    bench.cnitool("check", &pod).assert_success();
    bench.cnitool("gc", &pod).assert_success();
    if version != "1.0.0" {
        // Before it calls GC, the tool deletes what it knows of, having no list of what shall stay.
        assert!(until(PATIENCE, || !bench.is_marked(&pod)), "the mark outlived its pod");
    }
    bench.cnitool("del", &pod).assert_success();
    assert!(!bench.is_marked(&pod));
}

#[test]
fn an_enrolled_pod_lives_through_every_command_of_version_1_0() {
    check_life("1.0.0");
}

#[test]
fn an_enrolled_pod_lives_through_every_command_of_version_1_1() {
    check_life("1.1.0");
}

#[test]
fn a_pod_that_is_not_of_the_mesh_is_left_as_it_came() {
    let mut bench = Bench::set("1.1.0");
    let pod = bench.sandbox("outside", "stranger");
    bench.add(&pod);
    assert_eq!(bench.tables(&pod), "");
    assert!(!bench.is_marked(&pod));
    bench.cnitool("check", &pod).assert_success();
    bench.cnitool("del", &pod).assert_success();
    bench.cnitool("del", &pod).assert_success();
}
