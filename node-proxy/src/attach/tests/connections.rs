//! TCPRoutes and TLSRoutes: where they hold, what they yield to, and what is said.

use super::*;
use crate::error::FailureReason;

const RULES: &str = "rules: [{backendRefs: [{name: v1, port: 80}]}]";
/// A TLSRoute cannot be without.
const NAMES: &str = "hostnames: [a.test]";

/// A Service whose ports say all kinds of things.
const MIXED: &str = "
---
kind: Service
metadata: {name: mixed}
spec:
  clusterIP: 10.96.0.20
  ports:
  - {name: plain, port: 1}
  - {name: http-x, port: 2}
  - {name: tcp-x, port: 3}
  - {name: https-x, port: 4}
  - {name: tls, port: 5}
  - {name: own, port: 6, appProtocol: example.com/own}
  - {name: ws, port: 7, appProtocol: kubernetes.io/wss}
  - {name: grpc, port: 8}
  - {name: udp, port: 9, protocol: UDP}
";

fn on(service: &str, more: &str) -> String {
    format!(r#"parentRefs: [{{group: "", kind: Service, name: {service}, namespace: shop{more}}}], {RULES}"#)
}

fn tls(spec: &str) -> String {
    format!("{NAMES}, {spec}")
}

/// A route that was created at the second `created` of a minute.
fn aged(kind: &str, name: &str, created: u32, spec: &str) -> String {
    let text = route(kind, "shop", name, spec);
    text.replace(
        "generation: 7",
        &format!("generation: 7, creationTimestamp: '2026-01-01T00:00:{created:02}Z'"),
    )
}

fn accepted(attachments: &Attachments, kind: RouteKind, key: &str) -> String {
    let conditions = &find(attachments, kind, key).parents[0].conditions;
    find_condition(conditions, ConditionType::Accepted).unwrap()
}

#[test]
fn a_route_holds_on_the_ports_that_speak_its_protocol_and_says_which_do_not() {
    for (kind, label, spec, ports, refused) in [
        (
            RouteKind::Tcp,
            "TCPRoute",
            on("mixed", ""),
            &[1, 3, 4, 5, 6, 7][..],
            &[(2, "http"), (8, "grpc")][..],
        ),
        (
            RouteKind::Tls,
            "TLSRoute",
            tls(&on("mixed", "")),
            &[1, 4, 5, 7],
            &[(2, "http"), (3, "tcp"), (6, "example.com/own"), (8, "grpc")],
        ),
        (
            RouteKind::Http,
            "HTTPRoute",
            on("mixed", ""),
            &[1, 2, 8],
            &[(3, "tcp"), (4, "https"), (5, "tls"), (6, "example.com/own"), (7, "kubernetes.io/wss")],
        ),
    ] {
        let attachments = judge(&[MIXED, &route(label, "shop", "r", &spec)]);
        assert_eq!(find(&attachments, kind, "shop/r").parents[0].ports, ports, "{label}");
        let told = refused
            .iter()
            .map(|(port, word)| format!("port {port} is declared as {word}, which the route does not speak"));
        let told = told.collect::<Vec<_>>().join("; ");
        assert_eq!(accepted(&attachments, kind, "shop/r"), format!("Accepted=True Accepted: {told}"));
    }
}

#[test]
fn a_declared_port_beats_the_route_that_names_it() {
    for (kind, label, spec, word) in [
        (RouteKind::Tcp, "TCPRoute", on("mixed", ", port: 2"), "port 2 is declared as http"),
        (RouteKind::Tls, "TLSRoute", tls(&on("mixed", ", port: 3")), "port 3 is declared as tcp"),
    ] {
        let attachments = judge(&[MIXED, &route(label, "shop", "r", &spec)]);
        assert_eq!(
            accepted(&attachments, kind, "shop/r"),
            format!(
                "Accepted=False NoMatchingParent: no port of Service shop/mixed is left: {word}, which the route does not speak"
            )
        );
    }
    let attachments = judge(&[MIXED, &route("TCPRoute", "shop", "r", &on("mixed", ", port: 9"))]);
    assert_eq!(
        accepted(&attachments, RouteKind::Tcp, "shop/r"),
        "Accepted=False NoMatchingParent: Service shop/mixed has no TCP port 9"
    );
}

//= gateway-api GEP-1294
//# Route type specificity is defined in the following order (first one wins):
//# 1. GRPCRoute
//# 2. HTTPRoute
//# 3. TLSRoute
//# 4. TCPRoute
#[test]
fn one_kind_holds_on_a_port_in_the_order_of_the_api() {
    let kinds = [
        ("GRPCRoute", RouteKind::Grpc, "a GRPCRoute", on("v1", "")),
        ("HTTPRoute", RouteKind::Http, "an HTTPRoute", on("v1", "")),
        ("TLSRoute", RouteKind::Tls, "a TLSRoute", tls(&on("v1", ""))),
        ("TCPRoute", RouteKind::Tcp, "a TCPRoute", on("v1", "")),
    ];
    for strongest in 0..kinds.len() {
        let routes = kinds[strongest..].iter().map(|(label, _, _, spec)| route(label, "shop", label, spec));
        let routes: Vec<String> = routes.map(|text| text.replace("name: GRPC", "name: g")).collect();
        let texts: Vec<&str> = routes.iter().map(String::as_str).collect();
        let attachments = judge(&texts);
        let (label, _, words, _) = &kinds[strongest];
        assert_eq!(programmed(&attachments, "shop/v1", 80), [label.replace("GRPC", "g")]);
        for (loser, kind, _, _) in &kinds[strongest + 1..] {
            assert_eq!(
                accepted(&attachments, *kind, &format!("shop/{loser}")),
                format!("Accepted=False Conflicted: {words} holds on port 80 and takes precedence")
            );
            assert!(find(&attachments, *kind, &format!("shop/{loser}")).parents[0].ports.is_empty());
        }
    }
}

#[test]
fn a_stronger_kind_takes_its_port_and_leaves_the_others() {
    let attachments = judge(&[
        MIXED,
        &route("TCPRoute", "shop", "tcp", &on("mixed", "")),
        &route("TLSRoute", "shop", "tls", &tls(&on("mixed", ", port: 4"))),
        &route("HTTPRoute", "shop", "http", &on("mixed", ", port: 1")),
        // Of other clients, and so nobody's rival.
        &route("GRPCRoute", "client", "grpc", &on("mixed", ", port: 1")),
    ]);
    let holders: Vec<_> = [1, 3, 4].map(|port| programmed(&attachments, "shop/mixed", port)).into();
    assert_eq!(holders, [vec!["http", "client:grpc"], vec!["tcp"], vec!["tls"]]);
    let said = accepted(&attachments, RouteKind::Tcp, "shop/tcp");
    for part in ["an HTTPRoute holds on port 1 and", "a TLSRoute holds on port 4 and", "declared as grpc"] {
        assert!(said.starts_with("Accepted=True") && said.contains(part), "{said}");
    }
}

//= gateway-api GEP-2644
//# All attached TCPRoutes are `Accepted`, consistent with how other route types handle precedence in the Gateway API.
#[test]
fn of_tcp_routes_the_first_has_every_connection_and_the_others_say_so() {
    let routes = [
        aged("TCPRoute", "young", 2, &on("v1", "")),
        aged("TCPRoute", "old", 1, &on("v1", "")),
        aged("TCPRoute", "also-young", 2, &on("v1", "")),
    ];
    let attachments = judge(&[&routes[0], &routes[1], &routes[2]]);
    assert_eq!(accepted(&attachments, RouteKind::Tcp, "shop/old"), "Accepted=True Accepted");
    let told = |name: &str| {
        format!("Accepted=True Accepted: TCPRoute {name} comes first and has every connection to port 80")
    };
    assert_eq!(accepted(&attachments, RouteKind::Tcp, "shop/young"), told("shop/old"));
    assert_eq!(accepted(&attachments, RouteKind::Tcp, "shop/also-young"), told("shop/old"));
    let attachments = judge(&[&routes[0], &routes[2]]);
    assert_eq!(accepted(&attachments, RouteKind::Tcp, "shop/also-young"), "Accepted=True Accepted");
    assert_eq!(accepted(&attachments, RouteKind::Tcp, "shop/young"), told("shop/also-young"));
}

#[test]
fn who_comes_first_changes_with_what_is_there() {
    let first = aged("TCPRoute", "first", 1, &on("v1", ""));
    let second = aged("TCPRoute", "second", 2, &on("v1", ""));
    let aged_second = aged("TCPRoute", "second", 0, &on("v1", ""));
    let http = route("HTTPRoute", "shop", "h", &on("v1", ""));
    let steps = told(&[
        &[&second],
        &[&first, &second],
        &[&first, &aged_second],
        &[&first, &aged_second, &http],
        &[&first, &http],
        &[&first],
    ]);
    let said = |lines: &[String]| -> Vec<String> {
        let of_tcp =
            lines.iter().filter(|line| line.contains("TCPRoute shop/") && line.contains(": Accepted"));
        of_tcp.map(|line| line.replace(" parentRefs[0] Service shop/v1: Accepted: ", " ")).collect()
    };
    let every = |name: &str| {
        format!("Accepted: TCPRoute shop/{name} comes first and has every connection to port 80")
    };
    assert_eq!(said(&steps[0]), ["TCPRoute shop/second Accepted=True Accepted"]);
    assert_eq!(
        said(&steps[1]),
        [
            "TCPRoute shop/first Accepted=True Accepted".to_owned(),
            format!("TCPRoute shop/second Accepted=True {}", every("first"))
        ]
    );
    assert_eq!(
        said(&steps[2]),
        [
            format!("TCPRoute shop/first Accepted=True {}", every("second")),
            "TCPRoute shop/second Accepted=True Accepted".to_owned()
        ]
    );
    let conflicted = "Accepted=False Conflicted: an HTTPRoute holds on port 80 and takes precedence";
    assert_eq!(
        said(&steps[3]),
        [format!("TCPRoute shop/first {conflicted}"), format!("TCPRoute shop/second {conflicted}")]
    );
    assert_eq!(said(&steps[5]), ["TCPRoute shop/first Accepted=True Accepted"]);
}

#[test]
fn consumers_and_producers_are_apart() {
    let consumer = route("TCPRoute", "client", "c", &on("v1", ""));
    let attachments = judge(&[&consumer, &route("TCPRoute", "shop", "p", &on("v1", ""))]);
    assert_eq!(programmed(&attachments, "shop/v1", 80), ["p", "client:c"]);
    for key in ["client/c", "shop/p"] {
        assert_eq!(accepted(&attachments, RouteKind::Tcp, key), "Accepted=True Accepted");
    }
}

//= gateway-api TCPRouteRule.backendRefs
//# Connection rejections must respect weight; if an invalid backend is requested to have 80% of connections, then 80% of connections must be rejected instead.
#[test]
fn an_invalid_backend_keeps_its_share_and_the_reason_is_said() {
    let parent = r#"parentRefs: [{group: "", kind: Service, name: v1}]"#;
    for (kind, label, names) in
        [(RouteKind::Tcp, "TCPRoute", ""), (RouteKind::Tls, "TLSRoute", "hostnames: [a.test], ")]
    {
        for (reference, reason) in [
            (
                "{name: gone, port: 80",
                "BackendNotFound: spec.rules[0].backendRefs[1]: Service shop/gone does not exist",
            ),
            (
                "{name: v1, port: 81",
                "BackendNotFound: spec.rules[0].backendRefs[1]: Service shop/v1 has no TCP port 81",
            ),
            (
                "{kind: ConfigMap, name: v1, port: 80",
                "InvalidKind: spec.rules[0].backendRefs[1]: backends of kind ConfigMap in group \"\" are not known",
            ),
        ] {
            let refs = format!("{{name: v1, port: 80, weight: 1}}, {reference}, weight: 4}}");
            let spec = format!("{names}{parent}, rules: [{{backendRefs: [{refs}]}}]");
            let attachments = judge(&[&route(label, "shop", "r", &spec)]);
            let conditions = &find(&attachments, kind, "shop/r").parents[0].conditions;
            let resolved = find_condition(conditions, ConditionType::ResolvedRefs).unwrap();
            assert_eq!(resolved, format!("ResolvedRefs=False {reason}"));
            let group = producers("shop/v1", 80);
            let shares = shares(&attachments.routes_of(&group).next().unwrap().rules[0]);
            assert_eq!(shares[0].1, 1);
            assert_eq!(shares[1], (Backend::Failing(FailureReason::InvalidBackend), 4));
        }
    }
}

#[test]
fn bytes_go_to_any_port_and_tls_to_none_that_says_it_speaks_plain_http() {
    let parent = r#"parentRefs: [{group: "", kind: Service, name: v1}]"#;
    for port in 1..=8 {
        for (kind, label, names) in
            [(RouteKind::Tcp, "TCPRoute", ""), (RouteKind::Tls, "TLSRoute", "hostnames: [a.test], ")]
        {
            let spec = format!("{names}{parent}, rules: [{{backendRefs: [{{name: mixed, port: {port}}}]}}]");
            let attachments = judge(&[MIXED, &route(label, "shop", "r", &spec)]);
            let conditions = &find(&attachments, kind, "shop/r").parents[0].conditions;
            let resolved = find_condition(conditions, ConditionType::ResolvedRefs).unwrap();
            if kind == RouteKind::Tls && matches!(port, 2 | 8) {
                let declared = format!("port {port} of Service shop/mixed is declared as ");
                assert!(
                    resolved.starts_with("ResolvedRefs=False UnsupportedProtocol: ")
                        && resolved.contains(&declared)
                );
            } else {
                assert_eq!(resolved, "ResolvedRefs=True ResolvedRefs", "{label} to port {port}");
            }
        }
    }
}

#[test]
fn what_has_no_effect_is_named() {
    let spec = format!("useDefaultGateways: All, {}", tls(&on("v1", "")));
    let attachments = judge(&[&route("TLSRoute", "shop", "r", &spec)]);
    assert_eq!(
        accepted(&attachments, RouteKind::Tls, "shop/r"),
        "Accepted=True Accepted: spec.useDefaultGateways has no effect on a Service parent"
    );
    // Older versions allow several rules, of which there is nothing left for the second.
    let parent = r#"parentRefs: [{group: "", kind: Service, name: v1}]"#;
    let rule = "{backendRefs: [{name: v1, port: 80, weight: 0}]}";
    let attachments = judge(&[&route(
        "TCPRoute",
        "shop",
        "r",
        &format!("{parent}, rules: [{rule}, {{backendRefs: [{{name: v1, port: 80}}]}}]"),
    )]);
    assert_eq!(
        accepted(&attachments, RouteKind::Tcp, "shop/r"),
        "Accepted=True Accepted: spec.rules[1] is never reached: spec.rules[0] takes all that it would; \
         spec.rules[0] sends to no backend: what it matches is refused"
    );
}
