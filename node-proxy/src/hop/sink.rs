//! A socket as TLS writes to it: without waiting, and told when there is room again.

use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite as _;

use crate::forward::Socket;

/// Writes to a socket as far as it goes at once.
pub(super) struct Sink<'a, 'b> {
    socket: &'a mut Socket,
    cx: &'a mut Context<'b>,
}

impl<'a, 'b> Sink<'a, 'b> {
    /// Whoever writes is told when the socket takes more.
    pub(super) const fn new(socket: &'a mut Socket, cx: &'a mut Context<'b>) -> Self {
        Self { socket, cx }
    }
}

impl Write for Sink<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        at_once(Pin::new(&mut *self.socket).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        at_once(Pin::new(&mut *self.socket).poll_write_vectored(self.cx, pieces))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn at_once<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}
