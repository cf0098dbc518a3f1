//! TLSRoutes by server name and TCPRoutes by age.

use super::*;

/// The hostnames of one rule.
fn names(hostnames: &[&str]) -> RuleMatches {
    RuleMatches::Tls(hostnames.iter().map(|name| HostnameMatch::new(name)).collect())
}

fn taken(table: &RouteTable, server_name: Option<&str>) -> Option<String> {
    table.find_connection(server_name).map(|rule| rule.route.key.name.to_string())
}

#[track_caller]
fn check(table: &RouteTable, server_name: &str, expected: Option<&str>) {
    assert_eq!(taken(table, Some(server_name)).as_deref(), expected, "{server_name}");
}

//= gateway-api TLSRouteSpec.hostnames
//# A hostname may be prefixed with a wildcard label (`*.`). The wildcard label must appear by itself as the first label.
#[test]
fn an_exact_name_beats_every_wildcard_and_a_longer_wildcard_a_shorter_one() {
    let table = RouteTable::new(vec![
        route("short", Some(1), vec![names(&["*.example.com"])]),
        route("long", Some(2), vec![names(&["*.deep.example.com", "other.test"])]),
        route("exact", Some(3), vec![names(&["a.deep.example.com", "example.com"])]),
    ]);
    for (name, expected) in [
        ("a.deep.example.com", Some("exact")),
        ("b.deep.example.com", Some("long")),
        ("x.a.deep.example.com", Some("long")),
        ("deep.example.com", Some("short")),
        ("a.example.com", Some("short")),
        ("a.b.example.com", Some("short")),
        ("example.com", Some("exact")),
        ("other.test", Some("long")),
        ("a.other.test", None),
        ("anexample.com", None),
        ("com", None),
        ("", None),
        ("a.deep.example.com.", None),
    ] {
        check(&table, name, expected);
    }
    assert_eq!(taken(&table, None), None, "who names no server matches nothing");
    let words: Vec<String> = table.entries().map(|(words, _)| words).collect();
    assert_eq!(
        words,
        [
            "server name = \"a.deep.example.com\"",
            "server name = \"other.test\"",
            "server name = \"example.com\"",
            "server name below \"deep.example.com\"",
            "server name below \"example.com\"",
        ]
    );
}

#[test]
fn a_name_is_looked_for_as_it_is_and_never_longer_than_names_are() {
    let table = RouteTable::new(vec![route("r", None, vec![names(&["*.Example.COM", "Shop.test"])])]);
    check(&table, "shop.test", Some("r"));
    check(&table, &format!("{}.example.com", "a.".repeat(120).trim_end_matches('.')), Some("r"));
    check(&table, &format!("{}.example.com", ".".repeat(60_000)), None);
}

#[test]
fn of_routes_for_one_name_the_first_by_age_has_it() {
    let same = || vec![names(&["a.test"])];
    let table = RouteTable::new(vec![
        route("b", Some(2), same()),
        route("c", Some(1), same()),
        route("a", None, same()),
    ]);
    check(&table, "a.test", Some("c"));
}

//= gateway-api GEP-2644
//# Only the winning route's backends receive traffic.
#[test]
fn the_oldest_tcp_route_takes_every_connection() {
    for (routes, expected) in [
        ([("b/a", Some(1)), ("a/b", Some(2))], "b/a"),
        ([("b/a", Some(1)), ("a/b", Some(1))], "a/b"),
        ([("b/a", Some(1)), ("a/b", None)], "b/a"),
        ([("b/a", None), ("a/b", None)], "a/b"),
        ([("a-x/a", None), ("a/b", None)], "a-x/a"),
    ] {
        let inputs = routes.map(|(name, created)| route(name, created, vec![RuleMatches::Everything]));
        let table = RouteTable::new(inputs.to_vec());
        for name in [None, Some("any")] {
            let key = table.find_connection(name).map(|rule| rule.route.key.to_string());
            assert_eq!(key.as_deref(), Some(expected));
        }
        // A request of a connection that was open before.
        assert_eq!(find_rule(&table).as_deref(), Some(expected));
    }
}

fn find_rule(table: &RouteTable) -> Option<String> {
    table.find(&Request::new("GET /")).map(|rule| rule.route.key.to_string())
}

#[test]
fn requests_and_connections_never_mix() {
    let http = RouteTable::new(vec![route("r", None, vec![RuleMatches::Http(vec![])])]);
    assert_eq!(taken(&http, Some("a.test")), None);
    let tls = RouteTable::new(vec![route("r", None, vec![names(&["a.test"])])]);
    assert_eq!(find_rule(&tls), None);
    assert_eq!(taken(&RouteTable::default(), None), None);
}
