//! Every match type of HTTPRoute.

use super::*;

#[track_caller]
fn check(wanted: &RouteMatch, request: &Request, expected: bool) {
    assert_eq!(wanted.matches(request), expected, "{wanted:?} on {request:?}");
    let table = RouteTable::new(vec![route("r", None, vec![RuleMatches::Http(vec![wanted.clone()])])]);
    assert_eq!(find(&table, request).is_some(), expected);
}

#[track_caller]
fn check_paths(wanted: &RouteMatch, yes: &[&str], no: &[&str]) {
    for (paths, expected) in [(yes, true), (no, false)] {
        for path in paths {
            check(wanted, &Request::new(&format!("GET {path}")), expected);
        }
    }
}

//= gateway-api PathMatchType.Exact
//# an exact path match on `/abc` will only match requests to `/abc`, NOT `/abc/`, `/Abc`, or `/abcd`.
#[test]
fn exact_paths_match_whole_and_case_sensitive() {
    check_paths(&exact("/abc"), &["/abc", "/abc?x=1"], &["/abc/", "/Abc", "/abcd", "/", "/%61bc"]);
    check_paths(&exact("/abc/"), &["/abc/"], &["/abc"]);
}

//= gateway-api PathMatchType.PathPrefix
//# For example, the paths `/abc`, `/abc/`, and `/abc/def` would all match the prefix `/abc`, but the path `/abcd` would not.
//# When specified, a trailing `/` is ignored.
#[test]
fn prefixes_match_by_whole_elements() {
    for prefix_path in ["/abc", "/abc/"] {
        check_paths(
            &prefix(prefix_path),
            &["/abc", "/abc/", "/abc/def", "/abc//", "/abc?q=/"],
            &["/abcd", "/ABC", "/", "/x/abc", "//abc", "/ab"],
        );
    }
    check_paths(&prefix("/"), &["/", "/x", "//", "*"], &[]);
}

//= gateway-api PathMatchType.RegularExpression
//# Matches if the URL path matches the given regular expression with case sensitivity.
#[test]
fn regular_expressions_match_whole_paths() {
    check_paths(&regex("/v[0-9]+/x"), &["/v12/x"], &["/v/x", "/v1/xy", "/a/v1/x", "/V1/x"]);
    check_paths(&regex("/a|/ab"), &["/a", "/ab"], &["/abc", "/x/a"]);
    check_paths(&regex("/a/b?/c"), &["/a//c", "/a/b/c"], &["/a/c"]);
    check_paths(&regex("/a\\.b/.*"), &["/a.b/", "/a.b/c"], &["/aXb/c", "/a.b"]);
    check_paths(&regex("(?i)/Foo/.*"), &["/foo/x", "/FOO/"], &["/bar/x"]);
}

#[test]
fn what_cannot_be_matched_is_refused_with_a_reason() {
    let message = |result: Result<PathMatch, MatchError>| result.expect_err("refused").to_string();
    assert_eq!(message(PathMatch::exact("abc")), "path \"abc\" must begin with /");
    assert_eq!(message(PathMatch::prefix("/a//b")), "path \"/a//b\" must not contain //");
    for pattern in ["(", "/a)|(/b", "[0-9]{1000}{1000}", "\\p{L}"] {
        assert!(message(PathMatch::regex(pattern)).contains("is not usable"), "{pattern}");
    }
    assert!(message(PathMatch::regex(&"a".repeat(5000))).contains("5000 bytes"));
    assert!(HeaderMatch::new(":method", StringMatch::exact("GET")).is_err());
}

//= gateway-api HTTPHeaderMatch.name
//# Name matching MUST be case-insensitive.
#[test]
fn header_names_match_in_any_case_and_values_exactly() {
    let wanted = prefix("/").with_headers(vec![header("Version", "new")]);
    check(&wanted, &Request::new("GET /").with("version", "new"), true);
    check(&wanted, &Request::new("GET /").with("VERSION", "new"), true);
    check(&wanted, &Request::new("GET /").with("version", "New"), false);
    check(&wanted, &Request::new("GET /").with("version", "new").with("version", "x"), false);
    check(&wanted, &Request::new("GET /"), false);
    let joined = prefix("/").with_headers(vec![header("a", "1, 2")]);
    check(&joined, &Request::new("GET /").with("a", "1").with("a", "2"), true);
}

//= gateway-api HTTPHeaderMatch.name
//# Subsequent entries with an equivalent header name MUST be ignored.
//= gateway-api HTTPQueryParamMatch.name
//# Subsequent entries with an equivalent query param name MUST be ignored.
#[test]
fn only_the_first_entry_of_a_name_counts() {
    let wanted = prefix("/").with_headers(vec![header("foo", "1"), header("Foo", "2")]);
    check(&wanted, &Request::new("GET /").with("foo", "1"), true);
    let wanted = prefix("/").with_query(vec![query("foo", "1"), query("foo", "2"), query("Foo", "3")]);
    check(&wanted, &Request::new("GET /?foo=1&Foo=3"), true);
    check(&wanted, &Request::new("GET /?foo=1"), false);
}

//= gateway-api HTTPRouteMatch.headers
//# Multiple match values are ANDed together, meaning, a request must match all the specified headers to select the route.
#[test]
fn all_headers_have_to_match_and_patterns_take_any_bytes() {
    let wanted = prefix("/").with_headers(vec![header("a", "1"), header_regex("b", "x.*")]);
    check(&wanted, &Request::new("GET /").with("a", "1").with("b", b"x\xff\xfe"), true);
    check(&wanted, &Request::new("GET /").with("a", "1").with("b", "yx"), false);
    check(&wanted, &Request::new("GET /").with("b", "x"), false);
}

//= gateway-api HTTPQueryParamMatch.name
//# it is *recommended* that implementations should match against the first value of the param
#[test]
fn query_parameters_match_decoded_by_their_first_value() {
    let wanted = prefix("/").with_query(vec![query("q", "a b")]);
    for (target, expected) in [
        ("/?q=a%20b", true),
        ("/?q=a+b", true),
        ("/?%71=a+b", true),
        ("/?x=1&q=a+b&q=c", true),
        ("/?q=c&q=a+b", false),
        ("/?Q=a+b", false),
        ("/?q=a%2Bb", false),
        ("/?q=a%2", false),
        ("/?q", false),
        ("/", false),
    ] {
        check(&wanted, &Request::new(&format!("GET {target}")), expected);
    }
    check(&prefix("/").with_query(vec![query("q", "100%")]), &Request::new("GET /?q=100%"), true);
    let digits = QueryMatch::new("q", StringMatch::regex("[0-9]+").expect("a pattern"));
    check(&prefix("/").with_query(vec![digits]), &Request::new("GET /?q=12x"), false);
}

//= gateway-api HTTPRouteMatch.method
//# When specified, this route will be matched only if the request has the specified method.
#[test]
fn methods_match_exactly() {
    let wanted = prefix("/").with_method("GET");
    check(&wanted, &Request::new("GET /"), true);
    check(&wanted, &Request::new("get /"), false);
    check(&wanted, &Request::new("POST /"), false);
}

//= gateway-api HTTPRouteRule.matches
//# If no matches are specified, the default is a prefix path match on "/", which has the effect of matching every HTTP request.
#[test]
fn a_rule_without_matches_takes_everything_and_an_empty_table_nothing() {
    let table = RouteTable::new(vec![route("r", None, vec![RuleMatches::Http(vec![])])]);
    assert_eq!(find(&table, &Request::new("DELETE /x?y=z")).as_deref(), Some("shop/r#0"));
    assert_eq!(find(&RouteTable::default(), &Request::new("GET /")), None);
}

//= gateway-api HTTPRouteRule.matches
//# Each match is independent, i.e. this rule will be matched if **any** one of the matches is satisfied.
#[test]
fn one_match_of_a_rule_is_enough() {
    let either = vec![prefix("/foo").with_headers(vec![header("version", "v2")]), prefix("/v2/foo")];
    let table = RouteTable::new(vec![route("r", None, vec![RuleMatches::Http(either)])]);
    assert!(find(&table, &Request::new("GET /foo").with("version", "v2")).is_some());
    assert!(find(&table, &Request::new("GET /v2/foo")).is_some());
    assert!(find(&table, &Request::new("GET /foo")).is_none());
}
