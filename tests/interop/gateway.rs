//! The same servers behind a Gateway: its listeners are judged as the mesh's are.

use std::fs;

use node_proxy::demo::command::until;
use node_proxy::demo::world::World;

use crate::certificate::{make_certificate, secret};
use crate::credentials;
use crate::h2spec::judge;
use crate::rig::{PATIENCE, Stage, stage};

/// The Gateway's pod.
pub(crate) const POD: &str = "gate";
/// Its ports: HTTP in plain text, HTTP in TLS for any name, calls in TLS by name and for any name, and calls in plain text.
pub(crate) const PLAIN: u16 = 80;
pub(crate) const SECURE: u16 = 443;
pub(crate) const CALLS: u16 = 8443;
pub(crate) const UNNAMED: u16 = 8444;
pub(crate) const OPEN_CALLS: u16 = 8000;

const OBJECTS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: gammarus}
spec: {controllerName: gammarus.io/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gate, namespace: edge}
spec:
  gatewayClassName: gammarus
  listeners:
    - {name: plain, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
    - name: secure
      port: 443
      protocol: HTTPS
      tls: {certificateRefs: [{name: calls}]}
      allowedRoutes: {namespaces: {from: All}}
    - name: calls
      port: 8443
      protocol: HTTPS
      hostname: '*.calls.example.com'
      tls: {certificateRefs: [{name: calls}]}
      allowedRoutes: {namespaces: {from: All}}
    - name: unnamed
      port: 8444
      protocol: HTTPS
      tls: {certificateRefs: [{name: calls}]}
      allowedRoutes: {namespaces: {from: All}}
    - {name: open-calls, port: 8000, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: gated-web, namespace: shop}
spec:
  parentRefs: [{name: gate, namespace: edge, sectionName: plain}, {name: gate, namespace: edge, sectionName: secure}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
";

/// Starts the Gateway, and gives it a certificate: for its address, too, and for the servers that have the same one.
pub(crate) fn start(world: &mut World) {
    world.namespace("edge", &[]).unwrap();
    world.apply_in("edge", "the Gateway", OBJECTS).unwrap();
    world.gateway_pod(POD, ("edge", "gate"), "node-a").unwrap();
    let address = |pod| world.running_pod(pod).unwrap().addresses[0].to_string();
    let (own, bare) = (address(POD), address(credentials::BARE));
    let below = format!("*.{}", credentials::DOMAIN);
    let dir = world.dir().to_owned();
    make_certificate(&dir, "calls", &["*.calls.example.com", &below, &own, &bare]);
    world.apply_in("edge", "its certificate", &secret(&dir, "calls", ("edge", "calls"))).unwrap();
}

/// The name by which a Service is reached.
pub(crate) fn host(service: &str) -> String {
    format!("{service}.calls.example.com")
}

/// The certificate of the Gateway.
pub(crate) fn trusted(stage: &Stage) -> String {
    stage.world.dir().join("calls.pem").display().to_string()
}

/// At least `count` requests have these texts in the Gateway's access lines.
#[track_caller]
pub(crate) fn check_answered(stage: &Stage, count: usize, texts: &[&str]) {
    let lines = || {
        let log = fs::read_to_string(stage.world.gateway_access_log(POD)).unwrap_or_default();
        log.lines().filter(|line| texts.iter().all(|text| line.contains(text))).count()
    };
    assert!(until(PATIENCE, || lines() >= count), "{} and not {count} with {texts:?}", lines());
}

#[track_caller]
fn check(port: u16) {
    let stage = stage();
    let report = judge(&stage, &stage.gateway(port), &format!("gateway-{port}"));
    assert_eq!((report.skipped(), report.failed()), (vec![], vec![]), "port {port}");
    let route = "route=HTTPRoute/shop/gated-web/0 ";
    let texts = ["direction=ingress ", "protocol=http2 ", "path=/page ", "status=200 ", "mtls=yes ", route];
    check_answered(&stage, 40, &texts);
}

#[test]
fn a_listener_of_plain_http_passes_all_cases() {
    check(PLAIN);
}

#[test]
fn a_listener_of_https_passes_all_cases() {
    check(SECURE);
}
