//! The header by which a load balancer says at the beginning of a connection whose it is (the PROXY protocol, versions 1
//! and 2, as HAProxy's `proxy-protocol.txt` has it).
//!
//! Whether there is one is configured and never guessed: "otherwise it would open a major security breach by allowing
//! untrusted parties to spoof their connection addresses" (section 2). Nothing is copied; what comes after the header
//! stays in the buffer.

mod version1;
mod version2;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use tokio::time::{Instant, timeout_at};

use crate::error::FailureReason;
use crate::forward::Source;
use crate::http1::ReadBuffer;

/// What is not this, and is not the beginning of it, is no header of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The same for version 1.
const KEYWORD: &[u8; 6] = b"PROXY ";

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// The header.
    Header {
        /// How many bytes it has.
        length: usize,
        /// The client's address; none where the connection is the load balancer's own, or of a kind that has no address.
        client: Option<SocketAddr>,
    },
    /// So far it could be one.
    Incomplete,
}

/// Why a connection has no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Its address is of the wrong form or family.
    #[error("an address of the header is malformed")]
    Address,
    /// The checksum is wrong, or there are two.
    #[error("the header's checksum is wrong")]
    Checksum,
    /// Its command, family or transport is unknown.
    #[error("the header has an unknown command, family or transport")]
    Kind,
    /// The block of addresses and extensions (TLVs) is too short for what is in it.
    #[error("the header is shorter than what is in it")]
    Length,
    /// A line of version 1 does not end as it must, or is not of the parts that it must have.
    #[error("the header's line is malformed")]
    Line,
    /// The connection begins with something else.
    #[error("the connection does not begin with a header of the PROXY protocol")]
    Missing,
    /// It is longer than headers may be here.
    #[error("the header is too long")]
    TooLong,
    /// A version that is not known.
    #[error("the header is of an unknown version")]
    Version,
}

/// Reads what a connection begins with; a client's address is never an IPv4-mapped one.
///
/// # Errors
/// As soon as the bytes can be no header.
pub fn parse(bytes: &[u8]) -> Result<Beginning, HeaderError> {
    if bytes.starts_with(SIGNATURE) {
        return version2::parse(bytes);
    }
    if bytes.starts_with(KEYWORD) {
        return version1::parse(bytes);
    }
    if SIGNATURE.starts_with(bytes) || KEYWORD.starts_with(bytes) {
        return Ok(Beginning::Incomplete);
    }
    Err(HeaderError::Missing)
}

/// Takes the header from the beginning of a connection within `limit`, and gives the client's address that it names, if
/// it names one. What else was read stays in the buffer.
///
/// # Errors
/// The reason, and what to tell the log: when there is no header, a wrong one, or none in time. `ClientClosed` where the
/// connection has ended without a word, as a probe of the port does.
pub async fn read_header(
    (stream, buffer): (&mut impl Source, &mut ReadBuffer),
    deadline: Instant,
) -> Result<Option<SocketAddr>, (FailureReason, String)> {
    let malformed = |error: String| (FailureReason::MalformedProxyHeader, error);
    let reading = async {
        loop {
            match parse(buffer.unread()).map_err(|error| malformed(error.to_string()))? {
                Beginning::Header { length, client } => {
                    buffer.consume(length);
                    return Ok(client);
                }
                Beginning::Incomplete => {}
            }
            match buffer.fill(stream).await {
                Ok(count) if count > 0 => {}
                Ok(_) | Err(_) if buffer.unread().is_empty() => {
                    return Err((FailureReason::ClientClosed, "it has ended without a word".to_owned()));
                }
                Ok(_) | Err(_) => {
                    return Err(malformed("the connection has ended within the header".to_owned()));
                }
            }
        }
    };
    let read = timeout_at(deadline, reading).await;
    read.unwrap_or_else(|_| Err(malformed("no header of the PROXY protocol has come in time".to_owned())))
}

/// Of one form for each address.
const fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
