//! A connection whose first bytes were read already.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http1::ReadBuffer;

/// Gives the bytes of a buffer first, and then the connection's.
#[derive(Debug)]
pub struct Rewind<S> {
    buffer: ReadBuffer,
    stream: S,
}

impl<S> Rewind<S> {
    /// `buffer` comes first.
    pub const fn new(buffer: ReadBuffer, stream: S) -> Self {
        Self { buffer, stream }
    }

    /// What was not read again, and the connection.
    pub fn into_parts(self) -> (ReadBuffer, S) {
        (self.buffer, self.stream)
    }

    /// The connection.
    pub const fn stream(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewind<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let unread = self.buffer.unread();
        if unread.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, space);
        }
        let count = unread.len().min(space.remaining());
        space.put_slice(&unread[..count]);
        self.buffer.consume(count);
        self.buffer.release();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewind<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
