//! Tables of files in, objects and reports out.

mod gateways;

use std::path::Path;
use std::sync::LazyLock;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::document::{Content, Outcome, read_objects};
use super::objects::Object;
use super::schema::Schemas;

static SCHEMAS: LazyLock<Schemas> = LazyLock::new(Schemas::default);

fn read(text: &str) -> Content {
    read_objects(&SCHEMAS, Path::new("a.yaml"), text)
}

/// Reads one good document.
#[track_caller]
fn good(text: &str) -> Object {
    let mut content = read(text);
    assert_eq!(content.reports, [], "{text}");
    assert_eq!(content.outcomes.len(), 1, "{text}");
    match content.outcomes.remove(0) {
        Outcome::Good(_, object) => *object,
        other => panic!("{other:?}"),
    }
}

/// What becomes of each document, and the reports as lines.
#[track_caller]
fn check(text: &str, outcomes: &[&str], reports: &[&str]) {
    let content = read(text);
    let found: Vec<String> = content
        .outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Good(id, _) => format!("good {id}"),
            Outcome::Broken(id) => format!("broken {id}"),
            Outcome::Unreadable => "unreadable".to_owned(),
        })
        .collect();
    assert_eq!(found, outcomes, "{text}\n{:#?}", content.reports);
    let lines: Vec<String> = content.reports.iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), reports.len(), "{text}\n{lines:#?}");
    for (line, report) in lines.iter().zip(reports) {
        assert!(line.starts_with(report), "{line:?} does not begin {report:?}");
    }
}

fn service(spec: &str) -> String {
    format!("{{apiVersion: v1, kind: Service, metadata: {{name: s, namespace: shop}}, spec: {spec}}}")
}

fn pod(uid: &str, rest: &str) -> String {
    format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p, namespace: shop{uid}}}, {rest}}}")
}

#[test]
fn a_service_gets_the_defaults_of_the_api_server() {
    let text = service("{clusterIP: 10.0.0.1, ports: [{port: 80}]}");
    let Object::Service(service) = good(&text) else { panic!("no Service") };
    let spec = service.spec.as_ref().unwrap();
    assert_eq!(spec.type_.as_deref(), Some("ClusterIP"));
    assert_eq!(spec.session_affinity.as_deref(), Some("None"));
    assert_eq!(spec.internal_traffic_policy.as_deref(), Some("Cluster"));
    assert_eq!(spec.cluster_ips.as_deref(), Some(&["10.0.0.1".to_owned()][..]));
    let port = &spec.ports.as_ref().unwrap()[0];
    assert_eq!(port.protocol.as_deref(), Some("TCP"));
    assert_eq!(port.target_port, Some(IntOrString::Int(80)));
}

#[test]
fn a_pod_gets_the_defaults_of_the_api_server() {
    let text = pod(
        ", uid: u",
        "spec: {containers: [{name: c, ports: [{name: web, containerPort: 1}]}]}, status: {podIP: 10.1.0.1}",
    );
    let Object::Pod(pod) = good(&text) else { panic!("no Pod") };
    assert_eq!(pod.service_account.as_deref(), Some("default"));
    assert_eq!(*pod.named_ports, [("web".into(), 1)], "a port is one of TCP");
    assert_eq!(*pod.addresses, ["10.1.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(pod.created, None);
}

#[test]
fn a_namespaced_object_without_a_namespace_is_in_default() {
    let Object::ConfigMap(map) = good("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}") else {
        panic!()
    };
    assert_eq!(map.metadata.namespace.as_deref(), Some("default"));
    check("{apiVersion: v1, kind: Node, metadata: {name: a, namespace: b}}", &["good Node a"], &[]);
}

#[test]
fn a_secret_takes_its_strings_as_data() {
    let text = "{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {x: eA==}, stringData: {y: z}}";
    let Object::Secret(secret) = good(text) else { panic!("no Secret") };
    let data = secret.data.as_ref().unwrap();
    assert_eq!((&data["x"].0[..], &data["y"].0[..]), (&b"x"[..], &b"z"[..]));
}

#[test]
fn what_a_secret_holds_is_not_in_its_report() {
    for data in ["{x: hunter2!}", "{x: [hunter2!]}", "hunter2!"] {
        let text = format!("{{apiVersion: v1, kind: Secret, metadata: {{name: a}}, data: {data}}}");
        let content = read(&text);
        assert_eq!(content.outcomes.len(), 1);
        let line = content.reports[0].to_string();
        assert!(line.starts_with("a.yaml: Secret default/a: data"), "{line}");
        assert!(!line.contains("hunter2"), "{line}");
    }
}

#[test]
fn a_service_without_an_address_is_taken_with_a_doubt() {
    let doubt = "a.yaml: Service shop/s: spec.clusterIP: is not set, and nothing here allocates one";
    check(&service("{ports: [{port: 80}]}"), &["good Service shop/s"], &[doubt]);
    check(&service("{clusterIP: None, ports: [{port: 80}]}"), &["good Service shop/s"], &[]);
    check(&service("{type: ExternalName, externalName: a.b}"), &["good Service shop/s"], &[]);
}

#[test]
fn a_typed_route_carries_the_defaults_and_its_creation_time() {
    let text = "
apiVersion: gateway.networking.k8s.io/v1beta1
kind: HTTPRoute
metadata: {name: r, namespace: shop, creationTimestamp: 2026-01-02T03:04:05Z}
spec:
  parentRefs: [{group: '', kind: Service, name: s, port: 80}]
  rules: [{backendRefs: [{name: b, port: 8080}]}]
status: {parents: []}
";
    let Object::HttpRoute(route) = good(text) else { panic!("no HTTPRoute") };
    assert!(route.metadata.creation_timestamp.is_some());
    let rule = &route.spec.rules.as_ref().unwrap()[0];
    assert_eq!(rule.backend_refs.as_ref().unwrap()[0].weight, Some(1));
    assert_eq!(rule.matches.as_ref().unwrap()[0].path.as_ref().unwrap().value.as_deref(), Some("/"));
    let grant = "{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {name: g}, spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a}], to: [{group: '', kind: Service}]}}";
    assert!(matches!(good(grant), Object::ReferenceGrant(_)));
}

#[test]
fn documents_and_lists_are_read_one_by_one() {
    let map = |name: &str| format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}}}");
    let text = format!("# a licence\n---\n{}\n---\n\n--- # nothing\n---\n{}\n", map("a"), map("b"));
    check(&text, &["good ConfigMap default/a", "good ConfigMap default/b"], &[]);
    let text = format!("{{apiVersion: v1, kind: List, items: [{}, {{kind: X}}]}}", map("a"));
    check(
        &text,
        &["good ConfigMap default/a", "unreadable"],
        &["a.yaml: document 1 (line 1), items[1]: apiVersion: is required"],
    );
    check("", &[], &[]);
    let content = read_objects(
        &SCHEMAS,
        Path::new("a.json"),
        "{\n\t\"kind\": \"ConfigMap\",\n\t\"apiVersion\": \"v1\", \"metadata\": {\"name\": \"a\"}}",
    );
    assert!(matches!(&content.outcomes[..], [Outcome::Good(..)]), "{:?}", content.reports);
}

#[test]
fn a_broken_document_says_where_and_spares_its_neighbours() {
    let text = "
apiVersion: v1
kind: ConfigMap
metadata: {name: a}
---
apiVersion: v1
kind: [
---
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {ports: [{port: http}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {}
---
just text
";
    check(
        text,
        &["good ConfigMap default/a", "unreadable", "broken Service default/s", "unreadable", "unreadable"],
        &[
            "a.yaml: document 2 (line 5): line ",
            "a.yaml: Service default/s: spec.ports[0].port: invalid type: string \"http\", expected i32",
            "a.yaml: ConfigMap, document 4 (line 13): metadata.name: is required",
            "a.yaml: document 5 (line 17): kind: is required",
        ],
    );
}

#[test]
fn a_syntax_error_counts_lines_from_the_start_of_the_file() {
    let text = "a: b\n---\nkind: X\nb: c: d\n";
    let content = read(text);
    let line = content.reports.last().unwrap().to_string();
    assert!(line.starts_with("a.yaml: document 2 (line 2): line 4, column "), "{line}");
}

#[test]
fn unknown_fields_and_kinds_are_said_and_left_out() {
    check(
        &service("{clusterIP: 10.0.0.1, port: 80, ports: [{port: 80, targetport: 81}]}"),
        &["good Service shop/s"],
        &[
            "a.yaml: Service shop/s: spec.port: is not a field",
            "a.yaml: Service shop/s: spec.ports[0].targetport: is not a field",
        ],
    );
    let route = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, label: x}, spec: {rule: []}}";
    check(
        route,
        &["good HTTPRoute default/r"],
        &[
            "a.yaml: HTTPRoute default/r: spec.rule: is not",
            "a.yaml: HTTPRoute default/r: metadata.label: is not",
        ],
    );
    check(
        "{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: s, namespace: x}}",
        &[],
        &["a.yaml: Service x/s: kind Service of serving.knative.dev/v1 is not read yet"],
    );
}

#[test]
fn older_versions_of_routes_of_connections_are_read_as_far_as_they_are_the_same() {
    let rule = "{backendRefs: [{name: b, port: 1}]}";
    let route = |kind: &str, version: &str, spec: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/{version}, kind: {kind}, metadata: {{name: r, namespace: shop}}, \
             spec: {{{spec}}}}}"
        )
    };
    check(&route("TCPRoute", "v1", &format!("rules: [{rule}]")), &["good TCPRoute shop/r"], &[]);
    check(
        &route("TCPRoute", "v1alpha2", &format!("rules: [{rule}, {rule}]")),
        &["good TCPRoute shop/r"],
        &[],
    );
    for version in ["v1", "v1alpha2", "v1alpha3"] {
        let named = route("TLSRoute", version, &format!("hostnames: [a.test], rules: [{rule}]"));
        check(&named, &["good TLSRoute shop/r"], &[]);
    }
    let unnamed = route("TLSRoute", "v1alpha2", &format!("rules: [{rule}]"));
    let refused = "a.yaml: TLSRoute shop/r: spec: missing field `hostnames`";
    check(&unnamed, &["broken TLSRoute shop/r"], &[refused]);
}

#[test]
fn a_version_that_is_not_read_breaks_the_object_that_is_meant() {
    let gateway = "gateway.networking.k8s.io";
    for (kind, version, expected) in [
        ("HTTPRoute", "gateway.networking.k8s.io/v1alpha2", format!("{gateway}/v1 or {gateway}/v1beta1")),
        ("HTTPRoute", "gateway.networking.k8s.oi/v1", format!("{gateway}/v1 or {gateway}/v1beta1")),
        ("GRPCRoute", "v1", format!("{gateway}/v1")),
        ("ReferenceGrant", "v1beta1", format!("{gateway}/v1 or {gateway}/v1beta1")),
        ("EndpointSlice", "discovery.k8s.io/v1beta1", "discovery.k8s.io/v1".to_owned()),
        ("Service", "v2", "v1".to_owned()),
        ("ConfigMap", "core/v1", "v1".to_owned()),
    ] {
        check(
            &format!("{{apiVersion: {version}, kind: {kind}, metadata: {{name: x, namespace: shop}}}}"),
            &[&format!("broken {kind} shop/x")],
            &[&format!("a.yaml: {kind} shop/x: apiVersion: must be {expected}, is \"{version}\"")],
        );
    }
    check(
        "{apiVersion: v2, kind: Service, metadata: {}}",
        &["unreadable"],
        &["a.yaml: Service, document 1 (line 1): metadata.name: is required"],
    );
}

#[test]
fn what_the_api_server_would_refuse_is_refused() {
    let cases = [
        (
            service("{clusterIP: 10.0.0.1, ports: [{port: 0}]}"),
            "spec.ports[0].port: must be from 1 to 65535, is 0",
        ),
        (service("{clusterIP: 10.0.0, ports: [{port: 1}]}"), "spec.clusterIPs[0]: must be an IP address"),
        (service("{clusterIP: 10.0.0.1}"), "spec.ports: is required"),
        (service("{type: External, ports: [{port: 1}]}"), "spec.type: must be one of"),
        (service("{type: ExternalName}"), "spec.externalName: is required"),
        (
            service("{ports: [{port: 1, protocol: HTTP}]}"),
            "spec.ports[0].protocol: must be one of TCP, UDP, SCTP",
        ),
        (service("{ports: [{port: 1, name: a}, {port: 2}]}"), "spec.ports[1].name: is required"),
        (service("{ports: [{port: 1, name: a}, {port: 2, name: a}]}"), "spec.ports[1].name: is there twice"),
        (
            service("{ports: [{port: 1, name: a}, {port: 1, name: b}]}"),
            "spec.ports[1].port: is there twice: 1",
        ),
        (service("{ports: [{port: 1, targetPort: 70000}]}"), "spec.ports[0].targetPort: must be from 1"),
        (service("{ports: 80}"), "spec.ports: invalid type"),
        (pod("", "spec: {containers: []}"), "metadata.uid: is required"),
        (pod(", uid: u", "status: {podIPs: [{ip: x}]}"), "status.podIPs[0].ip: must be an IP address"),
        (
            pod(", uid: u", "status: {podIP: 10.0.0.1, podIPs: [{ip: '::1'}]}"),
            "status.podIP: 10.0.0.1 is not among",
        ),
        (pod(", uid: u", "metadata2: {}, spec: {containers: {}}"), "spec.containers: invalid type"),
    ];
    for (text, expected) in cases {
        let content = read(&text);
        assert!(matches!(&content.outcomes[..], [Outcome::Broken(_)]), "{text}: {:?}", content.outcomes);
        let lines: Vec<String> = content.reports.iter().map(ToString::to_string).collect();
        let kind = if text.contains("kind: Pod") { "Pod shop/p" } else { "Service shop/s" };
        let expected = format!("a.yaml: {kind}: {expected}");
        assert!(lines.iter().any(|line| line.starts_with(&expected)), "{expected:?} not in {lines:#?}");
    }
}

#[test]
fn an_endpoint_slice_is_of_one_family() {
    let slice = |family: &str, address: &str| {
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: e}}, addressType: {family}, endpoints: [{{addresses: ['{address}']}}], ports: [{{port: 80}}]}}"
        )
    };
    let Object::EndpointSlice(found) = good(&slice("IPv4", "10.0.0.1")) else { panic!("no EndpointSlice") };
    assert_eq!(*found.ports, [("".into(), 80)]);
    let broken = ["broken EndpointSlice default/e"];
    let field = "a.yaml: EndpointSlice default/e: endpoints[0].addresses[0]: must be an";
    check(&slice("IPv4", "::1"), &broken, &[field]);
    check(&slice("IPv6", "x"), &broken, &[field]);
    check(
        &slice("V4", "::1"),
        &broken,
        &["a.yaml: EndpointSlice default/e: addressType: must be IPv4, IPv6 or FQDN"],
    );
}

#[test]
fn names_are_checked_before_they_become_keys() {
    for (metadata, field) in [
        ("{name: A_b}", "metadata.name: must be a name"),
        ("{name: a, namespace: a.b}", "metadata.namespace: must be a name"),
        ("{name: 1}", "metadata.name: is required"),
    ] {
        let text = format!("{{apiVersion: v1, kind: Pod, metadata: {metadata}}}");
        check(&text, &["unreadable"], &[&format!("a.yaml: Pod, document 1 (line 1): {field}")]);
    }
}
