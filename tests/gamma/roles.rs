//! Producer and consumer routes, and several routes on one Service.

use super::stage::{ALL_TO_V1, Stage, WEB, http_route, to, under};

/// `web` of `shop`, as routes of other namespaces name it.
const WEB_OF_SHOP: &str = "{group: '', kind: Service, name: web, namespace: shop}";

#[test]
fn a_consumer_route_replaces_the_producer_group_for_its_own_namespace_only() {
    let mut stage = Stage::set();
    let everywhere = ["client", "buyer", "guest"];
    for pod in everywhere {
        let counts = stage.count(pod, "http://web.shop/", 40);
        assert!(counts.keys().eq(["200 v1", "200 v2"]), "without a route {pod} gets {counts:?}");
    }
    let producer = stage.apply(&http_route("shop/web", WEB, ALL_TO_V1));
    for pod in everywhere {
        stage.check(pod, &["http://web.shop/buy"], "200 v1");
    }

    let consumer = stage.apply(&http_route("checkout/web", WEB_OF_SHOP, &under("/buy", &to("v2"))));
    stage.check("buyer", &["http://web.shop/buy"], "200 v2");
    stage.check("buyer", &["http://web.shop/"], "404 no_matching_rule");
    for pod in ["client", "guest"] {
        stage.check(pod, &["http://web.shop/buy"], "200 v1");
        stage.check(pod, &["http://web.shop/"], "200 v1");
    }
    stage.check_conditions("HTTPRoute checkout/web", &["Accepted=True Accepted", "ResolvedRefs=True"]);

    stage.delete(&producer);
    stage.check("buyer", &["http://web.shop/"], "404 no_matching_rule");
    let counts = stage.count("guest", "http://web.shop/", 40);
    assert!(counts.keys().eq(["200 v1", "200 v2"]), "a deleted route still holds: {counts:?}");

    stage.delete(&consumer);
    let counts = stage.count("buyer", "http://web.shop/", 40);
    assert!(counts.keys().eq(["200 v1", "200 v2"]), "a deleted route still holds: {counts:?}");
}

#[test]
fn routes_of_one_service_merge_and_what_none_of_them_takes_is_404() {
    let mut stage = Stage::set();
    let routes = http_route("shop/one", WEB, &under("/one", &to("v1")))
        + &http_route("shop/two", WEB, &under("/two", &to("v2")))
        + &http_route("shop/two-deep", WEB, &under("/two/deep", &to("v1")));
    stage.apply(&routes);
    stage.check("client", &["http://web/one"], "200 v1");
    stage.check("client", &["http://web/two"], "200 v2");
    stage.check("client", &["http://web/two/deep/er"], "200 v1");
    stage.check("client", &["http://web/twofold"], "404 no_matching_rule");
    stage.check("client", &["http://web/"], "404 no_matching_rule");
    let log = || stage.world.access_log("node-a").unwrap();
    let written = node_proxy::demo::command::until(super::stage::PATIENCE, || {
        log().lines().any(|line| line.contains("path=/two/deep/er") && line.contains("shop/two-deep"))
            && log()
                .lines()
                .any(|line| line.contains("path=/twofold") && line.contains("reason=no_matching_rule"))
    });
    assert!(written, "{}", log());
}

#[test]
fn precedence_holds_across_the_routes_of_a_service() {
    let mut stage = Stage::set();
    let rule = |matches: &str, service: &str| format!("{{matches: [{{{matches}}}], {}}}", to(service));
    let path = |kind: &str, value: &str| format!("path: {{type: {kind}, value: {value}}}");
    // In each pair the first must win, and comes last in the order of names.
    let exact = path("Exact", "/p/exact");
    let headers = "headers: [{name: one, value: a}, {name: two, value: b}]";
    let queries = "queryParams: [{name: one, value: a}, {name: two, value: b}]";
    let winners = [
        rule(&exact, "v2"),
        rule(&path("PathPrefix", "/p/long/er"), "v2"),
        rule(&format!("{}, method: GET", path("PathPrefix", "/p/method")), "v2"),
        rule(&format!("{}, {headers}", path("PathPrefix", "/p/headers")), "v2"),
        rule(&format!("{}, {queries}", path("PathPrefix", "/p/queries")), "v2"),
    ];
    let losers = [
        rule(&path("PathPrefix", "/p/exact"), "v1"),
        rule(&format!("{}, method: GET, {headers}", path("PathPrefix", "/p/long")), "v1"),
        rule(&format!("{}, {headers}", path("PathPrefix", "/p/method")), "v1"),
        rule(
            &format!("{}, headers: [{{name: one, value: a}}], {queries}", path("PathPrefix", "/p/headers")),
            "v1",
        ),
        rule(&format!("{}, queryParams: [{{name: one, value: a}}]", path("PathPrefix", "/p/queries")), "v1"),
        rule(&path("PathPrefix", "/p/tie"), "v1"),
    ];
    let losing = http_route("shop/a-losers", WEB, &losers.join(", "));
    let tied =
        rule(&path("PathPrefix", "/p/tie"), "v2") + ", " + &rule(&path("PathPrefix", "/p/older"), "v1");
    let older = rule(&path("PathPrefix", "/p/older"), "v2");
    let older = http_route("shop/y-older", WEB, &older)
        .replace("{name: y-older", "{creationTimestamp: '2020-01-01T00:00:00Z', name: y-older");
    stage.apply(
        &(losing
            + &http_route("shop/z-winners", WEB, &winners.join(", "))
            + &http_route("shop/m-tied", WEB, &tied)
            + &older),
    );
    let both = ["-H", "one: a", "-H", "two: b"];
    let url = |rest: &str| format!("http://web/p/{rest}");
    stage.check("client", &[&url("exact")], "200 v2");
    stage.check("client", &[&url("exact/not")], "200 v1");
    stage.check("client", &[&both[..], &[&url("long/er")]].concat(), "200 v2");
    stage.check("client", &[&both[..], &[&url("method")]].concat(), "200 v2");
    stage.check("client", &[&both[..], &[&url("headers?one=a&two=b")]].concat(), "200 v2");
    stage.check("client", &["-H", "one: a", &url("headers?one=a&two=b")], "200 v1");
    stage.check("client", &[&url("queries?two=b&one=a")], "200 v2");
    stage.check("client", &[&url("queries?one=a")], "200 v1");
    // The last two tie-breaks: the older route, then the first by name.
    stage.check("client", &[&url("older")], "200 v2");
    stage.check("client", &[&url("tie")], "200 v1");
}
