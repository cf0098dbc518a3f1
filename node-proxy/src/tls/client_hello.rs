//! What the first bytes of a connection are: the mesh's ClientHello, another TLS one, or no TLS.
//!
//! Called with all bytes peeked so far, again and again as more come (RFC 8446 sections 4.1.2 and 5.1). It
//! only looks: nothing is consumed, and no input makes it panic, loop or hold more than 64 KiB.

use super::{HOP_ALPN, HOP_ALPN_PREFIX};

/// The most bytes that are looked at. Hybrid key shares take a ClientHello to about 2 KiB.
pub const MAX_CLIENT_HELLO: usize = 64 * 1024;
/// The longest plaintext of one record (RFC 8446 section 5.1).
const MAX_RECORD: usize = 1 << 14;
const RECORD_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;

/// What a connection begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientHelloPeek {
    /// A TLS ClientHello so far, and not whole yet.
    Incomplete,
    /// A ClientHello that offers the hop in our version.
    Mesh,
    /// No ClientHello, or one that no TLS library would send.
    NotTls,
    /// A ClientHello of somebody else.
    OtherTls {
        /// The server name that it asks for, in lower case.
        sni: Option<String>,
        /// The protocols that it offers.
        alpn: Vec<Vec<u8>>,
    },
    /// A ClientHello that offers the hop in other versions only; the first of them, escaped.
    UnknownMeshVersion(String),
}

/// How far a ClientHello has come, whoever sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelloPeek {
    /// A TLS ClientHello so far, and not whole yet.
    Incomplete,
    /// No ClientHello, or one that no TLS library would send.
    NotTls,
    /// All of it.
    Whole(ClientHello),
}

/// What a ClientHello asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name, in lower case.
    pub sni: Option<String>,
    /// The protocols that it offers.
    pub alpn: Vec<Vec<u8>>,
}

/// Why a ClientHello was not read to its end.
enum Stop {
    Incomplete,
    NotTls,
}

/// Says what `bytes`, all that the peer has sent so far, begin with.
#[must_use]
pub fn inspect(bytes: &[u8]) -> ClientHelloPeek {
    match find_hello(bytes) {
        HelloPeek::Incomplete => ClientHelloPeek::Incomplete,
        HelloPeek::NotTls => ClientHelloPeek::NotTls,
        HelloPeek::Whole(hello) => tell_mesh(hello),
    }
}

/// The ClientHello that `bytes`, all that the peer has sent so far, begin with, whoever is meant by it.
#[must_use]
pub fn find_hello(bytes: &[u8]) -> HelloPeek {
    let found = handshake_body(bytes).and_then(|body| read_hello(&body).ok_or(Stop::NotTls));
    match found {
        Ok(hello) => HelloPeek::Whole(hello),
        Err(Stop::NotTls) => HelloPeek::NotTls,
        Err(Stop::Incomplete) if bytes.len() >= MAX_CLIENT_HELLO => HelloPeek::NotTls,
        Err(Stop::Incomplete) => HelloPeek::Incomplete,
    }
}

fn tell_mesh(ClientHello { sni, alpn }: ClientHello) -> ClientHelloPeek {
    if alpn.iter().any(|protocol| protocol == HOP_ALPN) {
        return ClientHelloPeek::Mesh;
    }
    match alpn.iter().find(|protocol| protocol.starts_with(HOP_ALPN_PREFIX)) {
        Some(version) => ClientHelloPeek::UnknownMeshVersion(version.escape_ascii().to_string()),
        None => ClientHelloPeek::OtherTls { sni, alpn },
    }
}

/// The body of the ClientHello, put together from the records that it is spread over.
fn handshake_body(bytes: &[u8]) -> Result<Vec<u8>, Stop> {
    let mut input = bytes;
    let mut message = Vec::new();
    loop {
        // Each byte of a record's head is judged as soon as it is there: plain text must not wait for more.
        match input {
            [] => return Err(Stop::Incomplete),
            [kind, ..] if *kind != RECORD_HANDSHAKE => return Err(Stop::NotTls),
            [_, major, ..] if *major != 3 => return Err(Stop::NotTls),
            [_, _, minor, ..] if *minor > 4 => return Err(Stop::NotTls),
            _ => {}
        }
        let [_, _, _, high, low, rest @ ..] = input else { return Err(Stop::Incomplete) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if length == 0 || length > MAX_RECORD {
            return Err(Stop::NotTls);
        }
        let fragment = rest.get(..length).unwrap_or(rest);
        message.extend_from_slice(fragment);
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(Stop::NotTls);
        }
        if let [_, a, b, c, body @ ..] = &message[..] {
            let expected = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if expected > MAX_CLIENT_HELLO {
                return Err(Stop::NotTls);
            }
            if let Some(body) = body.get(..expected) {
                return Ok(body.to_vec());
            }
        }
        if fragment.len() < length {
            return Err(Stop::Incomplete);
        }
        input = rest.get(length..).unwrap_or_default();
    }
}

/// Reads a whole ClientHello; `None` if it is malformed.
fn read_hello(body: &[u8]) -> Option<ClientHello> {
    let mut hello = Cursor(body);
    hello.take(2 + 32)?;
    hello.vector8()?;
    hello.vector16()?;
    hello.vector8()?;
    let (mut sni, mut alpn) = (None, Vec::new());
    // Extensions may be missing altogether, in TLS 1.2 and older.
    if !hello.0.is_empty() {
        let mut extensions = Cursor(hello.vector16()?);
        while !extensions.0.is_empty() {
            let kind = extensions.number16()?;
            let content = extensions.vector16()?;
            match kind {
                EXTENSION_SERVER_NAME => sni = read_server_name(content)?,
                EXTENSION_ALPN => alpn = read_protocols(content)?,
                _ => {}
            }
        }
    }
    hello.0.is_empty().then_some(ClientHello { sni, alpn })
}

/// The host name of a server_name extension (RFC 6066 section 3); `None` if it is malformed.
fn read_server_name(content: &[u8]) -> Option<Option<String>> {
    let mut names = Cursor(Cursor(content).vector16()?);
    while !names.0.is_empty() {
        let kind = names.take(1)?;
        let name = names.vector16()?;
        if kind == [0] {
            let name = std::str::from_utf8(name).ok().filter(|name| name.is_ascii() && !name.is_empty())?;
            return Some(Some(name.to_ascii_lowercase()));
        }
    }
    Some(None)
}

/// The names of an ALPN extension (RFC 7301 section 3.1); `None` if it is malformed.
fn read_protocols(content: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut list = Cursor(content);
    let mut names = Cursor(list.vector16()?);
    let mut protocols = Vec::new();
    while !names.0.is_empty() {
        let name = names.vector8()?;
        if name.is_empty() {
            return None;
        }
        protocols.push(name.to_vec());
    }
    list.0.is_empty().then_some(protocols)
}

/// Bytes that are read from the front.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = *self.take(1)?.first()?;
        self.take(usize::from(length))
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.number16()?;
        self.take(usize::from(length))
    }
}
