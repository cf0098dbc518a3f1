//! Which endpoint: the less loaded of two, and another one when a dial fails.

use crate::rig::stage;

#[test]
fn a_slow_endpoint_gets_fewer_requests() {
    let stage = stage();
    for (arguments, path) in [(vec!["--h1", "-c", "8"], "/uneven-1"), (vec!["--h1", "-c", "8"], "/uneven-2")]
    {
        let url = format!("http://uneven{path}");
        let full = [&["h2load", "-n", "300"], &arguments[..], &[&url]].concat();
        let done = stage.world.exec("client", &full).unwrap().checked().unwrap();
        assert!(done.stdout.contains("300 succeeded, 0 failed"), "{}", done.stdout);
        let [fast, slow] = ["fast", "slow"].map(|pod| stage.requests(pod, &format!("GET {path} ")).len());
        assert_eq!(fast + slow, 300);
        assert!(slow > 0 && slow * 4 < fast, "{path}: the slow one had {slow}, the fast one {fast}");
    }
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
