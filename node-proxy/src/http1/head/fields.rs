//! The fields of one head: kept as places in its text, judged for what they say of the message's end and of
//! the connection, and written on without those that belong to one hop. Their case and order never change.

use std::borrow::Cow;
use std::ops::Range;

use super::{HeadError, Persistence, Version};
use crate::http1::framing::BodyLength;
use crate::route::FieldEdit;

pub(super) type Span = Range<usize>;

#[derive(Clone, Debug)]
pub(super) struct Field {
    name: Span,
    value: Span,
    forwarded: bool,
}

/// The text of a head, copied out of the read buffer, with its fields by place. Reused between messages.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields {
    pub(super) text: Vec<u8>,
    fields: Vec<Field>,
}

impl Fields {
    pub(super) fn set(&mut self, text: &[u8], headers: &[httparse::Header<'_>]) {
        self.clear();
        self.text.extend_from_slice(text);
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

    /// Forgets them all, and keeps the room.
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.fields.clear();
    }

    fn name(&self, field: &Field) -> &[u8] {
        &self.text[field.name.clone()]
    }

    fn value(&self, field: &Field) -> &[u8] {
        &self.text[field.value.clone()]
    }

    pub(super) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields
            .iter()
            .filter(move |field| self.name(field).eq_ignore_ascii_case(name.as_bytes()))
            .map(|field| self.value(field))
    }

    pub(super) fn find_joined(&self, name: &str) -> Option<Cow<'_, [u8]>> {
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

    pub(super) fn has_token(&self, name: &str, token: &str) -> bool {
        self.values(name).any(|value| tokens(value).any(|item| item.eq_ignore_ascii_case(token.as_bytes())))
    }

    /// The protocols that this message offers to go on with, or goes on with, in the connection's next words (RFC
    /// 9110 section 7.8). `h2c` is never among them: what comes after it are requests, which have rules.
    pub(super) fn upgrade(&self, version: Version) -> Option<Vec<u8>> {
        if version == Version::Http10 || !self.has_token("connection", "upgrade") {
            return None;
        }
        let offered =
            self.values("upgrade").flat_map(tokens).filter(|token| !token.eq_ignore_ascii_case(b"h2c"));
        let offered = offered.collect::<Vec<_>>().join(&b", "[..]);
        (!offered.is_empty()).then_some(offered)
    }

    /// Marks the fields of this hop alone, so that they are not forwarded (RFC 9110 section 7.6.1).
    pub(super) fn drop_hop_by_hop(&mut self) {
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

    /// Writes what goes on, and `host` in the place of the message's own, if given.
    pub(super) fn write(&self, host: Option<&str>, edit: Option<&FieldEdit>, out: &mut Vec<u8>) {
        let goes = |field: &&Field| edit.is_some_and(|edit| edit.removes(self.name(field)));
        for field in self.fields.iter().filter(|field| field.forwarded && !goes(field)) {
            let name = self.name(field);
            let value = match host {
                Some(host) if name.eq_ignore_ascii_case(b"host") => host.as_bytes(),
                _ => self.value(field),
            };
            write_line(out, name, value);
        }
        // A message of HTTP/1.0 need not have one.
        if let Some(host) = host.filter(|_| self.values("host").next().is_none()) {
            write_line(out, b"host", host.as_bytes());
        }
        for (name, value) in edit.into_iter().flat_map(FieldEdit::added) {
            write_line(out, name.as_bytes(), value.as_bytes());
        }
    }

    /// The length that Content-Length and Transfer-Encoding give, if any. Everything that RFC 9112
    /// section 6.3 lets a recipient repair is refused instead: a repaired message is read one way here and
    /// another way by somebody who was lenient in another place.
    pub(super) fn body_length(&self, version: Version) -> Result<Option<BodyLength>, HeadError> {
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

    pub(super) fn persistence(&self, version: Version) -> Persistence {
        let stays = match version {
            Version::Http11 => !self.has_token("connection", "close"),
            Version::Http10 => {
                self.has_token("connection", "keep-alive") && !self.has_token("connection", "close")
            }
        };
        if stays { Persistence::KeepAlive } else { Persistence::Close }
    }
}

fn write_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn parse_length(value: &[u8]) -> Result<u64, HeadError> {
    let malformed = HeadError::Malformed("content-length is not a decimal number");
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(malformed);
    }
    Ok(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// The items of a comma-separated field.
pub(super) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
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

/// Whether a value of `Authorization` or `WWW-Authenticate` names a scheme that binds the connection.
pub(super) fn is_connection_scheme(value: &[u8]) -> bool {
    let scheme = value.split(|byte| *byte == b' ').next().unwrap_or_default();
    scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
}
