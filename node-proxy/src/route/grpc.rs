//! GRPCRoute's method matches on the matchers of HTTP.
//!
//! A GRPCRoute takes gRPC requests only: `POST` with a content type of gRPC's ("application/grpc", alone or
//! followed by `+`, `-`, `;` or a space: gRPC-Web counts). A service or method is looked for in paths of exactly two
//! elements that are not empty; a match that asks for neither takes every gRPC request, whatever its path.

use super::matcher::keep_first;
use super::{HeaderMatch, MatchError, RequestHead, StringMatch};

/// One entry of a GRPCRoute rule's `matches` (GRPCRouteMatch): all of it must hold.
#[derive(Clone, Debug, Default)]
pub struct GrpcMatch {
    pub(super) service: Option<StringMatch>,
    pub(super) method: Option<StringMatch>,
    pub(super) headers: Vec<HeaderMatch>,
}

impl GrpcMatch {
    /// A match by service and method, where absent means any.
    ///
    /// # Errors
    /// When an exact one is empty or contains a slash.
    pub fn new(service: Option<StringMatch>, method: Option<StringMatch>) -> Result<Self, MatchError> {
        for wanted in [&service, &method] {
            if let Some(StringMatch::Exact(name)) = wanted
                && (name.is_empty() || name.contains('/'))
            {
                return Err(MatchError::GrpcName { name: name.to_string() });
            }
        }
        Ok(Self { service, method, headers: Vec::new() })
    }

    /// And by all these headers, of which those that repeat a name are dropped.
    #[must_use]
    pub fn with_headers(mut self, headers: Vec<HeaderMatch>) -> Self {
        self.headers = keep_first(headers, HeaderMatch::name);
        self
    }

    /// Whether a request is gRPC and satisfies all of it.
    #[must_use]
    pub fn matches(&self, head: &impl RequestHead) -> bool {
        is_grpc(head)
            && self.matches_path(head.path())
            && self.headers.iter().all(|header| header.matches(head))
    }

    fn matches_path(&self, path: &str) -> bool {
        if self.service.is_none() && self.method.is_none() {
            return true;
        }
        split_path(path).is_some_and(|(service, method)| {
            self.service.as_ref().is_none_or(|wanted| wanted.matches(service.as_bytes()))
                && self.method.as_ref().is_none_or(|wanted| wanted.matches(method.as_bytes()))
        })
    }
}

/// Whether a request is gRPC's: by its method and its content type.
#[must_use]
pub fn is_grpc(head: &impl RequestHead) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    head.method() == "POST"
        && head.header("content-type").is_some_and(|value| {
            value.split_at_checked(TYPE.len()).is_some_and(|(start, rest)| {
                start.eq_ignore_ascii_case(TYPE)
                    && matches!(rest.first(), None | Some(b'+' | b'-' | b';' | b' '))
            })
        })
}

pub(super) fn split_path(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some((service, method))
}
