//! Matches in words, for the dump of the live configuration and for telling whether a table changed.
//!
//! The words hold everything that a match asks for: two matches of the same words match the same requests.

use std::fmt;

use super::precedence::{Matcher, RequestMatcher};
use super::{GrpcMatch, HeaderMatch, HostnameMatch, PathMatch, RouteMatch, StringMatch};

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(RequestMatcher::Grpc(wanted)) => wanted.fmt(f),
            Self::Request(RequestMatcher::Http(wanted)) => wanted.fmt(f),
            Self::AnyConnection => f.write_str("any connection"),
            Self::ServerName(wanted) => wanted.fmt(f),
        }
    }
}

impl fmt::Display for HostnameMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "server name = {name:?}"),
            Self::Below(suffix) => write!(f, "server name below {suffix:?}"),
        }
    }
}

impl fmt::Display for RouteMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            PathMatch::Exact(path) => write!(f, "path = {path:?}")?,
            PathMatch::Prefix(prefix) if prefix.is_empty() => f.write_str("any path")?,
            PathMatch::Prefix(prefix) => write!(f, "path below {prefix:?}")?,
            PathMatch::Regex(pattern) => write!(f, "path ~ {:?}", pattern.as_str())?,
        }
        if let Some(method) = &self.method {
            write!(f, ", method = {method:?}")?;
        }
        write_headers(f, &self.headers)?;
        for query in &self.query {
            write!(f, ", query {:?} {}", query.name, query.value)?;
        }
        Ok(())
    }
}

impl fmt::Display for GrpcMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("gRPC")?;
        if let Some(service) = &self.service {
            write!(f, ", service {service}")?;
        }
        if let Some(method) = &self.method {
            write!(f, ", method {method}")?;
        }
        write_headers(f, &self.headers)
    }
}

impl fmt::Display for StringMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(value) => write!(f, "= {value:?}"),
            Self::Regex(pattern) => write!(f, "~ {:?}", pattern.as_str()),
        }
    }
}

fn write_headers(f: &mut fmt::Formatter<'_>, headers: &[HeaderMatch]) -> fmt::Result {
    headers.iter().try_for_each(|header| write!(f, ", header {:?} {}", header.name(), header.value()))
}
