//! Finding a request's rule among 10, 100 and 1,000 on one Service, by every kind of match.

use std::borrow::Cow;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use node_proxy::cluster::objects::ObjectKey;
use node_proxy::route::split::Split;
use node_proxy::route::{
    GrpcMatch, HeaderMatch, PathMatch, QueryMatch, RequestHead, RouteInput, RouteKind, RouteMatch, RouteRef,
    RouteTable, Rule, RuleMatches, StringMatch, Terms,
};

use crate::meter::{Moment, median};

const SIZES: [usize; 3] = [10, 100, 1000];

struct Request {
    method: &'static str,
    path: String,
    query: String,
    headers: Vec<(&'static str, String)>,
}

impl RequestHead for Request {
    fn method(&self) -> &str {
        self.method
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn query(&self) -> Option<&str> {
        Some(&self.query)
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let found = self.headers.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| Cow::Borrowed(value.as_bytes()))
    }
}

/// One kind of match: rule number `at`, and a request for it.
struct Kind {
    name: &'static str,
    rule: fn(usize) -> RuleMatches,
    request: fn(usize) -> Request,
}

fn http(wanted: RouteMatch) -> RuleMatches {
    RuleMatches::Http(vec![wanted])
}

fn any() -> RouteMatch {
    RouteMatch::new(PathMatch::any())
}

fn header(value: StringMatch) -> RouteMatch {
    any().with_headers(vec![HeaderMatch::new("version", value).unwrap()])
}

fn request(path: String, version: String) -> Request {
    let headers = vec![
        ("host", "web.shop".to_owned()),
        ("user-agent", "bench/1".to_owned()),
        ("accept", "*/*".to_owned()),
        ("content-type", "application/grpc".to_owned()),
        ("version", version),
    ];
    Request { method: "POST", query: format!("{}&id=7", path.trim_start_matches('/')), path, headers }
}

fn at_path(path: String) -> Request {
    request(path, "none".to_owned())
}

fn at_version(version: String) -> Request {
    request("/cart/items/7".to_owned(), version)
}

const KINDS: [Kind; 10] = [
    Kind {
        name: "exact",
        rule: |at| http(RouteMatch::new(PathMatch::exact(&format!("/api/{at}/items")).unwrap())),
        request: |at| at_path(format!("/api/{at}/items")),
    },
    Kind {
        name: "prefix",
        rule: |at| http(RouteMatch::new(PathMatch::prefix(&format!("/api/{at}")).unwrap())),
        request: |at| at_path(format!("/api/{at}/items")),
    },
    Kind {
        name: "header",
        rule: |at| http(header(StringMatch::exact(&format!("v{at}")))),
        request: |at| at_version(format!("v{at}")),
    },
    Kind {
        name: "query",
        rule: |at| {
            let value = StringMatch::exact(&at.to_string());
            http(any().with_query(vec![QueryMatch::new("id", value)]))
        },
        request: |at| Request { query: format!("page=1&id={at}"), ..at_version("none".to_owned()) },
    },
    Kind {
        name: "regex, literal start",
        rule: |at| http(RouteMatch::new(PathMatch::regex(&format!("/api/{at}/[a-z]+")).unwrap())),
        request: |at| at_path(format!("/api/{at}/items")),
    },
    Kind {
        name: "regex, no literal start",
        rule: |at| http(RouteMatch::new(PathMatch::regex(&format!("/[a-z]+/{at}/[a-z]+")).unwrap())),
        request: |at| at_path(format!("/api/{at}/items")),
    },
    Kind {
        name: "regex, same literal start",
        rule: |at| http(RouteMatch::new(PathMatch::regex(&format!("/api/v[0-9]+/{at}(/.*)?")).unwrap())),
        request: |at| at_path(format!("/api/v3/{at}/items")),
    },
    Kind {
        name: "header regex",
        rule: |at| http(header(StringMatch::regex(&format!("v{at}\\.[0-9]+")).unwrap())),
        request: |at| at_version(format!("v{at}.12")),
    },
    Kind {
        name: "grpc method",
        rule: |at| {
            let (service, method) = (StringMatch::exact("shop.Cart"), StringMatch::exact(&format!("M{at}")));
            RuleMatches::Grpc(vec![GrpcMatch::new(Some(service), Some(method)).unwrap()])
        },
        request: |at| at_path(format!("/shop.Cart/M{at}")),
    },
    Kind {
        name: "grpc method alone",
        rule: |at| {
            let method = StringMatch::exact(&format!("M{at}"));
            RuleMatches::Grpc(vec![GrpcMatch::new(None, Some(method)).unwrap()])
        },
        request: |at| at_path(format!("/shop.Cart/M{at}")),
    },
];

fn table(kind: &Kind, size: usize) -> RouteTable {
    let name = RouteKind::Http;
    let route = Arc::new(RouteRef { kind: name, key: ObjectKey::new("shop", "r") });
    let rules = (0..size).map(|index| {
        let rule = Rule {
            route: Arc::clone(&route),
            index,
            name: None,
            terms: Terms::default(),
            filters: Arc::default(),
            backends: Split::default(),
        };
        ((kind.rule)(index), rule)
    });
    let rules = rules.collect();
    RouteTable::new(vec![RouteInput { route: Arc::clone(&route), created: None, rules }])
}

/// What one lookup takes: the median of many rounds over rules all over the table, and one that none takes.
fn measure(kind: &Kind, size: usize) -> [Duration; 2] {
    let table = table(kind, size);
    let there: Vec<usize> = (0..10).map(|part| part * size / 10 + size / 20).collect();
    let hits: Vec<Request> = there.iter().map(|at| (kind.request)(*at)).collect();
    for (at, request) in there.iter().zip(&hits) {
        assert_eq!(table.find(request).map(|rule| rule.index), Some(*at), "{} {size}", kind.name);
    }
    let misses: Vec<Request> = (0..10).map(|at| (kind.request)(1_000_000 + at)).collect();
    assert!(misses.iter().all(|request| table.find(request).is_none()), "{} {size}", kind.name);
    [hits, misses].map(|requests| {
        let rounds = if cfg!(debug_assertions) { 3 } else { 101 };
        let spent = (0..rounds).map(|_| {
            let began = Moment::now();
            for _ in 0..20 {
                for request in &requests {
                    black_box(table.find(black_box(request)));
                }
            }
            began.spent().cpu / 200
        });
        median(spent.collect())
    })
}

pub(crate) fn run() {
    println!("| lookup | 10 rules | 100 | 1,000 | 1,000 / 10 | no rule: 10 | 1,000 | ratio |");
    println!("|---|---|---|---|---|---|---|---|");
    for kind in &KINDS {
        let [small, middle, large] = SIZES.map(|size| measure(kind, size));
        let nanos = |time: Duration| time.as_secs_f64() * 1e9;
        println!(
            "| {} | {:.0} ns | {:.0} | {:.0} | {:.2} | {:.0} | {:.0} | {:.2} |",
            kind.name,
            nanos(small[0]),
            nanos(middle[0]),
            nanos(large[0]),
            nanos(large[0]) / nanos(small[0]),
            nanos(small[1]),
            nanos(large[1]),
            nanos(large[1]) / nanos(small[1]),
        );
    }
}
