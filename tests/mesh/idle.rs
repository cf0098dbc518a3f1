//! Hops that are not needed any more end in good order: nobody takes the end of an idle hop for a truncation.

use std::time::Duration;

use node_proxy::demo::command::until;

use crate::rig::{Stage, hex, stage};

/// The inbound lines of connections from `source` to port `port` of `pod`, once all of its hops have ended.
#[track_caller]
fn ended_lines(stage: &Stage, (source, pod, port): (&str, &str, u16), count: usize) {
    let (node, from) = ("node-b", format!("src.workload={source} "));
    let to = format!("dst.addr={}:{port} ", stage.address(pod));
    let texts = ["direction=inbound", &from, &to];
    // An idle hop is kept for 15 seconds.
    assert!(
        until(Duration::from_secs(40), || stage.lines(node, &texts).len() >= count),
        "{pod}: {:#?}",
        stage.lines(node, &texts)
    );
    for line in stage.lines(node, &texts) {
        line.check(&[("level", "INFO"), ("reason", ""), ("mtls", "yes")]);
    }
}

#[test]
fn an_idle_hop_ends_with_close_notify() {
    let stage = stage();
    // `near` is nobody else's client on these ports.
    let get = |host: &str, path: &str| {
        let url = format!("http://{host}{path}");
        stage.world.exec("near", &["curl", "-sS", "--max-time", "10", &url]).unwrap().checked().unwrap();
    };
    get("raw", "/idle/declared");
    get("raw:81", "/idle/undeclared");
    get("raw", "/until-close");
    ended_lines(&stage, ("near", "raw", 8080), 2);
    let closed = || stage.app_log("raw").contains(&format!("CLOSED {}", stage.address("near")));
    assert!(until(Duration::from_secs(5), closed), "the application was not told");
}

#[test]
fn hops_of_http_2_and_unused_ones_end_in_good_order() {
    let stage = stage();
    let get = ["curl", "-sS", "--max-time", "10", "--http2-prior-knowledge", "http://go-1.shop:80/idle-h2"];
    stage.world.exec("near", &get).unwrap().checked().unwrap();
    // An undeclared port: the connection that was dialled for the first bytes is not used for HTTP/2.
    let get = ["curl", "-sS", "--max-time", "10", "--http2-prior-knowledge", "http://go:81/idle-h2"];
    stage.world.exec("near", &get).unwrap().checked().unwrap();
    // And one that was refused before it was used.
    let bad = "GET /idle HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
    let seen = stage.speak_from("near", "raw", 81, &[&hex(bad), "rest"]);
    assert!(seen.text.starts_with("HTTP/1.1 400 "), "{seen:?}");
    let texts = ["direction=inbound", "src.workload=near ", "level=WARN"];
    // The lines of unused hops come within the farewell of two seconds.
    let warned = until(Duration::from_secs(4), || {
        !stage.lines("node-b", &texts).is_empty() || !stage.lines("node-a", &texts).is_empty()
    });
    assert!(!warned, "{:#?} {:#?}", stage.lines("node-b", &texts), stage.lines("node-a", &texts));
}
