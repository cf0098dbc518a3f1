//! GRPCRoutes: their matches, their errors, and that they beat an HTTPRoute on the same port.

use super::stage::{ALL_TO_V1, Stage, WEB, http_route, route, to};

/// `curl` as a gRPC client begins.
const GRPC: [&str; 5] = ["--http2-prior-knowledge", "-X", "POST", "-H", "content-type: application/grpc"];

fn rule(entry: &str, service: &str) -> String {
    format!("{{matches: [{{{entry}}}], {}}}", to(service))
}

#[test]
fn every_match_type_of_a_grpc_route_decides() {
    let mut stage = Stage::set();
    let rules = [
        rule("method: {service: shop.Cart, method: Add}", "v2"),
        rule("method: {service: shop.Stock}", "v2"),
        rule("method: {method: Ping}", "v2"),
        rule("method: {type: RegularExpression, service: 'shop[.]v[0-9]+'}", "v2"),
        rule("method: {type: RegularExpression, method: 'Get[A-Z]+'}", "v2"),
        rule(
            "method: {type: RegularExpression, service: 'a[.]B', method: 'C|D'}}, {method: {service: e.F}",
            "v2",
        ),
        rule("headers: [{name: Version, value: new}]", "v2"),
        rule("headers: [{type: RegularExpression, name: re, value: 'a|ab'}]", "v2"),
        rule("method: {service: shop.Cart}", "v1"),
    ];
    stage.apply(&route("GRPCRoute", "shop/web", WEB, &rules.join(", ")));
    for (path, header, expected) in [
        ("/shop.Cart/Add", "x: y", "200 v2"),
        ("/shop.Cart/Remove", "x: y", "200 v1"),
        ("/shop.Stock/Any", "x: y", "200 v2"),
        ("/any.Service/Ping", "x: y", "200 v2"),
        ("/shop.v12/Any", "x: y", "200 v2"),
        ("/any.Service/GetALL", "x: y", "200 v2"),
        ("/any.Service/Getall", "x: y", "200 no_matching_rule"),
        ("/a.B/D", "x: y", "200 v2"),
        ("/a.B/E", "x: y", "200 no_matching_rule"),
        // Any one of a rule's matches is enough.
        ("/e.F/E", "x: y", "200 v2"),
        ("/any.Service/Any", "version: new", "200 v2"),
        // A service that is named ranks before any number of headers.
        ("/shop.Cart/Remove", "version: new", "200 v1"),
        ("/any.Service/Any", "re: ab", "200 v2"),
        // A gRPC answer of the proxy's own has status 200 and no body; the code is in its headers.
        ("/any.Service/Any", "re: abc", "200 no_matching_rule"),
        ("/shop.v12x/Any", "x: y", "200 no_matching_rule"),
    ] {
        let url = format!("http://web{path}");
        stage.check("client", &[&GRPC[..], &["-H", header, &url]].concat(), expected);
    }
    let unimplemented = ["-o", "/dev/null", "-w", "%header{grpc-status}", "http://web/any.Service/Any"];
    let curl = [&["curl", "-sS"], &GRPC[..], &unimplemented].concat();
    assert_eq!(stage.world.exec("client", &curl).unwrap().stdout, "12");
}

#[test]
fn a_grpc_route_beats_an_http_route_on_the_same_port_and_gives_way_when_it_goes() {
    let mut stage = Stage::set();
    stage.apply(&http_route("shop/web", WEB, ALL_TO_V1));
    stage.check("client", &["http://web/"], "200 v1");
    let grpc = stage.apply(&route("GRPCRoute", "shop/grpc", WEB, &format!("{{{}}}", to("v2"))));
    stage.check_conditions("GRPCRoute shop/grpc", &["Accepted=True"]);
    stage
        .check_conditions("HTTPRoute shop/web", &["Accepted=False Conflicted", "GRPCRoute holds on port 80"]);
    stage.check_log(&["HTTPRoute shop/web", "Accepted=False Conflicted"]);
    stage.check("client", &[&GRPC[..], &["http://web/a.B/C"]].concat(), "200 v2");
    stage.check("client", &["http://web/"], "404 no_matching_rule");
    // Consumers' groups are apart: a GRPCRoute of `checkout` takes nothing from the HTTPRoute of `shop`.
    stage.delete(&grpc);
    stage.check("client", &["http://web/"], "200 v1");
    let parent = "{group: '', kind: Service, name: web, namespace: shop}";
    stage.apply(&route("GRPCRoute", "checkout/grpc", parent, &format!("{{{}}}", to("v2"))));
    stage.check("client", &["http://web/"], "200 v1");
    stage.check("buyer", &["http://web.shop/"], "404 no_matching_rule");
    stage.check_conditions("HTTPRoute shop/web", &["Accepted=True Accepted"]);
}
