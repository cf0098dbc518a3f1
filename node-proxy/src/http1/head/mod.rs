//! Request and response heads: parsed, checked against RFC 9112, and written for the next hop.

mod fields;
mod request;
mod response;

#[cfg(test)]
mod tests;

use thiserror::Error;

pub use self::request::RequestHead1;
pub use self::response::ResponseHead1;
use super::{FIELD_LIMIT, HEAD_LIMIT};
use crate::error::FailureReason;

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
