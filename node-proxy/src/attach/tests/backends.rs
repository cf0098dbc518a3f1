//! Which backendRef leads where, and what is said of those that lead nowhere.

use super::*;
use crate::error::FailureReason;
use crate::route::Backend;

const PARENT: &str = r#"parentRefs: [{group: "", kind: Service, name: web, port: 80}]"#;

/// The one rule's backends, as programmed.
fn backends(attachments: &Attachments) -> Vec<(Backend, u32)> {
    let group = producers("shop/web", 80);
    shares(&attachments.routes_of(&group).next().expect("the route holds").rules[0])
}

fn to(namespace: &str, name: &str, port: u16) -> Backend {
    Backend::Service(ServicePortKey::tcp(ObjectKey::new(namespace, name), port))
}

#[track_caller]
fn check(refs: &str, expected: &[(Backend, u32)], resolved: &str) {
    let attachments = judge(&[&http_route(&format!("{PARENT}, rules: [{{backendRefs: [{refs}]}}]"))]);
    let parent = &find(&attachments, RouteKind::Http, "shop/r").parents[0];
    assert_eq!(find_condition(&parent.conditions, ConditionType::ResolvedRefs).unwrap(), resolved);
    assert_eq!(backends(&attachments), expected);
}

#[test]
fn a_backend_without_a_weight_has_weight_one() {
    check(
        "{name: v1, port: 80, weight: 90}, {name: web, port: 8080}",
        &[(to("shop", "v1", 80), 90), (to("shop", "web", 8080), 1)],
        "ResolvedRefs=True ResolvedRefs",
    );
}

#[test]
fn a_backend_of_another_namespace_needs_no_reference_grant() {
    check(
        "{name: far, namespace: other, port: 80}",
        &[(to("other", "far", 80), 1)],
        "ResolvedRefs=True ResolvedRefs",
    );
}

//= gateway-api HTTPRouteRule.backendRefs
//# When a HTTPBackendRef is invalid, 500 status codes MUST be returned for requests that would have otherwise been routed to an invalid backend.
#[test]
fn an_invalid_backend_keeps_its_share_as_a_failure_and_the_reason_is_said() {
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
            "{name: web, port: 53",
            "BackendNotFound: spec.rules[0].backendRefs[1]: Service shop/web has no TCP port 53",
        ),
        (
            "{name: v1",
            "BackendNotFound: spec.rules[0].backendRefs[1]: a port of Service shop/v1 must be named",
        ),
        (
            "{kind: ConfigMap, name: v1, port: 80",
            "InvalidKind: spec.rules[0].backendRefs[1]: backends of kind ConfigMap in group \"\" are not known",
        ),
        (
            "{group: example.com, name: v1, port: 80",
            "InvalidKind: spec.rules[0].backendRefs[1]: backends of kind Service in group \"example.com\" are not known",
        ),
        (
            "{name: web, port: 3306",
            "UnsupportedProtocol: spec.rules[0].backendRefs[1]: port 3306 of Service shop/web is declared as mysql",
        ),
    ] {
        check(
            &format!("{{name: v1, port: 80, weight: 3}}, {reference}, weight: 7}}"),
            &[(to("shop", "v1", 80), 3), (Backend::Failing(FailureReason::InvalidBackend), 7)],
            &format!("ResolvedRefs=False {reason}"),
        );
    }
}

//= gateway-api BackendObjectReference.kind
//# Implementations SHOULD NOT support ExternalName Services.
#[test]
fn a_backend_of_type_external_name_is_refused_with_a_reason_of_the_api() {
    let alias = "
---
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: example.com, ports: [{port: 80}]}
";
    let route = http_route(&format!("{PARENT}, rules: [{{backendRefs: [{{name: alias, port: 80}}]}}]"));
    let attachments = judge(&[alias, &route]);
    assert_eq!(backends(&attachments), [(Backend::Failing(FailureReason::InvalidBackend), 1)]);
    let parent = &find(&attachments, RouteKind::Http, "shop/r").parents[0];
    assert_eq!(
        find_condition(&parent.conditions, ConditionType::ResolvedRefs).unwrap(),
        "ResolvedRefs=False InvalidKind: spec.rules[0].backendRefs[0]: \
         Service shop/alias is of type ExternalName, which is not followed"
    );
}

#[test]
fn several_invalid_backends_are_all_named_under_the_first_reason() {
    let failing = || Backend::Failing(FailureReason::InvalidBackend);
    check(
        "{name: gone, port: 80}, {kind: Pod, name: x, port: 80}",
        &[(failing(), 1), (failing(), 1)],
        "ResolvedRefs=False BackendNotFound: spec.rules[0].backendRefs[0]: Service shop/gone does not exist; \
         spec.rules[0].backendRefs[1]: backends of kind Pod in group \"\" are not known",
    );
}

#[test]
fn a_rule_that_sends_to_no_backend_answers_500_and_the_user_is_told() {
    for rule in ["{}", "{backendRefs: []}", "{backendRefs: [{name: v1, port: 80, weight: 0}]}"] {
        let attachments = judge(&[&http_route(&format!("{PARENT}, rules: [{rule}]"))]);
        assert_eq!(backends(&attachments), [(Backend::Failing(FailureReason::InvalidBackend), 1)], "{rule}");
        let parent = &find(&attachments, RouteKind::Http, "shop/r").parents[0];
        assert_eq!(
            find_condition(&parent.conditions, ConditionType::Accepted).unwrap(),
            "Accepted=True Accepted: spec.rules[0] sends to no backend: what it matches answers 500"
        );
    }
}
