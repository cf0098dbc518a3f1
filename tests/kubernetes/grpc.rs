//! gRPC between a client and servers that know nothing of the mesh: those of `tests/grpc`.

use std::collections::BTreeMap;

use node_proxy::demo::command::until;
use serde::Deserialize;
use serde_json::Value;

use super::rig::{NODES, Namespace, PATIENCE};
use super::stage::spread;

/// What goes below `spec:` of a pod that is a server on port 50051. It answers with its pod's name, and sends the
/// header `x-said` back as `x-heard` before its answer and as `x-last` after it.
const SERVER: &str = "terminationGracePeriodSeconds: 0, containers: [
  {name: server, image: 'grpc-tools:1', command: [/grpc-server, -name, '$(POD)'],
   env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}],
   readinessProbe: {tcpSocket: {port: 50051}, periodSeconds: 1}}]";
const PORT: &str = "{name: grpc, port: 80, targetPort: 50051}";
const ROUTE: &str =
    "{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: calls}, spec: {
  parentRefs: [{group: '', kind: Service, name: calls, port: 80}], rules: [
    {matches: [{method: {service: grpc.testing.TestService, method: EmptyCall}}],
     backendRefs: [{name: v2, port: 80}]},
    {matches: [{method: {service: grpc.testing.TestService, method: UnaryCall},
                headers: [{name: version, value: new}]}],
     filters: [
       {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-said, value: the-route}]}},
       {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-heard, value: the-answer}]}}],
     backendRefs: [{name: v2, port: 80}]},
    {matches: [{method: {service: grpc.testing.TestService, method: UnaryCall}}],
     filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [x-said]}}],
     backendRefs: [{name: v1, port: 80}]}]}}";

/// What the paced client says at its end.
#[derive(Debug, Deserialize)]
struct Report {
    sent: u64,
    ok: u64,
    connections: u64,
    failures: Option<Vec<Value>>,
    done: bool,
}

/// What the client prints for calls of a Service: of `unary`, the server's pod and what it has heard.
#[track_caller]
fn call(namespace: &Namespace, service: &str, arguments: &[&str]) -> String {
    let target = format!("{service}:80");
    namespace.exec("client", &[&["/grpc-client", "-target", &target], arguments].concat()).said()
}

/// All that the pods of a Deployment have written.
#[track_caller]
fn log(namespace: &Namespace, app: &str) -> String {
    namespace.kubectl(&["logs", "--selector", &format!("app={app}"), "--tail=-1"]).output()
}

#[test]
fn a_grpc_route_matches_methods_and_headers_and_changes_headers_both_ways() {
    let namespace = Namespace::enrolled("calls");
    for version in ["v1", "v2"] {
        namespace.workload(version, 1, &format!("nodeName: {}, {SERVER}", NODES[1]), PORT);
    }
    namespace.apply(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: calls}}, spec: {{selector: {{app: v1}}, ports: [{PORT}]}}}}"
    ));
    namespace.idle_pod("client", NODES[0], "grpc-tools:1");
    let answers = |headers: &str, version: &str, heard: &str| {
        let mut last = String::new();
        let comes = until(PATIENCE, || {
            last = call(&namespace, "calls", &["-headers", headers, "unary"]);
            last.split_once(' ').is_some_and(|(pod, rest)| {
                pod.starts_with(&format!("{version}-")) && rest == format!("{heard} size=0\n")
            })
        });
        assert!(comes, "{headers}: {last}, not {heard} of {version}");
    };
    // The control: what the server does by itself.
    answers("version=new,x-said=me", "v1", "heard=me last=me");
    namespace.apply(ROUTE);
    namespace.wait_for_condition("grpcroute/calls", "Accepted", "True Accepted");
    namespace.wait_for_condition("grpcroute/calls", "ResolvedRefs", "True ResolvedRefs");
    answers("version=new,x-said=me", "v2", "heard=the-route,the-answer last=the-route");
    answers("version=old,x-said=me", "v1", "heard= last=");
    // This one never answers, and writes that its client has left.
    let left = call(&namespace, "calls", &["-timeout", "500ms", "deadline"]);
    assert!(left.starts_with("code=DeadlineExceeded"), "{left}");
    let cancelled = |version: &str| log(&namespace, version).contains("a call was cancelled");
    assert!(until(PATIENCE, || cancelled("v2")), "{}", log(&namespace, "v2"));
    assert!(!cancelled("v1"), "{}", log(&namespace, "v1"));
    let none = call(&namespace, "calls", &["duplex"]);
    assert!(none.starts_with("code=Unimplemented message=gammarus: no_matching_rule"), "{none}");
}

/// How many calls of one connection came to which pod of the Deployment `server`.
#[track_caller]
fn count_calls(namespace: &Namespace) -> BTreeMap<String, u64> {
    let count = || {
        let mut counts = BTreeMap::new();
        for line in log(namespace, "server").lines() {
            if let Some((pod, _)) = line.split_once(": a call from ") {
                *counts.entry(pod.to_owned()).or_default() += 1;
            }
        }
        counts
    };
    let before: BTreeMap<String, u64> = count();
    let paced =
        ["timeout", "-s", "TERM", "4", "/grpc-client", "-target", "server:80", "-rate", "100", "paced"];
    let said = namespace.exec("client", &paced);
    let report: Report = serde_json::from_str(said.stdout.lines().last().unwrap_or_default())
        .unwrap_or_else(|error| panic!("{error}: {said:?}"));
    assert!(report.done && report.ok == report.sent && report.failures.is_none(), "{report:?}");
    assert_eq!(report.connections, 1, "{report:?}");
    // Each tenth is a stream, of which the server writes nothing.
    let calls = report.sent - report.sent / 10;
    let mut counts = BTreeMap::new();
    let all_are_written = until(PATIENCE, || {
        counts = count();
        for (pod, count) in &mut counts {
            *count -= before.get(pod).copied().unwrap_or_default();
        }
        counts.retain(|_, count| *count > 0);
        counts.values().sum::<u64>() == calls
    });
    assert!(all_are_written, "{counts:?} of {report:?}");
    counts
}

#[test]
fn calls_of_one_connection_are_spread_over_all_pods_on_both_nodes() {
    let (mesh, outside) = (Namespace::enrolled("calls-spread"), Namespace::new("calls-alone"));
    for namespace in [&mesh, &outside] {
        namespace.workload("server", 4, &format!("{}, {SERVER}", spread("server")), PORT);
        namespace.idle_pod("client", NODES[0], "grpc-tools:1");
    }
    mesh.wait_for_mark("client");
    let mut counts = BTreeMap::new();
    // A quarter is expected of each; a pod that the machine holds up for a while has less.
    let is_fair = until(PATIENCE, || {
        counts = count_calls(&mesh);
        let fair_share = counts.values().sum::<u64>() / 4;
        counts.len() == 4 && counts.values().all(|count| *count >= fair_share / 2)
    });
    assert!(is_fair, "{counts:?}");
    // The control: without the mesh the pod that has the connection has all of its calls.
    let alone = count_calls(&outside);
    assert_eq!(alone.len(), 1, "{alone:?}");
}
