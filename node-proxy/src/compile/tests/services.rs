//! Services: which addresses lead where, what ports speak, and what stays shared.

use super::*;
use crate::snapshot::service::{FrontendKind, PortProtocol};

const NODE: &str = "
kind: Node
metadata: {name: a}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
";

#[track_caller]
fn check(snapshot: &Snapshot, destination: &str, expected: Option<(FrontendKind, &str, u16)>) {
    let found = snapshot.find_frontend(destination.parse().unwrap());
    let found =
        found.map(|frontend| (frontend.kind, frontend.port.key.service.to_string(), frontend.port.key.port));
    assert_eq!(
        found,
        expected.map(|(kind, service, port)| (kind, service.to_owned(), port)),
        "{destination}"
    );
}

#[test]
fn every_address_of_a_service_leads_to_its_tcp_ports() {
    let snapshot = snapshot_of(&format!(
        "{NODE}
---
kind: Service
metadata: {{name: s}}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, 'fd96::1']
  externalIPs: [198.51.100.1]
  ports: [{{port: 80, nodePort: 30080}}, {{name: dns, port: 53, protocol: UDP}}]
status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.1}}, {{ip: 203.0.113.2, ipMode: Proxy}}, {{hostname: x}}]}}}}
"
    ));
    let (inner, outer) =
        (Some((FrontendKind::ClusterIp, "shop/s", 80)), Some((FrontendKind::External, "shop/s", 80)));
    check(&snapshot, "10.96.0.1:80", inner);
    check(&snapshot, "[fd96::1]:80", inner);
    check(&snapshot, "198.51.100.1:80", outer);
    check(&snapshot, "203.0.113.1:80", outer);
    check(&snapshot, "203.0.113.2:80", None);
    check(&snapshot, "192.168.0.1:30080", outer);
    check(&snapshot, "192.168.0.1:80", None);
    check(&snapshot, "10.96.0.1:53", None);
    check(&snapshot, "10.96.0.1:81", None);
    let key = ServicePortKey {
        service: ObjectKey::new("shop", "s"),
        port: 53,
        transport: crate::snapshot::transport::Transport::Udp,
    };
    assert!(snapshot.find_service_port(&key).is_none(), "the mesh leads nobody there");
}

#[test]
fn headless_and_external_name_services_have_no_addresses_but_a_headless_one_has_ports() {
    let snapshot = snapshot_of(
        "
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, clusterIPs: [None], ports: [{port: 80}]}
---
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: example.com, ports: [{port: 80}]}
",
    );
    assert!(snapshot.frontends.is_empty());
    assert_eq!(snapshot.service_ports.len(), 1);
    assert_eq!(port(&snapshot, "shop/headless", 80).protocol, PortProtocol::Undeclared);
}

#[test]
fn a_cluster_ip_beats_an_external_ip_and_the_first_of_two_services_has_an_external_one() {
    let service = |name: &str, cluster: &str, external: &str| {
        format!(
            "---\nkind: Service\nmetadata: {{name: {name}}}\n\
             spec: {{clusterIP: {cluster}, externalIPs: [{external}], ports: [{{port: 80}}]}}\n"
        )
    };
    let yaml = [
        service("a", "10.96.0.1", "10.96.0.3, 198.51.100.1"),
        service("b", "10.96.0.2", "198.51.100.1"),
        service("c", "10.96.0.3", "10.96.0.1"),
    ];
    let snapshot = snapshot_of(&yaml.concat());
    check(&snapshot, "10.96.0.3:80", Some((FrontendKind::ClusterIp, "shop/c", 80)));
    check(&snapshot, "10.96.0.1:80", Some((FrontendKind::ClusterIp, "shop/a", 80)));
    check(&snapshot, "198.51.100.1:80", Some((FrontendKind::External, "shop/a", 80)));
}

#[test]
fn a_port_speaks_what_it_is_declared_or_routed_as() {
    use PortProtocol::{Http, Http2, Opaque, Undeclared};
    let declared = "
kind: Service
metadata: {name: s}
spec:
  clusterIP: 10.96.0.1
  ports:
  - {name: http-a, port: 1}
  - {name: tcp-b, port: 2}
  - {name: c, port: 3}
  - {name: tcp-d, port: 4, appProtocol: kubernetes.io/h2c}
  - {name: e, port: 5, appProtocol: example.com/x}
  - {name: grpc-web, port: 6}
  - {name: f, port: 7}
  - {name: grpc, port: 8}
  - {name: http2-g, port: 9}
";
    let route = |namespace: &str, port: u16| {
        format!(
            "---\nkind: HTTPRoute\nmetadata: {{name: r{port}, namespace: {namespace}}}\n\
             spec: {{parentRefs: [{{group: '', kind: Service, name: s, namespace: shop, port: {port}}}], rules: [{{}}]}}\n"
        )
    };
    let snapshot = snapshot_of(
        &[declared, &route("shop", 3), &route("shop", 2), &route("client", 7), &route("shop", 9)].concat(),
    );
    let protocols = [1, 2, 3, 4, 5, 6, 7, 8, 9].map(|number| port(&snapshot, "shop/s", number).protocol);
    assert_eq!(protocols, [Http, Opaque, Http, Http2, Opaque, Http, Undeclared, Http2, Http2]);
    assert_eq!(port(&snapshot, "shop/s", 9).protocol_for("shop"), Http2);
    let consumed = port(&snapshot, "shop/s", 7);
    assert_eq!((consumed.protocol_for("client"), consumed.protocol_for("shop")), (Http, Undeclared));
    assert_eq!(port(&snapshot, "shop/s", 2).protocol_for("shop"), Opaque);
}

#[test]
fn routes_of_connections_make_a_port_opaque_for_those_whom_they_hold_for() {
    use crate::snapshot::service::PortProtocol::{Http, Opaque, Undeclared};
    let service = "
kind: Service
metadata: {name: s}
spec: {clusterIP: 10.96.0.1, ports: [{name: a, port: 1}, {name: b, port: 2}, {name: c, port: 3}, {name: tls, port: 4}]}
";
    let route = |kind: &str, namespace: &str, port: u16| {
        let names = if kind == "TLSRoute" { "hostnames: [a.test], " } else { "" };
        format!(
            "---\nkind: {kind}\nmetadata: {{name: r{port}, namespace: {namespace}}}\n\
             spec: {{{names}parentRefs: [{{group: '', kind: Service, name: s, namespace: shop, port: {port}}}], \
             rules: [{{backendRefs: [{{name: s, namespace: shop, port: 1}}]}}]}}\n"
        )
    };
    let snapshot = snapshot_of(
        &[
            service,
            &route("TCPRoute", "shop", 1),
            &route("HTTPRoute", "client", 1),
            &route("HTTPRoute", "shop", 2),
            &route("TLSRoute", "client", 2),
            &route("TCPRoute", "client", 3),
            &route("TLSRoute", "shop", 4),
        ]
        .concat(),
    );
    for (number, of_shop, of_client) in
        [(1, Opaque, Http), (2, Http, Opaque), (3, Undeclared, Opaque), (4, Opaque, Opaque)]
    {
        let port = port(&snapshot, "shop/s", number);
        assert_eq!(
            (port.protocol_for("shop"), port.protocol_for("client")),
            (of_shop, of_client),
            "{number}"
        );
        assert_eq!(port.protocol, of_shop, "{number} on an external address");
    }
}

#[test]
fn what_did_not_change_keeps_its_arcs() {
    let service = |name: &str, address: &str| {
        format!(
            "---\nkind: Service\nmetadata: {{name: {name}}}\n\
             spec: {{clusterIP: {address}, selector: {{app: {name}}}, ports: [{{port: 80}}]}}\n\
             ---\nkind: HTTPRoute\nmetadata: {{name: {name}}}\n\
             spec: {{parentRefs: [{{group: '', kind: Service, name: {name}}}], rules: [{{matches: [{{path: {{type: RegularExpression, value: /x}}}}], backendRefs: [{{name: {name}, port: 80}}]}}]}}\n"
        )
    };
    let pod = |name: &str, address: &str| {
        format!(
            "---\nkind: Pod\nmetadata: {{name: {name}-{address}, uid: u{address}, labels: {{app: {name}}}}}\n\
             status: {{podIP: {address}}}\n"
        )
    };
    let base =
        [service("s", "10.96.0.1"), service("t", "10.96.0.2"), pod("s", "10.0.0.1"), pod("t", "10.0.0.2")]
            .concat();
    let mut cluster = Cluster::new();
    let before = cluster.become_these(objects(&base));
    let after = cluster.become_these(objects(&format!("{base}{}", pod("t", "10.0.0.3"))));
    assert!(Arc::ptr_eq(port(&before, "shop/s", 80), port(&after, "shop/s", 80)), "nothing of s changed");
    let (old, new) = (port(&before, "shop/t", 80), port(&after, "shop/t", 80));
    assert!(!Arc::ptr_eq(old, new));
    assert!(Arc::ptr_eq(&old.endpoints.endpoints[0], &new.endpoints.endpoints[0]));
    assert!(
        Arc::ptr_eq(old.producer.as_ref().unwrap(), new.producer.as_ref().unwrap()),
        "t's routes are as before"
    );
    let routed = objects(&base.replacen("value: /x", "value: /y", 1));
    let before = cluster.become_these(objects(&base));
    let after = cluster.become_these(routed);
    let (old, new) = (port(&before, "shop/s", 80), port(&after, "shop/s", 80));
    assert!(
        !Arc::ptr_eq(old.producer.as_ref().unwrap(), new.producer.as_ref().unwrap()),
        "the route changed"
    );
    assert!(Arc::ptr_eq(&old.endpoints, &new.endpoints));
    assert!(Arc::ptr_eq(port(&before, "shop/t", 80), port(&after, "shop/t", 80)));
}
