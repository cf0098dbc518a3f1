//! Version 1: a line of text (section 2.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{Beginning, HeaderError, KEYWORD, canonical};

/// "If the CRLF sequence is not found in the first 107 characters, the receiver should declare the line invalid."
const LONGEST: usize = 107;

/// Reads a header that has begun as one of this version.
pub(super) fn parse(bytes: &[u8]) -> Result<Beginning, HeaderError> {
    let bytes = bytes.get(..LONGEST).unwrap_or(bytes);
    let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return if bytes.len() < LONGEST { Ok(Beginning::Incomplete) } else { Err(HeaderError::TooLong) };
    };
    match &bytes[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] if bytes.len() < LONGEST => return Ok(Beginning::Incomplete),
        [b'\r'] => return Err(HeaderError::TooLong),
        _ => return Err(HeaderError::Line),
    }
    let client = read_client(&bytes[KEYWORD.len()..end])?.map(canonical);
    Ok(Beginning::Header { length: end + 2, client })
}

/// The client's address of a line behind its keyword.
fn read_client(line: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
    let kind = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    let rest = line.get(kind.len() + 1..).unwrap_or_default();
    match kind {
        b"TCP4" => read_source::<Ipv4Addr>(rest).map(Some),
        b"TCP6" => read_source::<Ipv6Addr>(rest).map(Some),
        // "The receiver must ignore anything presented before the CRLF is found."
        b"UNKNOWN" => Ok(None),
        _ => Err(HeaderError::Kind),
    }
}

/// The source of `SOURCE DESTINATION PORT PORT`. The destination has to be well-formed, and is not used: what counts is
/// where the connection has come to.
fn read_source<A: FromStr + Into<IpAddr>>(text: &[u8]) -> Result<SocketAddr, HeaderError> {
    let text = std::str::from_utf8(text).map_err(|_| HeaderError::Line)?;
    let mut parts = text.split(' ');
    let mut next = || parts.next().ok_or(HeaderError::Line);
    let (source, destination, port, other) = (next()?, next()?, next()?, next()?);
    if parts.next().is_some() {
        return Err(HeaderError::Line);
    }
    let address = |text: &str| text.parse::<A>().map_err(|_| HeaderError::Address);
    address(destination)?;
    read_port(other)?;
    Ok(SocketAddr::new(address(source)?.into(), read_port(port)?))
}

/// "Heading zeroes are not permitted in front of numbers."
fn read_port(text: &str) -> Result<u16, HeaderError> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain).ok_or(HeaderError::Address)
}
