//! Endpoints that come and go in order: first marked as terminating, then taken away, then ended.

use std::time::Duration;

use crate::load::Load;
use crate::stage::{Mesh, Stage};

#[test]
fn endpoints_that_come_and_go_in_order_fail_nothing() {
    let mut stage = Stage::set(Mesh::On);
    let load = Load::start(&stage);
    for round in 0..3 {
        for (number, node) in ["node-a", "node-b"].into_iter().enumerate() {
            let (old, new) =
                (format!("web-{}", 2 * round + number), format!("web-{}", 2 * round + number + 2));
            load.note(&format!("{new} starts on {node}"));
            stage.start_web(&new, node);
            stage.taken_in();
            load.pass(Duration::from_millis(500));
            load.note(&format!("{old} is terminating"));
            stage.begin_to_end_web(&old);
            stage.taken_in();
            load.pass(Duration::from_millis(500));
            load.note(&format!("{old} is no endpoint any more"));
            stage.forget_web(&old);
            stage.taken_in();
            load.note(&format!("{old} ends"));
            stage.world.remove_pod(&old).unwrap();
        }
    }
    load.pass(Duration::from_secs(1));
    let counts = load.finish("six endpoints that come and six that go");
    counts.check();
    assert_eq!(counts.grpc_connections, 1, "connections of the gRPC client");
}
