//! Plans at a Gateway as a table: YAML objects, a port and a request in; the rule and where it goes out.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use gammarus_ca::TrustDomain;
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;

use super::{Action, find_host, plan_connection_for_gateway, plan_for_gateway};
use crate::attach::fixture::objects;
use crate::attach::gateway::{Gateways, ListenerId, ListenerOwner};
use crate::cluster::objects::{ObjectKey, Objects};
use crate::compile::compile;
use crate::compile::gateway::GatewayCompiler;
use crate::route::RequestHead;
use crate::snapshot::Snapshot;
use crate::snapshot::gateway::{GatewayPort, GatewayPorts, TlsListener};
use crate::snapshot::transport::Port;

const OBJECTS: &str = "
{kind: GatewayClass, metadata: {name: gammarus}, spec: {controllerName: gammarus.io/gateway-controller}}
---
{kind: Service, metadata: {name: v1}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}
---
{kind: Service, metadata: {name: v2}, spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}}
---
kind: Gateway
metadata: {name: web}
spec:
  gatewayClassName: gammarus
  listeners:
    - {name: plain, port: 80, protocol: HTTP}
    - {name: secure, port: 443, protocol: HTTPS, hostname: a.example.com, tls: {certificateRefs: [{name: web}]}}
    - {name: others, port: 443, protocol: HTTPS, hostname: '*.example.com', tls: {certificateRefs: [{name: web}]}}
    - {name: ended, port: 8443, protocol: TLS, tls: {mode: Terminate, certificateRefs: [{name: web}]}}
---
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: web, sectionName: plain}, {name: web, sectionName: plain, port: 80}, {name: web, port: 443}]
  hostnames: [a.example.com, b.example.com]
  rules:
    - matches: [{path: {value: /moved}}]
      filters: [{type: RequestRedirect, requestRedirect: {hostname: c.example.com, statusCode: 302}}]
    - matches: [{path: {value: /v2}}]
      backendRefs: [{name: v2, port: 80}]
    - backendRefs: [{name: v1, port: 80}]
---
{kind: TLSRoute, metadata: {name: named}, spec: {parentRefs: [{name: web, sectionName: ended}],
  hostnames: [a.example.com], rules: [{backendRefs: [{name: v1, port: 80}]}]}}
---
{kind: TCPRoute, metadata: {name: rest}, spec: {parentRefs: [{name: web, sectionName: ended}],
  rules: [{backendRefs: [{name: v2, port: 80}]}]}}
";

struct Request {
    host: &'static str,
    path: &'static str,
}

impl RequestHead for Request {
    fn method(&self) -> &str {
        "GET"
    }

    fn path(&self) -> &str {
        self.path
    }

    fn query(&self) -> Option<&str> {
        None
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        (name == "host").then_some(Cow::Borrowed(self.host.as_bytes()))
    }
}

/// What there is, with a certificate.
fn whole() -> Objects {
    let key = KeyPair::generate().unwrap();
    let names = vec!["a.example.com".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    let encode = |text: String| k8s_openapi::ByteString(text.into_bytes());
    let secret = json!({
        "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "web"},
        "data": {"tls.crt": encode(certificate.pem()), "tls.key": encode(key.serialize_pem())},
    });
    objects(&[OBJECTS, "---", &secret.to_string()].join("\n"))
}

fn ports(compiler: &mut GatewayCompiler, objects: &Objects) -> GatewayPorts {
    let gateways = Gateways::new(objects);
    compiler.update(&gateways, &gateways.gateways[&ObjectKey::new("shop", "web")])
}

fn snapshot() -> Snapshot {
    let objects = whole();
    let mut snapshot = compile(&objects, "a", &TrustDomain::new("cluster.local").unwrap());
    snapshot.gateway_ports = Arc::new(ports(&mut GatewayCompiler::default(), &objects));
    snapshot
}

fn listener(name: &str) -> ListenerId {
    ListenerId { owner: ListenerOwner::Gateway(ObjectKey::new("shop", "web")), name: name.into() }
}

#[test]
fn requests_are_planned_by_port_listener_and_host() {
    let snapshot = snapshot();
    for (port, through, host, path, expected) in [
        (80, None, "a.example.com", "/", "shop/v1"),
        (80, None, "B.Example.COM:80", "/v2/x", "shop/v2"),
        (80, None, "c.example.com", "/", "no_matching_rule"),
        (80, None, "", "/", "no_matching_rule"),
        (80, None, "a.example.com", "/moved", "302 http://c.example.com/moved"),
        (443, Some("secure"), "a.example.com", "/moved", "302 https://c.example.com/moved"),
        (443, Some("secure"), "a.example.com:443", "/", "shop/v1"),
        (443, Some("secure"), "b.example.com", "/", "misdirected_request"),
        (443, Some("others"), "a.example.com", "/", "misdirected_request"),
        (443, Some("others"), "b.example.com", "/v2", "shop/v2"),
        (443, Some("others"), "a.example.org", "/", "no_matching_rule"),
        // A listener that has gone since, a port that has become another's, and one that there never was.
        (443, Some("gone"), "b.example.com", "/", "misdirected_request"),
        (443, None, "b.example.com", "/", "no_matching_rule"),
        (80, Some("secure"), "a.example.com", "/", "no_matching_rule"),
        (81, None, "a.example.com", "/", "no_matching_rule"),
    ] {
        let through = through.map(listener);
        let request = Request { host, path };
        let plan = plan_for_gateway(&snapshot, (port, through.as_ref()), &request, (0, SystemTime::now));
        let found = match plan.action {
            Action::Forward(forwarding) => forwarding.port.key.service.to_string(),
            Action::Redirect { status, location } => format!("{} {location}", status.as_u16()),
            Action::Preflight(_) => "preflight".to_owned(),
            Action::Fail(reason) => reason.to_string(),
        };
        assert_eq!(found, expected, "{port} {through:?} {host} {path}");
    }
}

#[test]
fn connections_whose_tls_has_ended_go_by_their_name_and_then_as_bytes() {
    let snapshot = snapshot();
    let GatewayPort::Tls(listeners) = &*snapshot.gateway_ports[&Port::tcp(8443)] else {
        panic!("no port of TLS")
    };
    let Some(TlsListener::Connections(_, listener)) = listeners.find("anything") else {
        panic!("no listener")
    };
    for (name, expected) in
        [(Some("a.example.com"), "shop/v1"), (Some("b.example.com"), "shop/v2"), (None, "shop/v2")]
    {
        let plan = plan_connection_for_gateway(&snapshot, listener, name, 0);
        assert_eq!(plan.port.unwrap().key.service.to_string(), expected, "{name:?}");
    }
}

#[test]
fn handshakes_stay_the_same_while_their_listener_says_the_same() {
    let handshakes = |ports: &GatewayPorts| {
        let GatewayPort::Tls(listeners) = &*ports[&Port::tcp(443)] else { panic!("no port of TLS") };
        let Some(TlsListener::Requests(config, _)) = listeners.find("a.example.com") else {
            panic!("no listener")
        };
        Arc::clone(config)
    };
    let (objects, mut compiler) = (whole(), GatewayCompiler::default());
    let first = handshakes(&ports(&mut compiler, &objects));
    assert!(Arc::ptr_eq(&first, &handshakes(&ports(&mut compiler, &objects))));
    // Another certificate for the same name.
    assert!(!Arc::ptr_eq(&first, &handshakes(&ports(&mut compiler, &whole()))));
}

#[test]
fn what_cannot_be_served_has_no_port() {
    let served = ports(&mut GatewayCompiler::default(), &objects(OBJECTS));
    assert_eq!(served.keys().collect::<Vec<_>>(), [&Port::tcp(80)]);
}

#[test]
fn a_host_is_what_an_authority_says_without_its_port() {
    for (authority, host) in [
        ("a.example.com", "a.example.com"),
        ("A.Example.com:8080", "a.example.com"),
        ("[2001:db8::1]:80", "[2001:db8::1]"),
        ("[2001:db8::1]", "[2001:db8::1]"),
        ("a:b", "a:b"),
        ("", ""),
    ] {
        assert_eq!(find_host(authority), host, "{authority}");
    }
}
