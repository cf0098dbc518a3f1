//! Finds the best of many matches without trying them all.
//!
//! Every match lies in one bucket, under something that a request must have to satisfy it: an exact path or
//! the first elements of one, and within that perhaps an exact value of a header or query parameter, or a piece
//! of text that its regular expression asks for. A bucket keeps places in the table's order, so the answer is the
//! lowest place that matches in the few buckets a request leads to: the same as trying all in order. The index
//! never decides by itself that something matches.

use std::collections::{HashMap, HashSet};

use super::literal::{Literal, LiteralGroup, Property};
use super::precedence::RequestMatcher;
use super::{PathMatch, RequestHead, StringMatch};

/// How many matches of a bucket are rather tried one by one than told apart by a value.
const FEW_VALUES: usize = 4;
/// The same for pieces of text, which take longer to look for.
const FEW_LITERALS: usize = 16;

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

/// Places by an exact value, by a piece of text, and those that cannot be told apart so.
#[derive(Clone, Debug, Default)]
struct Bucket {
    plain: Vec<usize>,
    by_value: Vec<ValueGroup>,
    by_literal: Vec<LiteralGroup>,
}

#[derive(Clone, Debug)]
struct ValueGroup {
    property: Property,
    values: HashMap<Box<[u8]>, Vec<usize>>,
}

/// What a path must be for a match to hold.
enum Anchor {
    Exact(String),
    Elements(String),
}

impl Index {
    /// Sorts matchers, given with their places in order, into buckets.
    pub(super) fn new<'m>(matchers: impl Iterator<Item = (usize, &'m RequestMatcher)>) -> Self {
        let mut by_path: HashMap<(bool, String), Vec<(usize, &RequestMatcher)>> = HashMap::new();
        for (place, matcher) in matchers {
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
    fn new(members: &[(usize, &RequestMatcher)]) -> Self {
        if members.len() <= FEW_VALUES {
            return Self { plain: members.iter().map(|(place, _)| *place).collect(), ..Self::default() };
        }
        // Each match goes under that of its values that tells most matches of this bucket apart.
        let mut distinct: HashMap<Property, HashSet<&str>> = HashMap::new();
        for (_, matcher) in members {
            for (property, value) in exact_values(matcher) {
                distinct.entry(property).or_default().insert(value);
            }
        }
        let mut bucket = Self::default();
        let mut rest = Vec::new();
        for (place, matcher) in members {
            let chosen = exact_values(matcher)
                .max_by_key(|(property, _)| distinct.get(property).map_or(0, HashSet::len));
            match chosen {
                Some((property, value)) => {
                    bucket.group(property).entry(value.as_bytes().into()).or_default().push(*place);
                }
                None => rest.push((*place, *matcher)),
            }
        }
        bucket.add_by_literal(&rest);
        bucket
    }

    fn group(&mut self, property: Property) -> &mut HashMap<Box<[u8]>, Vec<usize>> {
        let at = self.by_value.iter().position(|group| group.property == property).unwrap_or_else(|| {
            self.by_value.push(ValueGroup { property, values: HashMap::new() });
            self.by_value.len() - 1
        });
        &mut self.by_value[at].values
    }

    /// Puts each match under that of its pieces of text that fewest others have.
    fn add_by_literal(&mut self, members: &[(usize, &RequestMatcher)]) {
        let mut shared: HashMap<(Property, Literal), usize> = HashMap::new();
        if members.len() > FEW_LITERALS {
            for literal in members.iter().flat_map(|(_, matcher)| required_literals(matcher)) {
                *shared.entry(literal).or_default() += 1;
            }
        }
        let mut by_property: HashMap<Property, Vec<(usize, Literal)>> = HashMap::new();
        for (place, matcher) in members {
            let literals = required_literals(matcher).filter_map(|literal| {
                let others = *shared.get(&literal)?;
                Some((others, literal))
            });
            match literals.min_by_key(|(others, (_, literal))| (*others, usize::MAX - literal.len())) {
                Some((_, (property, literal))) => {
                    by_property.entry(property).or_default().push((*place, literal));
                }
                None => self.plain.push(*place),
            }
        }
        for (property, members) in by_property {
            let places: Vec<usize> = members.iter().map(|(place, _)| *place).collect();
            match LiteralGroup::new(property, members).filter(|_| places.len() > FEW_LITERALS) {
                Some(group) => self.by_literal.push(group),
                None => self.plain.extend(places),
            }
        }
        self.plain.sort_unstable();
    }

    fn improve(&self, best: &mut Option<usize>, head: &impl RequestHead, matches: &impl Fn(usize) -> bool) {
        for group in &self.by_value {
            if let Some(places) = group.property.find(head).and_then(|value| group.values.get(&*value)) {
                improve_from(best, places, matches);
            }
        }
        improve_from(best, &self.plain, matches);
        for group in &self.by_literal {
            group.each(head, |places| improve_from(best, places, matches));
        }
    }
}

fn improve_from(best: &mut Option<usize>, places: &[usize], matches: &impl Fn(usize) -> bool) {
    let mut better = places.iter().copied().take_while(|place| best.is_none_or(|best| *place < best));
    if let Some(place) = better.find(|place| matches(*place)) {
        *best = Some(place);
    }
}

/// Every header and query parameter that a match looks at, and the gRPC method where its path has not led to it.
fn values(matcher: &RequestMatcher) -> impl Iterator<Item = (Property, &StringMatch)> {
    let headers = matcher.headers().iter();
    let headers = headers.map(|header| (Property::Header(header.name().into()), header.value()));
    let (query, method) = match matcher {
        RequestMatcher::Http(wanted) => (wanted.query.as_slice(), None),
        RequestMatcher::Grpc(wanted) => (&[][..], wanted.method.as_ref()),
    };
    let is_led_to = matches!(find_anchor(matcher), Anchor::Exact(_));
    let method = method.filter(|_| !is_led_to).map(|method| (Property::GrpcMethod, method));
    headers
        .chain(method)
        .chain(query.iter().map(|parameter| (Property::Query(parameter.name.clone()), &parameter.value)))
}

fn exact_values(matcher: &RequestMatcher) -> impl Iterator<Item = (Property, &str)> {
    values(matcher).filter_map(|(property, wanted)| match wanted {
        StringMatch::Exact(value) => Some((property, &**value)),
        StringMatch::Regex(_) => None,
    })
}

/// Pieces of text that a request must have somewhere to satisfy a match.
fn required_literals(matcher: &RequestMatcher) -> impl Iterator<Item = (Property, Literal)> {
    let in_path: Vec<Literal> = match matcher {
        RequestMatcher::Http(wanted) => match &wanted.path {
            PathMatch::Regex(pattern) => pattern.literals().to_vec(),
            PathMatch::Exact(_) | PathMatch::Prefix(_) => Vec::new(),
        },
        RequestMatcher::Grpc(wanted) => wanted.service.iter().flat_map(literals).collect(),
    };
    let in_values = values(matcher).flat_map(|(property, wanted)| {
        literals(wanted).into_iter().map(move |literal| (property.clone(), literal))
    });
    in_path.into_iter().map(|literal| (Property::Path, literal)).chain(in_values)
}

fn literals(wanted: &StringMatch) -> Vec<Literal> {
    match wanted {
        StringMatch::Exact(value) => vec![value.as_bytes().into()],
        StringMatch::Regex(pattern) => pattern.literals().to_vec(),
    }
}

/// The elements of an absolute path; of anything else, none.
fn elements(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').into_iter().flat_map(|rest| rest.split('/'))
}

fn find_anchor(matcher: &RequestMatcher) -> Anchor {
    match matcher {
        RequestMatcher::Http(wanted) => match &wanted.path {
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
        RequestMatcher::Grpc(wanted) => match (&wanted.service, &wanted.method) {
            (Some(StringMatch::Exact(service)), Some(StringMatch::Exact(method))) => {
                Anchor::Exact(format!("/{service}/{method}"))
            }
            (Some(StringMatch::Exact(service)), _) => Anchor::Elements(format!("/{service}")),
            _ => Anchor::Elements(String::new()),
        },
    }
}
