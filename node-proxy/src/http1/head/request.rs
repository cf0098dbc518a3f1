//! Request heads: parsed, checked, and written for the next hop. A request that two readers could take for
//! two, or that asks for a tunnel or another host, never gets past here.

use std::borrow::Cow;

use super::fields::{Fields, Span, is_connection_scheme};
use super::{HeadError, Parsed, Persistence, Version};
use crate::http1::framing::BodyLength;
use crate::http1::{FIELD_LIMIT, HEAD_LIMIT};
use crate::route::{Filters, RequestHead};

/// A request head.
#[derive(Clone, Debug, Default)]
pub struct RequestHead1 {
    fields: Fields,
    method: Span,
    path: Span,
    query: Option<Span>,
    version: Version,
    body: Option<BodyLength>,
    is_the_last: bool,
}

impl RequestHead1 {
    /// Parses the head at the start of `bytes` into `self`.
    ///
    /// # Errors
    /// When RFC 9112 calls it malformed or this proxy calls it ambiguous, when it is too large, and for
    /// requests that a transparent proxy has no business with.
    pub fn parse(&mut self, bytes: &[u8]) -> Result<Parsed, HeadError> {
        self.clear();
        let mut headers = [httparse::EMPTY_HEADER; FIELD_LIMIT];
        let mut request = httparse::Request::new(&mut headers);
        let length = match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) if length <= HEAD_LIMIT => length,
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_LIMIT => return Ok(Parsed::Partial),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
            Err(_) => return Err(HeadError::Malformed("not a request of HTTP/1")),
        };
        // A line that starts with an empty line is tolerated by the parser (RFC 9112 section 2.2).
        let text = &bytes[..length];
        let (Some(method), Some(target)) = (request.method, request.path) else {
            return Err(HeadError::Malformed("no method or no target"));
        };
        self.version = if request.version == Some(0) { Version::Http10 } else { Version::Http11 };
        let base = text.as_ptr() as usize;
        let method_start = method.as_ptr() as usize - base;
        let target_start = target.as_ptr() as usize - base;
        let headers = &*request.headers;
        check_target(method, target)?;
        self.fields.set(text, headers);
        self.method = method_start..method_start + method.len();
        let path_end = target_start + target.find('?').unwrap_or(target.len());
        let target_end = target_start + target.len();
        self.path = target_start..path_end;
        self.query = (path_end < target_end).then(|| path_end + 1..target_end);
        self.check_host()?;
        self.body = self.fields.body_length(self.version)?;
        Ok(Parsed::Complete(length))
    }

    /// Forgets the message before: what is not taken over from a bad head must not look like the last one.
    fn clear(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = Self { fields, ..Self::default() };
    }

    fn check_host(&self) -> Result<(), HeadError> {
        let mut hosts = self.fields.values("host");
        match (hosts.next(), hosts.next()) {
            (_, Some(_)) => Err(HeadError::Malformed("more than one host")),
            (None, None) if self.version == Version::Http11 => Err(HeadError::Malformed("no host")),
            (Some(host), None)
                if host.iter().any(|byte| matches!(byte, b' ' | b'\t' | b',' | b'/' | b'@')) =>
            {
                Err(HeadError::Malformed("host is not a host"))
            }
            _ => Ok(()),
        }
    }

    /// The length of the request's body.
    #[must_use]
    pub fn body_length(&self) -> BodyLength {
        self.body.unwrap_or(BodyLength::None)
    }

    /// The version of the request.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Whether the client's connection takes another request.
    #[must_use]
    pub fn persistence(&self) -> Persistence {
        if self.is_the_last { Persistence::Close } else { self.fields.persistence(self.version) }
    }

    /// The client's connection takes no other request, whatever the client says.
    pub const fn be_the_last(&mut self) {
        self.is_the_last = true;
    }

    /// Whether the request may be sent a second time when it is not known what became of the first (RFC 9110 section
    /// 9.2.2).
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        matches!(self.method(), "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
    }

    /// Whether that is so, and nothing of a body can be lost by it.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        self.body_length() == BodyLength::None && self.is_idempotent()
    }

    /// Whether an authentication scheme is used that binds the connection, not the request.
    #[must_use]
    pub fn binds_connection(&self) -> bool {
        self.fields.values("authorization").any(is_connection_scheme)
    }

    /// Whether it offers to go on with another protocol.
    #[must_use]
    pub fn offers_upgrade(&self) -> bool {
        self.fields.upgrade(self.version).is_some()
    }

    /// Writes the head for the next hop, without the fields of this one, and as the filters say.
    pub fn write(&mut self, filters: Option<&Filters>, out: &mut Vec<u8>) {
        let trailers_welcome = self.fields.has_token("te", "trailers");
        let upgrade = self.fields.upgrade(self.version);
        self.fields.drop_hop_by_hop();
        out.extend_from_slice(self.method().as_bytes());
        out.push(b' ');
        match filters.and_then(|filters| filters.target(self)) {
            Some(target) => out.extend_from_slice(target.as_bytes()),
            None => out.extend_from_slice(self.target()),
        }
        out.extend_from_slice(match self.version {
            // A 1.0 client cannot read what a 1.1 answer may hold, so its version goes on with its request.
            Version::Http10 => b" HTTP/1.0\r\n",
            Version::Http11 => b" HTTP/1.1\r\n",
        });
        self.fields.write(filters.and_then(Filters::host), filters.map(|filters| &filters.request), out);
        match (upgrade, trailers_welcome) {
            (Some(upgrade), _) => {
                out.extend_from_slice(b"connection: upgrade\r\nupgrade: ");
                out.extend_from_slice(&upgrade);
                out.extend_from_slice(b"\r\n");
            }
            (None, true) => out.extend_from_slice(b"te: trailers\r\nconnection: te\r\n"),
            (None, false) => {}
        }
        out.extend_from_slice(b"\r\n");
    }

    fn target(&self) -> &[u8] {
        let end = self.query.as_ref().map_or(self.path.end, |query| query.end);
        &self.fields.text[self.path.start..end]
    }

    fn text(&self, span: &Span) -> &str {
        std::str::from_utf8(&self.fields.text[span.clone()]).unwrap_or_default()
    }
}

impl RequestHead for RequestHead1 {
    fn method(&self) -> &str {
        self.text(&self.method)
    }

    fn path(&self) -> &str {
        self.text(&self.path)
    }

    fn query(&self) -> Option<&str> {
        self.query.as_ref().map(|query| self.text(query))
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.fields.find_joined(name)
    }
}

fn check_target(method: &str, target: &str) -> Result<(), HeadError> {
    if method == "CONNECT" || target.starts_with("http://") || target.starts_with("https://") {
        return Err(HeadError::NotProxied);
    }
    if target == "*" && method == "OPTIONS" {
        return Ok(());
    }
    if !target.starts_with('/') {
        return Err(HeadError::Malformed("target is not in origin form"));
    }
    if !target.is_ascii() || target.contains('#') {
        return Err(HeadError::Malformed("target has a character that no target may have"));
    }
    Ok(())
}
