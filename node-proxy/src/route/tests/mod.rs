//! Tests of the route stage: what they share.

mod connection;
mod grpc;
mod http;
mod index;
mod precedence;

use std::borrow::Cow;
use std::cell::Cell;
use std::sync::Arc;

use super::*;

/// A request head that counts how often it is asked for a header.
#[derive(Clone, Debug, Default)]
pub(super) struct Request {
    method: String,
    target: String,
    headers: Vec<(String, Vec<u8>)>,
    asked: Cell<u32>,
}

impl Request {
    /// From `METHOD target`.
    pub(super) fn new(line: &str) -> Self {
        let (method, target) = line.split_once(' ').expect("a method and a target");
        Self { method: method.into(), target: target.into(), ..Self::default() }
    }

    pub(super) fn grpc(path: &str) -> Self {
        Self::new(&format!("POST {path}")).with("content-type", "application/grpc")
    }

    pub(super) fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.as_ref().to_vec()));
        self
    }
}

impl RequestHead for Request {
    fn method(&self) -> &str {
        &self.method
    }

    fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.asked.set(self.asked.get() + 1);
        let lines: Vec<&[u8]> =
            self.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| &**value).collect();
        (!lines.is_empty()).then(|| lines.join(&b", "[..]).into())
    }
}

/// A route with one rule per entry of `rules`.
pub(super) fn route(name: &str, created: Option<i64>, rules: Vec<RuleMatches>) -> RouteInput {
    let (namespace, name) = name.split_once('/').unwrap_or(("shop", name));
    let kind = match rules.first() {
        Some(RuleMatches::Grpc(_)) => RouteKind::Grpc,
        Some(RuleMatches::Everything) => RouteKind::Tcp,
        Some(RuleMatches::Tls(_)) => RouteKind::Tls,
        Some(RuleMatches::Http(_)) | None => RouteKind::Http,
    };
    let route = Arc::new(RouteRef { kind, key: ObjectKey::new(namespace, name) });
    let rule = |index| Rule {
        route: Arc::clone(&route),
        index,
        name: None,
        terms: Terms::default(),
        filters: Arc::default(),
        backends: split::Split::default(),
    };
    let rules = rules.into_iter().enumerate().map(|(index, matches)| (matches, rule(index))).collect();
    RouteInput { route, created, rules }
}

/// `namespace/name#index` of the rule that takes a request, found both ways.
#[track_caller]
pub(super) fn find(table: &RouteTable, request: &Request) -> Option<String> {
    let text = |rule: &Arc<Rule>| format!("{}#{}", rule.route.key, rule.index);
    let found = table.find(request).map(text);
    assert_eq!(found, table.find_linear(request).map(text), "index and order differ for {request:?}");
    found
}

pub(super) fn prefix(path: &str) -> RouteMatch {
    RouteMatch::new(PathMatch::prefix(path).expect("a path"))
}

pub(super) fn exact(path: &str) -> RouteMatch {
    RouteMatch::new(PathMatch::exact(path).expect("a path"))
}

pub(super) fn regex(pattern: &str) -> RouteMatch {
    RouteMatch::new(PathMatch::regex(pattern).expect("a pattern"))
}

pub(super) fn header(name: &str, value: &str) -> HeaderMatch {
    HeaderMatch::new(name, StringMatch::exact(value)).expect("a header name")
}

pub(super) fn header_regex(name: &str, value: &str) -> HeaderMatch {
    HeaderMatch::new(name, StringMatch::regex(value).expect("a pattern")).expect("a header name")
}

pub(super) fn query(name: &str, value: &str) -> QueryMatch {
    QueryMatch::new(name, StringMatch::exact(value))
}
