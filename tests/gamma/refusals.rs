//! What an accepted object asks for and the mesh does not do is refused: in the conditions, in the log and on the
//! wire, for that rule alone.

use super::stage::{ALL_TO_V1, Stage, WEB, http_route, to, under};

/// What is asked for, and the path under which the conditions name it.
const UNSUPPORTED: [(&str, &str); 3] = [
    (
        "filters: [{type: ExtensionRef, extensionRef: {group: g, kind: k, name: own}}]",
        "filters[0] (ExtensionRef)",
    ),
    (
        "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: te, value: b}]}}]",
        "filters[0].requestHeaderModifier.set[0] (te is the proxy's own)",
    ),
    (
        "sessionPersistence: {sessionName: 'not a name'}",
        "sessionPersistence.sessionName (`not a name` cannot be the name of a cookie or field)",
    ),
];

#[test]
fn what_is_not_done_fails_for_its_rule_and_is_named_while_its_neighbours_work() {
    let mut stage = Stage::set();
    let mut rules = vec![under("/fine", &to("v1"))];
    for (at, (asked, _)) in UNSUPPORTED.iter().enumerate() {
        rules.push(under(&format!("/no-{at}"), &format!("{asked}, {}", to("v2"))));
    }
    rules.push(under("/also-fine", &to("v2")));
    stage.apply(&http_route("shop/web", WEB, &rules.join(", ")));
    assert_eq!(stage.status()["problems"], serde_json::json!([]));
    stage.check("client", &["http://web/fine"], "200 v1");
    stage.check("client", &["http://web/also-fine"], "200 v2");
    stage.check("client", &["http://web/other"], "404 no_matching_rule");
    stage.check_conditions(
        "HTTPRoute shop/web",
        &["Accepted=True", "PartiallyInvalid=True UnsupportedValue Dropped Rule"],
    );
    for (at, (_, path)) in UNSUPPORTED.iter().enumerate() {
        stage.check("client", &[&format!("http://web/no-{at}/deep")], "500 unsupported_rule");
        let path = format!("spec.rules[{}].{path}", at + 1);
        stage.check_conditions("HTTPRoute shop/web", &[&path]);
        stage.check_log(&["HTTPRoute shop/web", "PartiallyInvalid=True", &path]);
    }
}

#[test]
fn a_route_with_nothing_that_is_done_is_not_accepted_and_holds_nowhere() {
    let mut stage = Stage::set();
    stage.apply(&http_route("shop/web", WEB, ALL_TO_V1));
    stage.check("client", &["http://web/"], "200 v1");
    let rule = format!("{{sessionPersistence: {{sessionName: 'not a name'}}, {}}}", to("v1"));
    stage.apply(&http_route("shop/web", WEB, &rule));
    stage.check_conditions(
        "HTTPRoute shop/web",
        &["Accepted=False UnsupportedValue", "spec.rules[0].sessionPersistence.sessionName"],
    );
    stage.check_log(&["HTTPRoute shop/web", "Accepted=False UnsupportedValue"]);
    let counts = stage.count("client", "http://web/", 40);
    assert!(counts.keys().eq(["200 v1", "200 v2"]), "{counts:?}");
}
