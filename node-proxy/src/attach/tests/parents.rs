//! Which parentRef leads where.

use super::*;
use crate::attach::{CONTROLLER_NAME, RouteRole};

const RULES: &str = "rules: [{backendRefs: [{name: v1, port: 80}]}]";

/// Judges an HTTPRoute with one parentRef.
#[track_caller]
fn check(parent: &str, ports: &[u16], accepted: &str) {
    let attachments = judge(&[&http_route(&format!("parentRefs: [{{{parent}}}], {RULES}"))]);
    let route = find(&attachments, RouteKind::Http, "shop/r");
    assert_eq!(route.parents.len(), 1);
    assert_eq!(route.parents[0].ports, ports, "{:?}", route.parents[0]);
    let condition = find_condition(&route.parents[0].conditions, ConditionType::Accepted).unwrap();
    assert_eq!(condition, accepted);
    for port in [80, 8080, 3306, 53] {
        let expected: &[&str] = if ports.contains(&port) { &["r"] } else { &[] };
        assert_eq!(programmed(&attachments, "shop/web", port), expected, "port {port}");
    }
}

#[test]
fn a_parent_ref_holds_on_the_ports_that_it_names() {
    let web = r#"group: "", kind: Service, name: web"#;
    check(&format!("{web}, port: 80"), &[80], "Accepted=True Accepted");
    check(&format!("{web}, sectionName: plain"), &[8080], "Accepted=True Accepted");
    check(&format!("{web}, sectionName: plain, port: 8080"), &[8080], "Accepted=True Accepted");
    check("group: core, kind: Service, name: web, port: 80", &[80], "Accepted=True Accepted");
}

#[test]
fn a_route_without_a_port_holds_on_every_port_that_speaks_its_protocol_and_says_which_do_not() {
    check(
        r#"group: "", kind: Service, name: web"#,
        &[80, 8080],
        "Accepted=True Accepted: port 3306 is declared as mysql, which the route does not speak",
    );
}

//= gateway-api RouteReasonNoMatchingParent
//# This reason is used with the "Accepted" condition when there are no matching Parents.
#[test]
fn a_parent_ref_that_leads_nowhere_is_refused_and_says_why() {
    let refused = |parent: &str, why: &str| {
        let parent = format!(r#"group: "", kind: Service, {parent}"#);
        check(&parent, &[], &format!("Accepted=False NoMatchingParent: {why}"));
    };
    refused("name: gone", "Service shop/gone does not exist");
    refused("name: web, namespace: other", "Service other/web does not exist");
    refused("name: web, port: 81", "Service shop/web has no TCP port 81");
    refused("name: web, port: 53", "Service shop/web has no TCP port 53");
    refused("name: web, sectionName: nope", "Service shop/web has no TCP port named nope");
    refused("name: web, sectionName: http, port: 8080", "Service shop/web has no TCP port 8080 named http");
    refused(
        "name: web, port: 3306",
        "no port of Service shop/web is left: port 3306 is declared as mysql, which the route does not speak",
    );
}

#[test]
fn a_forgotten_group_is_refused_with_advice() {
    check(
        "kind: Service, name: web",
        &[],
        r#"Accepted=False NoMatchingParent: kind Service is in the core group: write group: """#,
    );
}

//= gateway-api GEP-1294
//# Services valid to be selected as a parentRef SHOULD have a way to identify traffic to them - typically by one or more virtual IP(s), DNS hostname(s), or name(s).
#[test]
fn parents_without_an_address_of_their_own_are_refused() {
    let services = "
---
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, ports: [{port: 80}]}
---
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: example.com, ports: [{port: 80}]}
---
kind: Service
metadata: {name: bare}
spec: {ports: [{port: 80}]}
---
kind: Service
metadata: {name: empty}
spec: {clusterIP: '', clusterIPs: [''], ports: [{port: 80}]}
---
kind: Service
metadata: {name: outer}
spec: {type: LoadBalancer, externalIPs: [198.51.100.1], ports: [{port: 80}]}
";
    for (name, why) in [
        ("headless", "is headless (clusterIP None)"),
        ("alias", "is of type ExternalName"),
        ("bare", "has no clusterIP"),
        ("empty", "has no clusterIP"),
        ("outer", "has no clusterIP"),
    ] {
        let spec = format!(r#"parentRefs: [{{group: "", kind: Service, name: {name}}}], {RULES}"#);
        let attachments = judge(&[services, &http_route(&spec)]);
        let parent = &find(&attachments, RouteKind::Http, "shop/r").parents[0];
        let accepted = find_condition(&parent.conditions, ConditionType::Accepted).unwrap();
        assert_eq!(
            accepted,
            format!(
                "Accepted=False NoMatchingParent: Service shop/{name} {why}: it has no address that routes apply to"
            )
        );
        assert_eq!(programmed(&attachments, &format!("shop/{name}"), 80), [""; 0]);
    }
}

#[test]
fn app_protocol_beats_the_name_of_a_port() {
    let service = "
---
kind: Service
metadata: {name: mixed}
spec:
  clusterIP: 10.96.0.20
  ports:
  - {name: tcp-really-http, port: 1, appProtocol: http}
  - {name: http-really-tls, port: 2, appProtocol: https}
  - {name: h2c, port: 3, appProtocol: kubernetes.io/h2c}
  - {name: ws, port: 4, appProtocol: kubernetes.io/ws}
  - {name: own, port: 5, appProtocol: example.com/own}
  - {name: grpc-api, port: 6}
  - {name: redis, port: 7}
  - {name: https-front, port: 8}
  - {name: httpx, port: 9}
";
    let spec = format!(r#"parentRefs: [{{group: "", kind: Service, name: mixed}}], {RULES}"#);
    let attachments = judge(&[service, &http_route(&spec)]);
    assert_eq!(find(&attachments, RouteKind::Http, "shop/r").parents[0].ports, [1, 3, 4, 6, 9]);
}

#[test]
fn several_parents_are_judged_one_by_one_and_a_bad_one_touches_no_other() {
    let spec = format!(
        r#"parentRefs: [{{group: "", kind: Service, name: gone}}, {{group: "", kind: Service, name: v1}},
           {{group: "", kind: Service, name: web, port: 80}}, {{name: web}}], {RULES}"#
    );
    let attachments = judge(&[&http_route(&spec)]);
    let route = find(&attachments, RouteKind::Http, "shop/r");
    let ports: Vec<&[u16]> = route.parents.iter().map(|parent| parent.ports.as_slice()).collect();
    assert_eq!(ports, [&[][..], &[80], &[80]]);
    assert_eq!(programmed(&attachments, "shop/v1", 80), ["r"]);
    assert_eq!(programmed(&attachments, "shop/web", 80), ["r"]);
    assert_eq!(programmed(&attachments, "shop/web", 8080), [""; 0], "port 80 alone was named");
}

#[test]
fn a_gateway_and_a_service_of_one_name_are_never_mixed_up() {
    let spec = format!("parentRefs: [{{name: web}}, {{kind: Gateway, name: web}}], {RULES}");
    let attachments = judge(&[&http_route(&spec)]);
    assert_eq!(attachments.routes().count(), 0, "a Gateway's route is no business of ours");
    assert_eq!(programmed(&attachments, "shop/web", 80), [""; 0]);
}

#[test]
fn duplicates_of_a_parent_ref_have_one_status_and_are_programmed_once() {
    let web = r#"{group: "", kind: Service, name: web, port: 80}"#;
    let spec = format!(
        r#"parentRefs: [{web}, {web}, {{group: core, kind: Service, name: web, port: 80}}], {RULES}"#
    );
    let attachments = judge(&[&http_route(&spec)]);
    assert_eq!(find(&attachments, RouteKind::Http, "shop/r").parents.len(), 2);
    assert_eq!(programmed(&attachments, "shop/web", 80), ["r"]);
}

#[test]
fn a_route_of_another_namespace_is_a_consumer_route_of_that_namespace() {
    let parent = r#"parentRefs: [{group: "", kind: Service, name: web, namespace: shop, port: 80}]"#;
    let attachments = judge(&[
        &route("HTTPRoute", "client", "c", &format!("{parent}, {RULES}")),
        &route("HTTPRoute", "shop", "p", &format!("{parent}, {RULES}")),
        &route("HTTPRoute", "shop", "q", &format!("{parent}, {RULES}")),
    ]);
    assert_eq!(programmed(&attachments, "shop/web", 80), ["p", "q", "client:c"]);
    let role = |key| find(&attachments, RouteKind::Http, key).parents[0].role;
    assert_eq!((role("client/c"), role("shop/p")), (RouteRole::Consumer, RouteRole::Producer));
}

#[test]
fn a_grpc_route_beats_an_http_route_on_the_same_port_only() {
    let on = |port: &str| format!(r#"parentRefs: [{{group: "", kind: Service, name: web{port}}}], {RULES}"#);
    let attachments = judge(&[
        &route("GRPCRoute", "shop", "g", &on(", port: 80")),
        &route("HTTPRoute", "shop", "all", &on("")),
        &route("HTTPRoute", "shop", "one", &on(", port: 80")),
    ]);
    assert_eq!(programmed(&attachments, "shop/web", 80), ["g"]);
    assert_eq!(programmed(&attachments, "shop/web", 8080), ["all"]);
    let accepted = |key| {
        find_condition(
            &find(&attachments, RouteKind::Http, key).parents[0].conditions,
            ConditionType::Accepted,
        )
        .unwrap()
    };
    assert_eq!(
        accepted("shop/one"),
        "Accepted=False Conflicted: a GRPCRoute holds on port 80 and takes precedence"
    );
    assert!(accepted("shop/all").starts_with("Accepted=True Accepted: "), "{}", accepted("shop/all"));
    assert!(accepted("shop/all").ends_with("a GRPCRoute holds on port 80 and takes precedence"));
}

#[test]
fn a_refused_grpc_route_and_one_for_other_clients_take_nothing_from_an_http_route() {
    let parent = r#"parentRefs: [{group: "", kind: Service, name: web, namespace: shop, port: 80}]"#;
    let refused = format!(
        "{parent}, rules: [{{filters: [{{type: ExtensionRef, extensionRef: {{group: g, kind: k, name: ext}}}}]}}]"
    );
    let attachments = judge(&[
        &route("GRPCRoute", "shop", "refused", &refused),
        &route("GRPCRoute", "client", "consumer", &format!("{parent}, {RULES}")),
        &http_route(&format!("{parent}, {RULES}")),
    ]);
    assert_eq!(programmed(&attachments, "shop/web", 80), ["r", "client:consumer"]);
}

#[test]
fn hostnames_have_no_effect_and_the_user_is_told() {
    let spec =
        format!(r#"hostnames: [example.com], parentRefs: [{{group: "", kind: Service, name: v1}}], {RULES}"#);
    let attachments = judge(&[&http_route(&spec)]);
    let parent = &find(&attachments, RouteKind::Http, "shop/r").parents[0];
    assert_eq!(
        find_condition(&parent.conditions, ConditionType::Accepted).unwrap(),
        "Accepted=True Accepted: spec.hostnames has no effect on a Service parent"
    );
}

#[test]
fn a_status_carries_the_generation_and_our_controller_name() {
    let spec = format!(r#"parentRefs: [{{group: "", kind: Service, name: v1}}], {RULES}"#);
    let attachments = judge(&[&http_route(&spec)]);
    let status = serde_json::to_value(&attachments).unwrap();
    assert_eq!(status["routes"][0]["route"], "HTTPRoute shop/r");
    assert_eq!(status["routes"][0]["controllerName"], CONTROLLER_NAME);
    let parent = &status["routes"][0]["parents"][0];
    assert_eq!(parent["parentRef"], serde_json::json!({"group": "", "kind": "Service", "name": "v1"}));
    assert_eq!(parent["conditions"][0]["type"], "Accepted");
    assert_eq!(parent["conditions"][0]["observedGeneration"], 7);
}

#[test]
fn only_what_changed_is_said() {
    let good = http_route(&format!(r#"parentRefs: [{{group: "", kind: Service, name: v1}}], {RULES}"#));
    let bad =
        http_route(&format!(r#"parentRefs: [{{group: "", kind: Service, name: v1, port: 9}}], {RULES}"#));
    let subject = "HTTPRoute shop/r parentRefs[0] Service shop/v1: Accepted";
    let renewed = good.replace("generation: 7", "generation: 8");
    let lines = told(&[&[], &[&good], &[&renewed], &[&bad], &[]]);
    assert_eq!(lines[0], [""; 0]);
    assert_eq!(lines[1][0], format!("{subject}: Accepted=True Accepted"));
    assert_eq!(lines[2], [""; 0], "a generation alone is no change");
    assert_eq!(
        lines[3],
        [format!("{subject}: Accepted=False NoMatchingParent: Service shop/v1 has no TCP port 9")]
    );
    assert_eq!(lines[4][0], format!("{subject}: no longer said"));
}

#[test]
fn what_is_said_names_a_parent_by_its_place_in_the_route() {
    let web = r#"{group: "", kind: Service, name: web, port: 80}"#;
    let spec = format!(
        r#"parentRefs: [{{name: gateway}}, {web}, {web}, {{group: "", kind: Service, name: v1}}], {RULES}"#
    );
    let lines = told(&[&[], &[&http_route(&spec)]]).remove(1);
    let accepted: Vec<&str> =
        lines.iter().filter_map(|line| line.strip_suffix(": Accepted: Accepted=True Accepted")).collect();
    assert_eq!(
        accepted,
        ["HTTPRoute shop/r parentRefs[1] Service shop/web", "HTTPRoute shop/r parentRefs[3] Service shop/v1"]
    );
}
