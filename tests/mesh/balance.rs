//! Which endpoint: the less loaded of two, and another one when a dial fails.

use std::time::{Duration, Instant};

use crate::rig::stage;

#[test]
fn a_slow_endpoint_gets_fewer_requests() {
    let stage = stage();
    let arguments = ["h2load", "--h1", "-n", "600", "-c", "8", "http://uneven/uneven"];
    let done = stage.world.exec("client", &arguments).unwrap().checked().unwrap();
    assert!(done.stdout.contains("600 succeeded, 0 failed"), "{}", done.stdout);
    let [fast, slow] = ["fast", "slow"].map(|pod| stage.requests(pod, "GET /uneven ").len());
    assert_eq!(fast + slow, 600);
    assert!(slow > 0 && slow * 2 < fast, "the slow one had {slow}, the fast one {fast}");
}

#[test]
fn requests_that_wait_for_one_dial_fail_with_it() {
    let stage = stage();
    let stage = &stage;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        // Several on every thread of the proxy. One after the other, they would take 10 s each: 5 s for each of
        // the two addresses.
        for number in 0..6 {
            scope.spawn(move || {
                let url = format!("http://silent/never/{number}");
                let answer = stage.curl(&["--http2-prior-knowledge", "-i", &url]);
                assert!(answer.contains("gammarus-reason: connect_failed"), "{answer}");
            });
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[test]
fn another_endpoint_answers_when_one_refuses_the_dial() {
    let stage = stage();
    let answers =
        stage.curl(&["-o", "/dev/null", "-w", "%{http_code}\n", "http://half/tried-again?n=[1-50]"]);
    assert_eq!(answers, "200\n".repeat(50));
    // Each of them on a connection of its own, and for requests that may not be sent twice: a refused dial sent nothing.
    let post = [
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}\n",
        "-H",
        "Connection: close",
        "-d",
        "x",
        "http://half/tried-again?n=[1-50]",
    ];
    assert_eq!(stage.curl(&post), "200\n".repeat(50));
    let lines = stage.wait_lines("node-a", &["path=/tried-again ", "status=200"], 100);
    assert!(lines.iter().all(|line| line.at("dst.workload") == "fast" && line.at("level") == "INFO"));
}
