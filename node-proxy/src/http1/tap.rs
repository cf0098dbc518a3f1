//! A body's bytes, heard along while they pass: what goes to one server goes to another one, too.
//!
//! The copy never holds up what it is a copy of. A listener that is too slow is cut off.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::forward::Source;

/// How far a listener may be behind, in bytes.
const PATIENCE: usize = 256 * 1024;

#[derive(Debug, Default)]
struct Pipe {
    bytes: Vec<u8>,
    read: usize,
    end: Option<End>,
    waiting: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    Broken,
}

/// Where bytes go in. One that is dropped before its end breaks the copy off.
#[derive(Debug)]
pub struct Tap(Rc<RefCell<Pipe>>);

/// A listener in the place of a client: its request's body comes out, and what it is answered is lost.
#[derive(Debug)]
pub struct Listener(Rc<RefCell<Pipe>>);

/// A tap with its listener.
#[must_use]
pub fn open() -> (Tap, Listener) {
    let pipe = Rc::<RefCell<Pipe>>::default();
    (Tap(Rc::clone(&pipe)), Listener(pipe))
}

impl Pipe {
    fn close(&mut self, end: End) {
        self.end.get_or_insert(end);
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }
}

impl Tap {
    /// Passes bytes on.
    pub(super) fn push(&self, bytes: &[u8]) {
        let mut pipe = self.0.borrow_mut();
        if pipe.end.is_some() {
            return;
        }
        if pipe.bytes.len() - pipe.read + bytes.len() > PATIENCE {
            (pipe.bytes, pipe.read) = (Vec::new(), 0);
            return pipe.close(End::Broken);
        }
        pipe.bytes.extend_from_slice(bytes);
        if let Some(waker) = pipe.waiting.take() {
            waker.wake();
        }
    }

    /// Says that this was the whole body.
    pub(super) fn end(&self) {
        self.0.borrow_mut().close(End::Whole);
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.0.borrow_mut().close(End::Broken);
    }
}

impl AsyncRead for Listener {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut pipe = self.0.borrow_mut();
        let unread = &pipe.bytes[pipe.read..];
        if !unread.is_empty() {
            let count = unread.len().min(space.remaining());
            space.put_slice(&unread[..count]);
            pipe.read += count;
            if pipe.read == pipe.bytes.len() {
                pipe.read = 0;
                pipe.bytes.clear();
            }
            return Poll::Ready(Ok(()));
        }
        match pipe.end {
            Some(End::Broken) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            // After a whole body this is a client that waits for its answer.
            Some(End::Whole) => Poll::Pending,
            None => {
                pipe.waiting = Some(cx.waker().clone());
                Poll::Pending
            }
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
