//! Bytes that were read from a connection and not yet used.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::HEAD_LIMIT;
use crate::hop::frame::MAX_PAYLOAD;

/// What a first read asks for: as much as goes on in one piece.
const READ_SIZE: usize = MAX_PAYLOAD;
/// What reads ask for that have always found more.
const LARGE_READ_SIZE: usize = 4 * READ_SIZE;

/// A growing buffer in front of a reader. It never holds more than one head's limit and one read.
#[derive(Debug, Default)]
pub struct ReadBuffer {
    bytes: Vec<u8>,
    start: usize,
}

impl ReadBuffer {
    /// A buffer that starts with bytes already read.
    #[must_use]
    pub const fn with_bytes(bytes: Vec<u8>) -> Self {
        Self { bytes, start: 0 }
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
            let was_full = self.bytes.len() == self.bytes.capacity();
            self.bytes.clear();
            if was_full && self.bytes.capacity() < LARGE_READ_SIZE {
                self.bytes.reserve_exact(LARGE_READ_SIZE);
            }
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
    /// Of the reader; `OutOfMemory` when the unread bytes have reached the limit.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
    ) -> Poll<io::Result<usize>> {
        self.make_room()?;
        // The future keeps nothing between polls.
        let polled = pin!(reader.read_buf(&mut self.bytes)).poll(cx);
        if polled.is_pending() {
            // Nobody knows for how long: ten thousand idle connections should cost little.
            self.release();
        }
        polled
    }

    /// Reads once, as a future.
    ///
    /// # Errors
    /// As [`Self::poll_fill`].
    pub async fn fill(&mut self, reader: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx, reader)).await
    }

    fn make_room(&mut self) -> io::Result<()> {
        if self.bytes.len() < self.bytes.capacity() {
            return Ok(());
        }
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
            return Ok(());
        }
        if self.bytes.len() >= HEAD_LIMIT + READ_SIZE {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.bytes.reserve_exact(READ_SIZE);
        Ok(())
    }
}
