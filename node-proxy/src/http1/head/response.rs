//! Response heads: parsed, checked, and written for the client. The end of an answer is always known before
//! its first byte is passed on.

use super::fields::{Fields, Span, is_connection_scheme, tokens};
use super::{HeadError, Parsed, Persistence, Version};
use crate::http1::framing::BodyLength;
use crate::http1::{FIELD_LIMIT, HEAD_LIMIT};
use crate::route::FieldEdit;

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
    /// As for [`super::RequestHead1::parse`].
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

    /// Whether the connection goes on with another protocol.
    #[must_use]
    pub fn is_upgrade(&self) -> bool {
        self.status == 101 && self.fields.upgrade(self.version).is_some()
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

    /// Writes the head for the client, without the fields of the upstream hop, and edited.
    pub fn write(
        &mut self,
        (client, persistence): (Version, Persistence),
        edit: Option<&FieldEdit>,
        out: &mut Vec<u8>,
    ) {
        let upgrade = (self.status == 101).then(|| self.fields.upgrade(self.version)).flatten();
        self.fields.drop_hop_by_hop();
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(self.status.to_string().as_bytes());
        out.push(b' ');
        out.extend_from_slice(&self.fields.text[self.reason.clone()]);
        out.extend_from_slice(b"\r\n");
        self.fields.write(None, edit, out);
        if let Some(upgrade) = upgrade {
            out.extend_from_slice(b"connection: upgrade\r\nupgrade: ");
            out.extend_from_slice(&upgrade);
            out.extend_from_slice(b"\r\n");
        } else if !self.is_interim() {
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
