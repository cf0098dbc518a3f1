//! A Gateway in front of the mesh, whose routes, listeners, certificate and endpoints change under load from outside.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use node_proxy::demo::command::until;
use rustls::ClientConfig;

use crate::certificate::secret;
use crate::counts::{Kind, PATIENCE};
use crate::front::{CERTIFICATES, EDITS, Front, Shape, make_certificates};
use crate::load::{Load, say};
use crate::source::Source;
use crate::stage::{CLIENTS, Mesh, Stage};

const GATEWAY: &str = "front";
const FRONT: Front<'static> = Front { namespace: "edge", parameters: None };

const CLASS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: gammarus}
spec: {controllerName: gammarus.io/gateway-controller}
";

/// No node waits before it looks for a new pod's IPv6 address: that would be counted as if a proxy stood still.
#[track_caller]
fn check_links(stage: &Stage) {
    for (_, node) in CLIENTS {
        let links = stage.world.exec_on_node(node, &["ip", "-6", "addr", "show", "tentative"]).unwrap();
        assert_eq!(links.checked().unwrap().stdout, "", "addresses of {node} that may not be used yet");
    }
}

/// Starts the Gateway and two clients outside of the mesh; gives what they trust in.
#[track_caller]
fn start(stage: &mut Stage) -> Arc<ClientConfig> {
    let dir = stage.world.dir().to_owned();
    let tls = make_certificates(&dir);
    for namespace in ["edge", "outside"] {
        stage.world.namespace(namespace, &[]).unwrap();
    }
    stage.apply(&[CLASS, &FRONT.all(), &secret(&dir, "first", ("edge", "web"))].join("\n---\n"));
    for (client, node) in CLIENTS {
        let pod = stage.world.pod(&format!("outside-{client}")).namespace("outside").on(node);
        pod.start().unwrap();
    }
    check_links(stage);
    stage.world.gateway_pod(GATEWAY, ("edge", "front"), "node-a").unwrap();
    tls
}

/// Waits until the Gateway's pod has taken in everything that was written before.
#[track_caller]
fn taken_in(stage: &mut Stage, name: &str) {
    stage.world.namespace(name, &[]).unwrap();
    let ask = ["curl", "-s", "http://127.0.0.1:15000/snapshot"];
    let seen = || stage.world.exec(GATEWAY, &ask).unwrap().stdout.contains(&format!("\"{name}\""));
    assert!(until(PATIENCE, seen), "{name} was not taken in");
}

#[test]
fn changes_of_a_gateway_and_behind_it_fail_nothing() {
    let mut stage = Stage::set(Mesh::On);
    let tls = start(&mut stage);
    let source = |(client, _): (&str, &str)| {
        Source::of_gateway(&stage.world, &format!("outside-{client}"), GATEWAY, Arc::clone(&tls))
    };
    let load = Load::begin(&Kind::OUTSIDE, CLIENTS.map(source).into());
    for edit in 1..=EDITS {
        load.note(&format!("edit {edit} of the routes"));
        stage.apply(&FRONT.routes_after(edit));
        taken_in(&mut stage, &format!("edit-{edit}"));
        load.pass(Duration::from_millis(200));
    }
    let dir = stage.world.dir().to_owned();
    for (number, certificate) in CERTIFICATES.into_iter().rev().enumerate() {
        load.note(&format!("the {certificate} certificate"));
        stage.apply(&secret(&dir, certificate, ("edge", "web")));
        taken_in(&mut stage, &format!("certificate-{number}"));
        load.pass(Duration::from_secs(1));
    }
    for (number, shape) in Shape::EDITS.into_iter().enumerate() {
        load.note(&format!("the Gateway is {shape:?}"));
        stage.apply(&FRONT.gateway(shape));
        taken_in(&mut stage, &format!("gateway-{number}"));
        load.pass(Duration::from_secs(1));
    }
    for (number, (_, node)) in CLIENTS.into_iter().enumerate() {
        let (old, new) = (format!("web-{number}"), format!("web-{}", number + 2));
        load.note(&format!("{new} comes and {old} goes"));
        stage.start_web(&new, node);
        stage.taken_in();
        stage.begin_to_end_web(&old);
        stage.taken_in();
        load.pass(Duration::from_millis(500));
        stage.forget_web(&old);
        taken_in(&mut stage, &format!("endpoint-{number}"));
        stage.world.remove_pod(&old).unwrap();
    }
    load.pass(Duration::from_secs(1));
    let counts =
        load.finish("20 edits, two certificates, four edits of a Gateway and two endpoints behind it");
    // What the Gateway itself says of what it could not do.
    let log = fs::read_to_string(stage.world.gateway_access_log(GATEWAY)).unwrap();
    log.lines().filter(|line| line.contains(" reason=")).for_each(say);
    counts.check();
    assert_eq!(counts.grpc_connections, 1, "connections of the gRPC client");
}
