//! A pod that was plugged in before our plugin was in the list: the runtime's cache leads to it.

use std::fs;

use node_proxy::demo::command::until;

use super::rig::{Bench, InList, NODE, PATIENCE};

#[test]
fn a_pod_of_the_runtimes_cache_joins_under_its_own_id_and_is_checked_and_deleted_by_it() {
    const VERSION: &str = "1.1.0";
    let mut bench = Bench::set(VERSION);
    bench.write_list(VERSION, InList::NotYet);
    let early = bench.sandbox("outside", "early");
    bench.add(&early);
    bench.show_host(&early);
    bench.write_list(VERSION, InList::Yes);
    assert_eq!(bench.tables(&early), "");
    let records = bench.world.running_node(NODE).unwrap().plugin_state().join("attachments");
    assert!(fs::read_dir(&records).map_or(0, Iterator::count) == 0, "nobody has told of it");

    bench.world.namespace("outside", &[("gammarus.io/mesh", "enabled")]).unwrap();
    let status = || bench.world.admin(NODE, "/status").unwrap();
    assert!(until(PATIENCE, || bench.is_marked(&early)), "{}", status());
    bench.check_meshed(&early);
    bench.cnitool("check", &early).assert_success();
    bench.cnitool("del", &early).assert_success();
    assert!(!bench.is_marked(&early));
    assert_eq!(fs::read_dir(&records).unwrap().count(), 0);
}
