//! A Gateway behind proxies that it believes (`--trusted-hops`): whose word about a client counts, and for what.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::rig::{ALL, Stage, gateway, route, stage};

/// A route that goes by the client's scheme.
const BY_SCHEME: &str = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, \
    metadata: {name: behind-https, namespace: plain}, \
    spec: {parentRefs: [{name: behind, namespace: edge}], rules: [{ \
    matches: [{headers: [{name: X-Forwarded-Proto, value: https}]}], \
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-route, value: https}]}}], \
    backendRefs: [{name: open, port: 80}]}]}}";

/// Starts a Gateway with a listener of HTTP, and these routes.
fn start(stage: &Stage, name: &str, flags: &[&str], routes: &[String]) -> String {
    let listeners = format!("{{name: http, port: 80, protocol: HTTP, {ALL}}}");
    let objects = [&[gateway(name, &listeners)], routes].concat().join("\n---\n");
    let mut world = stage.world();
    world.apply_in("edge", "a Gateway behind proxies", &objects).unwrap();
    world.gateway_pod_with(name, ("edge", name), "node-a", flags).unwrap();
    drop(world);
    stage.address(name)
}

#[test]
fn the_client_is_whom_the_outermost_trusted_proxy_names() {
    let stage = stage();
    let routes = [route("behind", "behind"), BY_SCHEME.to_owned()];
    let host = start(&stage, "behind", &["--trusted-hops=2"], &routes);
    let own = stage.address("client");
    for (version, protocol) in [("--http1.1", "http1"), ("--http2-prior-knowledge", "http2")] {
        let ask = |path: &str, lines: &[&str]| {
            let url = format!("http://any.example.com/{protocol}/{path}");
            let fields: Vec<&str> = lines.iter().flat_map(|line| ["-H", *line]).collect();
            let seen = stage.ask_at(&host, &[&[version, &*url], &fields[..]].concat());
            let path = format!("path=/{protocol}/{path} ");
            (seen["headers"].clone(), stage.wait_line_of("behind", &[&path]))
        };
        let came = "x-forwarded-for: 9.9.9.9, 203.0.113.5, 198.51.100.7";
        let (fields, line) =
            ask("list", &[came, "x-forwarded-proto: https", "x-forwarded-host: www.example.com"]);
        let said = format!("9.9.9.9, 203.0.113.5, 198.51.100.7, {own}");
        assert_eq!(fields["x-forwarded-for"], json!([said]), "{fields}");
        assert_eq!(fields["x-forwarded-proto"], json!(["https"]), "{fields}");
        assert_eq!(fields["x-route"], json!(["https"]), "{fields}");
        assert_eq!(fields["x-forwarded-host"], json!(["www.example.com"]), "{fields}");
        assert!(line.contains("src.addr=203.0.113.5 "), "{line}");
        assert!(line.contains(&format!(" peer.addr={own}:")), "{line}");
        // In two lines, with a port, of IPv6, and with a scheme that is none.
        let (fields, line) = ask(
            "lines",
            &[
                "X-Forwarded-For: unknown, [2001:db8::5]:4711",
                "x-forwarded-for: unknown",
                "x-forwarded-proto: gopher",
                "forwarded: for=9.9.9.9",
                "x-real-ip: 9.9.9.9",
            ],
        );
        assert_eq!(
            fields["x-forwarded-for"],
            json!([format!("unknown, [2001:db8::5]:4711, unknown, {own}")]),
            "{fields}"
        );
        assert_eq!(fields["x-forwarded-proto"], json!(["http"]), "{fields}");
        assert_eq!((&fields["forwarded"], &fields["x-real-ip"]), (&Value::Null, &Value::Null), "{fields}");
        assert!(line.contains("src.addr=[2001:db8::5]:4711 "), "{line}");
        // One that has come past a proxy, and one of whose client nothing is known: nothing of them counts.
        for (path, value) in [("short", "203.0.113.5"), ("unknown", "unknown, 203.0.113.5"), ("none", "")] {
            let value = format!("x-forwarded-for: {value}");
            let (fields, line) =
                ask(path, &[&value, "x-forwarded-proto: https", "x-forwarded-host: evil.example.com"]);
            assert_eq!(fields["x-forwarded-for"], json!([own]), "{path}: {fields}");
            assert_eq!(fields["x-forwarded-proto"], json!(["http"]), "{path}: {fields}");
            assert_eq!(fields["x-route"], Value::Null, "{path}: a route has believed it: {fields}");
            assert_eq!(fields["x-forwarded-host"], Value::Null, "{path}: {fields}");
            assert!(line.contains(&format!("src.addr={own}:")) && !line.contains("peer.addr"), "{line}");
        }
    }
    stage.world().remove_pod("behind").unwrap();
}

#[test]
fn a_service_with_affinity_keeps_clients_by_the_addresses_that_are_believed() {
    let stage = stage();
    let backend = stage.address("open");
    let endpoints = [8080, 8081].map(|port| {
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: sticky-{port}, namespace: plain, \
             labels: {{kubernetes.io/service-name: sticky}}}}, addressType: IPv4, \
             ports: [{{name: http, port: {port}}}], endpoints: [{{addresses: [\"{backend}\"]}}]}}"
        )
    });
    let service = "{apiVersion: v1, kind: Service, metadata: {name: sticky, namespace: plain}, \
                   spec: {sessionAffinity: ClientIP, ports: [{name: http, port: 80}]}}";
    let objects = [&endpoints[0], &endpoints[1], service].join("\n---\n");
    stage.world().apply_in("plain", "a Service that keeps its clients", &objects).unwrap();
    let to_it = route("sticky", "sticky").replace("name: open", "name: sticky");
    let host = start(&stage, "sticky", &["--trusted-hops=1"], &[to_it]);
    let mut chosen = BTreeSet::new();
    for last in 1..=12 {
        let mut of_client = BTreeSet::new();
        for turn in 0..3 {
            let (value, url) = (
                format!("x-forwarded-for: 203.0.113.{last}"),
                format!("http://any.example.com/{last}/{turn}"),
            );
            stage.curl_at(&host, &["-H", &value, &url]);
            let line = stage.wait_line_of("sticky", &[&format!("path=/{last}/{turn} ")]);
            let endpoint = line.split(' ').find_map(|field| field.strip_prefix("dst.addr=")).unwrap();
            of_client.insert(endpoint.to_owned());
        }
        assert_eq!(of_client.len(), 1, "203.0.113.{last} was at {of_client:?}");
        chosen.extend(of_client);
    }
    assert_eq!(chosen.len(), 2, "one endpoint has had all of them: {chosen:?}");
    stage.world().remove_pod("sticky").unwrap();
}
