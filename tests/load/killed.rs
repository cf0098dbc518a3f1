//! A proxy that is killed under load, with the CA away: what it carried is cut, and what comes then waits for the next.

use std::time::Duration;

use nix::sys::signal::Signal;
use node_proxy::demo::world::World;

use crate::counts::{Counts, Kind, PATIENCE};
use crate::load::{Load, say};
use crate::stage::{CLIENTS, Mesh, Stage};

/// So long after another proxy is there, what has begun while none was has its answer. That a connection waits for no
/// longer than this in all is for `tests/restart`, where nobody else wants the processors.
const SERVED: Duration = Duration::from_secs(2);
/// What may begin on a connection before its client can know that it was cut.
const HEARSAY: Duration = Duration::from_millis(50);

/// From when on a proxy was being killed until when it was gone, since the load's beginning.
type Gap = (Duration, Duration);

/// All that has failed was under way when a proxy was killed.
#[track_caller]
fn check_cut_alone(counts: &Counts, gaps: &[Gap]) {
    for failure in &counts.failures {
        // On a held connection, the cut is noticed with the next word, a second later at the latest.
        let until_next = if failure.kind == Kind::Held { Duration::from_secs(1) } else { Duration::ZERO };
        let is_cut = |(killed, gone): &Gap| {
            failure.at < *gone + until_next + HEARSAY && failure.at + failure.took + HEARSAY > *killed
        };
        assert!(gaps.iter().any(is_cut), "{failure:?} was not under way at {gaps:?}\n{counts:#}");
    }
}

#[test]
fn a_killed_proxy_cuts_what_is_open_and_what_comes_is_served() {
    let mut stage = Stage::set_in(World::builder().with_holders(), Mesh::On);
    stage.world.stop_ca().unwrap();
    let load = Load::start(&stage);
    let mut gaps = Vec::new();
    let mut longest = Duration::ZERO;
    for (_, node) in CLIENTS {
        load.note(&format!("the proxy of {node} is killed"));
        let killed = load.elapsed();
        stage.world.proxy(node).unwrap().stop(Signal::SIGKILL, PATIENCE).unwrap();
        gaps.push((killed, load.elapsed()));
        stage.world.restart_proxy(node).unwrap();
        longest = longest.max(load.elapsed() - killed);
        load.note(&format!("{node} has another"));
        load.pass(Duration::from_secs(2));
    }
    let counts = load.finish("two proxies killed, the CA away");
    counts.check_amount();
    let cut = Kind::ALL.map(|kind| format!("{} {kind}", counts.failed(kind)));
    say(&format!(
        "  without a proxy for {} ms at most; cut with it: {}",
        longest.as_millis(),
        cut.join(", ")
    ));
    check_cut_alone(&counts, &gaps);
    assert!(counts.failed(Kind::Held) > 0, "nothing was cut: nobody was killed\n{counts:#}");
    for (kind, count) in &counts.kinds {
        assert!(count.slowest < longest + SERVED, "{kind} was served after {:?}\n{counts:#}", count.slowest);
    }
}
