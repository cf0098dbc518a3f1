//! HTTP in plain text: which listener, which route, and what backends are told.

use crate::rig::stage;

#[test]
fn a_request_goes_to_the_route_of_its_host_in_the_mesh_and_outside_of_it() {
    let stage = stage();
    let seen = stage.ask(&["http://site.example.com/a?b=c"]);
    assert_eq!((&seen["name"], &seen["target"]), (&"inside".into(), &"/a?b=c".into()), "{seen}");
    // The route of the backend's own Service is for those who dial that Service.
    assert_eq!(seen["headers"]["x-by-service"], serde_json::Value::Null, "{seen}");
    let line = stage.wait_line(&["path=/a ", "direction=ingress"]);
    for text in [
        "mtls=yes",
        "status=200",
        // Of the family that the client has come by.
        "dst.addr=10.244.2.",
        "dst.workload=inside",
        "dst.identity=spiffe://cluster.local/ns/shop/sa/inside",
        "backend=shop/inside:80",
        "route=HTTPRoute/shop/site/0",
    ] {
        assert!(line.contains(text), "{text} is not in {line}");
    }
    let seen = stage.ask(&["http://plain.example.com/outside"]);
    assert_eq!(seen["name"], "open", "{seen}");
    let line = stage.wait_line(&["path=/outside ", "direction=ingress"]);
    assert!(line.contains("mtls=no") && line.contains("plaintext_reason=destination_not_enrolled"), "{line}");
}

#[test]
fn filters_do_what_they_do_in_the_mesh() {
    let stage = stage();
    let moved = stage.curl(&["http://site.example.com/moved/here?x=1"]);
    assert_eq!(moved.status, 301, "{moved:?}");
    assert_eq!(moved.fields["location"], "https://site.example.com/moved/here?x=1");
    let seen = stage.ask(&["http://site.example.com/marked/a"]);
    assert_eq!(
        (&seen["target"], &seen["headers"]["x-by-route"]),
        (&"/new/a".into(), &vec!["yes"].into()),
        "{seen}"
    );
}

#[test]
fn backends_are_told_who_the_client_is_and_never_what_it_says_of_itself() {
    let stage = stage();
    let client = stage.world().running_pod("client").unwrap().addresses[0].to_string();
    for path in ["/", "/marked/"] {
        let url = format!("http://site.example.com{path}");
        let lies = [
            "-H",
            "x-forwarded-for: 9.9.9.9",
            "-H",
            "X-Forwarded-Proto: gopher",
            "-H",
            "forwarded: for=9.9.9.9",
            "-H",
            "x_forwarded_for: 9.9.9.9",
            "-H",
            "X-Real-IP: 9.9.9.9",
            "-H",
            "x-forwarded-host: evil.example.com",
            "-H",
            "x-forwarded-port: 443",
        ];
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let seen = stage.ask(&[&[version, &*url], &lies[..]].concat());
            let fields = &seen["headers"];
            assert_eq!(fields["x-forwarded-for"], serde_json::json!([client]), "{seen}");
            assert_eq!(fields["x-forwarded-proto"], serde_json::json!(["http"]), "{seen}");
            assert!(!seen.to_string().contains("9.9.9.9"), "{seen}");
            assert!(!seen.to_string().contains("evil") && !seen.to_string().contains("443"), "{seen}");
        }
    }
    assert!(stage.lines(&["9.9.9.9"]).is_empty(), "somebody was believed");
    assert!(stage.lines(&["peer.addr"]).is_empty(), "somebody was believed");
}

//= gateway-api HTTPRouteSpec.hostnames
//# If hostnames do not match, traffic is not routed ... and a 404 is returned
#[test]
fn what_no_route_takes_is_404_and_backends_that_cannot_say_why() {
    let stage = stage();
    for (url, status, reason) in [
        ("http://nothing.example.org/", 404, "no_matching_rule"),
        ("http://plain.example.com/nobody", 503, "no_endpoint"),
        ("http://plain.example.com/missing", 500, "invalid_backend"),
    ] {
        let answer = stage.curl(&[url]);
        assert_eq!(
            (answer.status, &*answer.fields["gammarus-reason"]),
            (status, reason),
            "{url}: {answer:?}"
        );
    }
}

#[test]
fn a_better_hostname_comes_first_and_the_next_one_where_none_of_its_rules_fits() {
    let stage = stage();
    for (url, told) in [
        ("http://some.example.com/some", "some"),
        ("http://SOME.example.com:80/some", "some"),
        ("http://some.example.com/other", "below"),
        ("http://a.b.example.com/some", "below"),
    ] {
        let seen = stage.ask(&[url]);
        assert_eq!(seen["headers"]["x-host"], serde_json::json!([told]), "{url}: {seen}");
    }
    assert_eq!(stage.curl(&["http://example.com/"]).status, 404);
}

//= gateway-api GatewaySpec.listeners
//# the request is only matched to the most specific listener
#[test]
fn listeners_of_a_port_are_isolated_from_each_other() {
    let stage = stage();
    let matched = [("a.example.com", "/exact"), ("b.example.com", "/below"), ("c.example.org", "/any")];
    for (host, own) in matched {
        for (_, path) in matched {
            let answer = stage.curl(&[&format!("http://{host}:8000{path}")]);
            assert_eq!(answer.status, if path == own { 200 } else { 404 }, "{host} {path}: {answer:?}");
        }
    }
}

#[test]
fn http2_by_prior_knowledge_is_served_on_the_same_port() {
    let stage = stage();
    let seen = stage.ask(&["--http2-prior-knowledge", "http://site.example.com/second"]);
    assert_eq!(seen["name"], "inside", "{seen}");
    assert_eq!(seen["headers"]["x-forwarded-proto"], serde_json::json!(["http"]), "{seen}");
    stage.wait_line(&["path=/second ", "protocol=http2", "mtls=yes"]);
}
