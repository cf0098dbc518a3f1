//! Route tables: which rule takes a request of which client.

use std::borrow::Cow;

use super::*;
use crate::error::FailureReason;
use crate::route::{Backend, RequestHead};

const SERVICES: &str = "
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}, {name: second, port: 81}]}
---
kind: Service
metadata: {name: v1}
spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}
---
kind: Service
metadata: {name: v2}
spec: {clusterIP: 10.96.0.3, ports: [{port: 80}]}
---
kind: Service
metadata: {name: far, namespace: other}
spec: {clusterIP: 10.96.0.4, ports: [{port: 80}]}
";

/// A request with one header.
struct Request {
    path: &'static str,
    header: (&'static str, &'static str),
}

impl RequestHead for Request {
    fn method(&self) -> &str {
        "POST"
    }

    fn path(&self) -> &str {
        self.path
    }

    fn query(&self) -> Option<&str> {
        None
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        (self.header.0 == name).then_some(Cow::Borrowed(self.header.1.as_bytes()))
    }
}

fn route(kind: &str, key: &str, port: &str, rules: &str) -> String {
    let (namespace, name) = key.split_once('/').unwrap();
    format!(
        "---\nkind: {kind}\nmetadata: {{namespace: {namespace}, name: {name}}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: web, namespace: shop{port}}}], rules: [{rules}]}}\n"
    )
}

/// Where a request of a client of `namespace` to `web:PORT` goes: `Err` when no rule takes it, `Ok(None)`
/// when no route holds.
fn ask(
    snapshot: &Snapshot,
    number: u16,
    namespace: &str,
    request: &Request,
) -> Result<Option<Vec<(Backend, u32)>>, ()> {
    let Some(table) = port(snapshot, "shop/web", number).find_routes(namespace) else { return Ok(None) };
    let rule = table.find(request).ok_or(())?;
    Ok(Some(rule.backends.backends().iter().map(|share| (share.backend.clone(), share.weight)).collect()))
}

fn to(namespace: &str, name: &str) -> Backend {
    Backend::Service(ServicePortKey::tcp(ObjectKey::new(namespace, name), 80))
}

const PLAIN: Request = Request { path: "/", header: ("a", "b") };

#[test]
fn the_header_story_new_goes_to_v2_and_the_rest_to_v1() {
    let rules = "{matches: [{headers: [{name: Version, value: new}]}], backendRefs: [{name: v2, port: 80}]}, \
                 {backendRefs: [{name: v1, port: 80}]}";
    let snapshot = snapshot_of(&[SERVICES, &route("HTTPRoute", "shop/r", "", rules)].concat());
    let new = Request { path: "/", header: ("version", "new") };
    for port in [80, 81] {
        assert_eq!(ask(&snapshot, port, "any", &new), Ok(Some(vec![(to("shop", "v2"), 1)])));
        assert_eq!(ask(&snapshot, port, "any", &PLAIN), Ok(Some(vec![(to("shop", "v1"), 1)])));
    }
}

#[test]
fn several_routes_of_one_parent_merge() {
    let rule = |path: &str, backend: &str| {
        format!(
            "{{matches: [{{path: {{type: PathPrefix, value: {path}}}}}], backendRefs: [{{name: {backend}, port: 80}}]}}"
        )
    };
    let snapshot = snapshot_of(
        &[
            SERVICES,
            &route("HTTPRoute", "shop/one", "", &rule("/one", "v1")),
            &route("HTTPRoute", "shop/two", "", &rule("/two", "v2")),
        ]
        .concat(),
    );
    let at = |path| Request { path, header: ("a", "b") };
    assert_eq!(ask(&snapshot, 80, "any", &at("/one/x")), Ok(Some(vec![(to("shop", "v1"), 1)])));
    assert_eq!(ask(&snapshot, 80, "any", &at("/two")), Ok(Some(vec![(to("shop", "v2"), 1)])));
    assert_eq!(ask(&snapshot, 80, "any", &at("/three")), Err(()), "no rule takes it: no fall-through");
}

#[test]
fn a_consumer_route_replaces_the_producers_for_clients_of_its_namespace_only() {
    let only = |path: &str, backend: &str| {
        format!(
            "{{matches: [{{path: {{type: PathPrefix, value: {path}}}}}], backendRefs: [{{name: {backend}, port: 80, namespace: shop}}]}}"
        )
    };
    let snapshot = snapshot_of(
        &[
            SERVICES,
            &route("HTTPRoute", "shop/producer", ", port: 80", &only("/", "v1")),
            &route("HTTPRoute", "client/consumer", ", port: 80", &only("/mine", "v2")),
        ]
        .concat(),
    );
    assert_eq!(ask(&snapshot, 80, "stranger", &PLAIN), Ok(Some(vec![(to("shop", "v1"), 1)])));
    let mine = Request { path: "/mine", header: ("a", "b") };
    assert_eq!(ask(&snapshot, 80, "client", &mine), Ok(Some(vec![(to("shop", "v2"), 1)])));
    assert_eq!(ask(&snapshot, 80, "client", &PLAIN), Err(()), "the whole producer group is replaced");
    assert_eq!(ask(&snapshot, 81, "client", &mine), Ok(None), "the other port has no routes");
}

#[test]
fn weights_invalid_shares_and_backends_of_other_namespaces_are_kept() {
    let rules = "{backendRefs: [{name: v1, port: 80, weight: 90}, {name: gone, port: 80, weight: 9}, \
                 {name: far, namespace: other, port: 80}, {name: v2, port: 80, weight: 0}]}";
    let snapshot = snapshot_of(&[SERVICES, &route("HTTPRoute", "shop/r", "", rules)].concat());
    let expected = vec![
        (to("shop", "v1"), 90),
        (Backend::Failing(FailureReason::InvalidBackend), 9),
        (to("other", "far"), 1),
        (to("shop", "v2"), 0),
    ];
    assert_eq!(ask(&snapshot, 80, "any", &PLAIN), Ok(Some(expected)));
}

#[test]
fn a_rejected_route_is_programmed_nowhere() {
    let refused = "{filters: [{type: ExtensionRef, extensionRef: {group: g, kind: k, name: x}}], backendRefs: [{name: v1, port: 80, namespace: shop}]}";
    let snapshot = snapshot_of(
        &[SERVICES, &route("HTTPRoute", "shop/r", "", refused), &route("HTTPRoute", "client/c", "", refused)]
            .concat(),
    );
    for number in [80, 81] {
        let port = port(&snapshot, "shop/web", number);
        assert!(port.producer.is_none() && port.consumers.is_empty());
    }
}

#[test]
fn a_refused_rule_answers_500_and_the_rest_of_the_route_holds() {
    let rules = "{matches: [{path: {type: Exact, value: /mirror}}], filters: [{type: ExtensionRef, extensionRef: {group: g, kind: k, name: x}}], \
                 backendRefs: [{name: v1, port: 80}]}, {backendRefs: [{name: v1, port: 80}]}";
    let snapshot = snapshot_of(&[SERVICES, &route("HTTPRoute", "shop/r", "", rules)].concat());
    let mirrored = Request { path: "/mirror", header: ("a", "b") };
    let failing = vec![(Backend::Failing(FailureReason::UnsupportedRule), 1)];
    assert_eq!(ask(&snapshot, 80, "any", &mirrored), Ok(Some(failing)));
    assert_eq!(ask(&snapshot, 80, "any", &PLAIN), Ok(Some(vec![(to("shop", "v1"), 1)])));
}

#[test]
fn a_rule_whose_every_match_is_refused_matches_nothing() {
    let rules = "{matches: [{path: {type: RegularExpression, value: '('}}], backendRefs: [{name: v2, port: 80}]}, \
                 {matches: [{path: {type: Exact, value: /x}}], backendRefs: [{name: v1, port: 80}]}";
    let snapshot = snapshot_of(&[SERVICES, &route("HTTPRoute", "shop/r", "", rules)].concat());
    assert_eq!(ask(&snapshot, 80, "any", &PLAIN), Err(()));
}

#[test]
fn grpc_methods_reach_the_table() {
    let rules = "{matches: [{method: {service: s.S, method: M}}], backendRefs: [{name: v2, port: 80}]}, \
                 {backendRefs: [{name: v1, port: 80}]}";
    let snapshot = snapshot_of(&[SERVICES, &route("GRPCRoute", "shop/g", "", rules)].concat());
    let call = |path| Request { path, header: ("content-type", "application/grpc") };
    assert_eq!(ask(&snapshot, 80, "any", &call("/s.S/M")), Ok(Some(vec![(to("shop", "v2"), 1)])));
    assert_eq!(ask(&snapshot, 80, "any", &call("/s.S/N")), Ok(Some(vec![(to("shop", "v1"), 1)])));
}

#[test]
fn the_dump_prints_routes_in_the_order_in_which_they_are_tried() {
    let rules = "{name: rest, backendRefs: [{name: v1, port: 80, weight: 9}, {name: gone, port: 80}]}, \
                 {matches: [{path: {type: RegularExpression, value: '/a+'}, method: GET, \
                 headers: [{name: Version, value: new}], queryParams: [{name: q, value: x}]}], \
                 backendRefs: [{name: v2, port: 80}]}";
    let pod = "---\nkind: Pod\nmetadata: {name: p, uid: u, labels: {app: v1}}\nstatus: {podIP: 10.0.0.1}\n";
    let services = SERVICES.replace("clusterIP: 10.96.0.2,", "clusterIP: 10.96.0.2, selector: {app: v1},");
    let mut objects = objects(&[&services, pod, &route("HTTPRoute", "shop/r", ", port: 80", rules)].concat());
    mark(&mut objects, "shop/p", "u", &["10.0.0.1"]);
    let dump = compile_once(&objects).dump();

    let find = |name: &str| {
        let ports = dump["servicePorts"].as_array().unwrap();
        ports.iter().find(|port| port["service"] == name && port["port"] == 80).unwrap()
    };
    let web = find("shop/web");
    assert_eq!(web["protocol"], "http");
    let rules = web["producerRules"].as_array().unwrap();
    let matches: Vec<&str> = rules.iter().map(|rule| rule["match"].as_str().unwrap()).collect();
    assert_eq!(
        matches,
        [r#"path ~ "/a+", method = "GET", header "version" = "new", query "q" = "x""#, "any path"]
    );
    assert_eq!((&rules[1]["route"], &rules[1]["name"]), (&"HTTPRoute shop/r".into(), &"rest".into()));
    assert_eq!(
        rules[1]["backends"],
        serde_json::json!([
            {"service": "shop/v1", "port": 80, "weight": 9},
            {"failing": "invalid_backend", "weight": 1},
        ])
    );
    let endpoint = &find("shop/v1")["endpoints"][0];
    assert_eq!(endpoint["address"], "10.0.0.1:80");
    assert_eq!(endpoint["workload"]["identity"], "spiffe://cluster.local/ns/shop/sa/default");
    assert_eq!(endpoint["workload"]["enrolment"], "marked");
    assert_eq!(dump["frontends"][0]["service"], "shop/web");
}
