//! Server names of TLS (RFC 6066 section 3) against the hostnames of TLSRoutes.
//!
//! As everywhere in the Gateway API, `*.example.com` is every name below `example.com`, however deep, and not
//! `example.com` itself. An exact name beats every wildcard, and a longer wildcard a shorter one.

use std::collections::HashMap;

/// The longest name that there is (RFC 1035 section 2.3.4, in text): nothing longer is looked for.
const LONGEST_NAME: usize = 253;

/// One of a TLSRoute's hostnames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerNameMatch {
    /// This very name.
    Exact(Box<str>),
    /// All names below this one.
    Below(Box<str>),
}

impl ServerNameMatch {
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
}

/// Finds the place of the best match of a name: by its hash, and by that of every name above it.
#[derive(Clone, Debug, Default)]
pub(super) struct ServerNames {
    exact: HashMap<Box<str>, usize>,
    below: HashMap<Box<str>, usize>,
}

impl ServerNames {
    /// Of matches with their places, the best first: of two that say the same, the first counts.
    pub(super) fn new<'m>(matches: impl Iterator<Item = (usize, &'m ServerNameMatch)>) -> Self {
        let mut names = Self::default();
        for (place, wanted) in matches {
            match wanted {
                ServerNameMatch::Exact(name) => names.exact.entry(name.clone()).or_insert(place),
                ServerNameMatch::Below(suffix) => names.below.entry(suffix.clone()).or_insert(place),
            };
        }
        names
    }

    /// The place of the best match of a name in lower case.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        if name.len() > LONGEST_NAME {
            return None;
        }
        let above = || name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
        let exact = self.exact.get(name);
        exact.or_else(|| above().find_map(|suffix| self.below.get(suffix))).copied()
    }
}
