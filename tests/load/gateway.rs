//! A Gateway in front of the mesh, whose routes, listeners, certificate and endpoints change under load from outside.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use node_proxy::demo::command::until;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::certificate::{make_certificate, secret};
use crate::counts::{Kind, PATIENCE};
use crate::load::{Load, say};
use crate::requests::HOST_IN_TLS;
use crate::routes::edit;
use crate::source::Source;
use crate::stage::{CLIENTS, Mesh, Stage};

const EDITS: u32 = 20;
const GATEWAY: &str = "front";

const ROUTES_OF_BYTES: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: gammarus}
spec: {controllerName: gammarus.io/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: declared}
spec:
  parentRefs: [{name: front, namespace: edge, sectionName: bytes}]
  rules: [{backendRefs: [{name: steady, port: 9000}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: undeclared}
spec:
  parentRefs: [{name: front, namespace: edge, sectionName: more-bytes}]
  rules: [{backendRefs: [{name: steady, port: 9001}]}]
";

/// The Gateway with its listeners, and one more.
fn gateway(more: &str) -> String {
    const ALL: &str = "allowedRoutes: {namespaces: {from: All}}";
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: front, namespace: edge}}, \
         spec: {{gatewayClassName: gammarus, listeners: [\
         {{name: http, port: 80, protocol: HTTP, {ALL}}}, {{name: calls, port: 50051, protocol: HTTP, {ALL}}}, \
         {{name: https, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: web}}]}}, {ALL}}}, \
         {{name: bytes, port: 9000, protocol: TCP, {ALL}}}, {{name: more-bytes, port: 9001, protocol: TCP, {ALL}}}{more}]}}}}"
    )
}

/// The routes of requests after so many edits: weights and filters.
fn routes_after(edits: u32) -> String {
    let (split, filter) = edit(edits);
    let parent = |section: &str| format!("{{name: front, namespace: edge, sectionName: {section}}}");
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: front}}\nspec:\n  \
         parentRefs: [{}, {}]\n  rules: [{{filters: [{filter}], {}}}]\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: front}}\nspec:\n  \
         parentRefs: [{}]\n  rules: [{{{}}}]\n",
        parent("http"),
        parent("https"),
        split(80),
        parent("calls"),
        split(50051)
    )
}

/// Starts the Gateway and two clients outside of the mesh; gives what they trust in.
#[track_caller]
fn start(stage: &mut Stage) -> Arc<ClientConfig> {
    let dir = stage.world.dir().to_owned();
    let mut roots = RootCertStore::empty();
    for name in ["first", "second"] {
        make_certificate(&dir, name, &[HOST_IN_TLS]);
        roots
            .add(CertificateDer::from_pem_slice(&fs::read(dir.join(format!("{name}.pem"))).unwrap()).unwrap())
            .unwrap();
    }
    for namespace in ["edge", "outside"] {
        stage.world.namespace(namespace, &[]).unwrap();
    }
    stage.apply(
        &[ROUTES_OF_BYTES, &routes_after(0), &gateway(""), &secret(&dir, "first", "web")].join("\n---\n"),
    );
    for (client, node) in CLIENTS {
        let pod = stage.world.pod(&format!("outside-{client}")).namespace("outside").on(node);
        pod.start().unwrap();
    }
    stage.world.gateway_pod(GATEWAY, ("edge", "front"), "node-a").unwrap();
    let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let tls = tls.with_safe_default_protocol_versions().unwrap();
    Arc::new(tls.with_root_certificates(roots).with_no_client_auth())
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
    let load = Load::start_from(&stage, &Kind::ALL, CLIENTS.map(source).into());
    for edit in 1..=EDITS {
        load.note(&format!("edit {edit} of the routes"));
        stage.apply(&routes_after(edit));
        taken_in(&mut stage, &format!("edit-{edit}"));
        load.pass(Duration::from_millis(200));
    }
    let dir = stage.world.dir().to_owned();
    for (number, certificate) in ["second", "first"].into_iter().enumerate() {
        load.note(&format!("the {certificate} certificate"));
        stage.apply(&secret(&dir, certificate, "web"));
        taken_in(&mut stage, &format!("certificate-{number}"));
        load.pass(Duration::from_secs(1));
    }
    for (number, more) in [", {name: more, port: 8100, protocol: HTTP}", ""].into_iter().enumerate() {
        load.note(&format!("the Gateway with {more:?}"));
        stage.apply(&gateway(more));
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
    let counts = load.finish("20 edits, two certificates, a listener and two endpoints at a Gateway");
    // What the Gateway itself says of what it could not do.
    let log = fs::read_to_string(stage.world.gateway_access_log(GATEWAY)).unwrap();
    log.lines().filter(|line| line.contains(" reason=")).for_each(say);
    counts.check();
    assert_eq!(counts.grpc_connections, 1, "connections of the gRPC client");
}
