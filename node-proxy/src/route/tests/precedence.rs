//! Every tie-break of the precedence, of both kinds.

use super::*;

const HTTP: &str = "GET /a/b?q=1&r=2";

fn request() -> Request {
    Request::new(HTTP).with("h", "1").with("i", "2")
}

/// Both orders in one route and in two routes give the better match.
#[track_caller]
fn check(better: &RouteMatch, worse: &RouteMatch) {
    let one = |wanted: &RouteMatch| RuleMatches::Http(vec![wanted.clone()]);
    let table = RouteTable::new(vec![route("r", None, vec![one(worse), one(better)])]);
    assert_eq!(find(&table, &request()).as_deref(), Some("shop/r#1"));
    let table =
        RouteTable::new(vec![route("a", Some(1), vec![one(worse)]), route("b", Some(2), vec![one(better)])]);
    assert_eq!(find(&table, &request()).as_deref(), Some("shop/b#0"));
}

//= gateway-api HTTPRouteRule.matches
//# * "Exact" path match.
//# * "Prefix" path match with largest number of characters.
//# * Method match.
//# * Largest number of header matches.
//# * Largest number of query param matches.
//# Note: The precedence of RegularExpression path matches are implementation-specific.
#[test]
fn better_matches_win_by_each_criterion_over_all_later_ones() {
    let two = || vec![header("h", "1"), header("i", "2")];
    let queries = || vec![query("q", "1"), query("r", "2")];
    let full = |wanted: RouteMatch| wanted.with_method("GET").with_headers(two()).with_query(queries());
    check(&exact("/a/b"), &full(prefix("/a/b")));
    check(&exact("/a/b"), &full(regex("/a/.*")));
    check(&regex("/.*"), &full(prefix("/a/b")));
    check(&prefix("/a/b"), &full(prefix("/a")));
    check(&prefix("/a"), &full(prefix("/")));
    check(&prefix("/").with_method("GET"), &prefix("/").with_headers(two()).with_query(queries()));
    check(
        &prefix("/").with_headers(two()),
        &prefix("/").with_headers(vec![header("h", "1")]).with_query(queries()),
    );
    check(&prefix("/").with_query(queries()), &prefix("/").with_query(vec![query("q", "1")]));
}

#[track_caller]
fn check_routes(better: (&str, Option<i64>), worse: (&str, Option<i64>)) {
    let all = || vec![RuleMatches::Http(vec![])];
    let make = |(name, created)| route(name, created, all());
    for routes in [vec![make(better), make(worse)], vec![make(worse), make(better)]] {
        assert_eq!(find(&RouteTable::new(routes), &request()), Some(format!("{}#0", better.0)));
    }
}

//= gateway-api HTTPRouteRule.matches
//# * The oldest Route based on creation timestamp.
//# * The Route appearing first in alphabetical order by "{namespace}/{name}".
#[test]
fn between_routes_the_oldest_wins_then_the_first_by_name() {
    check_routes(("z/z", Some(1)), ("a/a", Some(2)));
    check_routes(("z/z", Some(5)), ("a/a", None));
    check_routes(("a/z", Some(1)), ("b/a", Some(1)));
    check_routes(("a/a", None), ("a/b", None));
    check_routes(("a-b/x", None), ("a/x", None));
}

//= gateway-api HTTPRouteRule.matches
//# If ties still exist within an HTTPRoute, matching precedence MUST be granted to the FIRST matching rule (in list order)
#[test]
fn within_a_route_the_first_rule_wins() {
    let rule = |wanted| RuleMatches::Http(vec![wanted]);
    let rules = vec![rule(regex("/x")), rule(regex("/a/.*")), rule(regex("/a/b")), rule(regex("/.*"))];
    let table = RouteTable::new(vec![route("r", None, rules)]);
    assert_eq!(find(&table, &request()).as_deref(), Some("shop/r#1"));
}
