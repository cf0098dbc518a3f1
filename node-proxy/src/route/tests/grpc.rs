//! GRPCRoute: its matches and its precedence.

use super::*;

fn text(name: &str) -> StringMatch {
    StringMatch::exact(name)
}

fn pattern(name: &str) -> StringMatch {
    StringMatch::regex(name).expect("a pattern")
}

fn grpc(service: Option<StringMatch>, method: Option<StringMatch>) -> GrpcMatch {
    GrpcMatch::new(service, method).expect("names")
}

fn table(matches: Vec<Vec<GrpcMatch>>) -> RouteTable {
    RouteTable::new(vec![route("r", None, matches.into_iter().map(RuleMatches::Grpc).collect())])
}

#[track_caller]
fn check(wanted: GrpcMatch, yes: &[&str], no: &[&str]) {
    let table = table(vec![vec![wanted]]);
    for path in yes {
        assert!(find(&table, &Request::grpc(path)).is_some(), "{path}");
    }
    for path in no {
        assert!(find(&table, &Request::grpc(path)).is_none(), "{path}");
    }
}

//= gateway-api GRPCMethodMatch.type
//# Matches the method or service exactly and with case sensitivity.
//# Matches if the method or service matches the given regular expression with case sensitivity.
//= gateway-api GRPCMethodMatch.service
//# If left empty or omitted, will match any service.
#[test]
fn services_and_methods_match() {
    let no = ["/a.S/N", "/a.s/M", "/a.S", "/a.S/", "/a.S/M/x", "/x/a.S/M", "//M"];
    check(grpc(Some(text("a.S")), Some(text("M"))), &["/a.S/M"], &no);
    check(grpc(Some(text("a.S")), None), &["/a.S/M", "/a.S/N"], &["/a.T/M", "/a.S", "/a.S/", "/a.S/M/x"]);
    check(grpc(None, Some(text("M"))), &["/a.S/M", "/b/M"], &["/a.S/N", "/M", "//M"]);
    check(grpc(Some(pattern("a\\..*")), None), &["/a.S/M"], &["/b.a.S/M", "/a.S/x/M"]);
    check(grpc(Some(text("S")), Some(pattern("Get|Put"))), &["/S/Get", "/S/Put"], &["/S/GetX"]);
    assert!(GrpcMatch::new(Some(text("a/b")), None).is_err());
    assert!(GrpcMatch::new(None, Some(text(""))).is_err());
}

//= gateway-api GRPCRouteRule.matches
//# If no matches are specified, the implementation MUST match every gRPC request.
#[test]
fn every_grpc_request_matches_and_nothing_else() {
    let table = table(vec![vec![]]);
    let of = |line, kind| find(&table, &Request::new(line).with("content-type", kind)).is_some();
    for kind in
        ["application/grpc", "application/grpc+proto", "Application/GRPC; x=y", "application/grpc-web"]
    {
        assert!(of("POST /a.S/M", kind), "{kind}");
    }
    assert!(of("POST /odd", "application/grpc"));
    assert!(!of("GET /a.S/M", "application/grpc"));
    assert!(!of("POST /a.S/M", "application/grpcx"));
    assert!(!of("POST /a.S/M", "application/json"));
    assert!(find(&table, &Request::new("POST /a.S/M")).is_none());
}

//= gateway-api GRPCHeaderMatch.name
//# Subsequent entries with an equivalent header name MUST be ignored.
#[test]
fn headers_match_as_in_http() {
    let wanted = grpc(None, None).with_headers(vec![header("Foo", "1"), header("foo", "2")]);
    let table = table(vec![vec![wanted]]);
    assert!(find(&table, &Request::grpc("/S/M").with("foo", "1")).is_some());
    assert!(find(&table, &Request::grpc("/S/M").with("foo", "2")).is_none());
}

//= gateway-api GRPCRouteRule.matches
//# * Characters in a matching service.
//# * Characters in a matching method.
//# * Header matches.
//# If ties still exist within the Route that has been given precedence, matching precedence MUST be granted to the first matching rule
#[test]
fn better_matches_win_by_each_criterion() {
    let headers = |wanted: GrpcMatch| wanted.with_headers(vec![header("h", "1")]);
    let service = || grpc(Some(text("a.S")), None);
    let method = || grpc(None, Some(text("M")));
    let cases = [
        (service(), headers(method())),
        (service(), grpc(Some(pattern(".*")), Some(text("M")))),
        (grpc(Some(pattern("a.*")), None), headers(method())),
        (grpc(Some(text("a.S")), Some(text("M"))), headers(service())),
        (grpc(Some(text("a.S")), Some(text("M"))), grpc(Some(text("a.S")), Some(pattern("M")))),
        (headers(service()), service()),
    ];
    for (better, worse) in cases {
        let table = table(vec![vec![worse.clone()], vec![better.clone()], vec![better]]);
        let request = Request::grpc("/a.S/M").with("h", "1");
        assert_eq!(find(&table, &request).as_deref(), Some("shop/r#1"), "{worse:?}");
    }
    let all = || vec![RuleMatches::Grpc(vec![])];
    let table = RouteTable::new(vec![route("a/b", Some(2), all()), route("b/a", Some(1), all())]);
    assert_eq!(find(&table, &Request::grpc("/S/M")).as_deref(), Some("b/a#0"));
    let table = RouteTable::new(vec![route("b/a", None, all()), route("a/b", None, all())]);
    assert_eq!(find(&table, &Request::grpc("/S/M")).as_deref(), Some("a/b#0"));
}
