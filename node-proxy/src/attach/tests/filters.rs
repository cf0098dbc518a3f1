//! Filters as routes write them, and what is done.

use std::sync::Arc;

use super::*;
use crate::route::Filters;
use crate::route::filter::PathEdit;

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
