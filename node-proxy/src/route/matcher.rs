//! The compiled match types of HTTPRoute, each parsed once.

use regex::Regex;

/// A path match (HTTPPathMatch).
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// The whole path, case-sensitive.
    Exact(Box<str>),
    /// Whole path elements, case-sensitive; stored without a trailing slash.
    Prefix(Box<str>),
    /// The whole path matches.
    Regex(Regex),
}

/// A header or query value match.
#[derive(Clone, Debug)]
pub enum StringMatch {
    /// The same bytes.
    Exact(Box<str>),
    /// The whole value matches.
    Regex(Regex),
}

/// A header match (HTTPHeaderMatch): the name is lower case.
#[derive(Clone, Debug)]
pub struct HeaderMatch {
    /// The field's lower-case name.
    pub name: Box<str>,
    /// What its value must be.
    pub value: StringMatch,
}

/// A query parameter match (HTTPQueryParamMatch).
#[derive(Clone, Debug)]
pub struct QueryMatch {
    /// The parameter's name, case-sensitive.
    pub name: Box<str>,
    /// What its value must be.
    pub value: StringMatch,
}

/// One entry of a rule's `matches`: all of it must hold.
#[derive(Clone, Debug)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatch,
    /// The method, if one is asked for.
    pub method: Option<Box<str>>,
    /// All of these headers.
    pub headers: Vec<HeaderMatch>,
    /// All of these query parameters.
    pub query: Vec<QueryMatch>,
}
