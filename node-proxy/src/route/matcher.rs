//! The compiled match types of HTTPRoute, each parsed once.
//!
//! `compile` makes them from a route's text and reports a [`MatchError`] as the route's condition; the data
//! path only evaluates. Nothing here normalises: what is matched is what is forwarded.

use std::borrow::Cow;
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};

use super::RequestHead;
use super::literal::{Literal, find_literals};
use super::query::find_parameter;

/// The longest regular expression that is taken, in bytes: as long as the longest value of the API.
pub const MAX_PATTERN_LENGTH: usize = 4096;

/// The most memory that one compiled regular expression may take, in bytes.
pub const MAX_PATTERN_SIZE: usize = 256 * 1024;

/// Why a match of a route cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum MatchError {
    /// A header name with characters that no header name has.
    #[error("header name {name:?} is not a token of RFC 9110")]
    HeaderName {
        /// As written.
        name: String,
    },
    /// A gRPC service or method with a slash, or an empty one.
    #[error("grpc service or method {name:?} must not be empty or contain /")]
    GrpcName {
        /// As written.
        name: String,
    },
    /// A path with an empty element.
    #[error("path {path:?} must not contain //")]
    PathEmptyElement {
        /// As written.
        path: String,
    },
    /// A path that is not absolute.
    #[error("path {path:?} must begin with /")]
    PathNotAbsolute {
        /// As written.
        path: String,
    },
    /// A regular expression that does not parse or is too large once compiled.
    #[error("regular expression {pattern:?} is not usable")]
    Pattern {
        /// As written.
        pattern: String,
        /// What the parser says.
        #[source]
        source: Box<regex::Error>,
    },
    /// A regular expression that is too long to be tried.
    #[error("regular expression of {length} bytes is longer than {MAX_PATTERN_LENGTH}")]
    PatternTooLong {
        /// Its length in bytes.
        length: usize,
    },
}

/// A regular expression (crate `regex`'s dialect, by bytes) that has to match a whole value.
#[derive(Clone, Debug)]
pub struct Pattern {
    source: Arc<str>,
    regex: Regex,
    literals: Arc<[Literal]>,
}

impl Pattern {
    /// Parses `source`; it matches whole values only, as `^(?:source)$`. Classes such as `\w` are ASCII and
    /// `.` is any byte but a line feed, because header values need not be UTF-8.
    ///
    /// # Errors
    /// When it is too long, does not parse, or is too large once compiled.
    pub fn new(source: &str) -> Result<Self, MatchError> {
        if source.len() > MAX_PATTERN_LENGTH {
            return Err(MatchError::PatternTooLong { length: source.len() });
        }
        // Alone first: `a)|(b` parses only inside of our own parentheses, and would escape the anchors.
        build_regex(source).and_then(|_| build_regex(&format!("^(?:{source})$"))).map_or_else(
            |error| Err(MatchError::Pattern { pattern: source.to_owned(), source: Box::new(error) }),
            |regex| Ok(Self { source: source.into(), regex, literals: find_literals(source).into() }),
        )
    }

    /// The expression as it is written in the route.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether the whole of `value` matches.
    #[must_use]
    pub fn matches(&self, value: &[u8]) -> bool {
        self.regex.is_match(value)
    }

    /// Pieces of text that every matching value contains.
    pub(super) fn literals(&self) -> &[Literal] {
        &self.literals
    }

    /// The text that every matching value begins with, as far as it is plain in the pattern.
    pub(super) fn literal_start(&self) -> String {
        let mut literal = String::new();
        if self.source.contains('|') {
            return literal;
        }
        let mut rest = self.source.strip_prefix('^').unwrap_or(&self.source).chars().peekable();
        while let Some(next) = rest.next() {
            let plain = match next {
                '\\' => match rest.next() {
                    Some(escaped) if escaped.is_ascii_punctuation() && !"<>".contains(escaped) => escaped,
                    _ => return literal,
                },
                '.' | '+' | '*' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '^' | '$' => return literal,
                plain => plain,
            };
            if rest.peek().is_some_and(|after| "*?{".contains(*after)) {
                return literal;
            }
            literal.push(plain);
        }
        literal
    }
}

fn build_regex(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern)
        .unicode(false)
        .size_limit(MAX_PATTERN_SIZE)
        .dfa_size_limit(MAX_PATTERN_SIZE)
        .build()
}

/// A path match (HTTPPathMatch). Made by its constructors, which keep its promises.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// The whole path, case-sensitive.
    Exact(Box<str>),
    /// Whole path elements, case-sensitive; stored without a trailing slash, so `/` is empty.
    Prefix(Box<str>),
    /// The whole path matches.
    Regex(Pattern),
}

impl PathMatch {
    /// The whole path.
    ///
    /// # Errors
    /// When it does not begin with `/` or has an empty element.
    pub fn exact(path: &str) -> Result<Self, MatchError> {
        check_path(path).map(|()| Self::Exact(path.into()))
    }

    /// Whole elements at the start of the path; a trailing slash is ignored.
    ///
    /// # Errors
    /// When it does not begin with `/` or has an empty element.
    pub fn prefix(path: &str) -> Result<Self, MatchError> {
        check_path(path).map(|()| Self::Prefix(path.strip_suffix('/').unwrap_or(path).into()))
    }

    /// A regular expression for the whole path.
    ///
    /// # Errors
    /// As [`Pattern::new`].
    pub fn regex(pattern: &str) -> Result<Self, MatchError> {
        Pattern::new(pattern).map(Self::Regex)
    }

    /// The match of every request: the prefix `/`.
    #[must_use]
    pub fn any() -> Self {
        Self::Prefix(Box::default())
    }

    /// Whether a path, without its query, matches.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(wanted) => path == &**wanted,
            Self::Prefix(prefix) => {
                prefix.is_empty()
                    || path
                        .strip_prefix(&**prefix)
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Regex(pattern) => pattern.matches(path.as_bytes()),
        }
    }
}

fn check_path(path: &str) -> Result<(), MatchError> {
    if !path.starts_with('/') {
        return Err(MatchError::PathNotAbsolute { path: path.to_owned() });
    }
    if path.contains("//") {
        return Err(MatchError::PathEmptyElement { path: path.to_owned() });
    }
    Ok(())
}

/// A header or query value match.
#[derive(Clone, Debug)]
pub enum StringMatch {
    /// The same bytes.
    Exact(Box<str>),
    /// The whole value matches.
    Regex(Pattern),
}

impl StringMatch {
    /// The same bytes.
    #[must_use]
    pub fn exact(value: &str) -> Self {
        Self::Exact(value.into())
    }

    /// A regular expression for the whole value.
    ///
    /// # Errors
    /// As [`Pattern::new`].
    pub fn regex(pattern: &str) -> Result<Self, MatchError> {
        Pattern::new(pattern).map(Self::Regex)
    }

    /// Whether a value matches.
    #[must_use]
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(wanted) => value == wanted.as_bytes(),
            Self::Regex(pattern) => pattern.matches(value),
        }
    }
}

/// A header match (HTTPHeaderMatch, GRPCHeaderMatch): on the comma-joined value of all lines of that name.
#[derive(Clone, Debug)]
pub struct HeaderMatch {
    name: Box<str>,
    value: StringMatch,
}

impl HeaderMatch {
    /// A match of the field `name`, in any case, by `value`.
    ///
    /// # Errors
    /// When the name is none (pseudo headers are not supported by the API either).
    pub fn new(name: &str, value: StringMatch) -> Result<Self, MatchError> {
        http::HeaderName::from_bytes(name.as_bytes())
            .map(|_| Self { name: name.to_ascii_lowercase().into(), value })
            .map_err(|_| MatchError::HeaderName { name: name.to_owned() })
    }

    /// The field's lower-case name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its value must be.
    #[must_use]
    pub fn value(&self) -> &StringMatch {
        &self.value
    }

    /// Whether the request has the field with such a value.
    #[must_use]
    pub fn matches(&self, head: &impl RequestHead) -> bool {
        head.header(&self.name).is_some_and(|value| self.value.matches(&value))
    }
}

/// A query parameter match (HTTPQueryParamMatch), on the first parameter of that name, decoded.
#[derive(Clone, Debug)]
pub struct QueryMatch {
    pub(super) name: Box<str>,
    pub(super) value: StringMatch,
}

impl QueryMatch {
    /// A match of the parameter `name`, case-sensitive and decoded, by `value`.
    #[must_use]
    pub fn new(name: &str, value: StringMatch) -> Self {
        Self { name: name.into(), value }
    }

    /// Whether a query, without the question mark, has the parameter with such a value.
    #[must_use]
    pub fn matches(&self, query: &str) -> bool {
        let value: Option<Cow<'_, [u8]>> = find_parameter(query, &self.name);
        value.is_some_and(|value| self.value.matches(&value))
    }
}

/// One entry of a rule's `matches` (HTTPRouteMatch): all of it must hold.
#[derive(Clone, Debug)]
pub struct RouteMatch {
    pub(super) path: PathMatch,
    pub(super) method: Option<Box<str>>,
    pub(super) headers: Vec<HeaderMatch>,
    pub(super) query: Vec<QueryMatch>,
}

impl RouteMatch {
    /// A match by path alone; [`PathMatch::any`] where the route says nothing.
    #[must_use]
    pub fn new(path: PathMatch) -> Self {
        Self { path, method: None, headers: Vec::new(), query: Vec::new() }
    }

    /// And by method, case-sensitive.
    #[must_use]
    pub fn with_method(mut self, method: &str) -> Self {
        self.method = Some(method.into());
        self
    }

    /// And by all these headers, of which those that repeat a name are dropped.
    #[must_use]
    pub fn with_headers(mut self, headers: Vec<HeaderMatch>) -> Self {
        self.headers = keep_first(headers, |header| &header.name);
        self
    }

    /// And by all these query parameters, of which those that repeat a name are dropped.
    #[must_use]
    pub fn with_query(mut self, query: Vec<QueryMatch>) -> Self {
        self.query = keep_first(query, |parameter| &parameter.name);
        self
    }

    /// Whether a request satisfies all of it.
    #[must_use]
    pub fn matches(&self, head: &impl RequestHead) -> bool {
        self.path.matches(head.path())
            && self.method.as_deref().is_none_or(|method| method == head.method())
            && self.headers.iter().all(|header| header.matches(head))
            && (self.query.is_empty()
                || head
                    .query()
                    .is_some_and(|query| self.query.iter().all(|parameter| parameter.matches(query))))
    }
}

/// Drops every item whose name an earlier one has.
pub(super) fn keep_first<T>(items: Vec<T>, name: impl Fn(&T) -> &str) -> Vec<T> {
    let mut kept: Vec<T> = Vec::with_capacity(items.len());
    for item in items {
        if !kept.iter().any(|earlier| name(earlier) == name(&item)) {
            kept.push(item);
        }
    }
    kept
}
