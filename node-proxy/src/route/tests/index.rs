//! The index against the plain order, on random tables; and that it spares work.

use super::*;

/// Xorshift with a fixed seed: the same tables in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, count: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % count
    }

    fn of<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        texts[self.below(texts.len())]
    }
}

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
