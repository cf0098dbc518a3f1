//! Plans as a table: YAML objects, a client's namespace and a request in; the rule and where it goes out.

use std::borrow::Cow;
use std::time::SystemTime;

use gammarus_ca::TrustDomain;

use super::{Action, ConnectionPlan, Forwarding, plan, plan_connection};
use crate::attach::fixture::objects;
use crate::compile::compile;
use crate::dice::Dice;
use crate::route::RequestHead;
use crate::snapshot::Snapshot;
use crate::snapshot::service::ServicePort;

const SERVICES: &str = "
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.1, externalIPs: [198.51.100.1], ports: [{port: 80}, {port: 81}, {name: tcp-raw, port: 82}]}
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

/// The parentRef of port 80 of `web`.
const WEB: &str = "{group: '', kind: Service, name: web, namespace: shop, port: 80}";

/// A request as `METHOD path?query name:value`.
struct Request<'a> {
    method: &'a str,
    target: &'a str,
    header: Option<(&'a str, &'a str)>,
}

impl<'a> Request<'a> {
    fn new(line: &'a str) -> Self {
        let mut words = line.split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        Self { method, target, header: words.next().map(|field| field.split_once(':').unwrap()) }
    }
}

impl RequestHead for Request<'_> {
    fn method(&self) -> &str {
        self.method
    }

    fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.header.filter(|(key, _)| *key == name).map(|(_, value)| Cow::Borrowed(value.as_bytes()))
    }
}

fn route(key: &str, parent: &str, rules: &str) -> String {
    let (namespace, name) = key.split_once('/').unwrap();
    format!(
        "---\nkind: HTTPRoute\nmetadata: {{namespace: {namespace}, name: {name}}}\n\
         spec: {{parentRefs: [{parent}], rules: [{rules}]}}\n"
    )
}

fn snapshot_of(routes: &[String]) -> Snapshot {
    let objects = objects(&[SERVICES, &routes.concat()].concat());
    compile(&objects, "a", &TrustDomain::new("cluster.local").unwrap())
}

/// `RULE -> BACKEND` of a request to `destination`: `shop/r#0 -> shop/v1:80`, `none -> no_matching_rule`.
fn planned(snapshot: &Snapshot, destination: &str, namespace: &str, request: &str, random: u64) -> String {
    let frontend = snapshot.find_frontend(destination.parse().unwrap()).expect("the address is a Service's");
    let plan = plan(snapshot, frontend, namespace, &Request::new(request), (random, SystemTime::now));
    let rule =
        plan.rule.map_or_else(|| "none".to_owned(), |rule| format!("{}#{}", rule.route.key, rule.index));
    let action = match plan.action {
        Action::Forward(Forwarding { port, mirrors, .. }) => {
            let name = |port: &ServicePort| format!("{}:{}", port.key.service, port.key.port);
            let copies = mirrors.iter().map(|mirror| format!(" + {}", name(mirror)));
            name(&port) + &copies.collect::<String>()
        }
        Action::Redirect { status, location } => format!("{} {location}", status.as_u16()),
        Action::Preflight(_) => "preflight".to_owned(),
        Action::Fail(reason) => reason.to_string(),
    };
    format!("{rule} -> {action}")
}

#[track_caller]
fn check(snapshot: &Snapshot, client: (&str, &str), request: &str, expected: &str) {
    let (namespace, destination) = client;
    let found = planned(snapshot, destination, namespace, request, 0);
    assert_eq!(found, expected, "{request} from {namespace} to {destination}");
}

#[test]
fn a_service_without_a_route_is_its_endpoints() {
    let snapshot = snapshot_of(&[]);
    check(&snapshot, ("shop", "10.96.0.1:80"), "GET /", "none -> shop/web:80");
    check(&snapshot, ("any", "10.96.0.1:81"), "GET /", "none -> shop/web:81");
    check(&snapshot, ("any", "198.51.100.1:80"), "GET /", "none -> shop/web:80");
}

#[test]
fn the_first_rule_by_precedence_takes_a_request_and_nothing_falls_through() {
    let rules = "{matches: [{headers: [{name: version, value: new}]}, {method: POST}], backendRefs: [{name: v2, port: 80}]}, \
                 {matches: [{path: {type: PathPrefix, value: /v1}}], backendRefs: [{name: v1, port: 80}]}, \
                 {matches: [{path: {type: Exact, value: /far}}], backendRefs: [{name: far, namespace: other, port: 80}]}, \
                 {matches: [{queryParams: [{name: self, value: x}]}], backendRefs: [{name: web, port: 80}]}";
    let snapshot = snapshot_of(&[route("shop/r", WEB, rules)]);
    let client = ("any", "10.96.0.1:80");
    for (request, expected) in [
        ("GET / version:new", "shop/r#0 -> shop/v2:80"),
        ("POST /", "shop/r#0 -> shop/v2:80"),
        ("GET /v1/x version:new", "shop/r#1 -> shop/v1:80"),
        ("GET /far?q", "shop/r#2 -> other/far:80"),
        // To its own Service, and never into its routes again.
        ("GET /?self=x", "shop/r#3 -> shop/web:80"),
        ("GET / version:old", "none -> no_matching_rule"),
        ("GET /v10", "none -> no_matching_rule"),
    ] {
        check(&snapshot, client, request, expected);
    }
    check(&snapshot, ("any", "10.96.0.1:81"), "GET /", "none -> shop/web:81");
    check(&snapshot, ("any", "198.51.100.1:80"), "GET /", "none -> shop/web:80");
}

#[test]
fn a_backend_is_a_service_itself_and_not_the_routes_on_it() {
    let to = |name: &str| format!("{{backendRefs: [{{name: {name}, port: 80}}]}}");
    let of = |name: &str| format!("{{group: '', kind: Service, name: {name}}}");
    let snapshot =
        snapshot_of(&[route("shop/one", &of("v1"), &to("v2")), route("shop/two", &of("v2"), &to("v1"))]);
    check(&snapshot, ("any", "10.96.0.2:80"), "GET /", "shop/one#0 -> shop/v2:80");
    check(&snapshot, ("any", "10.96.0.3:80"), "GET /", "shop/two#0 -> shop/v1:80");
}

#[test]
fn a_consumer_route_is_the_only_group_for_its_namespace() {
    let to = |path: &str, name: &str| {
        format!(
            "{{matches: [{{path: {{type: PathPrefix, value: {path}}}}}], \
             backendRefs: [{{name: {name}, namespace: shop, port: 80}}]}}"
        )
    };
    let snapshot = snapshot_of(&[
        route("shop/producer", WEB, &to("/", "v1")),
        route("client/consumer", WEB, &to("/buy", "v2")),
    ]);
    check(&snapshot, ("client", "10.96.0.1:80"), "GET /buy", "client/consumer#0 -> shop/v2:80");
    check(&snapshot, ("client", "10.96.0.1:80"), "GET /", "none -> no_matching_rule");
    for namespace in ["shop", "other"] {
        check(&snapshot, (namespace, "10.96.0.1:80"), "GET /buy", "shop/producer#0 -> shop/v1:80");
    }
}

#[test]
fn every_failing_backend_keeps_exactly_its_weight() {
    let rules = "{backendRefs: [{name: v1, port: 80, weight: 3}, {name: gone, port: 80, weight: 2}, {name: v2, port: 80, weight: 0}]}";
    let snapshot = snapshot_of(&[route("shop/r", WEB, rules)]);
    let plans: Vec<String> =
        (0..5).map(|random| planned(&snapshot, "10.96.0.1:80", "any", "GET /", random)).collect();
    let count = |text: &str| plans.iter().filter(|plan| *plan == text).count();
    assert_eq!(count("shop/r#0 -> shop/v1:80"), 3, "{plans:?}");
    assert_eq!(count("shop/r#0 -> invalid_backend"), 2, "{plans:?}");
}

#[test]
fn a_rule_that_can_send_nowhere_says_why() {
    let at =
        |path: &str, rest: &str| format!("{{matches: [{{path: {{type: Exact, value: {path}}}}}], {rest}}}");
    let rules = [
        at("/none", "backendRefs: []"),
        at("/zero", "backendRefs: [{name: v1, port: 80, weight: 0}]"),
        at("/session", "sessionPersistence: {sessionName: 'a b'}, backendRefs: [{name: v1, port: 80}]"),
        at("/raw", "backendRefs: [{name: web, port: 82}]"),
        at("/fine", "backendRefs: [{name: v1, port: 80}]"),
    ];
    let snapshot = snapshot_of(&[route("shop/r", WEB, &rules.join(", "))]);
    for (request, expected) in [
        ("GET /none", "shop/r#0 -> invalid_backend"),
        ("GET /zero", "shop/r#1 -> invalid_backend"),
        ("GET /session", "shop/r#2 -> unsupported_rule"),
        ("GET /raw", "shop/r#3 -> invalid_backend"),
        ("GET /fine", "shop/r#4 -> shop/v1:80"),
    ] {
        check(&snapshot, ("any", "10.96.0.1:80"), request, expected);
    }
}

fn connection_route(kind: &str, key: &str, parent: &str, backends: &str) -> String {
    let names = if kind == "TLSRoute" { "hostnames: [a.test, '*.b.test'], " } else { "" };
    let rules = format!("{{name: main, backendRefs: [{backends}]}}");
    route(key, parent, &rules).replace("HTTPRoute", kind).replace("spec: {", &format!("spec: {{{names}"))
}

/// `RULE -> PORT` of a connection to `destination`.
fn planned_connection(
    snapshot: &Snapshot,
    (namespace, destination): (&str, &str),
    server_name: Option<&str>,
    random: u64,
) -> String {
    let frontend = snapshot.find_frontend(destination.parse().unwrap()).expect("the address is a Service's");
    let ConnectionPlan { rule, port } = plan_connection(snapshot, frontend, namespace, server_name, random);
    let rule = rule.map_or_else(|| "none".to_owned(), |rule| rule.route.to_string());
    let port = port
        .map_or_else(|reason| reason.to_string(), |port| format!("{}:{}", port.key.service, port.key.port));
    format!("{rule} -> {port}")
}

#[test]
fn a_tcp_route_deals_connections_by_weight_and_an_invalid_backend_keeps_its_share() {
    let backends = "{name: v1, port: 80, weight: 3}, {name: gone, port: 80, weight: 2}, {name: v2, port: 80, weight: 0}, \
                    {name: web, port: 82, weight: 1}";
    let snapshot = snapshot_of(&[connection_route("TCPRoute", "shop/t", WEB, backends)]);
    let client = ("any", "10.96.0.1:80");
    let plans: Vec<String> =
        (0..6).map(|random| planned_connection(&snapshot, client, None, random)).collect();
    let count = |text: &str| plans.iter().filter(|plan| *plan == text).count();
    assert_eq!(count("TCPRoute shop/t -> shop/v1:80"), 3, "{plans:?}");
    assert_eq!(count("TCPRoute shop/t -> invalid_backend"), 2, "{plans:?}");
    assert_eq!(count("TCPRoute shop/t -> shop/web:82"), 1, "{plans:?}");
    for address in ["198.51.100.1:80", "10.96.0.1:81"] {
        let plan = planned_connection(&snapshot, ("any", address), None, 0);
        assert!(plan.starts_with("none -> shop/web:8"), "{address}: {plan}");
    }
    let nothing = "{name: v1, port: 80, weight: 0}";
    let snapshot = snapshot_of(&[connection_route("TCPRoute", "shop/t", WEB, nothing)]);
    assert_eq!(planned_connection(&snapshot, client, None, 0), "TCPRoute shop/t -> invalid_backend");
}

#[test]
fn a_tls_route_takes_the_names_that_it_has_and_nothing_falls_through() {
    let to = |name: &str| format!("{{name: {name}, namespace: shop, port: 80}}");
    let snapshot = snapshot_of(&[
        connection_route("TLSRoute", "shop/t", WEB, &to("v1")),
        connection_route("TLSRoute", "client/t", WEB, &to("v2")),
    ]);
    for (namespace, name, expected) in [
        ("any", Some("a.test"), "TLSRoute shop/t -> shop/v1:80"),
        ("any", Some("x.b.test"), "TLSRoute shop/t -> shop/v1:80"),
        ("any", Some("b.test"), "none -> no_matching_rule"),
        ("any", None, "none -> no_matching_rule"),
        ("client", Some("a.test"), "TLSRoute client/t -> shop/v2:80"),
        ("client", Some("b.test"), "none -> no_matching_rule"),
    ] {
        assert_eq!(planned_connection(&snapshot, (namespace, "10.96.0.1:80"), name, 0), expected, "{name:?}");
    }
}

#[test]
fn requests_on_a_connection_that_was_open_before_follow_a_route_of_connections() {
    let to = "{name: v1, port: 80}";
    let snapshot = snapshot_of(&[connection_route("TCPRoute", "shop/t", WEB, to)]);
    check(&snapshot, ("any", "10.96.0.1:80"), "GET /", "shop/t#0 -> shop/v1:80");
    let snapshot = snapshot_of(&[connection_route("TLSRoute", "shop/t", WEB, to)]);
    check(&snapshot, ("any", "10.96.0.1:80"), "GET /", "none -> no_matching_rule");
    let snapshot = snapshot_of(&[route("shop/r", WEB, "{backendRefs: [{name: v1, port: 80}]}")]);
    let plan = planned_connection(&snapshot, ("any", "10.96.0.1:80"), Some("a.test"), 0);
    assert_eq!(plan, "none -> no_matching_rule");
}

#[test]
fn a_redirect_goes_nowhere_and_a_preflight_is_answered() {
    let rules = "{matches: [{path: {type: PathPrefix, value: /old}}], filters: [{type: RequestRedirect, requestRedirect: \
                   {scheme: https, hostname: new.example, statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]}, \
                 {matches: [{path: {type: Exact, value: /port}}], filters: [{type: RequestRedirect, requestRedirect: {port: 8080}}]}, \
                 {filters: [{type: CORS, cors: {allowOrigins: ['*']}}], backendRefs: [{name: v1, port: 80}]}";
    let snapshot = snapshot_of(&[route("shop/r", WEB, rules)]);
    for (request, expected) in [
        ("GET /old/x?y=z", "shop/r#0 -> 301 https://new.example/new/x?y=z"),
        ("GET /port host:web", "shop/r#1 -> 302 http://web:8080/port"),
        ("OPTIONS / origin:https://a.example", "shop/r#2 -> shop/v1:80"),
    ] {
        check(&snapshot, ("any", "10.96.0.1:80"), request, expected);
    }
}

#[test]
fn mirrors_take_their_shares_each_by_itself() {
    let rules = "{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}, percent: 30}}, \
                   {type: RequestMirror, requestMirror: {backendRef: {name: far, namespace: other, port: 80}, \
                    fraction: {numerator: 1, denominator: 2}}}, \
                   {type: RequestMirror, requestMirror: {backendRef: {name: gone, port: 80}}}], \
                 backendRefs: [{name: v1, port: 80}]}";
    let snapshot = snapshot_of(&[route("shop/r", WEB, rules)]);
    let mut dice = Dice(7);
    let plans: Vec<String> = (0..4000)
        .map(|_| {
            let random = u64::try_from(dice.below(usize::MAX >> 33)).expect("small") << 20;
            planned(&snapshot, "10.96.0.1:80", "any", "GET /", random)
        })
        .collect();
    let count = |text: &str| plans.iter().filter(|plan| plan.contains(text)).count();
    assert_eq!(count("-> shop/v1:80"), 4000);
    assert!((1080..1320).contains(&count("+ shop/v2:80")), "{}", count("+ shop/v2:80"));
    assert!((1880..2120).contains(&count("+ other/far:80")), "{}", count("+ other/far:80"));
    let both = plans.iter().filter(|plan| plan.contains("v2") && plan.contains("far")).count();
    assert!((500..700).contains(&both), "{both}");
}
