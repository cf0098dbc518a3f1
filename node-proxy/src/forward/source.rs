//! Where bytes are read from.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::Socket;

/// A connection that is read into a buffer. One that has its bytes in memory already hands them over.
pub trait Source: AsyncRead + Unpin {
    /// Reads once, behind what `bytes` holds, as far as its capacity allows; where that is used up, `room` more
    /// bytes. Ready with 0 at the end.
    ///
    /// # Errors
    /// Of the connection.
    fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut Vec<u8>,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        read_behind(self, cx, bytes, room)
    }
}

/// Reads once, as [`Source::poll_read_into`] does unless it is done better.
pub(crate) fn read_behind(
    source: &mut (impl AsyncRead + Unpin + ?Sized),
    cx: &mut Context<'_>,
    bytes: &mut Vec<u8>,
    room: usize,
) -> Poll<io::Result<usize>> {
    if bytes.len() == bytes.capacity() {
        bytes.reserve_exact(room);
    }
    // The future keeps nothing between polls.
    pin!(source.read_buf(bytes)).poll(cx)
}

impl Source for Socket {}
impl Source for tokio::io::Empty {}

#[cfg(test)]
impl Source for tokio::io::DuplexStream {}
