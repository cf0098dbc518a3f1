//! Two connections joined: what one says, the other hears, until both have ended.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use thiserror::Error;
use tokio::io::AsyncWrite;

use super::Source;
use crate::error::FailureReason;
use crate::hop;
use crate::http1::ReadBuffer;

/// Which of the two joined connections failed.
#[derive(Debug, Error)]
pub enum CopyError {
    /// The one that the client opened.
    #[error("connection of the client failed")]
    Client(#[source] io::Error),
    /// The one towards the server.
    #[error("connection to the server failed")]
    Server(#[source] io::Error),
}

impl CopyError {
    /// The reason to give.
    #[must_use]
    pub fn reason(&self) -> FailureReason {
        let (Self::Client(error) | Self::Server(error)) = self;
        match self {
            _ if error.kind() == hop::EXPIRED => FailureReason::CertificateExpired,
            _ if error.kind() == hop::SHED => FailureReason::BufferLimit,
            Self::Client(_) => FailureReason::ClientClosed,
            Self::Server(_) => FailureReason::UpstreamReset,
        }
    }
}

/// What has been copied, in bytes. Read it also after an error.
#[derive(Clone, Copy, Debug, Default)]
pub struct Copied {
    /// From the client to the server.
    pub sent: u64,
    /// From the server to the client.
    pub received: u64,
}

#[derive(Debug, Default)]
struct Way {
    state: WayState,
    bytes: u64,
    unflushed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum WayState {
    #[default]
    Copying,
    ShuttingDown,
    Done,
}

enum WayError {
    Source(io::Error),
    Sink(io::Error),
}

impl Way {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        (source, buffer): (&mut impl Source, &mut ReadBuffer),
        sink: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), WayError>> {
        while self.state == WayState::Copying {
            while !buffer.unread().is_empty() {
                let count =
                    ready!(Pin::new(&mut *sink).poll_write(cx, buffer.unread())).map_err(WayError::Sink)?;
                if count == 0 {
                    return Poll::Ready(Err(WayError::Sink(io::ErrorKind::WriteZero.into())));
                }
                buffer.consume(count);
                self.bytes += count as u64;
                self.unflushed = true;
            }
            match buffer.poll_fill(cx, source) {
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *sink).poll_flush(cx)).map_err(WayError::Sink)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => self.state = WayState::ShuttingDown,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(WayError::Source(error))),
            }
        }
        if self.state == WayState::ShuttingDown {
            // The end of one way is passed on as such, and the other way goes on: a half-close stays one.
            ready!(Pin::new(sink).poll_shutdown(cx)).map_err(WayError::Sink)?;
            self.state = WayState::Done;
        }
        Poll::Ready(Ok(()))
    }
}

/// Joins two connections until both ways have ended. The buffers may hold bytes that were read before.
///
/// # Errors
/// When either connection fails, or ends without a proper end; the caller then resets the other one.
pub async fn copy_both<C, S>(
    (client, client_buffer): (&mut C, &mut ReadBuffer),
    (server, server_buffer): (&mut S, &mut ReadBuffer),
    copied: &mut Copied,
) -> Result<(), CopyError>
where
    C: Source + AsyncWrite,
    S: Source + AsyncWrite,
{
    let mut there = Way::default();
    let mut back = Way::default();
    std::future::poll_fn(|cx| {
        let sent = there.poll(cx, (&mut *client, &mut *client_buffer), &mut *server);
        let received = back.poll(cx, (&mut *server, &mut *server_buffer), &mut *client);
        *copied = Copied { sent: there.bytes, received: back.bytes };
        match (sent, received) {
            (Poll::Ready(Err(error)), _) => Poll::Ready(Err(match error {
                WayError::Source(error) => CopyError::Client(error),
                WayError::Sink(error) => CopyError::Server(error),
            })),
            (_, Poll::Ready(Err(error))) => Poll::Ready(Err(match error {
                WayError::Source(error) => CopyError::Server(error),
                WayError::Sink(error) => CopyError::Client(error),
            })),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_half_close_leaves_the_other_way_open() {
        let (mut client, mut proxy_client) = duplex(64);
        let (mut proxy_server, mut server) = duplex(64);
        let joined = tokio::spawn(async move {
            let mut copied = Copied::default();
            let mut early = ReadBuffer::with_bytes(b"first ".to_vec());
            let mut none = ReadBuffer::default();
            let outcome =
                copy_both((&mut proxy_client, &mut early), (&mut proxy_server, &mut none), &mut copied).await;
            (outcome.is_ok(), copied.sent, copied.received)
        });
        client.write_all(b"request").await.expect("written");
        client.shutdown().await.expect("shut down");
        let mut request = String::new();
        server.read_to_string(&mut request).await.expect("read");
        assert_eq!(request, "first request");
        server.write_all(b"answer after the end").await.expect("written");
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("read");
        assert_eq!(answer, "answer after the end");
        assert_eq!(joined.await.expect("joined"), (true, 13, 20));
    }

    #[tokio::test]
    async fn a_failing_side_is_named() {
        let mut client = tokio_test_reader(b"", Some(io::ErrorKind::UnexpectedEof));
        let (mut server, _other) = duplex(64);
        let mut copied = Copied::default();
        let outcome = copy_both(
            (&mut client, &mut ReadBuffer::default()),
            (&mut server, &mut ReadBuffer::default()),
            &mut copied,
        )
        .await;
        assert!(matches!(outcome, Err(CopyError::Client(_))), "{outcome:?}");
    }

    /// A stream that gives some bytes, and then an error.
    fn tokio_test_reader(bytes: &'static [u8], error: Option<io::ErrorKind>) -> FailingStream {
        FailingStream { bytes, error }
    }

    struct FailingStream {
        bytes: &'static [u8],
        error: Option<io::ErrorKind>,
    }

    impl Source for FailingStream {}

    impl tokio::io::AsyncRead for FailingStream {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            space: &mut tokio::io::ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            space.put_slice(self.bytes);
            match self.error.take() {
                Some(error) => Poll::Ready(Err(error.into())),
                None => Poll::Ready(Ok(())),
            }
        }
    }

    impl AsyncWrite for FailingStream {
        fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
}
