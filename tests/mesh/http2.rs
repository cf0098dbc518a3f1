//! HTTP/2 by prior knowledge: many streams, bodies, trailers, and each request with a plan of its own.

use std::collections::BTreeMap;
use std::fs;

use crate::grpc_programs::grpc_tool;
use crate::rig::{hex, pattern, sha256, stage};

const H2: &str = "--http2-prior-knowledge";

#[test]
fn many_streams_of_many_connections_all_succeed_at_both_endpoints() {
    let stage = stage();
    let arguments = ["h2load", "-n", "2000", "-c", "4", "-m", "50", "http://go/h2load"];
    let done = stage.world.exec("client", &arguments).unwrap().checked().unwrap();
    assert!(done.stdout.contains("2000 succeeded, 0 failed, 0 errored"), "{}", done.stdout);
    let lines = stage.wait_lines("node-a", &["path=/h2load ", "protocol=http2", "status=200"], 2000);
    let mut counts = BTreeMap::new();
    for line in &lines {
        *counts.entry(line.at("dst.workload").to_owned()).or_insert(0) += 1;
    }
    assert!(counts.len() == 2 && counts.values().all(|count| *count > 300), "{counts:?}");
}

#[test]
fn h2load_by_http_1_1_succeeds_as_well() {
    let stage = stage();
    let arguments = ["h2load", "--h1", "-n", "1000", "-c", "20", "http://go/h1load"];
    let done = stage.world.exec("client", &arguments).unwrap().checked().unwrap();
    assert!(done.stdout.contains("1000 succeeded, 0 failed, 0 errored"), "{}", done.stdout);
    let lines = stage.wait_lines("node-a", &["path=/h1load ", "status=200"], 1000);
    assert!(lines.iter().any(|line| line.at("dst.workload") == "go-1"));
    assert!(lines.iter().any(|line| line.at("dst.workload") == "go-2"));
}

#[test]
fn each_request_is_routed_by_itself() {
    let stage = stage();
    let ask = |arguments: &[&str]| stage.curl(&[&[H2, "-w", "%{http_version}\n"], arguments].concat());
    assert!(ask(&["http://routed/ok/h2"]).starts_with("go-1 HTTP/2.0 0 "));
    assert!(ask(&["-H", "version: new", "http://routed/ok/h2"]).starts_with("go-2 HTTP/2.0 0 "));
    let missing = ask(&["-i", "http://routed/no-rule/h2"]);
    assert!(
        missing.starts_with("HTTP/2 404") && missing.contains("gammarus-reason: no_matching_rule"),
        "{missing}"
    );
    let head = ask(&["-I", "http://routed/no-rule/h2-head"]);
    assert!(head.starts_with("HTTP/2 404"), "{head}");
    for (path, status, reason) in [
        ("/invalid/h2", "500", "invalid_backend"),
        ("/nobody/h2", "503", "no_endpoint"),
        ("/deaf/h2", "503", "connect_failed"),
    ] {
        let answer = ask(&["-i", &format!("http://routed{path}")]);
        assert!(answer.starts_with(&format!("HTTP/2 {status}")), "{answer}");
        assert!(answer.contains(&format!("gammarus-reason: {reason}")), "{answer}");
        stage.wait_lines("node-a", &[&format!("path={path} ")], 1)[0].check(&[
            ("status", status),
            ("reason", reason),
            ("protocol", "http2"),
        ]);
    }
}

#[test]
fn a_failure_under_an_http_route_is_one_of_http_whatever_the_request_carries() {
    let stage = stage();
    let call = [H2, "-i", "-X", "POST", "-H", "content-type: application/grpc"];
    for (path, status) in [("/no-rule/as-grpc", "404"), ("/invalid/as-grpc", "500")] {
        let answer = stage.curl(&[&call[..], &[&format!("http://routed{path}")]].concat());
        assert!(answer.starts_with(&format!("HTTP/2 {status}")), "{answer}");
    }
    // A content type has no case (RFC 9110 section 8.3.1).
    let call = [H2, "-i", "-X", "POST", "-H", "content-type: Application/GRPC+proto"];
    let answer = stage.curl(&[&call[..], &["http://calls:50051/no/Rule"]].concat());
    assert!(answer.starts_with("HTTP/2 200") && answer.contains("grpc-status: 12"), "{answer}");
}

#[test]
fn a_head_with_too_many_fields_is_refused() {
    let stage = stage();
    let fields: Vec<String> = (0..101).map(|number| format!("x-{number}: 1")).collect();
    let fields: Vec<&str> = fields.iter().flat_map(|field| ["-H", field]).collect();
    let answer = stage.curl(&[&[H2, "-i"], &fields[..], &["http://go/h2-many-fields"]].concat());
    assert!(answer.starts_with("HTTP/2 431"), "{answer}");
    assert!(answer.contains("gammarus-reason: head_too_large"), "{answer}");
}

#[test]
fn a_request_with_host_and_without_an_authority_is_served() {
    // The preface, an empty SETTINGS, and HEADERS: indexed `:method: GET`, `:scheme: http`, `:path: /`, and a
    // literal `host: go` (RFC 7541 section 6).
    let head = ["82", "86", "84", "00", "04", &hex("host"), "02", &hex("go")].concat();
    let headers = format!("{:06x}010500000001{head}", head.len() / 2);
    let opening = [&hex("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), "000000040000000000", &headers].concat();
    let seen = stage().speak("go", 80, &[&opening, "read:HTTP/2.0"]);
    assert!(seen.text.contains(" HTTP/2.0 0 "), "{seen:?}");
}

/// A GOAWAY frame before any stream, with `PROTOCOL_ERROR` (RFC 9113 section 6.8).
const PROTOCOL_ERROR: &str = "\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x01";

#[test]
fn what_begins_neither_version_is_answered_by_the_one_that_is_declared() {
    let stage = stage();
    let steps = [&*hex("NO PREFACE\r\n\r\n"), "half", "rest"];
    let seen = stage.speak("go", 80, &steps);
    assert!(seen.text.starts_with("HTTP/1.1 400 ") && seen.end == "closed", "{seen:?}");
    let seen = stage.speak("streams", 50051, &steps);
    let settings = "\0\0\0\x04\0\0\0\0\0";
    assert_eq!((&*seen.text, &*seen.end), (&*[settings, PROTOCOL_ERROR].concat(), "closed"), "{seen:?}");
    stage.wait_lines("node-a", &["shop/streams ", "reason=malformed_request", "protocol=http2"], 1);
    // HTTP/1.1 that is only malformed is told so in its own words.
    let bad = hex("GET  / HTTP/1.1\r\nHost: streams\r\n\r\n");
    let seen = stage.speak("streams", 50051, &[&bad, "half", "rest"]);
    assert!(seen.text.starts_with("HTTP/1.1 400 "), "{seen:?}");
}

#[test]
fn the_crumbs_of_a_cookie_are_one_cookie() {
    let stage = stage();
    let crumbs = ["-H", "cookie: a=1", "-H", "cookie: b=2"];
    let answer = stage.curl(&[&[H2][..], &crumbs, &["http://routed/crumbs"]].concat());
    assert!(answer.starts_with("go-2 "), "{answer}");
}

#[test]
fn large_bodies_pass_both_ways() {
    const LARGE: usize = 20_000_000;
    let stage = stage();
    let file = stage.file("h2-upload");
    fs::write(&file, pattern(LARGE)).unwrap();
    let answer = stage.curl(&[H2, "--data-binary", &format!("@{file}"), "http://go/h2-upload"]);
    assert!(answer.ends_with(&format!(" HTTP/2.0 {LARGE} {}\n", sha256(&file))), "{answer}");
    let down = stage.file("h2-download");
    let found = stage.curl(&[
        H2,
        "-o",
        &down,
        "-w",
        "%{http_code} %{size_download}",
        &format!("http://go/bytes/{LARGE}"),
    ]);
    assert_eq!(found, format!("200 {LARGE}"));
    let got = fs::read(&down).unwrap();
    let expected = (0..LARGE).map(|index| u8::try_from(index % 65536 % 256 * 7 % 256).unwrap());
    assert!(got.into_iter().eq(expected), "the bytes differ");
    let line = &stage.wait_lines("node-a", &["path=/h2-upload "], 1)[0];
    line.check(&[("bytes_sent", &LARGE.to_string()), ("mtls", "yes"), ("protocol", "http2")]);
    let line = &stage.wait_lines("node-a", &[&format!("path=/bytes/{LARGE} "), "protocol=http2"], 1)[0];
    line.check(&[
        ("bytes_recv", &LARGE.to_string()),
        ("src.identity", "spiffe://cluster.local/ns/shop/sa/client"),
    ]);
}

#[test]
fn trailers_pass_both_ways() {
    let stage = stage();
    let client = grpc_tool("grpc-client");
    let arguments = [&client[..], "-target", "http://go/trailers", "-size", "300000", "http2"];
    let done = stage.world.exec("client", &arguments).unwrap().checked().unwrap();
    assert!(
        done.stdout.starts_with("status=200 proto=HTTP/2.0 trailer=\"at the end\" same=true\n"),
        "{}",
        done.stdout
    );
}

#[test]
fn an_undeclared_port_speaks_http_2_by_its_preface() {
    let stage = stage();
    let labels = ["service=\"go\"", "port=\"81\"", "protocol=\"http2\""];
    let before = stage.metric("gammarus_detected_protocol_total", &labels);
    let answer = stage.curl(&[H2, "http://go:81/undeclared-h2"]);
    assert!(answer.contains(" HTTP/2.0 "), "{answer}");
    assert!(stage.metric("gammarus_detected_protocol_total", &labels) > before);
    let line = &stage.wait_lines("node-a", &["path=/undeclared-h2 "], 1)[0];
    line.check(&[("protocol", "http2"), ("dst.service", "shop/go"), ("mtls", "yes")]);
}

#[test]
fn requests_of_one_connection_to_an_undeclared_port_are_spread() {
    let stage = stage();
    let labels = ["service=\"go\"", "port=\"81\"", "protocol=\"http1\""];
    let before = stage.metric("gammarus_detected_protocol_total", &labels);
    let each = ["-o", "/dev/null", "-w", "%{num_connects} %header{x-app}\n"];
    let answers = stage.curl(&[&each[..], &["http://go:81/undeclared?n=[1-40]"]].concat());
    let connects = answers.lines().filter(|line| line.starts_with('1')).count();
    assert!(connects == 1 && answers.contains("go-1") && answers.contains("go-2"), "{answers}");
    assert!(stage.metric("gammarus_detected_protocol_total", &labels) - before >= 1.0);
    stage.wait_lines("node-a", &["path=/undeclared ", "status=200"], 40);
}

#[test]
fn a_route_makes_an_undeclared_port_one_of_http() {
    let stage = stage();
    for version in ["--http1.1", H2] {
        let answer = stage.curl(&[version, "-H", "version: new", "http://routed:81/attached"]);
        assert!(answer.starts_with("go-2 "), "{version}: {answer}");
    }
    stage.wait_lines("node-a", &["path=/attached ", "route=HTTPRoute/shop/routed/0 "], 2);
}
