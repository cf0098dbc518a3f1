//! The `matches` of a rule, compiled once into what the data path asks (`route`).
//!
//! A match that cannot be compiled is refused by its path and left out: it must never match more than it
//! says, so a rule whose every match is refused matches nothing.

use super::view::wire_name;
use crate::cluster::api::grpc_route::{
    GrpcRouteRulesMatches, GrpcRouteRulesMatchesHeadersType, GrpcRouteRulesMatchesMethod,
    GrpcRouteRulesMatchesMethodType,
};
use crate::cluster::api::http_route::{
    HttpRouteRulesMatches, HttpRouteRulesMatchesHeadersType, HttpRouteRulesMatchesPath,
    HttpRouteRulesMatchesPathType, HttpRouteRulesMatchesQueryParamsType,
};
use crate::route::{
    GrpcMatch, HeaderMatch, MatchError, PathMatch, QueryMatch, RouteMatch, RuleMatches, StringMatch,
};

/// A rule's matches, compiled.
#[derive(Debug)]
pub(super) struct CompiledMatches {
    /// What the rule matches; `None` when it gives matches and every one was refused.
    pub(super) compiled: Option<RuleMatches>,
    /// Paths of the fields that could not be compiled, with the reason.
    pub(super) refused: Vec<String>,
}

/// A value with how it is to be read.
#[derive(Clone, Copy)]
struct Pattern<'a> {
    value: &'a str,
    is_regex: bool,
}

/// Compiles an HTTPRoute rule's matches; `path` is the rule's.
pub(super) fn compile_http_matches(path: &str, matches: &[HttpRouteRulesMatches]) -> CompiledMatches {
    collect(path, matches, compile_http_match, RuleMatches::Http)
}

/// Compiles a GRPCRoute rule's matches; `path` is the rule's.
pub(super) fn compile_grpc_matches(path: &str, matches: &[GrpcRouteRulesMatches]) -> CompiledMatches {
    collect(path, matches, compile_grpc_match, RuleMatches::Grpc)
}

fn collect<T, M>(
    path: &str,
    matches: &[T],
    compile: impl Fn(&str, &T) -> Result<M, String>,
    wrap: impl Fn(Vec<M>) -> RuleMatches,
) -> CompiledMatches {
    let (mut compiled, mut refused) = (Vec::new(), Vec::new());
    for (place, entry) in matches.iter().enumerate() {
        match compile(&format!("{path}.matches[{place}]"), entry) {
            Ok(entry) => compiled.push(entry),
            Err(field) => refused.push(field),
        }
    }
    let matches_nothing = compiled.is_empty() && !refused.is_empty();
    CompiledMatches { compiled: (!matches_nothing).then(|| wrap(compiled)), refused }
}

fn compile_http_match(path: &str, entry: &HttpRouteRulesMatches) -> Result<RouteMatch, String> {
    let asked = entry.path.as_ref().map(compile_path);
    let place = asked.transpose().map_err(|error| refuse(&format!("{path}.path"), &error))?;
    let mut compiled = RouteMatch::new(place.unwrap_or_else(PathMatch::any));
    if let Some(method) = &entry.method {
        compiled = compiled.with_method(&wire_name(method));
    }
    let headers = entry.headers.iter().flatten().map(|header| {
        let is_regex = header.r#type == Some(HttpRouteRulesMatchesHeadersType::RegularExpression);
        (header.name.as_str(), Pattern { value: &header.value, is_regex })
    });
    let mut queries = Vec::new();
    for (place, query) in entry.query_params.iter().flatten().enumerate() {
        let is_regex = query.r#type == Some(HttpRouteRulesMatchesQueryParamsType::RegularExpression);
        let value = compile_value(Pattern { value: &query.value, is_regex });
        let value = value.map_err(|error| refuse(&format!("{path}.queryParams[{place}]"), &error))?;
        queries.push(QueryMatch::new(&query.name, value));
    }
    Ok(compiled.with_headers(compile_headers(path, headers)?).with_query(queries))
}

fn compile_grpc_match(path: &str, entry: &GrpcRouteRulesMatches) -> Result<GrpcMatch, String> {
    let asked = entry.method.as_ref().map(compile_grpc_method);
    let compiled = asked.transpose().map_err(|error| refuse(&format!("{path}.method"), &error))?;
    let headers = entry.headers.iter().flatten().map(|header| {
        let is_regex = header.r#type == Some(GrpcRouteRulesMatchesHeadersType::RegularExpression);
        (header.name.as_str(), Pattern { value: &header.value, is_regex })
    });
    Ok(compiled.unwrap_or_default().with_headers(compile_headers(path, headers)?))
}

fn compile_path(asked: &HttpRouteRulesMatchesPath) -> Result<PathMatch, MatchError> {
    let value = asked.value.as_deref().unwrap_or("/");
    match asked.r#type {
        Some(HttpRouteRulesMatchesPathType::Exact) => PathMatch::exact(value),
        Some(HttpRouteRulesMatchesPathType::PathPrefix) | None => PathMatch::prefix(value),
        Some(HttpRouteRulesMatchesPathType::RegularExpression) => PathMatch::regex(value),
    }
}

/// A side that is not given, or empty, takes any.
fn compile_grpc_method(asked: &GrpcRouteRulesMatchesMethod) -> Result<GrpcMatch, MatchError> {
    let is_regex = asked.r#type == Some(GrpcRouteRulesMatchesMethodType::RegularExpression);
    let side = |value: &Option<String>| {
        let given = value.as_deref().filter(|text| !text.is_empty());
        given.map(|value| compile_value(Pattern { value, is_regex })).transpose()
    };
    GrpcMatch::new(side(&asked.service)?, side(&asked.method)?)
}

fn compile_headers<'a>(
    path: &str,
    headers: impl Iterator<Item = (&'a str, Pattern<'a>)>,
) -> Result<Vec<HeaderMatch>, String> {
    let mut compiled = Vec::new();
    for (place, (name, pattern)) in headers.enumerate() {
        let header = compile_value(pattern).and_then(|value| HeaderMatch::new(name, value));
        compiled.push(header.map_err(|error| refuse(&format!("{path}.headers[{place}]"), &error))?);
    }
    Ok(compiled)
}

fn compile_value(pattern: Pattern<'_>) -> Result<StringMatch, MatchError> {
    if pattern.is_regex { StringMatch::regex(pattern.value) } else { Ok(StringMatch::exact(pattern.value)) }
}

fn refuse(field: &str, error: &MatchError) -> String {
    format!("{field} ({error})")
}
