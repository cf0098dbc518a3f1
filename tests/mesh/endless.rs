//! Bodies without end: what nobody reads is not read ahead, so that memory stays what it was.

use std::fs;

use node_proxy::demo::command::until;
use std::time::Duration;

use crate::rig::{PYTHON, Stage, stage};

/// What a proxy may come to hold more than before, in KiB: other tests move bodies at the same time. One that reads
/// ahead what it cannot pass on would hold all of it.
const MORE: u64 = 48 * 1024;
/// What goes through while somebody reads, in bytes.
const ENOUGH: &str = "300000000";

/// The memory of a node's proxy, in KiB.
#[track_caller]
fn resident(stage: &Stage, node: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", stage.proxies[node])).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Runs a shell's command in the client's pod, and returns what it prints; meanwhile no proxy grows.
#[track_caller]
fn check_bounded(stage: &Stage, name: &str, command: &str) -> String {
    let nodes = ["node-a", "node-b"];
    let before = nodes.map(|node| resident(stage, node));
    let mut most = before;
    let mut process = stage.world.spawn("client", name, &["sh", "-c", command]).unwrap();
    let ended = until(Duration::from_secs(50), || {
        for (most, node) in most.iter_mut().zip(nodes) {
            *most = resident(stage, node).max(*most);
        }
        !process.is_running()
    });
    assert!(ended, "{command} does not end: {}", process.last_words());
    for ((before, most), node) in before.into_iter().zip(most).zip(nodes) {
        assert!(most < before + MORE, "{node} grew from {before} to {most} KiB: {command}");
    }
    process.log()
}

#[test]
fn an_endless_answer_goes_through_for_as_long_as_it_is_read() {
    let stage = stage();
    for (name, url) in
        [("raw", "http://raw/endless"), ("go", "--http2-prior-knowledge http://go/bytes/1000000000000")]
    {
        let command = format!("curl -sN {url} | head -c {ENOUGH} | wc -c");
        let read = check_bounded(&stage, &format!("endless-{name}"), &command);
        assert_eq!(read.lines().last(), Some(ENOUGH), "{url}");
    }
}

#[test]
fn an_answer_that_nobody_reads_waits_at_its_server() {
    let stage = stage();
    for (name, url) in
        [("raw", "http://raw/endless"), ("go", "--http2-prior-knowledge http://go/bytes/1000000000000")]
    {
        let command = format!("curl -s --limit-rate 100k --max-time 3 -o /dev/null -w %{{http_code}} {url}");
        let status = check_bounded(&stage, &format!("unread-{name}"), &command);
        assert_eq!(status, "200", "{url}");
    }
}

/// Sends without end for three seconds or until it is cut off, and says how much was taken.
const PUSH: &str = r#"
import socket, sys, time
host, port, opening = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode().decode("unicode_escape").encode()
connection = socket.create_connection((host, port), 10)
connection.settimeout(0.2)
connection.sendall(opening)
piece = b"10000\r\n" + bytes(65536) + b"\r\n"
taken, end = 0, time.monotonic() + 2.5
while time.monotonic() < end:
    try:
        taken += connection.send(piece)
    except TimeoutError:
        pass
print(taken)
"#;

#[test]
fn a_body_that_its_server_does_not_read_waits_at_the_client() {
    let stage = stage();
    let post = r"POST /unread/3 HTTP/1.1\r\nHost: raw\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (name, port, opening) in [("http", 80, post), ("opaque", 9000, r"unread\n")] {
        let script = stage.file(&format!("push-{name}.py"));
        fs::write(&script, PUSH).unwrap();
        let command = format!("{PYTHON} {script} raw {port} '{opening}'");
        let taken = check_bounded(&stage, &format!("push-{name}"), &command);
        let taken: u64 = taken.trim().parse().unwrap_or_else(|error| panic!("{error}: {taken}"));
        // The kernels' buffers on the way are some megabytes each.
        assert!((100_000..100_000_000).contains(&taken), "{name}: {taken} bytes were taken");
    }
}
