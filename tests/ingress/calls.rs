//! Filters of GRPCRoutes at a Gateway, between a gRPC client and servers that know nothing of either.

use node_proxy::demo::command::until;

use crate::grpc_programs::grpc_tool;
use crate::rig::{PATIENCE, Stage};
use crate::served::{SERVED, app_log, served};

/// What the client prints for this call.
#[track_caller]
fn call(stage: &Stage, arguments: &[&str]) -> String {
    let (client, target) = (grpc_tool("grpc-client"), format!("{}:8004", stage.address(SERVED)));
    stage.run("client", &[&[&client[..], "-target", &target], arguments].concat())
}

/// How many calls of `UnaryCall` a server has had.
fn had(stage: &Stage, pod: &str) -> usize {
    app_log(&stage.world(), pod).matches(&format!("{pod}: a call from ")).count()
}

//= gateway-api GRPCRouteFilter.responseHeaderModifier
//# ResponseHeaderModifier defines a schema for a filter that modifies response headers.
#[test]
fn metadata_of_answers_are_set_added_and_removed() {
    let stage = served();
    for (how, heard) in [("set", "by-the-route"), ("add", "one,by-the-route"), ("remove", "")] {
        let headers = format!("x-said=one,heard={how}");
        let answer = call(&stage, &["-headers", &headers, "-size", "10", "unary"]);
        // What the server says at the end of the call is no header.
        assert_eq!(answer, format!("go-1 heard={heard} last=one size=10\n"), "{how}");
    }
}

//= gateway-api GRPCRouteFilter.requestMirror
//# Responses from the mirrored request are ignored.
#[test]
fn calls_are_mirrored_whole_and_the_copies_answers_are_nobodys() {
    let stage = served();
    let before = had(&stage, "go-2");
    let answers = call(&stage, &["-headers", "x-said=one", "-count", "20", "-size", "1000", "unary"]);
    assert_eq!(answers, "go-1 heard=one last=one size=1000\n".repeat(20));
    let copied = || had(&stage, "go-2") - before == 20;
    assert!(until(PATIENCE, copied), "{} copies of 20 calls", had(&stage, "go-2") - before);
    // A stream of a client, whose copy is of the same messages: fewer bytes than it may fall behind by.
    assert_eq!(call(&stage, &["-count", "10", "-size", "20000", "upload"]), "size=200000\n");
    let upload = "path=/grpc.testing.TestService/StreamingInputCall ";
    for (direction, backend) in [("mirror", "go-2"), ("ingress", "go-1")] {
        let (direction, backend) =
            (format!("direction={direction}"), format!("backend=shop/{backend}:50051"));
        let line = stage.wait_line_of(SERVED, &[upload, &direction, &backend]);
        let sent = line.split_once("bytes_sent=").unwrap().1.split(' ').next().unwrap();
        assert!(sent.parse::<u64>().unwrap() >= 200_000, "{line}");
        for text in ["route=GRPCRoute/shop/calls/0", "protocol=grpc", "status=200", "mtls=yes"] {
            assert!(line.contains(text), "{text} is not in {line}");
        }
        assert!(!line.contains(" reason="), "{line}");
    }
}
