//! The frames of a hop, version 1: what the two proxies say to each other inside the mTLS connection.
//!
//! Every frame begins with eight bytes, in network order: the stream's number (32 bits), the kind (8 bits) and a
//! length (24 bits). [`Kind::Data`] is followed by as many bytes; for [`Kind::Window`] the length is the credit
//! itself; in all other kinds it is 0. The client's side numbers its streams from 1 upwards and uses none twice.

use thiserror::Error;

/// Bytes before a frame's payload.
pub const HEAD_LENGTH: usize = 8;
/// What one frame carries at most: with its head, one full TLS record (RFC 8446 section 5.1).
pub const MAX_PAYLOAD: usize = 16 * 1024 - HEAD_LENGTH;
/// The largest number that the length can hold.
const MAX_LENGTH: u32 = (1 << 24) - 1;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes of the stream.
    Data,
    /// A new stream, please: from the client's side only.
    Open,
    /// The application has taken the stream's connection.
    Accept,
    /// It has not; nothing of the stream was passed on.
    Refuse,
    /// No more bytes this way: a FIN.
    End,
    /// The stream is broken off, both ways: a RST.
    Reset,
    /// The sender of this takes as many more bytes of the stream.
    Window,
    /// The sender of this has more to say than it has credit for.
    Starved,
    /// No new streams, please: from the destination's side only, of stream 0. Those that are there or on their way are
    /// served to their ends.
    GoAway,
    /// As [`Kind::Open`], for the other proxy itself and no application: on the stream comes the [`Proof`] of an older
    /// hop between the same two pods, which is to live for as long as this one may. [`Kind::Accept`] or
    /// [`Kind::Refuse`] is all that is answered.
    ///
    /// [`Proof`]: super::Proof
    Continue,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Data,
        Self::Open,
        Self::Accept,
        Self::Refuse,
        Self::End,
        Self::Reset,
        Self::Window,
        Self::Starved,
        Self::GoAway,
        Self::Continue,
    ];
}

/// The first bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// The stream's number.
    pub stream: u32,
    /// What it says.
    pub kind: Kind,
    /// The payload's bytes, or a credit.
    pub length: u32,
}

/// What is wrong with a frame: the hop ends.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum WireError {
    /// A kind that this version does not have.
    #[error("a frame of the unknown kind {0}")]
    UnknownKind(u8),
    /// A length where there is none.
    #[error("a {0:?} frame with a length")]
    Length(Kind),
    /// More bytes than the credit allows.
    #[error("stream {0} has sent more than it may")]
    BeyondWindow(u32),
    /// A number that was used before, or by the side that opens none.
    #[error("stream {0} cannot be opened")]
    Open(u32),
}

impl FrameHead {
    /// A frame without a payload.
    #[must_use]
    pub const fn new(stream: u32, kind: Kind) -> Self {
        Self { stream, kind, length: 0 }
    }

    /// A frame with as many bytes of payload. At most [`MAX_PAYLOAD`] are sent at once.
    #[must_use]
    pub const fn data(stream: u32, length: u32) -> Self {
        Self { stream, kind: Kind::Data, length }
    }

    /// A frame that grants credit.
    #[must_use]
    pub const fn window(stream: u32, credit: u32) -> Self {
        Self { stream, kind: Kind::Window, length: if credit < MAX_LENGTH { credit } else { MAX_LENGTH } }
    }

    /// As it goes on the wire.
    #[must_use]
    pub fn encode(self) -> [u8; HEAD_LENGTH] {
        let [a, b, c, d] = self.stream.to_be_bytes();
        let [_, high, middle, low] = self.length.to_be_bytes();
        let kind = Kind::ALL.iter().position(|kind| *kind == self.kind);
        let kind = kind.and_then(|index| u8::try_from(index).ok()).unwrap_or(u8::MAX);
        [a, b, c, d, kind, high, middle, low]
    }

    /// As it comes from the wire.
    ///
    /// # Errors
    /// For an unknown kind, or a length where there is none.
    pub fn decode([a, b, c, d, kind, high, middle, low]: [u8; HEAD_LENGTH]) -> Result<Self, WireError> {
        let stream = u32::from_be_bytes([a, b, c, d]);
        let length = u32::from_be_bytes([0, high, middle, low]);
        let kind = *Kind::ALL.get(usize::from(kind)).ok_or(WireError::UnknownKind(kind))?;
        match kind {
            Kind::Data | Kind::Window => {}
            _ if length == 0 => {}
            _ => return Err(WireError::Length(kind)),
        }
        Ok(Self { stream, kind, length })
    }
}

/// A piece of the wire: a frame's head, or bytes of the payload that follows one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A frame begins.
    Head(FrameHead),
    /// Bytes of this stream, all or some of a frame's.
    Payload(u32, &'a [u8]),
}

/// Cuts a stream of bytes, which comes in pieces of any size, into frames.
#[derive(Debug, Default)]
pub struct FrameReader {
    head: [u8; HEAD_LENGTH],
    /// How many bytes of a head are there.
    filled: usize,
    /// The frame whose payload is under way, and how much of it is to come.
    payload: (u32, usize),
}

impl FrameReader {
    /// The next piece of `input`, which is advanced. `None` when all is used.
    ///
    /// # Errors
    /// When a head is none.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, WireError> {
        let (stream, left) = self.payload;
        if left > 0 && !input.is_empty() {
            let (bytes, rest) = input.split_at(left.min(input.len()));
            *input = rest;
            self.payload.1 -= bytes.len();
            return Ok(Some(Piece::Payload(stream, bytes)));
        }
        let count = (HEAD_LENGTH - self.filled).min(input.len());
        let (bytes, rest) = input.split_at(count);
        self.head[self.filled..self.filled + count].copy_from_slice(bytes);
        *input = rest;
        self.filled += count;
        if self.filled < HEAD_LENGTH {
            return Ok(None);
        }
        self.filled = 0;
        let head = FrameHead::decode(self.head)?;
        if head.kind == Kind::Data {
            self.payload = (head.stream, usize::try_from(head.length).unwrap_or(usize::MAX));
        }
        Ok(Some(Piece::Head(head)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_what_they_were() {
        for kind in Kind::ALL {
            let length = if matches!(kind, Kind::Data | Kind::Window) { 0x00ab_cdef } else { 0 };
            let head = FrameHead { stream: 0x0102_0304, kind, length };
            assert_eq!(FrameHead::decode(head.encode()), Ok(head));
        }
        assert_eq!(FrameHead::window(1, u32::MAX).length, MAX_LENGTH);
        assert_eq!(FrameHead::data(0x0102_0304, 5).encode(), [1, 2, 3, 4, 0, 0, 0, 5]);
    }

    #[test]
    fn what_is_no_head_is_an_error() {
        assert_eq!(FrameHead::decode([0, 0, 0, 1, 10, 0, 0, 0]), Err(WireError::UnknownKind(10)));
        assert_eq!(FrameHead::decode([0, 0, 0, 1, 4, 0, 0, 1]), Err(WireError::Length(Kind::End)));
        assert_eq!(FrameHead::decode([0, 0, 0, 1, 9, 0, 0, 32]), Err(WireError::Length(Kind::Continue)));
    }

    #[test]
    fn frames_may_come_in_pieces_of_any_size() {
        let mut wire = FrameHead::new(1, Kind::Open).encode().to_vec();
        wire.extend_from_slice(&FrameHead::data(1, 5).encode());
        wire.extend_from_slice(b"hello");
        wire.extend_from_slice(&FrameHead::data(1, 0).encode());
        wire.extend_from_slice(&FrameHead::new(1, Kind::End).encode());
        for size in 1..=wire.len() {
            let mut reader = FrameReader::default();
            let (mut heads, mut bytes) = (Vec::new(), Vec::new());
            for mut input in wire.chunks(size) {
                while let Some(piece) = reader.next(&mut input).expect("good frames") {
                    match piece {
                        Piece::Head(head) => heads.push(head.kind),
                        Piece::Payload(stream, piece) => {
                            assert_eq!(stream, 1);
                            bytes.extend_from_slice(piece);
                        }
                    }
                }
            }
            assert_eq!(heads, [Kind::Open, Kind::Data, Kind::Data, Kind::End], "{size}");
            assert_eq!(bytes, b"hello", "{size}");
        }
    }
}
