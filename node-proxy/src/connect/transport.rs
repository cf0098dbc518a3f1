//! A connection to an endpoint, in plain text or wrapped in the hop's mTLS.
//!
//! Dropping one is a truncation to the other side: whoever is done with it in good order calls [`Transport::close`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::client::TlsStream;

use crate::forward::{Reset, Socket, Source, read_behind};
use crate::hop::{Hop, HopStream};
use crate::turns;

/// How long the other side of an ended connection has for its own end.
const FAREWELL: Duration = Duration::from_secs(2);
/// How many reads the bytes are worth that come after the end.
const FAREWELL_READS: usize = 64;

/// A connection to an endpoint.
#[derive(Debug)]
pub enum Transport {
    /// Over the mTLS hop (design D2).
    Hop(HopStream),
    /// Plain text.
    Plain(Socket),
    /// TLS with the application itself, over one of the others.
    Secured(Box<TlsStream<Self>>),
}

impl Transport {
    /// Ends a connection in good order, in the background: the end is said and the other
    /// side's is waited for, since closing before it has come would turn it into a reset.
    ///
    /// Only within a data path thread. One whose last message is not whole must be reset instead.
    pub fn close(mut self) {
        turns::spawn(async move {
            let ending = async {
                self.shutdown().await?;
                let mut rest = [0; 1024];
                for _ in 0..FAREWELL_READS {
                    if self.read(&mut rest).await? == 0 {
                        break;
                    }
                }
                Ok::<(), io::Error>(())
            };
            // However it ends, nothing is left to be said.
            let _ = tokio::time::timeout(FAREWELL, ending).await;
        });
    }

    /// The hop that this is a stream of.
    #[must_use]
    pub fn hop(&self) -> Option<&Hop> {
        match self {
            Self::Hop(stream) => Some(stream.hop()),
            Self::Plain(_) => None,
            Self::Secured(stream) => stream.get_ref().0.hop(),
        }
    }

    /// Whether an idle connection is still of use: nothing has come on it, neither bytes nor its end.
    pub fn is_quiet(&mut self) -> bool {
        let below = match self {
            Self::Secured(stream) => stream.get_ref().0,
            Self::Hop(_) | Self::Plain(_) => &*self,
        };
        if let Self::Hop(stream) = below
            && !stream.is_on_an_open_hop()
        {
            return false;
        }
        let mut byte = [0];
        let mut space = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(std::task::Waker::noop());
        Pin::new(self).poll_read(&mut context, &mut space).is_pending()
    }
}

impl Reset for Transport {
    fn reset(&self) {
        match self {
            Self::Hop(stream) => stream.reset(),
            Self::Plain(stream) => stream.reset(),
            Self::Secured(stream) => stream.get_ref().0.reset(),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Hop(stream) => Pin::new(stream).poll_read(cx, space),
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, space),
            Self::Secured(stream) => Pin::new(stream).poll_read(cx, space),
        }
    }
}

impl Source for Transport {
    fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut Vec<u8>,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Hop(stream) => stream.poll_read_into(cx, bytes, room),
            Self::Plain(stream) => stream.poll_read_into(cx, bytes, room),
            Self::Secured(stream) => read_behind(stream, cx, bytes, room),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Hop(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Secured(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Hop(stream) => Pin::new(stream).poll_flush(cx),
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Secured(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Hop(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Secured(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
