//! HTTP/2 by prior knowledge: many streams, bodies, trailers, and each request with a plan of its own.

use std::collections::BTreeMap;
use std::fs;

use crate::rig::{grpc_tool, pattern, sha256, stage};

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
    let labels = ["service=\"routed\"", "port=\"81\"", "protocol=\"http2\""];
    let before = stage.metric("gammarus_detected_protocol_total", &labels);
    let answer = stage.curl(&[H2, "-H", "version: new", "http://routed:81/undeclared-h2"]);
    assert!(answer.starts_with("go-2 HTTP/2.0 "), "{answer}");
    assert_eq!(stage.metric("gammarus_detected_protocol_total", &labels) - before, 1.0);
    stage.wait_lines("node-a", &["path=/undeclared-h2 "], 1)[0]
        .check(&[("protocol", "http2"), ("backend", "shop/go-2:80")]);
}

#[test]
fn an_undeclared_port_is_routed_per_request() {
    let stage = stage();
    let labels = ["service=\"routed\"", "port=\"81\"", "protocol=\"http1\""];
    let before = stage.metric("gammarus_detected_protocol_total", &labels);
    let url = "http://routed:81/ok/undeclared";
    let each = ["-o", "/dev/null", "-w", "%{num_connects} %header{x-app}\n"];
    let first = [&each[..], &[url, "--next", "-sS"]].concat();
    let second = [&each[..], &["-H", "version: new", url]].concat();
    assert_eq!(stage.curl(&[first, second].concat()), "1 go-1\n0 go-2\n");
    assert_eq!(stage.metric("gammarus_detected_protocol_total", &labels) - before, 1.0);
    stage.wait_lines("node-a", &["path=/ok/undeclared "], 2);
}
