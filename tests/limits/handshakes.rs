//! Handshakes per second: a pod that needs more of them is told so, and its neighbours have theirs.

use std::thread;

use node_proxy::demo::command::until;
use node_proxy::demo::world::World;

use crate::stage::{MORE, PATIENCE, check_innocent, failures, get, stage};

/// Each port is a hop of its own.
const PORTS: u16 = 24;

#[test]
fn handshakes_beyond_the_limit_are_refused_for_the_moment() {
    let world = stage(World::builder().proxy_arguments(&["--max-handshakes-per-second-per-pod=4"]), PORTS);
    assert!(until(PATIENCE, || get(&world, "client", "server") == "200"));
    let answers: Vec<String> = thread::scope(|scope| {
        let ask = |port: u16| {
            let (world, url) = (&world, format!("http://server:{port}/"));
            scope.spawn(move || {
                let full = ["curl", "-s", "-i", "--max-time", "20", &url];
                world.exec("client", &full).unwrap().stdout
            })
        };
        let asking: Vec<_> = (MORE..MORE + PORTS).map(ask).collect();
        asking.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let served = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 200 ")).count();
    let refused = |answer: &&String| {
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\ngammarus-reason: handshake_limit\r\n")
    };
    let refused = answers.iter().filter(refused).count();
    println!(
        "{PORTS} hops at once with 4 handshakes per second: {served} requests served, {refused} refused"
    );
    assert_eq!(served + refused, usize::from(PORTS), "{answers:#?}");
    assert!(served >= 2 && refused >= 4, "{served} served, {refused} refused");
    assert!(failures(&world, "node-a", "outbound", "handshake_limit") >= refused as f64);
    check_innocent(&world, 20);
    // One by one, all of them come to be.
    for port in MORE..MORE + PORTS {
        let host = format!("server:{port}");
        assert!(until(PATIENCE, || get(&world, "client", &host) == "200"), "{host}");
    }
}
