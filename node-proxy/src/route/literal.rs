//! Pieces of text that values must contain, all looked for at once.
//!
//! Out of many regular expressions it finds the few that a value could match, in one pass over the value; whether
//! they do is asked of them.

use std::borrow::Cow;
use std::collections::HashMap;

use aho_corasick::AhoCorasick;
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Hir, HirKind};

use super::RequestHead;
use super::grpc::split_path;
use super::query::find_parameter;

/// A piece of text.
pub(super) type Literal = Box<[u8]>;

/// What of a request a match looks at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Property {
    /// The method of a gRPC request.
    GrpcMethod,
    /// A field, by its lower-case name.
    Header(Box<str>),
    /// The path.
    Path,
    /// A query parameter, by its name.
    Query(Box<str>),
}

impl Property {
    /// Its value in a request.
    pub(super) fn find<'r>(&self, head: &'r impl RequestHead) -> Option<Cow<'r, [u8]>> {
        match self {
            Self::GrpcMethod => split_path(head.path()).map(|(_, method)| Cow::Borrowed(method.as_bytes())),
            Self::Header(name) => head.header(name),
            Self::Path => Some(Cow::Borrowed(head.path().as_bytes())),
            Self::Query(name) => find_parameter(head.query()?, name),
        }
    }
}

/// Places of a table by a piece of text that a value must contain.
#[derive(Clone, Debug)]
pub(super) struct LiteralGroup {
    property: Property,
    automaton: AhoCorasick,
    /// By the automaton's numbers; places in order.
    places: Vec<Vec<usize>>,
}

impl LiteralGroup {
    /// Groups places, given in order; `None` if there are more pieces of text than an automaton can take.
    pub(super) fn new(property: Property, members: Vec<(usize, Literal)>) -> Option<Self> {
        let mut by_literal: HashMap<Literal, Vec<usize>> = HashMap::new();
        for (place, literal) in members {
            by_literal.entry(literal).or_default().push(place);
        }
        let (literals, places): (Vec<_>, Vec<_>) = by_literal.into_iter().unzip();
        let automaton = AhoCorasick::new(literals).ok()?;
        Some(Self { property, automaton, places })
    }

    /// Hands over the places of each piece of text that the request's value contains, each piece once.
    pub(super) fn each(&self, head: &impl RequestHead, mut take: impl FnMut(&[usize])) {
        let Some(value) = self.property.find(head) else { return };
        // A client may repeat a piece as often as it likes.
        let mut seen = Vec::new();
        for found in self.automaton.find_overlapping_iter(&*value) {
            let number = found.pattern().as_usize();
            if seen.is_empty() {
                seen.resize(self.places.len().div_ceil(64), 0_u64);
            }
            let (word, bit) = (&mut seen[number / 64], 1 << (number % 64));
            if *word & bit == 0 {
                *word |= bit;
                take(&self.places[number]);
            }
        }
    }
}

/// Pieces of text that everything that matches a regular expression (as `matcher` reads it) contains.
pub(super) fn find_literals(source: &str) -> Box<[Literal]> {
    let mut literals = Vec::new();
    if let Ok(hir) = ParserBuilder::new().unicode(false).utf8(false).build().parse(source) {
        collect(&hir, &mut literals);
    }
    literals.sort_unstable();
    literals.dedup();
    literals.into()
}

fn collect(hir: &Hir, literals: &mut Vec<Literal>) {
    match hir.kind() {
        HirKind::Literal(literal) => literals.push(literal.0.clone()),
        HirKind::Capture(capture) => collect(&capture.sub, literals),
        HirKind::Concat(parts) => parts.iter().for_each(|part| collect(part, literals)),
        HirKind::Repetition(repetition) if repetition.min > 0 => collect(&repetition.sub, literals),
        HirKind::Alternation(_)
        | HirKind::Class(_)
        | HirKind::Empty
        | HirKind::Look(_)
        | HirKind::Repetition(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expected: &[&str]) {
        let found = find_literals(source);
        let found: Vec<&str> = found.iter().map(|literal| std::str::from_utf8(literal).unwrap()).collect();
        assert_eq!(found, expected, "{source}");
    }

    #[test]
    fn only_what_every_match_contains_is_a_literal_of_a_pattern() {
        check("/api/v[0-9]+/cart(/.*)?", &["/api/v", "/cart"]);
        check("^a(bc)+d{2}e?$", &["a", "bc", "d"]);
        check("(?:x|y)z", &["z"]);
        check("ab|cd", &[]);
        check("ab|ac", &[]);
        check("(?i)ab", &[]);
        check("(ab)*c{0}", &[]);
        check("a\\.b", &["a.b"]);
        check(".*", &[]);
        check("(", &[]);
    }
}
