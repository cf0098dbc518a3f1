//! Request and response heads: parsed, checked against RFC 9112, and written for the next hop.

use std::borrow::Cow;
use std::ops::Range;

use thiserror::Error;

use super::framing::BodyLength;
use super::{FIELD_LIMIT, HEAD_LIMIT};
use crate::error::FailureReason;
use crate::route::RequestHead;

/// Why a head was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeadError {
    /// It breaks the grammar, or two readers could see different messages in it.
    #[error("head is malformed: {0}")]
    Malformed(&'static str),
    /// CONNECT, or a target in absolute form.
    #[error("CONNECT and absolute-form targets are not proxied")]
    NotProxied,
    /// More than [`HEAD_LIMIT`] bytes or [`FIELD_LIMIT`] fields.
    #[error("head is longer than {HEAD_LIMIT} bytes or has more than {FIELD_LIMIT} fields")]
    TooLarge,
}

impl HeadError {
    /// The reason to give for a request with this fault.
    #[must_use]
    pub const fn reason(self) -> FailureReason {
        match self {
            Self::Malformed(_) => FailureReason::MalformedRequest,
            Self::NotProxied => FailureReason::ConnectMethodRefused,
            Self::TooLarge => FailureReason::HeadTooLarge,
        }
    }
}

/// What a try to parse a head came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The head took this many bytes.
    Complete(usize),
    /// The head has not ended yet.
    Partial,
}

/// HTTP/1.0 or HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    #[default]
    Http11,
}

/// Whether the sender's connection takes another message after this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Persistence {
    /// It closes.
    #[default]
    Close,
    /// It stays.
    KeepAlive,
}

type Span = Range<usize>;

#[derive(Clone, Debug)]
struct Field {
    name: Span,
    value: Span,
    forwarded: bool,
}

/// The text of a head, copied out of the read buffer, with its fields by place. Reused between messages.
#[derive(Debug, Default)]
struct Fields {
    text: Vec<u8>,
    fields: Vec<Field>,
}

impl Fields {
    fn set(&mut self, text: &[u8], headers: &[httparse::Header<'_>]) {
        self.text.clear();
        self.text.extend_from_slice(text);
        self.fields.clear();
        let base = text.as_ptr() as usize;
        let place = |part: &[u8]| {
            let start = part.as_ptr() as usize - base;
            start..start + part.len()
        };
        self.fields.extend(headers.iter().map(|header| Field {
            name: place(header.name.as_bytes()),
            value: place(header.value),
            forwarded: true,
        }));
    }

    fn name(&self, field: &Field) -> &[u8] {
        &self.text[field.name.clone()]
    }

    fn value(&self, field: &Field) -> &[u8] {
        &self.text[field.value.clone()]
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields
            .iter()
            .filter(move |field| self.name(field).eq_ignore_ascii_case(name.as_bytes()))
            .map(|field| self.value(field))
    }

    fn find_joined(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let mut found = self
            .fields
            .iter()
            .filter(|field| self.name(field).eq_ignore_ascii_case(name.as_bytes()))
            .map(|field| self.value(field));
        let first = found.next()?;
        let Some(second) = found.next() else { return Some(Cow::Borrowed(first)) };
        let mut joined = [first, second].join(&b", "[..]);
        for value in found {
            joined.extend_from_slice(b", ");
            joined.extend_from_slice(value);
        }
        Some(Cow::Owned(joined))
    }

    fn has_token(&self, name: &str, token: &str) -> bool {
        self.values(name).any(|value| tokens(value).any(|item| item.eq_ignore_ascii_case(token.as_bytes())))
    }

    /// Marks the fields of this hop alone, so that they are not forwarded (RFC 9110 section 7.6.1).
    fn drop_hop_by_hop(&mut self) {
        let Self { text, fields } = self;
        let text: &[u8] = text;
        let name_of = |field: &Field| &text[field.name.clone()];
        let mut named: Vec<&[u8]> = Vec::new();
        for field in fields.iter() {
            if name_of(field).eq_ignore_ascii_case(b"connection") {
                named.extend(tokens(&text[field.value.clone()]).filter(|token| !is_end_to_end(token)));
            }
        }
        for field in fields.iter_mut() {
            let name = &text[field.name.clone()];
            field.forwarded =
                !is_hop_by_hop(name) && !named.iter().any(|token| token.eq_ignore_ascii_case(name));
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        for field in self.fields.iter().filter(|field| field.forwarded) {
            out.extend_from_slice(self.name(field));
            out.extend_from_slice(b": ");
            out.extend_from_slice(self.value(field));
            out.extend_from_slice(b"\r\n");
        }
    }

    /// The length that Content-Length and Transfer-Encoding give, if any. Everything that RFC 9112
    /// section 6.3 lets a recipient repair is refused instead: a repaired message is read one way here and
    /// another way by somebody who was lenient in another place.
    fn body_length(&self, version: Version) -> Result<Option<BodyLength>, HeadError> {
        let mut codings = self.values("transfer-encoding");
        let coding = codings.next();
        let mut lengths = self.values("content-length");
        let length = lengths.next();
        match (coding, length) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(HeadError::Malformed("both transfer-encoding and content-length")),
            (Some(_), None) if version == Version::Http10 => {
                Err(HeadError::Malformed("transfer-encoding in an HTTP/1.0 message"))
            }
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") && codings.next().is_none() => {
                Ok(Some(BodyLength::Chunked))
            }
            (Some(_), None) => Err(HeadError::Malformed("transfer-encoding is not chunked alone")),
            (None, Some(_)) if lengths.next().is_some() => {
                Err(HeadError::Malformed("content-length is repeated"))
            }
            (None, Some(length)) => Ok(Some(BodyLength::Fixed(parse_length(length)?))),
        }
    }

    fn persistence(&self, version: Version) -> Persistence {
        let stays = match version {
            Version::Http11 => !self.has_token("connection", "close"),
            Version::Http10 => {
                self.has_token("connection", "keep-alive") && !self.has_token("connection", "close")
            }
        };
        if stays { Persistence::KeepAlive } else { Persistence::Close }
    }
}

fn parse_length(value: &[u8]) -> Result<u64, HeadError> {
    let malformed = HeadError::Malformed("content-length is not a decimal number");
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(malformed);
    }
    Ok(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// The items of a comma-separated field.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Fields about one connection, whether `Connection` names them or not (RFC 9110 section 7.6.1).
fn is_hop_by_hop(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 6] =
        [b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade", b"http2-settings"];
    NAMES.iter().any(|hop| name.eq_ignore_ascii_case(hop))
}

/// Fields that a sender may not have dropped by naming them in `Connection`: without them the message would
/// mean something else at the next hop.
fn is_end_to_end(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 12] = [
        b"host",
        b"content-length",
        b"content-type",
        b"content-encoding",
        b"transfer-encoding",
        b"trailer",
        b"authorization",
        b"cookie",
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
    ];
    NAMES.iter().any(|field| name.eq_ignore_ascii_case(field))
}

/// A request head.
#[derive(Debug, Default)]
pub struct RequestHead1 {
    fields: Fields,
    method: Span,
    path: Span,
    query: Option<Span>,
    version: Version,
    body: Option<BodyLength>,
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
        fields.text.clear();
        fields.fields.clear();
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
        self.fields.persistence(self.version)
    }

    /// Whether the request may be sent a second time when it is not known what became of the first
    /// (RFC 9110 section 9.2.2), and nothing of a body can be lost by that.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        self.body_length() == BodyLength::None
            && matches!(self.method(), "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
    }

    /// Whether an authentication scheme is used that binds the connection, not the request.
    #[must_use]
    pub fn binds_connection(&self) -> bool {
        self.fields.values("authorization").any(is_connection_scheme)
    }

    /// Writes the head for the next hop, without the fields of this one.
    pub fn write(&mut self, out: &mut Vec<u8>) {
        let trailers_welcome = self.fields.has_token("te", "trailers");
        self.fields.drop_hop_by_hop();
        out.extend_from_slice(self.method().as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.target());
        out.extend_from_slice(match self.version {
            // A 1.0 client cannot read what a 1.1 answer may hold, so its version goes on with its request.
            Version::Http10 => b" HTTP/1.0\r\n",
            Version::Http11 => b" HTTP/1.1\r\n",
        });
        self.fields.write(out);
        if trailers_welcome {
            out.extend_from_slice(b"te: trailers\r\nconnection: te\r\n");
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

fn is_connection_scheme(value: &[u8]) -> bool {
    let scheme = value.split(|byte| *byte == b' ').next().unwrap_or_default();
    scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
}

/// A response head.
#[derive(Debug, Default)]
pub struct ResponseHead1 {
    fields: Fields,
    status: u16,
    reason: Span,
    version: Version,
    body: Option<BodyLength>,
}

impl ResponseHead1 {
    /// Parses the head at the start of `bytes` into `self`.
    ///
    /// # Errors
    /// As for [`RequestHead1::parse`].
    pub fn parse(&mut self, bytes: &[u8]) -> Result<Parsed, HeadError> {
        let mut headers = [httparse::EMPTY_HEADER; FIELD_LIMIT];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(bytes) {
            Ok(httparse::Status::Complete(length)) if length <= HEAD_LIMIT => length,
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_LIMIT => return Ok(Parsed::Partial),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
            Err(_) => return Err(HeadError::Malformed("not a response of HTTP/1")),
        };
        let text = &bytes[..length];
        self.version = if response.version == Some(0) { Version::Http10 } else { Version::Http11 };
        self.status = response.code.unwrap_or_default();
        let reason = response.reason.unwrap_or_default();
        // An absent reason phrase is a constant of the parser, not a part of `text`.
        self.reason = match (reason.as_ptr() as usize).checked_sub(text.as_ptr() as usize) {
            Some(start) if !reason.is_empty() && start < text.len() => start..start + reason.len(),
            _ => 0..0,
        };
        let headers = &*response.headers;
        self.fields.set(text, headers);
        self.body = self.fields.body_length(self.version)?;
        Ok(Parsed::Complete(length))
    }

    /// The status code.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// Whether this is not the last head for the request (RFC 9110 section 15.2).
    #[must_use]
    pub const fn is_interim(&self) -> bool {
        self.status >= 100 && self.status < 200
    }

    /// The length of the body of an answer to `method` (RFC 9112 section 6.3).
    #[must_use]
    pub fn body_length(&self, method: &str) -> BodyLength {
        if method == "HEAD" || self.is_interim() || self.status == 204 || self.status == 304 {
            return BodyLength::None;
        }
        self.body.unwrap_or(BodyLength::UntilClose)
    }

    /// Whether the server's connection takes another request.
    #[must_use]
    pub fn persistence(&self) -> Persistence {
        self.fields.persistence(self.version)
    }

    /// How long the server keeps an idle connection, in seconds, if it says so in `Keep-Alive`.
    #[must_use]
    pub fn keep_alive_seconds(&self) -> Option<u64> {
        self.fields.values("keep-alive").flat_map(tokens).find_map(|item| {
            let (name, value) = std::str::from_utf8(item).ok()?.split_once('=')?;
            if name.trim().eq_ignore_ascii_case("timeout") { value.trim().parse().ok() } else { None }
        })
    }

    /// Whether an authentication scheme is asked for that binds the connection, not the request.
    #[must_use]
    pub fn binds_connection(&self) -> bool {
        self.fields.values("www-authenticate").any(is_connection_scheme)
    }

    /// Writes the head for the client, without the fields of the upstream hop.
    pub fn write(&mut self, client: Version, persistence: Persistence, out: &mut Vec<u8>) {
        self.fields.drop_hop_by_hop();
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(self.status.to_string().as_bytes());
        out.push(b' ');
        out.extend_from_slice(&self.fields.text[self.reason.clone()]);
        out.extend_from_slice(b"\r\n");
        self.fields.write(out);
        if !self.is_interim() {
            match (client, persistence) {
                (_, Persistence::Close) => out.extend_from_slice(b"connection: close\r\n"),
                (Version::Http10, Persistence::KeepAlive) => {
                    out.extend_from_slice(b"connection: keep-alive\r\n")
                }
                (Version::Http11, Persistence::KeepAlive) => {}
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
