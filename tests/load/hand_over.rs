//! One proxy after another under load, on both nodes in turn.

use std::time::{Duration, Instant};

use node_proxy::demo::command::{Process, until};
use node_proxy::demo::world::World;

use crate::load::Load;
use crate::stage::{CLIENTS, Mesh, Stage};

const HAND_OVERS: usize = 10;
/// How long an old proxy may take to end once nobody is served.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn ten_hand_overs_fail_nothing() {
    let mut stage = Stage::set_in(World::builder().with_holders(), Mesh::On);
    let load = Load::start(&stage);
    let mut old: Vec<(usize, Process)> = Vec::new();
    let mut slowest = Duration::ZERO;
    for number in 1..=HAND_OVERS {
        let (_, node) = CLIENTS[number % CLIENTS.len()];
        let begun = Instant::now();
        old.push((number, stage.world.hand_over(node).unwrap()));
        slowest = slowest.max(begun.elapsed());
        load.note(&format!("hand-over {number}, on {node}"));
        load.pass(Duration::from_millis(1000));
    }
    load.pass(Duration::from_secs(2));
    let draining = old.iter_mut().map(|(_, old)| old.is_running()).filter(|running| *running).count();
    let counts = load.finish(&format!(
        "{HAND_OVERS} hand-overs, the slowest in {} ms; {draining} old proxies still had connections",
        slowest.as_millis()
    ));
    counts.check();
    // With the load, everything has ended that they were waiting for.
    for (number, old) in &mut old {
        assert!(until(PATIENCE, || !old.is_running()), "hand-over {number}: {}", old.last_words());
        assert!(old.log().contains("drained"), "hand-over {number}: {}", old.last_words());
    }
}
