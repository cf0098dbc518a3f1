//! Requests with bodies that are tried again: how often the backend has had them, and what each try had of the body.

use std::fs;
use std::thread;

use node_proxy::demo::command::until;

use crate::grpc_programs::grpc_tool;
use crate::rig::{PATIENCE, Stage, hex, pattern, sha256, stage};

/// Both wires, as `curl` is told, and a word for paths.
const WIRES: [(&str, &str); 2] = [("--http1.1", "h1"), ("--http2-prior-knowledge", "h2")];

/// What `go-1` has had of the requests with this path or key, one after another: method, length, hash and trailer.
fn tries(stage: &Stage, path: &str) -> Vec<String> {
    let log = stage.app_log("go-1");
    let tries = log.lines().filter_map(|line| line.strip_prefix(&format!("FAIL {path} ")));
    tries.filter_map(|line| line.split_once(' ')).map(|(_number, had)| had.to_owned()).collect()
}

/// A file with so many bytes, and its hash.
fn body(stage: &Stage, size: usize) -> (String, String) {
    let file = stage.file(&format!("body-{size}"));
    fs::write(&file, pattern(size)).unwrap();
    let hash = sha256(&file);
    (file, hash)
}

/// The status that a request has, and why, if the proxy says so.
#[track_caller]
fn send(stage: &Stage, arguments: &[&str]) -> String {
    let fixed = ["-o", "/dev/null", "-w", "%{http_code} %header{gammarus-reason}"];
    stage.curl(&[&fixed, arguments].concat())
}

//= gateway-api HTTPRouteRetry.codes
//# Codes defines the HTTP response status codes for which a backend request should be retried.
#[test]
fn each_try_has_the_whole_body() {
    let stage = stage();
    for (wire, word) in WIRES {
        for (method, size) in [("PUT", 20), ("DELETE", 30_000), ("PUT", 64 * 1024)] {
            let (file, hash) = body(&stage, size);
            let path = format!("/fail/503/2/{method}-{size}-{word}");
            let url = format!("http://bodies{path}");
            let data = format!("@{file}");
            let answer = send(&stage, &[wire, "-X", method, "--data-binary", &data, &url]);
            assert_eq!(answer, "200 ", "{wire} {method} {size}");
            let whole = format!("{method} {size} {hash} ");
            assert_eq!(tries(&stage, &path), vec![whole; 3], "{wire} {method} {size}");
            let line = &stage.wait_lines("node-a", &[&format!("path={path} ")], 1)[0];
            line.check(&[("status", "200"), ("bytes_sent", &size.to_string())]);
        }
    }
}

#[test]
fn a_body_that_is_too_long_to_keep_is_sent_once() {
    let stage = stage();
    let (file, hash) = body(&stage, 200_000);
    let data = format!("@{file}");
    for (wire, word) in WIRES {
        // The backend's own answer is passed on, and a stream that broke is told as ever.
        for (how, answer) in [("503", "503 "), ("vanish", "502 upstream_reset")] {
            let path = format!("/fail/{how}/1/long-{word}");
            let url = format!("http://bodies{path}");
            let found = send(&stage, &[wire, "-X", "PUT", "--data-binary", &data, &url]);
            assert_eq!(found, answer, "{wire} {how}");
            assert_eq!(tries(&stage, &path), [format!("PUT 200000 {hash} ")], "{wire} {how}");
        }
    }
}

#[test]
fn a_body_that_was_sent_is_sent_again_only_where_that_is_safe() {
    let stage = stage();
    let (file, hash) = body(&stage, 3000);
    let data = format!("@{file}");
    for (wire, word) in WIRES {
        for (method, how, answer, count) in [
            ("PUT", "vanish", "200 ", 2),
            ("POST", "vanish", "502 upstream_reset", 1),
            ("POST", "503", "503 ", 1),
            ("PATCH", "503", "503 ", 1),
        ] {
            let path = format!("/fail/{how}/1/{method}-{word}");
            let url = format!("http://bodies{path}");
            let found = send(&stage, &[wire, "-X", method, "--data-binary", &data, &url]);
            assert_eq!(found, answer, "{wire} {method} {how}");
            let whole = format!("{method} 3000 {hash} ");
            assert_eq!(tries(&stage, &path), vec![whole; count], "{wire} {method} {how}");
        }
    }
}

#[test]
fn chunks_and_trailers_are_sent_again() {
    let stage = stage();
    let path = "/fail/503/2/trailers-h1";
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: pieces\r\nTrailer: X-Said\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let chunks = "2;an=extension\r\nab\r\n1\r\nc\r\n0\r\nX-Said: at the end\r\n\r\n";
    let seen = stage.speak("pieces", 80, &[&hex(&head), &hex(chunks), "read:request 3\n"]);
    assert!(seen.text.starts_with("HTTP/1.1 200 OK\r\n"), "{seen:?}");
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(tries(&stage, path), vec![format!("PUT 3 {abc} at the end"); 3]);

    let path = "/fail/503/2/trailers-h2";
    let url = format!("http://pieces{path}");
    let client = grpc_tool("grpc-client");
    let arguments = [&client[..], "-target", &url, "-size", "30000", "-method", "PUT", "http2"];
    let done = stage.world.exec("client", &arguments).unwrap().checked().unwrap();
    assert!(
        done.stdout.starts_with("status=200 ") && done.stdout.ends_with("request 3\n"),
        "{}",
        done.stdout
    );
    let (first, all) = (tries(&stage, path).first().cloned().unwrap_or_default(), tries(&stage, path));
    assert!(first.starts_with("PUT 30000 ") && first.ends_with(" at the end"), "{first}");
    assert_eq!(all, vec![first; 3]);
}

#[test]
fn a_client_that_waits_for_100_continue_sends_its_body_once() {
    let stage = stage();
    let path = "/fail/503/1/expect";
    let head =
        format!("PUT {path} HTTP/1.1\r\nHost: pieces\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    let steps = [&hex(&head)[..], "read:100 Continue\r\n\r\n", &hex("abc"), "read:request 2\n"];
    let seen = stage.speak("pieces", 80, &steps);
    assert!(seen.text.contains("\r\n\r\nHTTP/1.1 200 OK\r\n"), "{seen:?}");
    let had = tries(&stage, path);
    assert!(had.len() == 2 && had.iter().all(|had| had.starts_with("PUT 3 ba7816bf")), "{had:?}");
}

#[test]
fn a_try_goes_on_with_what_the_client_has_not_yet_sent() {
    let stage = stage();
    for (wire, word) in WIRES {
        let path = format!("/fail/early/2/{word}");
        let go_on = stage.file(&format!("go-on-{word}"));
        let sending = format!(
            "(printf first; until [ -e {go_on} ]; do sleep 0.02; done; printf ' and the rest') | \
             curl -sS {wire} --max-time 30 -T - -H Expect: http://pieces{path}"
        );
        let answer = thread::scope(|scope| {
            let sending = scope.spawn(|| stage.world.exec("client", &["sh", "-c", &sending]).unwrap());
            // Two tries have come to nothing while the client was silent.
            let both = until(PATIENCE, || tries(&stage, &path).len() == 2);
            fs::write(&go_on, "").unwrap();
            let answer = sending.join().unwrap().checked().unwrap().stdout;
            assert!(both, "{wire}: {:?}, {answer}", tries(&stage, &path));
            answer
        });
        assert_eq!(answer, "request 3\n", "{wire}");
        let lengths: Vec<_> =
            tries(&stage, &path).iter().map(|had| had[..had.len() - 66].to_owned()).collect();
        assert_eq!(lengths, ["PUT 5", "PUT 5", "PUT 18"], "{wire}");
    }
}

#[test]
fn calls_of_grpc_are_posts_and_sent_once() {
    let stage = stage();
    let client = grpc_tool("grpc-client");
    for (name, call) in [("unary", &["unary"][..]), ("upload", &["-count", "3", "upload"])] {
        let failing = format!("x-fail=1/{name}");
        let fixed = ["-target", "retried-calls:80", "-size", "1000", "-headers", &failing];
        let answer = stage.world.exec("client", &[&[&client[..]][..], &fixed[..], call].concat());
        let answer = answer.unwrap().checked().unwrap().stdout;
        assert!(answer.starts_with("code=Unavailable "), "{name}: {answer}");
        assert_eq!(tries(&stage, name).len(), 1, "{name}");
    }
}
