//! Bytes that were read from a connection and not yet used.

use std::io;
use std::task::{Context, Poll, ready};

use super::HEAD_LIMIT;
use crate::forward::Source;
use crate::hop::frame::MAX_PAYLOAD;
use crate::turns::{self, Holding};

/// What a first read asks for: as much as goes on in one piece.
const READ_SIZE: usize = MAX_PAYLOAD;
/// What a read asks for after one that has filled its buffer.
const LARGE_READ_SIZE: usize = 16 * READ_SIZE;

/// A growing buffer in front of a source. It never holds more than one head's limit and one read.
#[derive(Debug, Default)]
pub struct ReadBuffer {
    bytes: Vec<u8>,
    start: usize,
    /// Whether the last read has left nothing free.
    was_filled: bool,
    holding: Holding,
}

impl ReadBuffer {
    /// A buffer that starts with bytes already read.
    #[must_use]
    pub const fn with_bytes(bytes: Vec<u8>) -> Self {
        Self { bytes, start: 0, was_filled: false, holding: Holding::new() }
    }

    /// What has been read and not yet consumed.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Drops the first `count` unread bytes.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.bytes.len());
        if self.start == self.bytes.len() {
            self.start = 0;
            self.bytes.clear();
        }
    }

    /// Gives the memory of an empty buffer back: an idle connection should cost little.
    pub fn release(&mut self) {
        if self.unread().is_empty() {
            *self = Self::default();
        }
    }

    /// Reads once. Ready with 0 at the end of the stream.
    ///
    /// # Errors
    /// Of the source; `OutOfMemory` when the unread bytes have reached the limit.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, source: &mut impl Source) -> Poll<io::Result<usize>> {
        ready!(turns::poll_may_carry(cx));
        let room = self.make_room()?;
        let polled = source.poll_read_into(cx, &mut self.bytes, room);
        match polled {
            Poll::Ready(Ok(count)) => {
                turns::carry(count);
                self.was_filled = count >= READ_SIZE && self.bytes.len() == self.bytes.capacity();
            }
            // Nobody knows for how long: ten thousand idle connections should cost little.
            Poll::Pending if self.bytes.is_empty() => self.bytes = Vec::new(),
            _ => {}
        }
        self.holding.set(self.bytes.capacity());
        polled
    }

    /// Reads once, as a future.
    ///
    /// # Errors
    /// As [`Self::poll_fill`].
    pub async fn fill(&mut self, source: &mut impl Source) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx, source)).await
    }

    /// How much room the next read should have, should there be none.
    fn make_room(&mut self) -> io::Result<usize> {
        let is_large = self.was_filled && self.holding.may_grow(LARGE_READ_SIZE);
        let room = if is_large { LARGE_READ_SIZE } else { READ_SIZE };
        if self.bytes.len() < self.bytes.capacity() {
            // An empty buffer may be too small for what comes by now.
            if self.bytes.is_empty() && self.bytes.capacity() < room {
                self.bytes = Vec::new();
            }
        } else if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        } else if self.bytes.len() >= HEAD_LIMIT + READ_SIZE {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(room)
    }
}
