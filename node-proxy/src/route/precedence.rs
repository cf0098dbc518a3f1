//! The Gateway API's precedence, as one order: the derived `Ord` of `Precedence`, best first.
//!
//! Where the API leaves a place open: a RegularExpression path comes after every Exact one and before every
//! prefix, as it would otherwise never be reached beside a catch-all; two of them tie. A RegularExpression
//! service or method comes after every exact one and before none. A route without a timestamp counts as newer
//! than any with one.
//!
//! TLSRoutes of one server name, TCPRoutes and UDPRoutes ask for the same connections or datagrams, so that the first route by
//! age has them all (GEP-2644).

use std::cmp::Reverse;
use std::sync::Arc;

use super::grpc::GrpcMatch;
use super::hostname::{HostnameMatch, Hostnames};
use super::index::Index;
use super::{HeaderMatch, PathMatch, RequestHead, RouteKind, RouteMatch, RouteRef, Rule, StringMatch};
use crate::cluster::objects::ObjectKey;

/// What one rule matches; no `matches` at all match everything of the kind.
#[derive(Clone, Debug)]
pub enum RuleMatches {
    /// Of a GRPCRoute.
    Grpc(Vec<GrpcMatch>),
    /// Of an HTTPRoute.
    Http(Vec<RouteMatch>),
    /// Of a TCPRoute, every connection; of a UDPRoute, every datagram.
    Everything,
    /// Of a TLSRoute: its hostnames.
    Tls(Vec<HostnameMatch>),
}

/// One route that holds on a Service port. All routes of a table are of one kind.
#[derive(Clone, Debug)]
pub struct RouteInput {
    /// Which one.
    pub route: Arc<RouteRef>,
    /// Its `metadata.creationTimestamp` in Unix seconds, if it has one.
    pub created: Option<i64>,
    /// Its rules, in the order of its list.
    pub rules: Vec<(RuleMatches, Rule)>,
}

/// The rules that hold on one Service port for one group of clients, best match first.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    entries: Box<[Entry]>,
    index: Index,
    server_names: Hostnames<usize>,
}

impl RouteTable {
    /// The kind of its routes, which is one (GRPCRoute's documentation lets no other beside it); none of an
    /// empty table.
    #[must_use]
    pub fn kind(&self) -> Option<RouteKind> {
        self.entries.first().map(|entry| entry.rule.route.kind)
    }

    /// Orders and indexes all matches of all rules of these routes.
    #[must_use]
    pub fn new(routes: Vec<RouteInput>) -> Self {
        let mut keyed = Vec::new();
        for RouteInput { route, created, rules } in routes {
            let age = Age::of(created, &route.key);
            for (position, (matches, rule)) in rules.into_iter().enumerate() {
                let rule = Arc::new(rule);
                for matcher in matches.into_matchers() {
                    let key = Precedence { rank: matcher.rank(), age: age.clone(), position };
                    keyed.push((key, Entry { matcher, rule: Arc::clone(&rule) }));
                }
            }
        }
        keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
        // Not a `Vec`, which would keep the room that the keys had.
        let entries: Box<[Entry]> = keyed.into_iter().map(|(_, entry)| entry).collect();
        let index = Index::new(places(&entries, Matcher::of_request));
        let names = places(&entries, Matcher::of_server_name);
        let server_names = Hostnames::new(names.map(|(place, name)| (Some(name.clone()), place)));
        Self { entries, index, server_names }
    }

    /// The rule that takes a request, if one does. Routes of connections take a request on one that was open before
    /// them: all of them a TCPRoute, none a TLSRoute.
    pub fn find(&self, head: &impl RequestHead) -> Option<&Arc<Rule>> {
        if !self.kind()?.is_of_requests() {
            return self.find_connection(None);
        }
        // Places come from the index, which was made from these very entries.
        let best = self.index.find_first(head, |place| self.entries[place].matcher.matches(head))?;
        Some(&self.entries[best].rule)
    }

    /// The rule that takes a connection, if one does. `server_name` is what its ClientHello asks for, in lower case.
    #[must_use]
    pub fn find_connection(&self, server_name: Option<&str>) -> Option<&Arc<Rule>> {
        let place = match self.kind()? {
            RouteKind::Grpc | RouteKind::Http => return None,
            RouteKind::Tcp | RouteKind::Udp => 0,
            RouteKind::Tls => *self.server_names.find(server_name?)?,
        };
        Some(&self.entries[place].rule)
    }

    /// Every match in words, best first, with the rule that it leads to: for dumps and comparisons.
    pub fn entries(&self) -> impl Iterator<Item = (String, &Arc<Rule>)> {
        self.entries.iter().map(|entry| (entry.matcher.to_string(), &entry.rule))
    }

    /// The rule of every match, best first: a rule appears once per match.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.entries.iter().map(|entry| &entry.rule)
    }

    /// What `find` has to return, by the plain order.
    #[cfg(test)]
    pub(super) fn find_linear(&self, head: &impl RequestHead) -> Option<&Arc<Rule>> {
        self.entries.iter().find(|entry| entry.matcher.matches(head)).map(|entry| &entry.rule)
    }
}

#[derive(Clone, Debug)]
struct Entry {
    matcher: Matcher,
    rule: Arc<Rule>,
}

/// A match of any kind.
#[derive(Clone, Debug)]
pub(super) enum Matcher {
    Request(RequestMatcher),
    AnyConnection,
    ServerName(HostnameMatch),
}

/// A match of a kind that looks at requests.
#[derive(Clone, Debug)]
pub(super) enum RequestMatcher {
    Grpc(GrpcMatch),
    Http(RouteMatch),
}

/// The matches of one sort, with their places.
fn places<'e, M: 'e>(
    entries: &'e [Entry],
    pick: impl Fn(&'e Matcher) -> Option<&'e M>,
) -> impl Iterator<Item = (usize, &'e M)> {
    entries.iter().enumerate().filter_map(move |(place, entry)| Some((place, pick(&entry.matcher)?)))
}

impl RuleMatches {
    fn into_matchers(self) -> Vec<Matcher> {
        let grpc = |wanted| Matcher::Request(RequestMatcher::Grpc(wanted));
        let http = |wanted| Matcher::Request(RequestMatcher::Http(wanted));
        match self {
            Self::Grpc(matches) if matches.is_empty() => vec![grpc(GrpcMatch::default())],
            Self::Grpc(matches) => matches.into_iter().map(grpc).collect(),
            Self::Http(matches) if matches.is_empty() => vec![http(RouteMatch::new(PathMatch::any()))],
            Self::Http(matches) => matches.into_iter().map(http).collect(),
            Self::Everything => vec![Matcher::AnyConnection],
            Self::Tls(names) => names.into_iter().map(Matcher::ServerName).collect(),
        }
    }
}

impl Matcher {
    const fn of_request(&self) -> Option<&RequestMatcher> {
        match self {
            Self::Request(wanted) => Some(wanted),
            Self::AnyConnection | Self::ServerName(_) => None,
        }
    }

    const fn of_server_name(&self) -> Option<&HostnameMatch> {
        match self {
            Self::ServerName(wanted) => Some(wanted),
            Self::AnyConnection | Self::Request(_) => None,
        }
    }

    fn matches(&self, head: &impl RequestHead) -> bool {
        self.of_request().is_some_and(|wanted| wanted.matches(head))
    }

    fn rank(&self) -> Rank {
        match self {
            Self::Request(wanted) => wanted.rank(),
            Self::AnyConnection => Rank::Everything,
            Self::ServerName(wanted) => {
                Rank::Tls { wildcard: wanted.is_wildcard(), labels: Reverse(wanted.labels()) }
            }
        }
    }
}

impl RequestMatcher {
    pub(super) fn headers(&self) -> &[HeaderMatch] {
        match self {
            Self::Grpc(wanted) => &wanted.headers,
            Self::Http(wanted) => &wanted.headers,
        }
    }

    fn matches(&self, head: &impl RequestHead) -> bool {
        match self {
            Self::Grpc(wanted) => wanted.matches(head),
            Self::Http(wanted) => wanted.matches(head),
        }
    }

    fn rank(&self) -> Rank {
        match self {
            Self::Grpc(wanted) => Rank::Grpc {
                service: NameRank::of(wanted.service.as_ref()),
                method: NameRank::of(wanted.method.as_ref()),
                headers: Reverse(wanted.headers.len()),
            },
            Self::Http(wanted) => Rank::Http {
                path: match &wanted.path {
                    PathMatch::Exact(_) => PathRank::Exact,
                    PathMatch::Regex(_) => PathRank::Regex,
                    PathMatch::Prefix(prefix) => PathRank::Prefix(Reverse(prefix.len())),
                },
                method: Reverse(wanted.method.is_some()),
                headers: Reverse(wanted.headers.len()),
                query: Reverse(wanted.query.len()),
            },
        }
    }
}

/// Where a match stands: fields and variants in the order in which the API compares them, best first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Precedence {
    rank: Rank,
    age: Age,
    position: usize,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Grpc { service: NameRank, method: NameRank, headers: Reverse<usize> },
    Http { path: PathRank, method: Reverse<bool>, headers: Reverse<usize>, query: Reverse<usize> },
    Everything,
    Tls { wildcard: bool, labels: Reverse<usize> },
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathRank {
    Exact,
    Regex,
    Prefix(Reverse<usize>),
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum NameRank {
    Exact(Reverse<usize>),
    Regex,
    Any,
}

impl NameRank {
    fn of(wanted: Option<&StringMatch>) -> Self {
        match wanted {
            Some(StringMatch::Exact(name)) => Self::Exact(Reverse(name.len())),
            Some(StringMatch::Regex(_)) => Self::Regex,
            None => Self::Any,
        }
    }
}

/// Between routes: the oldest, then by the text `namespace/name` (not by its parts: `-` sorts before `/`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    created: Created,
    name: Arc<str>,
}

impl Age {
    /// Of a route that was created then, in Unix seconds.
    #[must_use]
    pub fn of(created: Option<i64>, route: &ObjectKey) -> Self {
        let name = format!("{}/{}", route.namespace, route.name).into();
        Self { created: created.map_or(Created::Unknown, Created::At), name }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Created {
    At(i64),
    Unknown,
}
