//! What a rule asks for and is not applied: refused by name, never ignored.

use std::time::Duration;

use super::*;
use crate::error::FailureReason;
use crate::route::session::Carrier;
use crate::route::{Backend, Retry, RouteRef, RuleMatches, SessionPersistence, Terms};

const PARENT: &str = r#"parentRefs: [{group: "", kind: Service, name: web, port: 80}]"#;
const BACKEND: &str = "backendRefs: [{name: v1, port: 80}]";

/// A route whose second rule asks for what is not applied.
#[track_caller]
fn check(kind: &str, rule: &str, paths: &str) {
    let spec = format!("{PARENT}, rules: [{{{BACKEND}}}, {{{rule}}}]");
    let attachments = judge(&[&route(kind, "shop", "r", &spec)]);
    let parent = &attachments.routes().next().unwrap().parents[0];
    let find = |kind| find_condition(&parent.conditions, kind);
    assert!(find(ConditionType::Accepted).unwrap().starts_with("Accepted=True Accepted"));
    assert_eq!(
        find(ConditionType::PartiallyInvalid).expect("the rule is refused"),
        format!("PartiallyInvalid=True UnsupportedValue: Dropped Rule, answers 500: not applied: {paths}")
    );
    let group = producers("shop/web", 80);
    let held = attachments.routes_of(&group).next().unwrap();
    assert!(matches!(shares(&held.rules[0])[..], [(Backend::Service(_), 1)]), "the first rule is as it was");
    let refused = held.rules.iter().find(|rule| rule.index == 1);
    assert!(
        refused.is_none_or(|rule| shares(rule) == [(Backend::Failing(FailureReason::UnsupportedRule), 1)])
    );

    let alone = format!("{PARENT}, rules: [{{{rule}}}]");
    let attachments = judge(&[&route(kind, "shop", "r", &alone)]);
    let parent = &attachments.routes().next().unwrap().parents[0];
    let accepted = find_condition(&parent.conditions, ConditionType::Accepted).unwrap();
    let paths = paths.replace("rules[1]", "rules[0]");
    assert_eq!(
        accepted,
        format!("Accepted=False UnsupportedValue: no rule of the route can be applied: not applied: {paths}")
    );
    assert_eq!(find_condition(&parent.conditions, ConditionType::PartiallyInvalid), None);
    assert_eq!(programmed(&attachments, "shop/web", 80), [""; 0], "a refused route is programmed nowhere");
}

//= gateway-api RouteConditionPartiallyInvalid
//# The message for this condition MUST start with the prefix "Dropped Rule" and include information about which Rules have been dropped.
#[test]
fn filters_that_are_not_applied_are_refused_by_name() {
    let extension = "{type: ExtensionRef, extensionRef: {group: g, kind: k, name: ext}}";
    for kind in ["HTTPRoute", "GRPCRoute"] {
        let rule = format!("{BACKEND}, filters: [{extension}]");
        check(kind, &rule, "spec.rules[1].filters[0] (ExtensionRef)");
        let rule =
            format!("backendRefs: [{{name: v1, port: 80}}, {{name: v1, port: 80, filters: [{extension}]}}]");
        check(kind, &rule, "spec.rules[1].backendRefs[1].filters[0] (ExtensionRef)");
    }
}

#[test]
fn a_filter_that_would_break_a_message_is_refused_by_its_field() {
    for (filter, paths) in [
        (
            "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Content-Length, value: '1'}]}}",
            "requestHeaderModifier.set[0] (Content-Length is the proxy's own)",
        ),
        (
            "{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [x, transfer-encoding]}}",
            "responseHeaderModifier.remove[1] (transfer-encoding is the proxy's own)",
        ),
        (
            r#"{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: a, value: "b\r\nc: d"}]}}"#,
            "requestHeaderModifier.add[0].value (no value of a field: RFC 9110 section 5.5)",
        ),
        (
            "{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: '/a b'}}}",
            r#"urlRewrite.path ("/a b" is no path: RFC 3986 section 3.3)"#,
        ),
    ] {
        let rule = format!("{BACKEND}, filters: [{filter}]");
        check("HTTPRoute", &rule, &format!("spec.rules[1].filters[0].{paths}"));
    }
}

//= gateway-api RouteConditionPartiallyInvalid
//# This condition MUST NOT be set if a Route is fully valid, fully invalid, or not accepted.
#[test]
fn a_session_that_no_client_could_send_back_is_refused_by_its_field() {
    for (session, path) in [
        ("sessionName: 'a b'", "sessionName (`a b` cannot be the name of a cookie or field)"),
        ("type: Header, sessionName: Host", "sessionName (Host has another meaning)"),
        ("type: Header, sessionName: set-cookie", "sessionName (set-cookie has another meaning)"),
    ] {
        for kind in ["HTTPRoute", "GRPCRoute"] {
            let rule = format!("{BACKEND}, sessionPersistence: {{{session}}}");
            check(kind, &rule, &format!("spec.rules[1].sessionPersistence.{path}"));
        }
    }
}

#[test]
fn a_session_is_of_its_rule_and_as_it_is_written() {
    let session = |rule: &str| terms(rule).session.unwrap();
    let found = session("name: first, sessionPersistence: {sessionName: s, absoluteTimeout: 1h}");
    let route = RouteRef { kind: RouteKind::Http, key: ObjectKey::new("shop", "r") };
    let cookie = |is_permanent| Carrier::Cookie { is_permanent };
    let hour = Some(Duration::from_secs(3600));
    assert_eq!(*found, SessionPersistence::new((&route, "first"), (cookie(false), Some("s")), hour));
    let permanent = "sessionPersistence: {cookieConfig: {lifetimeType: Permanent}, absoluteTimeout: 60m}";
    assert_eq!(*session(permanent), SessionPersistence::new((&route, "0"), (cookie(true), None), hour));
    let header = session("sessionPersistence: {type: Header, sessionName: X-S}");
    assert_eq!(*header, SessionPersistence::new((&route, "0"), (Carrier::Header, Some("x-s")), None));
}

/// The terms of a route's only rule.
#[track_caller]
fn terms(rule: &str) -> Terms {
    let attachments = judge(&[&http_route(&format!("{PARENT}, rules: [{{{BACKEND}, {rule}}}]"))]);
    let conditions = &attachments.routes().next().unwrap().parents[0].conditions;
    assert_eq!(find_condition(conditions, ConditionType::Accepted).unwrap(), "Accepted=True Accepted");
    assert_eq!(find_condition(conditions, ConditionType::PartiallyInvalid), None);
    attachments.routes_of(&producers("shop/web", 80)).next().unwrap().rules[0].terms.clone()
}

//= gateway-api HTTPRouteTimeouts.request
//# Setting a timeout to the zero duration (e.g. "0s") SHOULD disable the timeout completely.
#[test]
fn a_timeout_of_zero_and_no_attempts_are_nothing() {
    let rule = "timeouts: {request: 0s, backendRequest: 0h0m0s}, retry: {attempts: 0}";
    assert_eq!(terms(rule), Terms::default());
}

#[test]
fn timeouts_and_retries_hold_as_they_are_written() {
    let rule = "timeouts: {request: 1m10s, backendRequest: 500ms}, retry: {codes: [503, 500], attempts: 3, backoff: 10ms}";
    let retry = Retry { codes: vec![503, 500], attempts: 3, backoff: Duration::from_millis(10) };
    let expected = Terms {
        request: Some(Duration::from_secs(70)),
        backend_request: Some(Duration::from_millis(500)),
        retry: Some(retry),
        session: None,
    };
    assert_eq!(terms(rule), expected);
    assert_eq!(terms("retry: {codes: [502]}").retry.unwrap().attempts, 1);
}

#[test]
fn default_gateways_have_no_effect_on_the_mesh_and_the_user_is_told() {
    let attachments =
        judge(&[&http_route(&format!("useDefaultGateways: All, {PARENT}, rules: [{{{BACKEND}}}]"))]);
    assert_eq!(
        find_condition(&attachments.routes().next().unwrap().parents[0].conditions, ConditionType::Accepted)
            .unwrap(),
        "Accepted=True Accepted: spec.useDefaultGateways has no effect on a Service parent"
    );
}

#[test]
fn a_regex_that_does_not_compile_is_refused_by_its_field() {
    let bad = [
        ("path: {type: RegularExpression, value: '('}", "path"),
        ("headers: [{type: RegularExpression, name: a, value: '['}]", "headers[0]"),
        ("queryParams: [{type: RegularExpression, name: a, value: '*'}]", "queryParams[0]"),
    ];
    for (matches, field) in bad {
        let rule = format!("{BACKEND}, matches: [{{path: {{type: Exact, value: /x}}}}, {{{matches}}}]");
        check_refused_match("HTTPRoute", &rule, &format!("spec.rules[1].matches[1].{field}"), 1);
        let rule = format!("{BACKEND}, matches: [{{{matches}}}]");
        check_refused_match("HTTPRoute", &rule, &format!("spec.rules[1].matches[0].{field}"), 0);
    }
    let rule = format!("{BACKEND}, matches: [{{method: {{type: RegularExpression, service: '('}}}}]");
    check_refused_match("GRPCRoute", &rule, "spec.rules[1].matches[0].method", 0);
    let rule =
        format!("{BACKEND}, matches: [{{headers: [{{type: RegularExpression, name: a, value: '['}}]}}]");
    check_refused_match("GRPCRoute", &rule, "spec.rules[1].matches[0].headers[0]", 0);
}

/// The rule is named with the field, and what is left of its matches answers 500.
#[track_caller]
fn check_refused_match(kind: &str, rule: &str, field: &str, matches_left: usize) {
    let spec = format!("{PARENT}, rules: [{{{BACKEND}}}, {{{rule}}}]");
    let attachments = judge(&[&route(kind, "shop", "r", &spec)]);
    let parent = &attachments.routes().next().unwrap().parents[0];
    let said =
        find_condition(&parent.conditions, ConditionType::PartiallyInvalid).expect("the rule is refused");
    assert!(said.contains(&format!("{field} (")), "{said} names {field}");
    let group = producers("shop/web", 80);
    let held = attachments.routes_of(&group).next().unwrap();
    let left = held.rules.iter().find(|rule| rule.index == 1);
    assert_eq!(left.map_or(0, |rule| count(&rule.matches)), matches_left);
    assert!(left.is_none_or(|rule| shares(rule) == [(Backend::Failing(FailureReason::UnsupportedRule), 1)]));
}

fn count(matches: &RuleMatches) -> usize {
    match matches {
        RuleMatches::Grpc(matches) => matches.len(),
        RuleMatches::Http(matches) => matches.len(),
        RuleMatches::Tls(names) => names.len(),
        RuleMatches::Everything => 1,
    }
}

#[test]
fn what_namespaces_and_pods_ask_for_in_vain_is_noticed() {
    let attachments = judge(&["
---
kind: Service
metadata: {name: sticky}
spec: {clusterIP: 10.96.0.30, sessionAffinity: ClientIP, trafficDistribution: PreferClose, ports: [{port: 80}]}
---
kind: Service
metadata: {name: plain}
spec: {clusterIP: 10.96.0.31, sessionAffinity: None, internalTrafficPolicy: Local, ports: [{port: 80}]}
---
kind: Namespace
metadata: {name: typo, labels: {gammarus.io/mesh: 'true', gammarus.io/mtls: Strict}}
---
kind: Namespace
metadata: {name: fine, labels: {gammarus.io/mesh: enabled, gammarus.io/mtls: strict}}
---
kind: Pod
metadata: {name: p, annotations: {gammarus.io/plaintext-ports: '80, x,0'}}
"]);
    let said: Vec<String> =
        attachments.notices().map(|notice| format!("{} {}", notice.object, notice.field)).collect();
    assert_eq!(
        said,
        [
            "typo metadata.labels[gammarus.io/mesh]",
            "typo metadata.labels[gammarus.io/mtls]",
            "shop/p metadata.annotations[gammarus.io/plaintext-ports]",
        ]
    );
    assert_eq!(attachments.notices().nth(2).unwrap().message, "not port numbers, left out: x, 0");
}
