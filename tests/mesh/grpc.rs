//! A real gRPC client and server, which know nothing of the mesh, with a GRPCRoute between them.

use std::collections::BTreeMap;

use node_proxy::demo::command::until;

use crate::grpc_programs::grpc_tool;
use crate::rig::{PATIENCE, Stage, stage};

/// What the client prints for this call.
#[track_caller]
fn call(stage: &Stage, target: &str, arguments: &[&str]) -> String {
    let client = grpc_tool("grpc-client");
    let full = [&[&client[..], "-target", target], arguments].concat();
    stage.world.exec("client", &full).unwrap().checked().unwrap().stdout
}

#[test]
fn unary_calls_carry_metadata_both_ways() {
    let stage = stage();
    let answer =
        call(&stage, "go-1:50051", &["-headers", "x-said=one,x-said=two", "-size", "100000", "unary"]);
    assert_eq!(answer, "go-1 heard=one|two last=one|two size=100000\n");
    let lines = stage.wait_lines("node-a", &["shop/go-1 ", "path=/grpc.testing.TestService/UnaryCall "], 1);
    lines[0].check(&[
        ("protocol", "grpc"),
        ("status", "200"),
        ("level", "INFO"),
        ("mtls", "yes"),
        ("src.identity", "spiffe://cluster.local/ns/shop/sa/client"),
        ("dst.identity", "spiffe://cluster.local/ns/shop/sa/go-1"),
    ]);
    let log = stage.app_log("go-1");
    let peers = log.lines().filter_map(|line| line.strip_prefix("go-1: a call from ")?.rsplit_once(':'));
    let mut peers = peers.map(|(peer, _)| peer.trim_matches(['[', ']']));
    assert!(
        peers.any(|peer| stage.is_address("client", peer)),
        "the server does not see the client's address"
    );
}

#[test]
fn a_status_of_the_server_is_passed_on() {
    let answer = call(&stage(), "go:50051", &["status"]);
    assert_eq!(answer, "code=FailedPrecondition message=as it was asked\n");
}

#[test]
fn streams_pass_both_ways() {
    let stage = stage();
    assert_eq!(call(&stage, "go:50051", &["-count", "300", "-size", "20000", "upload"]), "size=6000000\n");
    let expected: String = (0..20).map(|number| format!("message {number}\n")).collect();
    assert_eq!(call(&stage, "go:50051", &["-count", "20", "duplex"]), expected);
    let messages = call(&stage, "go:50051", &["-count", "5", "-size", "1000", "download"]);
    let after = |line: &str| line.rsplit_once("after_ms=").and_then(|(_, text)| text.parse::<u32>().ok());
    let times: Vec<_> = messages.lines().filter_map(after).collect();
    // One each 100 ms: the first must not have waited for the last.
    assert!(times.len() == 5 && times[4] - times[0] >= 200, "{messages}");
}

#[test]
fn all_four_forms_pass_under_a_route() {
    let stage = stage();
    let streams = |arguments: &[&str]| call(&stage, "streams:50051", arguments);
    assert_eq!(streams(&["-size", "10", "unary"]), "go-1 heard= last= size=10\n");
    assert_eq!(streams(&["-count", "300", "-size", "20000", "upload"]), "size=6000000\n");
    let messages = streams(&["-count", "3", "-size", "70000", "download"]);
    assert_eq!(messages.matches("message size=70000 ").count(), 3, "{messages}");
    assert_eq!(streams(&["-count", "2", "duplex"]), "message 0\nmessage 1\n");
    // Both ways at once, with more under way than any window holds.
    assert_eq!(streams(&["-count", "300", "-size", "50000", "both"]), "sent=300 received=300\n");
    for method in ["UnaryCall", "StreamingInputCall", "StreamingOutputCall"] {
        check_routed(&stage, method, 1);
    }
    check_routed(&stage, "FullDuplexCall", 2);
}

/// All calls of a method that came to `streams` were good ones and went by its route.
#[track_caller]
fn check_routed(stage: &Stage, method: &str, count: usize) {
    for line in stage.wait_lines("node-a", &["shop/streams ", &format!("TestService/{method} ")], count) {
        line.check(&[
            ("route", "GRPCRoute/shop/streams/0"),
            ("backend", "shop/go-1:50051"),
            ("protocol", "grpc"),
            ("status", "200"),
            ("level", "INFO"),
        ]);
    }
}

#[test]
fn a_deadline_cancels_the_call_at_the_server() {
    let stage = stage();
    let answer = call(&stage, "patient:50051", &["-timeout", "500ms", "deadline"]);
    assert!(answer.starts_with("code=DeadlineExceeded"), "{answer}");
    let cancelled = || stage.app_log("patient").contains("patient: a call was cancelled");
    assert!(until(PATIENCE, cancelled), "the server was not told");
    stage.wait_lines("node-a", &["shop/patient ", "TestService/EmptyCall "], 1);
}

#[test]
fn a_grpc_route_matches_methods_and_metadata() {
    let stage = stage();
    assert_eq!(call(&stage, "calls:50051", &["unary"]), "go-1 heard= last= size=0\n");
    assert_eq!(
        call(&stage, "calls:50051", &["-headers", "version=new", "unary"]),
        "go-2 heard= last= size=0\n"
    );
    assert_eq!(
        call(&stage, "calls:50051", &["-headers", "version=old", "unary"]),
        "go-1 heard= last= size=0\n"
    );
    assert_eq!(call(&stage, "calls:50051", &["-count", "1", "duplex"]), "message 0\n");
    let line = &stage.wait_lines("node-a", &["shop/calls ", "TestService/FullDuplexCall "], 1)[0];
    line.check(&[("backend", "shop/go-2:50051"), ("route", "GRPCRoute/shop/calls/2")]);
}

#[test]
fn a_call_without_a_rule_is_unimplemented() {
    let stage = stage();
    let answer = call(&stage, "calls:50051", &["upload"]);
    assert!(answer.starts_with("code=Unimplemented message=gammarus: no_matching_rule"), "{answer}");
    stage.wait_lines("node-a", &["shop/calls ", "TestService/StreamingInputCall "], 1)[0].check(&[
        ("reason", "no_matching_rule"),
        ("protocol", "grpc"),
        ("status", "200"),
    ]);
}

#[test]
fn a_call_for_an_invalid_backend_is_unavailable() {
    // GRPCRoute, backendRefs: "MUST receive an `UNAVAILABLE` status".
    let stage = stage();
    let answer = call(&stage, "calls:50051", &["-timeout", "5s", "deadline"]);
    assert!(answer.starts_with("code=Unavailable message=gammarus: invalid_backend"), "{answer}");
    stage.wait_lines("node-a", &["shop/calls ", "reason=invalid_backend", "protocol=grpc"], 1);
    let labels = ["service=\"calls\"", "reason=\"invalid_backend\"", "protocol=\"grpc\""];
    assert!(stage.metric("gammarus_http_requests_total", &labels) >= 1.0);
}

#[test]
fn more_calls_than_a_server_takes_on_one_connection_go_over_several() {
    // 100 on each connection, as the server is told; the calls of the crowd never end by themselves.
    let answer = call(&stage(), "crowded:50051", &["-count", "150", "-timeout", "10s", "crowd"]);
    assert!(answer.ends_with(" heard= last= size=0\n"), "{answer}");
}

#[track_caller]
fn check_spread(stage: &Stage, target: &str) {
    let mut counts = BTreeMap::new();
    // One after the other, each request is a toss between two idle endpoints: 50 with a deviation of 5. The less loaded
    // one has them all as long as another test keeps a stream open to the other.
    let is_fair = until(PATIENCE, || {
        let answers = call(stage, target, &["-count", "100", "unary"]);
        counts.clear();
        for line in answers.lines() {
            *counts.entry(line.split(' ').next().unwrap().to_owned()).or_insert(0) += 1;
        }
        assert_eq!(counts.values().sum::<i32>(), 100, "{target}: {answers}");
        counts.len() == 2 && counts.values().all(|count| (20..=80).contains(count))
    });
    assert!(is_fair, "{target}: {counts:?}");
}

#[test]
fn calls_of_one_connection_are_spread_over_both_endpoints() {
    let stage = stage();
    check_spread(&stage, "go:50051");
}
