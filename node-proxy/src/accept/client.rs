//! A client's connection as the data path reads and writes it: as it came, inside the mesh's hop, or with its TLS ended here.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::rewind::Rewind;
use crate::forward::{Reset, Socket, Source, read_behind};
use crate::hop::HopStream;
use crate::tls::{ClientHelloPeek, inspect};

/// A client's connection.
#[derive(Debug)]
pub enum ClientStream {
    /// As it came.
    Plain(Socket),
    /// As it came, from a client that was waited for in vain, and said whether it has been heard meanwhile. If it begins with the
    /// mesh's hop after all, that is not for whoever is behind.
    Late(Socket, bool),
    /// A stream of the hop, from a pod of the mesh to a Gateway.
    Hop(HopStream),
    /// What is in the TLS that a listener has ended.
    Terminated(Box<TlsStream<Rewind<Self>>>),
}

impl From<Socket> for ClientStream {
    fn from(socket: Socket) -> Self {
        Self::Plain(socket)
    }
}

impl From<HopStream> for ClientStream {
    fn from(stream: HopStream) -> Self {
        Self::Hop(stream)
    }
}

impl ClientStream {
    /// The protocol that its TLS has agreed on (RFC 7301), if it has TLS and has agreed on one.
    #[must_use]
    pub fn agreed_protocol(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) | Self::Late(..) | Self::Hop(_) => None,
            Self::Terminated(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }
}

impl Reset for ClientStream {
    fn reset(&self) {
        match self {
            Self::Plain(socket) | Self::Late(socket, _) => socket.reset(),
            Self::Hop(stream) => stream.reset(),
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
            Self::Late(socket, is_heard) => {
                let before = space.filled().len();
                ready!(Pin::new(socket).poll_read(cx, space))?;
                let is_first = !std::mem::replace(is_heard, true);
                let first = || inspect(&space.filled()[before..]);
                let is_mesh = is_first
                    && matches!(first(), ClientHelloPeek::Mesh | ClientHelloPeek::UnknownMeshVersion(_));
                Poll::Ready(if is_mesh { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) })
            }
            Self::Hop(stream) => Pin::new(stream).poll_read(cx, space),
            Self::Terminated(stream) => Pin::new(stream).poll_read(cx, space),
        }
    }
}

impl Source for ClientStream {
    fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut Vec<u8>,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Hop(stream) => stream.poll_read_into(cx, bytes, room),
            Self::Plain(_) | Self::Late(..) | Self::Terminated(_) => read_behind(self, cx, bytes, room),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(socket) | Self::Late(socket, _) => Pin::new(socket).poll_write(cx, bytes),
            Self::Hop(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Terminated(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(socket) | Self::Late(socket, _) => Pin::new(socket).poll_write_vectored(cx, pieces),
            Self::Hop(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Self::Terminated(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) | Self::Late(socket, _) => socket.is_write_vectored(),
            Self::Hop(stream) => stream.is_write_vectored(),
            Self::Terminated(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) | Self::Late(socket, _) => Pin::new(socket).poll_flush(cx),
            Self::Hop(stream) => Pin::new(stream).poll_flush(cx),
            Self::Terminated(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) | Self::Late(socket, _) => Pin::new(socket).poll_shutdown(cx),
            Self::Hop(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Terminated(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
