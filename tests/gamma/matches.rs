//! Every match type once, asked for by a real client; and what never decides where a request goes.

use node_proxy::demo::command::until;

use super::stage::{ALL_TO_V2, NEAR, PATIENCE, Stage, WEB, http_route, to};

/// One rule with one match.
fn rule(entry: &str, service: &str) -> String {
    format!("{{matches: [{{{entry}}}], {}}}", to(service))
}

#[test]
fn every_match_type_of_an_http_route_decides() {
    let mut stage = Stage::set();
    let path = |kind: &str, value: &str| format!("path: {{type: {kind}, value: {value}}}");
    let rules = [
        rule(&path("Exact", "/exact"), "v2"),
        rule(&path("PathPrefix", "/prefix"), "v2"),
        rule(&path("RegularExpression", "'/re/[0-9]+/x'"), "v2"),
        rule(&format!("{}, headers: [{{name: X-Exact, value: sure}}]", path("PathPrefix", "/h")), "v2"),
        rule(
            &format!(
                "{}, headers: [{{type: RegularExpression, name: x-re, value: 'a|ab'}}]",
                path("PathPrefix", "/h")
            ),
            "v2",
        ),
        rule(&format!("{}, queryParams: [{{name: exact, value: 'y es'}}]", path("PathPrefix", "/q")), "v2"),
        rule(
            &format!(
                "{}, queryParams: [{{type: RegularExpression, name: re, value: '[a-c]+'}}]",
                path("PathPrefix", "/q")
            ),
            "v2",
        ),
        rule(&format!("{}, method: DELETE", path("PathPrefix", "/m")), "v2"),
        rule(
            &format!("{}, method: PUT, headers: [{{name: all, value: of}}]", path("PathPrefix", "/and")),
            "v2",
        ),
        rule(&path("PathPrefix", "/"), "v1"),
    ];
    stage.apply(&http_route("shop/web", WEB, &rules.join(", ")));
    let url = |rest: &str| format!("http://web{rest}");
    for (arguments, expected) in [
        (&[url("/exact").as_str()][..], "v2"),
        (&[&url("/exact/")], "v1"),
        (&[&url("/exact?query=none")], "v2"),
        (&[&url("/prefix")], "v2"),
        (&[&url("/prefix/deep")], "v2"),
        (&[&url("/prefixed")], "v1"),
        (&[&url("/re/17/x")], "v2"),
        (&[&url("/re/17/xy")], "v1"),
        (&[&url("/re/x/x")], "v1"),
        (&["-H", "x-EXACT: sure", &url("/h")], "v2"),
        (&["-H", "x-exact: Sure", &url("/h")], "v1"),
        (&["-H", "x-re: ab", &url("/h")], "v2"),
        (&["-H", "x-re: abc", &url("/h")], "v1"),
        (&[&url("/q?exact=y%20es")], "v2"),
        (&[&url("/q?Exact=y%20es")], "v1"),
        (&[&url("/q?a=b&re=cab")], "v2"),
        (&[&url("/q?a=b&re=dab")], "v1"),
        (&["-X", "DELETE", &url("/m")], "v2"),
        (&["-X", "PATCH", &url("/m")], "v1"),
        (&["-X", "PUT", "-H", "all: of", &url("/and")], "v2"),
        (&["-X", "PUT", &url("/and")], "v1"),
        (&["-H", "all: of", &url("/and")], "v1"),
    ] {
        stage.check("client", arguments, &format!("200 {expected}"));
        // HTTP/2 says the same in other frames.
        let version2 = [&["--http2-prior-knowledge"], arguments].concat();
        stage.check("client", &version2, &format!("200 {expected}"));
    }
}

//= gateway-api HTTPRouteRule.name
//# Name is the name of the route rule. This name MUST be unique within a Route if it is set.
#[test]
fn a_rule_is_told_by_its_name_and_else_by_its_place() {
    let mut stage = Stage::set();
    let named = rule("path: {type: Exact, value: /named}", "v2").replacen('{', "{name: the-named, ", 1);
    let rules = [rule("path: {type: Exact, value: /first}", "v1"), named];
    stage.apply(&http_route("shop/web", WEB, &rules.join(", ")));
    for (path, pod, rule) in [("/first", "v1", "0"), ("/named", "v2", "the-named")] {
        stage.check("client", &[&format!("http://web{path}")], &format!("200 {pod}"));
        let expected = [format!("path={path} "), format!(" route=HTTPRoute/shop/web/{rule} ")];
        let written = || {
            let log = stage.world.access_log(NEAR).unwrap();
            log.lines().any(|line| expected.iter().all(|text| line.contains(text)))
        };
        assert!(until(PATIENCE, written), "no line with {expected:?}");
        let metrics = stage.world.admin(NEAR, "/metrics").unwrap();
        let labels =
            [format!("route_rule=\"{rule}\""), "route_name=\"web\"".to_owned(), format!("backend=\"{pod}\"")];
        let mut counts = metrics.lines().filter(|line| line.starts_with("gammarus_http_requests_total{"));
        let count = counts.find(|line| labels.iter().all(|label| line.contains(label)));
        assert!(count.is_some_and(|line| line.ends_with(" 1")), "{count:?} of {labels:?}");
    }
}

#[test]
fn neither_hostnames_nor_the_host_header_decide_and_a_pods_address_is_never_routed() {
    let mut stage = Stage::set();
    let route = http_route("shop/web", WEB, ALL_TO_V2);
    stage.apply(&route.replace("spec:\n", "spec:\n  hostnames: [nobody.example]\n"));
    stage.check("client", &["http://web/"], "200 v2");
    stage.check("client", &["-H", "Host: somebody.example", "http://web/"], "200 v2");
    stage.check_conditions(
        "HTTPRoute shop/web",
        &["Accepted=True", "spec.hostnames has no effect on a Service parent"],
    );
    // The destination address is the Service's, whatever the request calls itself.
    stage.check("client", &["-H", "Host: web", "http://v1/"], "200 v1");
    stage.check("client", &["-H", "Host: v1", "http://web/"], "200 v2");
    stage.check("client", &["-H", "Host: v1.shop.svc.cluster.local:80", "http://web/"], "200 v2");
    for address in stage.world.running_pod("v1").unwrap().addresses.clone() {
        let authority = std::net::SocketAddr::new(address, node_proxy::demo::pod::APP_PORT);
        stage.check("client", &["-H", "Host: web", &format!("http://{authority}/")], "200 v1");
    }
}
