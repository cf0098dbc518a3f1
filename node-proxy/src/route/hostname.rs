//! Hostnames of listeners and routes: what they match, where two of them meet, and which beats which.
//!
//! As everywhere in the Gateway API, `*.example.com` is every name below `example.com`, however deep, and not
//! `example.com` itself. An exact name beats every wildcard, a longer wildcard a shorter one, and any of them none.
//! A name is that of a ClientHello (RFC 6066 section 3) or the host of a request's authority.

use std::collections::HashMap;
use std::sync::Arc;

use super::{RequestHead, RouteTable, Rule};

/// The longest name that there is (RFC 1035 section 2.3.4, in text): nothing longer is looked for.
const LONGEST_NAME: usize = 253;

/// A hostname as listeners and routes give it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostnameMatch {
    /// This very name.
    Exact(Box<str>),
    /// All names below this one.
    Below(Box<str>),
}

impl HostnameMatch {
    /// Reads a hostname as the API has it, a wildcard as its first label.
    #[must_use]
    pub fn new(hostname: &str) -> Self {
        let hostname = hostname.to_ascii_lowercase();
        match hostname.strip_prefix("*.") {
            Some(suffix) => Self::Below(suffix.into()),
            None => Self::Exact(hostname.into()),
        }
    }

    pub(super) const fn is_wildcard(&self) -> bool {
        matches!(self, Self::Below(_))
    }

    /// How many labels the name has that is given.
    pub(super) fn labels(&self) -> usize {
        let (Self::Exact(name) | Self::Below(name)) = self;
        name.split('.').count()
    }

    /// Whether every name that `other` matches is matched here, too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(own), Self::Exact(other)) => own == other,
            (Self::Exact(_), Self::Below(_)) => false,
            (Self::Below(own), Self::Exact(other)) => is_below(other, own),
            (Self::Below(own), Self::Below(other)) => own == other || is_below(other, own),
        }
    }

    /// The names that both match: one of the two, since of two wildcards that meet one covers the other.
    #[must_use]
    pub fn meet<'m>(&'m self, other: &'m Self) -> Option<&'m Self> {
        if self.covers(other) { Some(other) } else { other.covers(self).then_some(self) }
    }
}

fn is_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
}

/// The names for which a route holds on a listener, `None` for any. Empty when they have none in common: then the route
/// is not accepted there (HTTPRouteSpec.hostnames).
#[must_use]
pub fn meet_all(listener: Option<&HostnameMatch>, route: &[HostnameMatch]) -> Vec<Option<HostnameMatch>> {
    match (listener, route) {
        (listener, []) => vec![listener.cloned()],
        (None, route) => route.iter().cloned().map(Some).collect(),
        (Some(listener), route) => {
            let mut met: Vec<_> =
                route.iter().filter_map(|own| own.meet(listener)).cloned().map(Some).collect();
            met.sort_unstable();
            met.dedup();
            met
        }
    }
}

/// What a hostname leads to: by its hash, and by that of every name above it.
#[derive(Clone, Debug)]
pub struct Hostnames<T> {
    exact: HashMap<Box<str>, T>,
    below: HashMap<Box<str>, T>,
    any: Option<T>,
}

impl<T> Default for Hostnames<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), below: HashMap::new(), any: None }
    }
}

impl<T> Hostnames<T> {
    /// Of matches, `None` for any name, the best first: of two that say the same, the first counts.
    pub fn new(matches: impl IntoIterator<Item = (Option<HostnameMatch>, T)>) -> Self {
        let mut names = Self::default();
        for (wanted, led_to) in matches {
            match wanted {
                Some(HostnameMatch::Exact(name)) => drop(names.exact.entry(name).or_insert(led_to)),
                Some(HostnameMatch::Below(suffix)) => drop(names.below.entry(suffix).or_insert(led_to)),
                None => drop(names.any.get_or_insert(led_to)),
            }
        }
        names
    }

    /// What a name in lower case leads to, the best match first.
    pub fn find_all(&self, name: &str) -> impl Iterator<Item = &T> {
        let name = if name.len() > LONGEST_NAME { "" } else { name };
        let above = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
        let exact = self.exact.get(name).into_iter();
        exact.chain(above.filter_map(|suffix| self.below.get(suffix))).chain(&self.any)
    }

    /// The best of them.
    pub fn find(&self, name: &str) -> Option<&T> {
        self.find_all(name).next()
    }

    /// All that names lead to, in no order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.exact.values().chain(self.below.values()).chain(&self.any)
    }
}

/// The routes of a listener by the names for which they hold.
///
/// Of routes whose hostnames match a request, those of the best match come first, and the next ones only when no rule of
/// the first takes it (HTTPRouteSpec.hostnames).
pub type HostTable = Hostnames<Arc<RouteTable>>;

impl HostTable {
    /// The rule that takes a request to a host in lower case, if one does.
    pub fn find_rule(&self, host: &str, head: &impl RequestHead) -> Option<&Arc<Rule>> {
        self.find_all(host).find_map(|table| table.find(head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> HostnameMatch {
        HostnameMatch::new(name)
    }

    /// The table of the documentation of `hostnames`, both ways round.
    #[test]
    fn two_hostnames_meet_where_both_match() {
        for (one, other, met) in [
            ("test.example.com", "test.example.com", Some("test.example.com")),
            ("test.example.com", "*.example.com", Some("test.example.com")),
            ("*.example.com", "*.example.com", Some("*.example.com")),
            ("*.example.com", "*.test.example.com", Some("*.test.example.com")),
            ("a.b.example.com", "*.example.com", Some("a.b.example.com")),
            ("*.example.com", "example.com", None),
            ("*.example.com", "test.example.net", None),
            ("*.example.com", "*.badexample.com", None),
            ("*.example.com", "badexample.com", None),
            ("test.example.com", "*.test.example.com", None),
            ("Test.Example.COM", "test.example.com", Some("test.example.com")),
        ] {
            let (one, other) = (host(one), host(other));
            let met = met.map(host);
            assert_eq!(one.meet(&other), met.as_ref(), "{one:?} {other:?}");
            assert_eq!(other.meet(&one), met.as_ref(), "{other:?} {one:?}");
        }
    }

    #[test]
    fn a_route_holds_for_the_names_that_it_has_in_common_with_its_listener() {
        let meet = |listener: Option<&str>, route: &[&str]| {
            let route: Vec<_> = route.iter().map(|name| host(name)).collect();
            meet_all(listener.map(host).as_ref(), &route)
        };
        let some = |name| Some(host(name));
        assert_eq!(meet(None, &[]), [None]);
        assert_eq!(meet(Some("*.example.com"), &[]), [some("*.example.com")]);
        assert_eq!(
            meet(None, &["b.example.com", "a.example.com"]),
            [some("b.example.com"), some("a.example.com")]
        );
        assert_eq!(
            meet(Some("*.example.com"), &["test.example.com", "test.example.net"]),
            [some("test.example.com")]
        );
        // Both of the route's names say no more than the listener's.
        assert_eq!(meet(Some("a.example.com"), &["*.example.com", "a.example.com"]), [some("a.example.com")]);
        assert_eq!(meet(Some("a.example.com"), &["b.example.com"]), []);
    }

    #[test]
    fn a_name_leads_to_the_exact_match_then_to_the_longest_wildcard_then_to_any() {
        let names = ["*.com", "a.example.com", "*.example.com", "*.a.example.com", "*.com"];
        let matches = names.iter().enumerate().map(|(place, name)| (Some(host(name)), place));
        let names = Hostnames::new(matches.chain([(None, 9)]));
        let led = |name| names.find_all(name).copied().collect::<Vec<_>>();
        assert_eq!(led("a.example.com"), [1, 2, 0, 9]);
        assert_eq!(led("x.a.example.com"), [3, 2, 0, 9]);
        assert_eq!(led("example.com"), [0, 9]);
        assert_eq!(led("com"), [9]);
        assert_eq!(led(""), [9]);
        assert_eq!(led(&format!("{}.example.com", "a".repeat(LONGEST_NAME))), [9]);
        assert_eq!(names.find("b.example.com"), Some(&2));
        assert_eq!(Hostnames::<u8>::default().find("a"), None);
    }
}
