//! A Gateway in front of servers of the mesh that count what they are asked, and of WebSocket.

use std::fs;
use std::sync::Arc;

use node_proxy::demo::world::World;

use crate::grpc_programs::grpc_tool;
use crate::rig::{Stage, stage};

/// The Gateway's name, and its pod's.
pub(crate) const SERVED: &str = "served";
/// Another pod of the same Gateway.
pub(crate) const OTHER: &str = "served-too";
/// Both wires, as `curl` is told, and a word for paths.
pub(crate) const WIRES: [(&str, &str); 2] = [("--http1.1", "h1"), ("--http2-prior-knowledge", "h2")];

const PYTHON: &str = "/usr/bin/python3";

/// The stage with that Gateway.
#[track_caller]
pub(crate) fn served() -> Arc<Stage> {
    let stage = stage();
    stage.add_once(SERVED, |world| {
        let server = grpc_tool("grpc-server");
        for (name, node) in [("go-1", "node-b"), ("go-2", "node-a")] {
            let pod = world.pod(name).namespace("shop").service_account(name).on(node);
            let labels = [("app", "go"), ("version", name)];
            pod.labels(&labels).program(&[&server, "-name", name]).start().unwrap();
        }
        let tool = |name: &str| format!("{}/../tests/mesh/{name}", env!("CARGO_MANIFEST_DIR"));
        let (origin, websocket) = (tool("origin.py"), tool("websocket.py"));
        let servers = vec![
            world.spawn("go-1", "half", &[PYTHON, &origin, "http", "8081"]).unwrap(),
            world.spawn("inside", "websocket", &[PYTHON, &websocket, "serve", "7000"]).unwrap(),
            world.spawn("open", "websocket", &[PYTHON, &websocket, "serve", "7000"]).unwrap(),
        ];
        for (pod, ports) in [
            ("go-1", &[8080, 8081, 50051][..]),
            ("go-2", &[8080, 50051]),
            ("inside", &[7000]),
            ("open", &[7000]),
        ] {
            Stage::wait_listening(world, pod, ports);
        }
        let objects = [include_str!("served.yaml"), &terms("one", 80), &terms("two", 81)].join("\n---\n");
        world.apply_in("edge", "what is served", &objects).unwrap();
        world.gateway_pod(SERVED, ("edge", SERVED), "node-a").unwrap();
        world.gateway_pod(OTHER, ("edge", SERVED), "node-b").unwrap();
        servers
    });
    stage
}

/// A route whose rules have terms, by the field `terms`. Its backend is spoken to by the HTTP of its port.
fn terms(name: &str, port: u16) -> String {
    let rule = |value: &str, terms: &str| {
        format!(
            "{{matches: [{{headers: [{{name: terms, value: {value}}}]}}], {terms}, backendRefs: [{{name: go-1, port: {port}}}]}}"
        )
    };
    let rules = [
        rule("retry", "timeouts: {backendRequest: 3s}, retry: {codes: [503], attempts: 2, backoff: 100ms}"),
        rule(
            "whole",
            "timeouts: {request: 8s, backendRequest: 4s}, retry: {codes: [503], attempts: 9, backoff: 100ms}",
        ),
    ];
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: terms-{name}, namespace: shop}}, \
         spec: {{parentRefs: [{{name: {SERVED}, namespace: edge, sectionName: http}}], \
         hostnames: [{name}.terms.example.com], rules: [{}]}}}}",
        rules.join(", ")
    )
}

/// What the own program of a pod has logged.
pub(crate) fn app_log(world: &World, pod: &str) -> String {
    fs::read_to_string(world.dir().join(format!("{pod}.app.log"))).unwrap_or_default()
}
