//! The index against the plain order, on random tables; and that it spares work.

use super::*;
use crate::dice::Dice;

const PATHS: [&str; 9] = ["/", "/a", "/a/", "/a/b", "/a/b/c", "/b", "/ab", "/b/a", "/a.b"];
const PATTERNS: [&str; 9] =
    ["/a/.*", "/a/?b", "/a|/b", "/a/b(/.*)?", ".*b", "/a\\.b", "^/a/b", "/a+(/b)*", "(?i)/A/B"];
const NAMES: [&str; 4] = ["h", "i", "j", "k"];
const VALUES: [&str; 3] = ["1", "2", "3"];

fn random_headers(dice: &mut Dice) -> Vec<HeaderMatch> {
    (0..dice.below(3))
        .map(|_| match dice.below(4) {
            0 => header_regex(dice.of(&NAMES), "[12]"),
            _ => header(dice.of(&NAMES), dice.of(&VALUES)),
        })
        .collect()
}

fn random_http(dice: &mut Dice) -> RouteMatch {
    let wanted = match dice.below(4) {
        0 => exact(dice.of(&PATHS)),
        1 => regex(dice.of(&PATTERNS)),
        _ => prefix(dice.of(&PATHS)),
    };
    let wanted = if dice.below(3) == 0 { wanted.with_method(dice.of(&["GET", "PUT"])) } else { wanted };
    let wanted =
        if dice.below(4) == 0 { wanted.with_query(vec![query("q", dice.of(&VALUES))]) } else { wanted };
    wanted.with_headers(random_headers(dice))
}

fn random_grpc(dice: &mut Dice) -> GrpcMatch {
    let mut name = || match dice.below(4) {
        0 => None,
        1 => Some(StringMatch::regex(dice.of(&["a.*", ".*b", "a|b"])).expect("a pattern")),
        _ => Some(StringMatch::exact(dice.of(&["a", "b", "a.b"]))),
    };
    let (service, method) = (name(), name());
    GrpcMatch::new(service, method).expect("names").with_headers(random_headers(dice))
}

#[test]
fn the_index_finds_what_trying_all_in_order_finds() {
    let mut dice = Dice(0x5eed_1234_5678_9abc);
    let mut found = 0;
    for round in 0..400 {
        let mut routes = Vec::new();
        for at in 0..=dice.below(4) {
            let rules = (0..=dice.below(6)).map(|_| {
                let count = dice.below(3);
                if round % 3 == 0 {
                    RuleMatches::Grpc((0..count).map(|_| random_grpc(&mut dice)).collect())
                } else {
                    RuleMatches::Http((0..=count).map(|_| random_http(&mut dice)).collect())
                }
            });
            let rules = rules.collect();
            routes.push(route(&format!("r{at}"), None, rules));
        }
        let table = RouteTable::new(routes);
        for _ in 0..60 {
            let path = dice
                .of(&["*", "/", "/a", "/a/", "/a/b", "/a/b/c", "//", "/a//b", "/b/a", "/ab", "/a.b", "/A/B"]);
            let method = dice.of(&["GET", "PUT", "POST"]);
            let request = Request::new(&format!("{method} {path}?q={}", dice.of(&VALUES)));
            let request = request.with("content-type", dice.of(&["application/grpc", "text/plain"]));
            let request =
                request.with(dice.of(&NAMES), dice.of(&VALUES)).with(dice.of(&NAMES), dice.of(&VALUES));
            found += u32::from(find(&table, &request).is_some());
        }
    }
    assert!((4_000..20_000).contains(&found), "{found} of 24000 found: the tables are one-sided");
}

/// A rule of a table that is large enough for its values and patterns to be looked for all at once.
fn random_rule(dice: &mut Dice, is_grpc: bool) -> RuleMatches {
    let word = dice.below(90);
    let pattern = match dice.below(6) {
        0 => format!("v{word}(-[a-z]+)?"),
        1 => format!("[a-z]*{word}"),
        2 => format!("(v|w){word}+"),
        3 => "v[0-9]+".to_owned(),
        4 => format!("(?i)V{word}"),
        _ => format!("v{word}|w{word}"),
    };
    if is_grpc {
        let some = StringMatch::regex(&pattern).expect("a pattern");
        let method = StringMatch::exact(&format!("v{word}"));
        let (service, method) = match dice.below(3) {
            0 => (None, Some(method)),
            1 => (None, Some(some)),
            _ => (Some(some), Some(method)),
        };
        return RuleMatches::Grpc(vec![GrpcMatch::new(service, method).expect("names")]);
    }
    let any = prefix("/");
    RuleMatches::Http(vec![match dice.below(6) {
        0 => any.with_headers(vec![header_regex("h", &pattern)]),
        1 => any.with_headers(vec![header_regex("h", &pattern), header_regex("i", "[a-z]+")]),
        2 => any.with_query(vec![query("q", &format!("v{word}"))]),
        3 => any.with_query(vec![QueryMatch::new("q", StringMatch::regex(&pattern).expect("a pattern"))]),
        4 => regex(&format!("/[a-z]+/{pattern}")).with_headers(random_headers(dice)),
        _ => regex(&format!("/a/{pattern}(/.*)?")).with_method(dice.of(&["GET", "PUT"])),
    }])
}

#[test]
fn the_index_finds_among_many_patterns_what_trying_all_in_order_finds() {
    let mut dice = Dice(0x1234_5678_9abc_def1);
    let mut found = [0; 2];
    for round in 0..9 {
        let is_grpc = round % 3 == 0;
        let rules = (0..120).map(|_| random_rule(&mut dice, is_grpc)).collect();
        let table = RouteTable::new(vec![route("r", None, rules)]);
        for _ in 0..150 {
            let mut word =
                || format!("{}{}{}", dice.of(&["v", "w", "V"]), dice.below(100), dice.of(&["", "-x", "7"]));
            let (one, other, third, last) = (word(), word(), word(), word());
            let request = if is_grpc {
                Request::grpc(&format!("/{one}/{other}"))
            } else {
                let line = format!("{} /a/{one}/{other}?q={third}", dice.of(&["GET", "PUT"]));
                Request::new(&line).with("h", last).with("i", dice.of(&["x", "1"]))
            };
            found[usize::from(is_grpc)] += u32::from(find(&table, &request).is_some());
        }
    }
    assert!(found.iter().all(|count| *count > 80), "{found:?} were found: the tables are one-sided");
}

#[test]
fn a_value_that_repeats_what_patterns_ask_for_is_looked_at_once_for_each() {
    let seen = || vec![header_regex("h", "none")];
    let rules = (0..100).map(|at| {
        let wanted = regex(&format!("/[a-z/0-9]+/{at}/.*")).with_headers(seen());
        RuleMatches::Http(vec![wanted])
    });
    let table = RouteTable::new(vec![route("r", None, rules.collect())]);
    let request = Request::new(&format!("GET /a{}", "/7".repeat(1000))).with("h", "1");
    assert!(table.find(&request).is_none());
    assert_eq!(request.asked.get(), 1, "of a hundred rules one asks for this, a thousand times over");
}

/// How often headers are asked for in a table of `count` rules; every match has one that is asked for late.
fn asked(count: usize, make: impl Fn(usize) -> RouteMatch, request: &Request) -> u32 {
    let rules = (0..count).map(|at| RuleMatches::Http(vec![make(at)])).collect();
    let table = RouteTable::new(vec![route("r", None, rules)]);
    request.asked.set(0);
    assert!(table.find(request).is_some());
    request.asked.get()
}

#[test]
fn a_thousand_rules_are_no_more_work_than_ten() {
    let seen = || vec![header_regex("h", "1")];
    let request = Request::new("GET /p7/x").with("h", "1").with("version", "v7");
    let same = |make: &dyn Fn(usize) -> RouteMatch| {
        assert_eq!(asked(10, make, &request), asked(1000, make, &request));
    };
    same(&|at| exact(&format!("/p{at}/x")).with_headers(seen()));
    same(&|at| prefix(&format!("/p{at}")).with_headers(seen()));
    same(&|at| regex(&format!("/p{at}/[a-z]+")).with_headers(seen()));
    same(&|at| prefix("/").with_headers(vec![header("h", "1"), header("version", &format!("v{at}"))]));
}
