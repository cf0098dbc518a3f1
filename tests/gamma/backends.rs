//! Where a rule's requests go: weights, other namespaces, and backends that cannot take them.

use super::stage::{Stage, WEB, http_route};

const FAR: &str = "{apiVersion: v1, kind: Service, metadata: {name: far, namespace: other}, spec: {selector: {app: far}, ports: [{name: http, port: 80, targetPort: 8080}]}}";

/// The rule of `shop/web` has these backends.
#[track_caller]
fn send_to(stage: &mut Stage, backends: &str) {
    stage.apply(&http_route("shop/web", WEB, &format!("{{backendRefs: [{backends}]}}")));
}

/// How many of 400 requests were answered so; all others were answered by `v1`.
#[track_caller]
fn share(stage: &Stage, answer: &str) -> u32 {
    let counts = stage.count("client", "http://web/", 400);
    let of = |answer: &str| counts.get(answer).copied().unwrap_or_default();
    assert_eq!(of(answer) + of("200 v1"), 400, "{counts:?}");
    of(answer)
}

#[test]
fn backends_get_their_weights_and_weight_zero_gets_nothing() {
    let mut stage = Stage::set();
    send_to(&mut stage, "{name: v1, port: 80, weight: 3}, {name: v2, port: 80, weight: 1}");
    // 100 are expected with a deviation of 8.7; beyond five of those it is not chance.
    let share_of_v2 = share(&stage, "200 v2");
    assert!((57..=143).contains(&share_of_v2), "{share_of_v2} of 400");
    send_to(&mut stage, "{name: v1, port: 80, weight: 1}, {name: v2, port: 80, weight: 0}");
    assert_eq!(share(&stage, "200 v2"), 0);
    send_to(&mut stage, "{name: v1, port: 80, weight: 0}, {name: v2, port: 80, weight: 0}");
    stage.check("client", &["http://web/"], "500 invalid_backend");
    stage.apply(&http_route("shop/web", WEB, "{matches: [{path: {value: /}}]}"));
    stage.check("client", &["http://web/"], "500 invalid_backend");
}

//= gateway-api HTTPRouteRule.backendRefs
//# When a HTTPBackendRef is invalid, 500 status codes MUST be returned for requests that would have otherwise been routed to an invalid backend.
#[test]
fn an_invalid_backend_keeps_its_share_as_500() {
    let mut stage = Stage::set();
    for (backend, expected) in [
        ("name: nobody, port: 80", "ResolvedRefs=False BackendNotFound"),
        ("name: v2, port: 81", "ResolvedRefs=False BackendNotFound"),
        ("kind: Frontend, name: v2, port: 80", "ResolvedRefs=False InvalidKind"),
    ] {
        send_to(&mut stage, &format!("{{name: v1, port: 80, weight: 1}}, {{{backend}, weight: 1}}"));
        stage.check_conditions(
            "HTTPRoute shop/web",
            &["Accepted=True", expected, "spec.rules[0].backendRefs[1]"],
        );
        // 200 are expected with a deviation of 10.
        let failed = share(&stage, "500 invalid_backend");
        assert!((150..=250).contains(&failed), "{failed} of 400 failed for {backend}");
    }
    stage.check_log(&["HTTPRoute shop/web", "ResolvedRefs=False InvalidKind"]);
    // The backend comes into being.
    send_to(&mut stage, "{name: later, port: 80}");
    stage.check("client", &["http://web/"], "500 invalid_backend");
    stage.apply("{apiVersion: v1, kind: Service, metadata: {name: later}, spec: {selector: {version: v2}, ports: [{port: 80, targetPort: 8080}]}}");
    stage.check("client", &["http://web/"], "200 v2");
    stage.check_conditions("HTTPRoute shop/web", &["ResolvedRefs=True ResolvedRefs"]);
}

//= gateway-api HTTPRouteRule.backendRefs
//# When a HTTPBackendRef refers to a Service that has no ready endpoints, implementations SHOULD return a 503 for requests to that backend instead.
#[test]
fn a_backend_without_an_endpoint_keeps_its_share_as_503() {
    let mut stage = Stage::set();
    stage.check("client", &["http://empty/"], "503 no_endpoint");
    send_to(&mut stage, "{name: v1, port: 80}, {name: empty, port: 80}");
    let failed = share(&stage, "503 no_endpoint");
    assert!((150..=250).contains(&failed), "{failed} of 400 failed");
    stage.check_conditions("HTTPRoute shop/web", &["Accepted=True", "ResolvedRefs=True"]);
}

#[test]
fn a_backend_of_another_namespace_needs_no_grant() {
    let mut stage = Stage::set();
    stage.apply(FAR);
    let pod = stage.world.pod("far").namespace("other").labels(&[("app", "far")]).on("node-b");
    pod.app("far").unwrap().start().unwrap();
    send_to(&mut stage, "{name: far, namespace: other, port: 80}");
    stage.check_conditions("HTTPRoute shop/web", &["Accepted=True", "ResolvedRefs=True"]);
    stage.check("client", &["http://web/"], "200 far");
}
