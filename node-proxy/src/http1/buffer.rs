//! Bytes that were read from a connection and not yet used.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::HEAD_LIMIT;

/// What one read asks for; also the size of a TLS record's content.
const READ_SIZE: usize = 16 * 1024;

/// A growing buffer in front of a reader. It never holds more than one head's limit and one read.
#[derive(Debug, Default)]
pub struct ReadBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl ReadBuffer {
    /// A buffer that starts with bytes already read.
    #[must_use]
    pub fn with_bytes(bytes: Vec<u8>) -> Self {
        let end = bytes.len();
        Self { bytes, start: 0, end }
    }

    /// What has been read and not yet consumed.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Drops the first `count` unread bytes. Gives the memory back when the buffer is empty and large.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Gives the memory of an empty buffer back: an idle connection should cost little.
    pub fn release(&mut self) {
        if self.start == self.end {
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
        let mut space = ReadBuf::new(&mut self.bytes[self.end..]);
        ready!(Pin::new(reader).poll_read(cx, &mut space))?;
        let count = space.filled().len();
        self.end += count;
        Poll::Ready(Ok(count))
    }

    /// Reads once, as a future.
    ///
    /// # Errors
    /// As [`Self::poll_fill`].
    pub async fn fill(&mut self, reader: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx, reader)).await
    }

    fn make_room(&mut self) -> io::Result<()> {
        if self.end < self.bytes.len() {
            return Ok(());
        }
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            return Ok(());
        }
        if self.end >= HEAD_LIMIT + READ_SIZE {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.bytes.resize(self.end + READ_SIZE, 0);
        Ok(())
    }
}
