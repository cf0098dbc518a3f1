//! A terminating endpoint gets nothing new while another serves; what is under way there comes to its end.

use std::time::{Duration, Instant};

use node_proxy::demo::command::until;

use crate::stage::{PATIENCE, count, of, stage};

const READY: &str = "ready: true";
const LEAVING: &str = "ready: false, serving: true, terminating: true";

#[test]
fn a_terminating_endpoint_is_drained_without_a_failed_request() {
    let stage = stage();
    let spawn = |name: &str, arguments: &[&str]| {
        let full = [&["curl", "-s", "--max-time", "60", "-w", "|%{http_code}\n"], arguments].concat();
        stage.with(|world| world.spawn("client", name, &full).unwrap())
    };
    // Some of these go to either endpoint, and last beyond its leaving.
    let mut slow: Vec<_> = (0..6).map(|n| spawn(&format!("slow-{n}"), &["http://drained/slow/5"])).collect();
    let mut load = spawn("load", &["--rate", "100/s", "http://drained/load?n=[1-800]"]);
    let busy =
        || stage.logged("drained-1", "REQUEST /slow") > 0 && stage.logged("drained-1", "REQUEST /load") > 20;
    assert!(until(PATIENCE, busy), "drained-1 has nothing to do");
    stage.endpoints("drained", &[("drained-1", LEAVING), ("drained-2", READY)]);
    let begun = Instant::now();
    let asked = || stage.logged("drained-1", "REQUEST /load");
    let mut before = asked();
    // The new slice is read within a moment.
    let is_quiet = || {
        std::thread::sleep(Duration::from_millis(500));
        let quiet = asked() == before;
        before = asked();
        quiet
    };
    assert!(until(Duration::from_secs(3), is_quiet), "it is still asked");
    // All of its connections but those of the slow ones are closed: first the idle ones, in the end all.
    let open = || stage.logged("drained-1", "CONNECTION") - stage.logged("drained-1", "CLOSED");
    let under_way = stage.logged("drained-1", "REQUEST /slow");
    assert!(until(Duration::from_secs(3), || open() <= under_way), "{} open, {under_way} under way", open());
    println!("drained of idle connections after {:?}, {under_way} requests under way", begun.elapsed());
    for process in slow.iter_mut().chain([&mut load]) {
        assert!(until(PATIENCE, || !process.is_running()), "curl does not end");
    }
    assert_eq!(asked(), before, "nothing new came");
    for process in &slow {
        assert!(process.log().ends_with("|200\n"), "{}", process.log());
    }
    let log = load.log();
    assert_eq!(log.lines().filter(|line| line.ends_with("|200")).count(), 800, "{log}");
    assert!(until(Duration::from_secs(4), || open() == 0), "{} connections are still open", open());
    // Where nobody is ready, one that is leaving and still serves is better than none.
    stage.endpoints("drained", &[("drained-1", LEAVING), ("drained-2", "ready: false, serving: false")]);
    let leaving = || of(&stage.ask("http://drained/last", 10), "drained-1") == 10;
    assert!(until(PATIENCE, leaving), "{:?}", stage.ask("http://drained/last", 3));
    stage.endpoints("drained", &[("drained-1", READY), ("drained-2", READY)]);
    let both = || of(&stage.ask("http://drained/both", 20), "drained-2") > 2;
    assert!(until(PATIENCE, both));
    assert_eq!(count(&stage.ask("http://drained/end", 50), "200"), 50);
}
