//! The `matches` of a rule, compiled once into what the data path asks (`route`).
//!
//! A match that cannot be compiled is refused by its path and left out: it must never match more than it
//! says, so a rule whose every match is refused matches nothing.

use regex::Regex;

use super::view::wire_name;
use crate::cluster::api::grpc_route::{
    GrpcRouteRulesMatches, GrpcRouteRulesMatchesHeadersType, GrpcRouteRulesMatchesMethod,
    GrpcRouteRulesMatchesMethodType,
};
use crate::cluster::api::http_route::{
    HttpRouteRulesMatches, HttpRouteRulesMatchesHeadersType, HttpRouteRulesMatchesMethod,
    HttpRouteRulesMatchesPath, HttpRouteRulesMatchesPathType, HttpRouteRulesMatchesQueryParamsType,
};
use crate::route::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, StringMatch};

/// A rule's matches, compiled.
#[derive(Debug)]
pub(super) struct CompiledMatches {
    /// Any of these; empty when every match was refused.
    pub(super) compiled: Vec<RouteMatch>,
    /// Paths of the fields that could not be compiled, with the reason.
    pub(super) refused: Vec<String>,
}

/// A value with how it is to be read.
struct Pattern<'a> {
    value: &'a str,
    is_regex: bool,
}

impl CompiledMatches {
    /// Sorts out what compiled; `matches` of a rule that gives none match every request.
    fn collect(results: impl Iterator<Item = Result<RouteMatch, String>>) -> Self {
        let mut collected = Self { compiled: Vec::new(), refused: Vec::new() };
        for result in results {
            match result {
                Ok(compiled) => collected.compiled.push(compiled),
                Err(refused) => collected.refused.push(refused),
            }
        }
        if collected.compiled.is_empty() && collected.refused.is_empty() {
            collected.compiled.push(match_all());
        }
        collected
    }
}

/// Compiles an HTTPRoute rule's matches; `path` is the rule's.
pub(super) fn compile_http_matches(path: &str, matches: &[HttpRouteRulesMatches]) -> CompiledMatches {
    let compiled = matches.iter().enumerate();
    CompiledMatches::collect(
        compiled.map(|(place, entry)| compile_http_match(&format!("{path}.matches[{place}]"), entry)),
    )
}

/// Compiles a GRPCRoute rule's matches; `path` is the rule's.
pub(super) fn compile_grpc_matches(path: &str, matches: &[GrpcRouteRulesMatches]) -> CompiledMatches {
    let compiled = matches.iter().enumerate();
    CompiledMatches::collect(
        compiled.map(|(place, entry)| compile_grpc_match(&format!("{path}.matches[{place}]"), entry)),
    )
}

fn compile_http_match(path: &str, entry: &HttpRouteRulesMatches) -> Result<RouteMatch, String> {
    let mut compiled = match_all();
    if let Some(asked) = &entry.path {
        compiled.path = compile_path(&format!("{path}.path"), asked)?;
    }
    if let Some(method) = &entry.method {
        if *method == HttpRouteRulesMatchesMethod::Connect {
            return Err(format!("{path}.method (CONNECT is refused by the proxy)"));
        }
        compiled.method = Some(wire_name(method).into());
    }
    let headers = entry.headers.iter().flatten().map(|header| {
        let is_regex = header.r#type == Some(HttpRouteRulesMatchesHeadersType::RegularExpression);
        (header.name.as_str(), Pattern { value: &header.value, is_regex })
    });
    compiled.headers = compile_headers(path, headers)?;
    for (place, query) in entry.query_params.iter().flatten().enumerate() {
        let is_regex = query.r#type == Some(HttpRouteRulesMatchesQueryParamsType::RegularExpression);
        let field = format!("{path}.queryParams[{place}]");
        let value = compile_value(&field, &Pattern { value: &query.value, is_regex })?;
        // "If multiple entries specify equivalent query param names, only the first entry with an
        // equivalent name MUST be considered for a match."
        if !compiled.query.iter().any(|known: &QueryMatch| *known.name == *query.name) {
            compiled.query.push(QueryMatch { name: query.name.as_str().into(), value });
        }
    }
    Ok(compiled)
}

fn compile_grpc_match(path: &str, entry: &GrpcRouteRulesMatches) -> Result<RouteMatch, String> {
    let mut compiled = match_all();
    if let Some(method) = &entry.method {
        compiled.path = compile_grpc_method(&format!("{path}.method"), method)?;
    }
    let headers = entry.headers.iter().flatten().map(|header| {
        let is_regex = header.r#type == Some(GrpcRouteRulesMatchesHeadersType::RegularExpression);
        (header.name.as_str(), Pattern { value: &header.value, is_regex })
    });
    compiled.headers = compile_headers(path, headers)?;
    Ok(compiled)
}

fn match_all() -> RouteMatch {
    RouteMatch { path: PathMatch::Prefix("".into()), method: None, headers: Vec::new(), query: Vec::new() }
}

fn compile_path(field: &str, asked: &HttpRouteRulesMatchesPath) -> Result<PathMatch, String> {
    let value = asked.value.as_deref().unwrap_or("/");
    match asked.r#type {
        Some(HttpRouteRulesMatchesPathType::Exact) => Ok(PathMatch::Exact(value.into())),
        Some(HttpRouteRulesMatchesPathType::PathPrefix) | None => {
            Ok(PathMatch::Prefix(value.strip_suffix('/').unwrap_or(value).into()))
        }
        Some(HttpRouteRulesMatchesPathType::RegularExpression) => {
            Ok(PathMatch::Regex(compile_regex(field, value)?))
        }
    }
}

/// A call's path is `/SERVICE/METHOD`; a side that is not given takes any.
fn compile_grpc_method(field: &str, asked: &GrpcRouteRulesMatchesMethod) -> Result<PathMatch, String> {
    let side = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
    let is_regex = asked.r#type == Some(GrpcRouteRulesMatchesMethodType::RegularExpression);
    match (side(&asked.service), side(&asked.method)) {
        (None, None) => Ok(PathMatch::Prefix("".into())),
        (Some(service), Some(method)) if !is_regex => {
            Ok(PathMatch::Exact(format!("/{service}/{method}").into()))
        }
        (Some(service), None) if !is_regex => Ok(PathMatch::Prefix(format!("/{service}").into())),
        (service, method) => {
            let quoted = |text: Option<String>| match text {
                None => "[^/]+".to_owned(),
                Some(text) if is_regex => format!("(?:{text})"),
                Some(text) => regex::escape(&text),
            };
            for part in [&service, &method].into_iter().flatten().filter(|_| is_regex) {
                compile_regex(field, part)?;
            }
            Ok(PathMatch::Regex(compile_regex(field, &format!("/{}/{}", quoted(service), quoted(method)))?))
        }
    }
}

/// "If multiple entries specify equivalent header names, only the first entry with an equivalent name MUST
/// be considered for a match."
fn compile_headers<'a>(
    path: &str,
    headers: impl Iterator<Item = (&'a str, Pattern<'a>)>,
) -> Result<Vec<HeaderMatch>, String> {
    let mut compiled: Vec<HeaderMatch> = Vec::new();
    for (place, (name, pattern)) in headers.enumerate() {
        let value = compile_value(&format!("{path}.headers[{place}]"), &pattern)?;
        let name = name.to_ascii_lowercase();
        if !compiled.iter().any(|known| *known.name == *name) {
            compiled.push(HeaderMatch { name: name.into(), value });
        }
    }
    Ok(compiled)
}

fn compile_value(field: &str, pattern: &Pattern<'_>) -> Result<StringMatch, String> {
    if pattern.is_regex {
        Ok(StringMatch::Regex(compile_regex(field, pattern.value)?))
    } else {
        Ok(StringMatch::Exact(pattern.value.into()))
    }
}

/// The whole value must match, so that of `a|ab` the longer side is not lost. The text must be a regular
/// expression by itself, before it is wrapped.
fn compile_regex(field: &str, text: &str) -> Result<Regex, String> {
    let refused = || format!("{field} ({text:?} is not a regular expression)");
    Regex::new(text).map_err(|_| refused())?;
    Regex::new(&format!("^(?:{text})$")).map_err(|_| refused())
}
