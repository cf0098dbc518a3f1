//! Filters as routes write them, and what is done.

use std::sync::Arc;

use http::StatusCode;

use super::*;
use crate::route::filter::cors::{Names, OriginMatch};
use crate::route::filter::{PathEdit, Redirect};
use crate::route::{FieldEdit, Filters};

const PARENT: &str = r#"parentRefs: [{group: "", kind: Service, name: web, port: 80}]"#;

/// What is done to the requests of the only rule's only backend.
#[track_caller]
fn filters(kind: &str, rule: &str) -> Arc<Filters> {
    let attachments = judge(&[&route(kind, "shop", "r", &format!("{PARENT}, rules: [{{{rule}}}]"))]);
    let conditions = &attachments.routes().next().unwrap().parents[0].conditions;
    assert_eq!(find_condition(conditions, ConditionType::Accepted).unwrap(), "Accepted=True Accepted");
    assert_eq!(find_condition(conditions, ConditionType::PartiallyInvalid), None);
    let held = attachments.routes_of(&producers("shop/web", 80)).next().unwrap().rules[0].clone();
    Arc::clone(&held.backends[0].filters)
}

//= gateway-api HTTPBackendRef.filters
//# Filters defined at this level should be executed if and only if the request is being forwarded to the backend
//# defined here.
#[test]
fn filters_of_a_backend_follow_those_of_its_rule() {
    let edit = |name: &str| {
        format!(
            "{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: {name}, value: v}}]}}}}"
        )
    };
    for kind in ["HTTPRoute", "GRPCRoute"] {
        let rule = format!(
            "filters: [{}], backendRefs: [{{name: v1, port: 80, filters: [{}]}}]",
            edit("of-rule"),
            edit("of-backend")
        );
        let filters = filters(kind, &rule);
        let added: Vec<_> = filters.request.added().collect();
        assert_eq!(added, [("of-rule", "v"), ("of-backend", "v")], "{kind}");
    }
}

#[test]
fn a_rewrite_knows_the_prefix_that_it_replaces() {
    let rule = "matches: [{path: {type: PathPrefix, value: /a/}}], filters: [{type: URLRewrite, urlRewrite: \
                {hostname: other, path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}], backendRefs: [{name: v1, port: 80}]";
    let filters = filters("HTTPRoute", rule);
    assert_eq!(filters.rewrite.as_ref().unwrap().path, Some(PathEdit::prefix("/a", "/b")));
    assert_eq!(filters.host(), Some("other"));
}

#[test]
fn a_mirror_that_leads_nowhere_is_left_out_and_said() {
    let mirror = |name: &str| {
        format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: {name}, port: 80}}}}}}")
    };
    let rule =
        format!("filters: [{}, {}], backendRefs: [{{name: v1, port: 80}}]", mirror("gone"), mirror("v1"));
    assert_eq!(filters("HTTPRoute", &rule).mirrors.len(), 1);
    let attachments = judge(&[&http_route(&format!("{PARENT}, rules: [{{{rule}}}]"))]);
    let conditions = &attachments.routes().next().unwrap().parents[0].conditions;
    assert_eq!(
        find_condition(conditions, ConditionType::ResolvedRefs).unwrap(),
        "ResolvedRefs=False BackendNotFound: spec.rules[0].filters[0].requestMirror.backendRef: Service shop/gone does not exist"
    );
}

/// The filters of a rule with one of these, on a route of the only kind that has them all.
#[track_caller]
fn filter(kind: &str, field: &str, fields: &str) -> Arc<Filters> {
    let rule = format!("filters: [{{type: {kind}, {field}: {{{fields}}}}}]");
    // A redirect goes nowhere, and says so.
    let backends = if kind == "RequestRedirect" { "" } else { ", backendRefs: [{name: v1, port: 80}]" };
    let attachments = judge(&[&http_route(&format!("{PARENT}, rules: [{{{rule}{backends}}}]"))]);
    let held = attachments.routes_of(&producers("shop/web", 80)).next().unwrap().rules[0].clone();
    if kind == "RequestRedirect" { held.filters } else { Arc::clone(&held.backends[0].filters) }
}

//= gateway-api HTTPRequestMirrorFilter.percent
//# Only one of Fraction or Percent may be specified. If neither field is specified, 100% of requests will be mirrored.
#[test]
fn a_mirror_has_the_share_that_is_written() {
    for (share, expected) in [
        ("", (100, 100)),
        (", percent: 0", (0, 100)),
        (", percent: 42", (42, 100)),
        (", fraction: {numerator: 1}", (1, 100)),
        (", fraction: {numerator: 3, denominator: 1000}", (3, 1000)),
    ] {
        let found =
            filter("RequestMirror", "requestMirror", &format!("backendRef: {{name: v1, port: 80}}{share}"));
        let mirror = &found.mirrors[0];
        let share_of = |numerator, denominator| f64::from(numerator) / f64::from(denominator);
        assert!(
            (share_of(mirror.numerator, mirror.denominator) - share_of(expected.0, expected.1)).abs() < 1e-12,
            "{share}: {mirror:?}"
        );
    }
}

//= gateway-api HTTPRequestRedirectFilter.statusCode
//# Support: statusCode 301 and 302 are Core; all others are Extended.
#[test]
fn a_redirect_has_every_field_that_is_written_and_302_by_default() {
    let redirect = |fields: &str| {
        let found = filter("RequestRedirect", "requestRedirect", fields);
        found.redirect.clone().unwrap()
    };
    let plain = redirect("hostname: other.example");
    let none = Redirect { scheme: None, hostname: None, path: None, port: None, status: StatusCode::FOUND };
    assert_eq!(plain, Redirect { hostname: Some("other.example".into()), ..none.clone() });
    for code in [301, 302, 303, 307, 308] {
        let status = StatusCode::from_u16(code).unwrap();
        let fields = format!(
            "scheme: https, port: 8443, statusCode: {code}, path: {{type: ReplaceFullPath, replaceFullPath: /x}}"
        );
        let expected = Redirect {
            scheme: Some("https".into()),
            port: Some(8443),
            path: Some(PathEdit::Full("/x".into())),
            status,
            ..none.clone()
        };
        assert_eq!(redirect(&fields), expected);
    }
}

//= gateway-api HTTPCORSFilter.maxAge
//# When the `MaxAge` field is unspecified, the gateway sets the response header "Access-Control-Max-Age: 5" by default.
#[test]
fn a_cors_filter_has_every_field_that_is_written() {
    let found = filter("CORS", "cors", "allowOrigins: ['https://a.example']").cors.clone().unwrap();
    let none = Names::These(Vec::new());
    assert_eq!((found.max_age, found.allows_credentials), (5, false));
    assert_eq!([&found.methods, &found.headers, &found.exposed], [&none; 3]);
    let fields = "allowOrigins: ['*'], allowCredentials: true, allowMethods: ['*'], allowHeaders: [X-A, x-b], \
                  exposeHeaders: [x-c], maxAge: 60";
    let found = filter("CORS", "cors", fields).cors.clone().unwrap();
    let these = |names: &[&str]| Names::These(names.iter().map(|name| (*name).into()).collect());
    assert_eq!((found.max_age, found.allows_credentials), (60, true));
    assert_eq!(
        (&found.methods, &found.headers, &found.exposed),
        (&Names::Any, &these(&["X-A", "x-b"]), &these(&["x-c"]))
    );
    assert_eq!(found.origins, [OriginMatch::Any]);
}

//= gateway-api HTTPHeaderFilter
//# Only one action for a given header name is permitted. Filters specifying multiple actions of the same or different
//# type for any one header name are invalid.
#[test]
fn header_modifiers_are_told_apart_by_direction() {
    let edits = "set: [{name: A, value: '1'}], add: [{name: B, value: '2'}], remove: [C]";
    let expected = FieldEdit::new(&[("A", "1")], &[("B", "2")], &["C"]);
    let request = filter("RequestHeaderModifier", "requestHeaderModifier", edits);
    assert_eq!((&request.request, &request.response), (&expected, &FieldEdit::default()));
    let response = filter("ResponseHeaderModifier", "responseHeaderModifier", edits);
    assert_eq!((&response.request, &response.response), (&FieldEdit::default(), &expected));
}
