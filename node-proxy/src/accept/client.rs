//! A client's connection as the data path reads and writes it: as it came, or with its TLS ended here.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::rewind::Rewind;
use crate::forward::{Reset, Socket, Source};

/// A client's connection.
#[derive(Debug)]
pub enum ClientStream {
    /// As it came.
    Plain(Socket),
    /// What is in the TLS that a listener has ended.
    Terminated(Box<TlsStream<Rewind<Socket>>>),
}

impl From<Socket> for ClientStream {
    fn from(socket: Socket) -> Self {
        Self::Plain(socket)
    }
}

impl ClientStream {
    /// The protocol that its TLS has agreed on (RFC 7301), if it has TLS and has agreed on one.
    #[must_use]
    pub fn agreed_protocol(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Terminated(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }
}

impl Reset for ClientStream {
    fn reset(&self) {
        match self {
            Self::Plain(socket) => socket.reset(),
            Self::Terminated(stream) => stream.get_ref().0.stream().reset(),
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, space),
            Self::Terminated(stream) => Pin::new(stream).poll_read(cx, space),
        }
    }
}

impl Source for ClientStream {}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Terminated(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, pieces),
            Self::Terminated(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Terminated(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Terminated(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Terminated(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
