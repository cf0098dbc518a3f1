//! A body's bytes, heard along while they pass ([`crate::forward::tap`]).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::forward::Source;
use crate::forward::tap::{self, End, Outlet};

/// Bytes on their way.
#[derive(Debug, Default)]
pub struct Held {
    bytes: Vec<u8>,
    read: usize,
}

/// Where bytes go in.
#[derive(Debug)]
pub struct Tap(tap::Tap<Held>);

/// A listener in the place of a client: its request's body comes out, and what it is answered is lost.
#[derive(Debug)]
pub struct Listener(Outlet<Held>);

/// A tap with its listener.
#[must_use]
pub fn open() -> (Tap, Listener) {
    let (tap, outlet) = tap::open();
    (Tap(tap), Listener(outlet))
}

impl Tap {
    /// Passes bytes on.
    pub(super) fn push(&self, bytes: &[u8]) {
        self.0.push(|held| {
            held.bytes.extend_from_slice(bytes);
            held.bytes.len() - held.read
        });
    }

    /// Says that this was the whole body.
    pub(super) fn end(&self) {
        self.0.end();
    }
}

impl Held {
    /// Reads as much as there is room for; `None` when nothing is there.
    fn read_into(&mut self, space: &mut ReadBuf<'_>) -> Option<()> {
        let unread = &self.bytes[self.read..];
        if unread.is_empty() {
            return None;
        }
        let count = unread.len().min(space.remaining());
        space.put_slice(&unread[..count]);
        self.read += count;
        if self.read == self.bytes.len() {
            self.read = 0;
            self.bytes.clear();
        }
        Some(())
    }
}

impl AsyncRead for Listener {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.0.poll(cx, |held| held.read_into(space)) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Ready(Err(End::Broken)) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            // After a whole body this is a client that waits for its answer.
            Poll::Ready(Err(End::Whole)) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Source for Listener {}

impl AsyncWrite for Listener {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncReadExt as _;
    use tokio::time::timeout;

    use super::*;
    use crate::forward::tap::PATIENCE;

    #[tokio::test]
    async fn what_goes_in_comes_out_and_the_whole_is_no_end_of_the_client() {
        let (tap, mut listener) = open();
        tap.push(b"ab");
        tap.push(b"c");
        let mut bytes = [0; 3];
        listener.read_exact(&mut bytes).await.expect("three bytes");
        assert_eq!(&bytes, b"abc");
        tap.end();
        drop(tap);
        let waiting = timeout(Duration::from_millis(20), listener.read(&mut bytes)).await;
        assert!(waiting.is_err(), "it waits for its answer");
    }

    #[tokio::test]
    async fn a_part_and_a_listener_that_is_too_slow_are_broken_off() {
        let (tap, mut listener) = open();
        tap.push(b"a");
        drop(tap);
        assert_eq!(listener.read_u8().await.expect("one byte"), b'a');
        assert_eq!(listener.read_u8().await.expect_err("no more").kind(), io::ErrorKind::BrokenPipe);

        let (tap, mut listener) = open();
        tap.push(&vec![0; PATIENCE]);
        tap.push(b"a");
        tap.end();
        assert_eq!(listener.read_u8().await.expect_err("cut off").kind(), io::ErrorKind::BrokenPipe);
    }
}
