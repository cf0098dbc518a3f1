//! Finds the best of many matches without trying them all.
//!
//! Every match lies in one bucket, under something that a request must have to satisfy it: an exact path or
//! the first elements of one, and within that perhaps an exact header value. A bucket keeps places in the
//! table's order, so the answer is the lowest place that matches in the few buckets a request leads to: the
//! same as trying all in order. The index never decides by itself that something matches.

use std::collections::{HashMap, HashSet};

use super::precedence::Matcher;
use super::{PathMatch, RequestHead, StringMatch};

/// The buckets of one table.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    exact: HashMap<Box<str>, Bucket>,
    root: Node,
}

#[derive(Clone, Debug, Default)]
struct Node {
    bucket: Bucket,
    children: HashMap<Box<str>, Self>,
}

/// Places by the exact value of a header, and those that cannot be told apart so.
#[derive(Clone, Debug, Default)]
struct Bucket {
    plain: Vec<usize>,
    by_header: Vec<HeaderGroup>,
}

#[derive(Clone, Debug)]
struct HeaderGroup {
    name: Box<str>,
    values: HashMap<Box<[u8]>, Vec<usize>>,
}

/// What a path must be for a match to hold.
enum Anchor {
    Exact(String),
    Elements(String),
}

impl Index {
    /// Sorts matchers, given in order, into buckets.
    pub(super) fn new<'m>(matchers: impl Iterator<Item = &'m Matcher>) -> Self {
        let mut by_path: HashMap<(bool, String), Vec<(usize, &Matcher)>> = HashMap::new();
        for (place, matcher) in matchers.enumerate() {
            let key = match find_anchor(matcher) {
                Anchor::Exact(path) => (true, path),
                Anchor::Elements(prefix) => (false, prefix),
            };
            by_path.entry(key).or_default().push((place, matcher));
        }
        let mut index = Self::default();
        for ((exact, path), members) in by_path {
            let bucket = Bucket::new(&members);
            if exact {
                index.exact.insert(path.into(), bucket);
            } else {
                let node = elements(&path)
                    .fold(&mut index.root, |node, element| node.children.entry(element.into()).or_default());
                node.bucket = bucket;
            }
        }
        index
    }

    /// The lowest place for which `matches` holds.
    pub(super) fn find_first(
        &self,
        head: &impl RequestHead,
        matches: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let path = head.path();
        let mut best = None;
        if let Some(bucket) = self.exact.get(path) {
            bucket.improve(&mut best, head, &matches);
        }
        let mut node = &self.root;
        node.bucket.improve(&mut best, head, &matches);
        for element in elements(path) {
            let Some(child) = node.children.get(element) else { break };
            node = child;
            node.bucket.improve(&mut best, head, &matches);
        }
        best
    }
}

impl Bucket {
    fn new(members: &[(usize, &Matcher)]) -> Self {
        // Each match goes under that of its headers that tells most matches of this bucket apart.
        let mut distinct: HashMap<&str, HashSet<&str>> = HashMap::new();
        for (_, matcher) in members {
            for (name, value) in exact_headers(matcher) {
                distinct.entry(name).or_default().insert(value);
            }
        }
        let mut bucket = Self::default();
        for (place, matcher) in members {
            let chosen =
                exact_headers(matcher).max_by_key(|(name, _)| distinct.get(name).map_or(0, HashSet::len));
            match chosen {
                Some((name, value)) => {
                    bucket.group(name).values.entry(value.as_bytes().into()).or_default().push(*place);
                }
                None => bucket.plain.push(*place),
            }
        }
        bucket
    }

    fn group(&mut self, name: &str) -> &mut HeaderGroup {
        let at = self.by_header.iter().position(|group| &*group.name == name).unwrap_or_else(|| {
            self.by_header.push(HeaderGroup { name: name.into(), values: HashMap::new() });
            self.by_header.len() - 1
        });
        &mut self.by_header[at]
    }

    fn improve(&self, best: &mut Option<usize>, head: &impl RequestHead, matches: &impl Fn(usize) -> bool) {
        for group in &self.by_header {
            if let Some(places) = head.header(&group.name).and_then(|value| group.values.get(&*value)) {
                improve_from(best, places, matches);
            }
        }
        improve_from(best, &self.plain, matches);
    }
}

fn improve_from(best: &mut Option<usize>, places: &[usize], matches: &impl Fn(usize) -> bool) {
    let mut better = places.iter().copied().take_while(|place| best.is_none_or(|best| *place < best));
    if let Some(place) = better.find(|place| matches(*place)) {
        *best = Some(place);
    }
}

fn exact_headers(matcher: &Matcher) -> impl Iterator<Item = (&str, &str)> {
    matcher.headers().iter().filter_map(|header| match header.value() {
        StringMatch::Exact(value) => Some((header.name(), &**value)),
        StringMatch::Regex(_) => None,
    })
}

/// The elements of an absolute path; of anything else, none.
fn elements(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').into_iter().flat_map(|rest| rest.split('/'))
}

fn find_anchor(matcher: &Matcher) -> Anchor {
    match matcher {
        Matcher::Http(wanted) => match &wanted.path {
            PathMatch::Exact(path) => Anchor::Exact(path.to_string()),
            PathMatch::Prefix(prefix) => Anchor::Elements(prefix.to_string()),
            PathMatch::Regex(pattern) => {
                let mut literal = pattern.literal_start();
                // The last element may go on behind the literal.
                literal.truncate(literal.rfind('/').unwrap_or(0));
                if literal.starts_with('/') {
                    Anchor::Elements(literal)
                } else {
                    Anchor::Elements(String::new())
                }
            }
        },
        Matcher::Grpc(wanted) => match (&wanted.service, &wanted.method) {
            (Some(StringMatch::Exact(service)), Some(StringMatch::Exact(method))) => {
                Anchor::Exact(format!("/{service}/{method}"))
            }
            (Some(StringMatch::Exact(service)), _) => Anchor::Elements(format!("/{service}")),
            _ => Anchor::Elements(String::new()),
        },
    }
}
