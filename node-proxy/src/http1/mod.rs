//! The HTTP/1.1 wire (RFC 9112), as a proxy needs it: heads are parsed, checked and written anew without
//! the fields that belong to one hop; bodies are followed byte by byte and passed on exactly as they came.
//!
//! Our own engine rather than a library's, because the proxy must keep the case and order of fields, must
//! refuse ambiguous framing with a reason, and must be able to start on bytes that were read before the
//! protocol was known. What it must never do: forward a message whose end two readers could see differently.

pub mod buffer;
pub mod exchange;
pub mod framing;
pub mod head;
pub mod relay;
pub mod tap;

pub use buffer::ReadBuffer;
pub use exchange::{Exchange, ExchangeError, Judge, Outcome, message};
pub use head::{HeadError, Parsed, RequestHead1, ResponseHead1};

/// The longest head in bytes, with its request line or status line.
pub const HEAD_LIMIT: usize = 64 * 1024;

/// The most fields in one head.
pub const FIELD_LIMIT: usize = 100;
