//! Where a message body ends (RFC 9112 sections 6 and 7).

use thiserror::Error;

/// How the length of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// There is no body.
    None,
    /// Content-Length, in bytes.
    Fixed(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
    /// A response that ends with its connection.
    UntilClose,
}

/// A chunked body that breaks the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("chunked body is malformed: {0}")]
pub struct ChunkError(&'static str);

/// The longest line of a chunked body: a size with its extensions, or a trailer field.
const LINE_LIMIT: usize = 8 * 1024;
/// The most bytes of trailers.
const TRAILERS_LIMIT: usize = 64 * 1024;

/// Follows a body through the bytes of a connection, and knows where it ends. The bytes are forwarded as
/// they are, so the grammar is held strictly: what passes here reads the same everywhere.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Done,
    Fixed(u64),
    UntilClose,
    /// In the digits of a chunk size.
    Size {
        size: u64,
        digits: u8,
    },
    /// In a chunk extension: `quoted` inside a quoted string.
    Extension {
        size: u64,
        length: usize,
    },
    /// The LF after a size line's CR.
    SizeLf {
        size: u64,
    },
    Data(u64),
    DataCr,
    DataLf,
    /// At the start of a trailer line.
    TrailerStart {
        total: usize,
    },
    /// Inside a trailer line.
    Trailer {
        total: usize,
        length: usize,
    },
    TrailerLf {
        total: usize,
    },
    /// The LF of the empty line that ends it all.
    EndLf,
}

impl BodyDecoder {
    /// A decoder for a body of the given length.
    #[must_use]
    pub const fn new(length: BodyLength) -> Self {
        let state = match length {
            BodyLength::None | BodyLength::Fixed(0) => State::Done,
            BodyLength::Fixed(length) => State::Fixed(length),
            BodyLength::Chunked => State::Size { size: 0, digits: 0 },
            BodyLength::UntilClose => State::UntilClose,
        };
        Self { state }
    }

    /// Whether the whole body has been seen.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The connection has ended: whether that ends the body, too.
    pub fn end_of_stream(&mut self) -> bool {
        if self.state == State::UntilClose {
            self.state = State::Done;
        }
        self.is_done()
    }

    /// How many of `bytes` belong to the body. Less than all of them only when the body is done.
    ///
    /// # Errors
    /// When a chunked body is malformed.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, ChunkError> {
        let mut used = 0;
        while used < bytes.len() {
            let rest = &bytes[used..];
            used += match self.state {
                State::Done => break,
                State::UntilClose => rest.len(),
                State::Fixed(left) => self.take(rest, left, State::Fixed, State::Done),
                State::Data(left) => self.take(rest, left, State::Data, State::DataCr),
                _ => {
                    self.state = self.step(rest[0])?;
                    1
                }
            };
        }
        Ok(used)
    }

    fn take(&mut self, bytes: &[u8], left: u64, more: fn(u64) -> State, after: State) -> usize {
        let available = bytes.len() as u64;
        if available < left {
            self.state = more(left - available);
            return bytes.len();
        }
        self.state = after;
        usize::try_from(left).unwrap_or(bytes.len())
    }

    fn step(&self, byte: u8) -> Result<State, ChunkError> {
        Ok(match (&self.state, byte) {
            (State::Size { size, digits }, _) => Self::step_size(*size, *digits, byte)?,
            (State::Extension { size, .. }, b'\r') => State::SizeLf { size: *size },
            (State::Extension { size, length }, _) if is_line_byte(byte) && *length < LINE_LIMIT => {
                State::Extension { size: *size, length: length + 1 }
            }
            (State::SizeLf { size: 0 }, b'\n') => State::TrailerStart { total: 0 },
            (State::SizeLf { size }, b'\n') => State::Data(*size),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { size: 0, digits: 0 },
            (State::TrailerStart { .. }, b'\r') => State::EndLf,
            // A line that starts with white space would continue the one before it (obs-fold).
            (State::TrailerStart { total }, _)
                if is_line_byte(byte) && !matches!(byte, b' ' | b'\t' | b':') =>
            {
                State::Trailer { total: total + 1, length: 1 }
            }
            (State::Trailer { total, .. }, b'\r') => State::TrailerLf { total: *total },
            (State::Trailer { total, length }, _)
                if is_line_byte(byte) && *length < LINE_LIMIT && *total < TRAILERS_LIMIT =>
            {
                State::Trailer { total: total + 1, length: length + 1 }
            }
            (State::TrailerLf { total }, b'\n') => State::TrailerStart { total: *total },
            (State::EndLf, b'\n') => State::Done,
            (State::DataCr | State::DataLf, _) => return Err(ChunkError("no CRLF after a chunk's data")),
            (State::Extension { .. }, _) => {
                return Err(ChunkError("chunk extension is too long or has a control"));
            }
            (State::SizeLf { .. } | State::TrailerLf { .. } | State::EndLf, _) => {
                return Err(ChunkError("CR without LF"));
            }
            _ => return Err(ChunkError("trailer section is too long or malformed")),
        })
    }

    const fn step_size(size: u64, digits: u8, byte: u8) -> Result<State, ChunkError> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' if digits > 0 => return Ok(State::SizeLf { size }),
            b';' if digits > 0 => return Ok(State::Extension { size, length: 0 }),
            _ => return Err(ChunkError("chunk size is not a hexadecimal number")),
        };
        // Fifteen digits leave room below 2^63 for any sum that a reader may make of it.
        if digits == 15 {
            return Err(ChunkError("chunk size is too large"));
        }
        Ok(State::Size { size: size * 16 + digit as u64, digits: digits + 1 })
    }
}

/// Bytes that may stand in a chunk extension or a trailer field: visible, white space, or beyond ASCII.
const fn is_line_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(length: BodyLength, bytes: &[u8], expected: Result<(usize, bool), ()>) {
        // Whatever the reads cut the bytes into, the answer is the same.
        for cut in 1..=bytes.len().max(1) {
            let mut decoder = BodyDecoder::new(length);
            let mut used = 0;
            let mut outcome = Ok(());
            for piece in bytes.chunks(cut) {
                match decoder.advance(piece) {
                    Ok(count) => used += count,
                    Err(_) => outcome = Err(()),
                }
                if outcome.is_err() || decoder.is_done() {
                    break;
                }
            }
            assert_eq!(outcome.map(|()| (used, decoder.is_done())), expected, "cut into pieces of {cut}");
        }
    }

    #[test]
    fn a_body_ends_where_its_length_says() {
        check(BodyLength::None, b"GET", Ok((0, true)));
        check(BodyLength::Fixed(3), b"abcGET", Ok((3, true)));
        check(BodyLength::Fixed(3), b"ab", Ok((2, false)));
        check(BodyLength::UntilClose, b"abc", Ok((3, false)));
        check(BodyLength::Chunked, b"3\r\nabc\r\n0\r\n\r\nGET", Ok((13, true)));
        check(BodyLength::Chunked, b"0A;a=\"b\"\r\n0123456789\r\n0\r\nx: y\r\n\r\n", Ok((33, true)));
        check(BodyLength::Chunked, b"3\r\nabc\r\n0\r\n", Ok((11, false)));
    }

    #[test]
    fn ambiguous_chunks_are_refused() {
        for bytes in [
            b"\r\n".as_slice(),
            b"g\r\n",
            b"+3\r\nabc",
            b"0x3\r\nabc",
            b" 3\r\nabc",
            b"3 \r\nabc",
            b"3\nabc",
            b"3;x\nabc\r\n0\r\n\r\n",
            b"3\r\nabcd\r\n",
            b"3\r\nabc\n0\r\n\r\n",
            b"1000000000000000\r\n",
            b"0\r\nx: y\n\r\n",
            b"0\r\n x: y\r\n\r\n",
            b"0\r\nx: \0y\r\n\r\n",
            b"3;\0\r\nabc",
        ] {
            check(BodyLength::Chunked, bytes, Err(()));
        }
    }
}
