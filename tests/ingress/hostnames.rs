//! Hostnames of GRPCRoutes and TLSRoutes at listeners that have hostnames themselves: what both are for, and the best of it.

use serde_json::Value;

use crate::precedence::{Crowd, call};

//= gateway-api GRPCRouteSpec.hostnames
//# If both the Listener and GRPCRoute have specified hostnames, any GRPCRoute hostnames that do not match the Listener
//# hostname MUST be ignored.
fn check_calls(crowd: &Crowd) {
    for (host, service, route) in [
        ("one.calls.example.com", "shop.Orders", "g-exact"),
        ("one.calls.example.com", "shop.Other", "g-all"),
        // The better listener has the request, though no route with that match is there.
        ("one.calls.example.com", "shop.Bills", "g-all"),
        ("three.calls.example.com", "shop.Bills", "g-isolated"),
        ("three.calls.example.com", "shop.Orders", "g-all"),
        ("two.calls.example.com", "shop.Orders", "g-below"),
        ("two.calls.example.com", "shop.Other", "g-all"),
        ("a.deep.calls.example.com", "shop.Orders", "g-below"),
        ("a.b.deep.calls.example.com", "shop.Orders", "g-below"),
        ("deep.calls.example.com", "shop.Orders", "g-all"),
        // Of the listener without a hostname.
        ("calls.example.com", "shop.Orders", "g-all"),
        ("other.example.com", "shop.Orders", "g-all"),
    ] {
        let url = format!("http://{host}:8003/{service}/Get");
        assert_eq!(crowd.route_of(&call(&url)), format!("GRPCRoute/plain/{route}/0"), "{host} {service}");
    }
    // Two routes have such a name, neither at a listener for it.
    let url = "http://one.example.org:8003/shop.Orders/Get";
    let answer = crowd.stage.curl_at(&crowd.host, &call(url));
    assert_eq!((answer.status, &*answer.fields["grpc-status"]), (200, "12"), "{answer:?}");
    assert_eq!(answer.fields["gammarus-reason"], "no_matching_rule", "{answer:?}");
}

//= gateway-api TLSRouteSpec.hostnames
//# If both the Listener and TLSRoute have specified hostnames, any TLSRoute hostnames that do not match the Listener
//# hostname MUST be ignored.
fn check_names(crowd: &Crowd) {
    crowd.check_names(&[
        ("one.names.example.com", "t-exact"),
        ("two.names.example.com", "t-below"),
        ("three.names.example.com", "t-isolated"),
        ("four.names.example.com", "t-all"),
        ("a.deep.names.example.com", "t-below"),
        ("deep.names.example.com", "t-all"),
    ]);
    // Routes have such names, and no listener has.
    for name in ["other.example.com", "names.example.com"] {
        let refused = crowd.stage.curl_at(&crowd.host, &["-k", &format!("https://{name}:8445/")]);
        assert!(refused.status == 0 && refused.error.contains("reset"), "{name}: {refused:?}");
        let error = format!("no listener of port 8445 is for {name}");
        crowd.stage.wait_line_of(crowd.gateway, &["reason=no_matching_rule", &error]);
    }
}

fn check_conditions(crowd: &Crowd) {
    let probe = ["curl", "-s", "http://127.0.0.1:15000/status"];
    let status = crowd.stage.world().exec(crowd.gateway, &probe).unwrap().stdout;
    let status: Value = serde_json::from_str(&status).unwrap();
    for (route, accepted) in [
        ("GRPCRoute plain/g-all", "Accepted=True"),
        ("GRPCRoute plain/g-below", "Accepted=True"),
        ("GRPCRoute plain/g-stranger", "Accepted=False NoMatchingListenerHostname"),
        ("TLSRoute plain/t-all", "Accepted=True"),
        ("TLSRoute plain/t-below", "Accepted=True"),
        ("TLSRoute plain/t-stranger", "Accepted=False NoMatchingListenerHostname"),
    ] {
        let said = &status["conditions"][format!("{route} on Gateway edge/named")];
        let mut said = said.as_array().into_iter().flatten().filter_map(Value::as_str);
        assert!(said.any(|condition| condition.starts_with(accepted)), "{route}: {status:#}");
    }
}

#[test]
fn a_route_has_what_its_hostnames_and_its_listeners_have_in_common() {
    let crowd = Crowd::gather("named", include_str!("hostnames.yaml"));
    check_conditions(&crowd);
    check_calls(&crowd);
    check_names(&crowd);
}
