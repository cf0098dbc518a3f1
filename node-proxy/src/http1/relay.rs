//! One message on its way from one connection to another: head first, then the body as it comes.
//!
//! What of the body has gone with the head, and what is kept beside it, can be sent a second time; what has gone alone
//! cannot.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use thiserror::Error;
use tokio::io::AsyncWrite;

use super::ReadBuffer;
use super::framing::{BodyDecoder, BodyLength, ChunkError};
use super::tap::Tap;
use crate::forward::Source;
use crate::turns::Holding;

/// How much of a body goes out together with the head, so that a small message is one write and one record.
const COALESCE: usize = 16 * 1024;

/// Why a message did not get across.
#[derive(Debug, Error)]
pub enum RelayError {
    /// The sender's connection failed, or ended inside the message.
    #[error("reading from the sender")]
    Source(#[source] io::Error),
    /// The sender's body breaks the grammar.
    #[error(transparent)]
    Body(#[from] ChunkError),
    /// The receiver's connection failed.
    #[error("writing to the receiver")]
    Sink(#[source] io::Error),
}

/// The state of one message's transfer.
#[derive(Debug)]
pub struct Relay {
    /// What goes first: the head, and what of the body has come with it or is kept.
    head: Vec<u8>,
    written: usize,
    /// Whether that is all that was sent.
    is_whole: bool,
    /// How many bytes of the body may be kept.
    bound: usize,
    holding: Holding,
    decoder: BodyDecoder,
    /// How many of the unread bytes belong to the body and wait to be written.
    approved: usize,
    bytes: u64,
    /// Who hears the body along.
    taps: Vec<Tap>,
}

impl Relay {
    /// A message with this head and a body of this length.
    #[must_use]
    pub const fn new(head: Vec<u8>, body: BodyLength) -> Self {
        Self {
            head,
            written: 0,
            is_whole: true,
            bound: 0,
            holding: Holding::new(),
            decoder: BodyDecoder::new(body),
            approved: 0,
            bytes: 0,
            taps: Vec::new(),
        }
    }

    /// The same message, of whose body so many bytes are kept for another try, as long as the pod's memory has room.
    #[must_use]
    pub const fn keeping(mut self, bound: usize) -> Self {
        self.bound = bound;
        self
    }

    /// The same message, whose body goes into these, too.
    #[must_use]
    pub fn heard_by(mut self, taps: Vec<Tap>) -> Self {
        self.taps = taps;
        self
    }

    /// How many bytes of the body have been passed on.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether nothing that was sent is gone: then it can be sent again.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Begins anew, for another receiver: what was sent goes first, and then the rest as it comes. Only as long as it
    /// [is whole](Self::is_whole).
    pub fn begin_again(&mut self) {
        debug_assert!(self.is_whole, "a part of it is gone");
        self.written = 0;
    }

    /// Keeps nothing (more): there is no other try.
    pub fn let_go(&mut self) {
        self.is_whole = false;
        if self.written == self.head.len() {
            self.written = 0;
            self.head = Vec::new();
            self.holding.set(0);
        }
    }

    fn keep(&mut self, piece: &[u8]) {
        if !self.is_whole {
            return;
        }
        let fits = self.bytes + piece.len() as u64 <= self.bound as u64 && self.holding.may_grow(piece.len());
        if fits {
            self.head.extend_from_slice(piece);
            self.written = self.head.len();
            self.holding.set(self.head.capacity());
        } else {
            self.let_go();
        }
    }

    /// Carries the message on. Ready when it has been flushed to the receiver, whole.
    ///
    /// # Errors
    /// When either side fails or the body is malformed.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        (source, buffer): (&mut impl Source, &mut ReadBuffer),
        sink: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), RelayError>> {
        if self.written == 0 && self.approved == 0 && !self.head.is_empty() {
            self.append_body_to_head(buffer)?;
        }
        loop {
            ready!(self.poll_write_head(cx, sink)).map_err(RelayError::Sink)?;
            if self.approved == 0 && !self.decoder.is_done() {
                self.approved = self.decoder.advance(buffer.unread())?;
            }
            if self.approved > 0 {
                let piece = &buffer.unread()[..self.approved];
                let count = ready!(Pin::new(&mut *sink).poll_write(cx, piece)).map_err(RelayError::Sink)?;
                if count == 0 {
                    return Poll::Ready(Err(RelayError::Sink(io::ErrorKind::WriteZero.into())));
                }
                self.taps.iter().for_each(|tap| tap.push(&piece[..count]));
                self.keep(&piece[..count]);
                buffer.consume(count);
                self.approved -= count;
                self.bytes += count as u64;
                continue;
            }
            if self.decoder.is_done() {
                self.taps.drain(..).for_each(|tap| tap.end());
                return Pin::new(sink).poll_flush(cx).map_err(RelayError::Sink);
            }
            match buffer.poll_fill(cx, source) {
                Poll::Pending => {
                    // Nothing more to read now: what was written must not wait for it.
                    let _ = Pin::new(sink).poll_flush(cx).map_err(RelayError::Sink)?;
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) if self.decoder.end_of_stream() => {}
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(RelayError::Source(io::ErrorKind::UnexpectedEof.into())));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(RelayError::Source(error))),
            }
        }
    }

    fn append_body_to_head(&mut self, buffer: &mut ReadBuffer) -> Result<(), ChunkError> {
        let available = buffer.unread();
        let piece = &available[..available.len().min(COALESCE)];
        let count = self.decoder.advance(piece)?;
        self.head.extend_from_slice(&piece[..count]);
        self.taps.iter().for_each(|tap| tap.push(&piece[..count]));
        self.bytes += count as u64;
        buffer.consume(count);
        Ok(())
    }

    fn poll_write_head(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while self.written < self.head.len() {
            let count = ready!(Pin::new(&mut *sink).poll_write(cx, &self.head[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// What has been sent once the source has nothing more to read.
    async fn send(relay: &mut Relay, source: &mut DuplexStream, buffer: &mut ReadBuffer) -> String {
        let mut sink = Vec::new();
        poll_fn(|cx| {
            let polled = relay.poll(cx, (&mut *source, &mut *buffer), &mut sink);
            assert!(!matches!(polled, Poll::Ready(Err(_))), "{polled:?}");
            Poll::Ready(())
        })
        .await;
        String::from_utf8(sink).expect("text")
    }

    #[tokio::test]
    async fn what_is_kept_goes_first_again_and_what_is_too_much_is_gone() {
        let (mut client, mut source) = duplex(1024);
        let mut buffer = ReadBuffer::with_bytes(b"with it, ".to_vec());
        let mut relay = Relay::new(b"head: ".to_vec(), BodyLength::Fixed(40)).keeping(30);
        assert_eq!(send(&mut relay, &mut source, &mut buffer).await, "head: with it, ");
        client.write_all(b"then, ").await.expect("written");
        assert_eq!(send(&mut relay, &mut source, &mut buffer).await, "then, ");
        assert!(relay.is_whole());
        relay.begin_again();
        client.write_all(b"later, ").await.expect("written");
        assert_eq!(send(&mut relay, &mut source, &mut buffer).await, "head: with it, then, later, ");
        relay.begin_again();
        assert_eq!(send(&mut relay, &mut source, &mut buffer).await, "head: with it, then, later, ");
        assert_eq!((relay.is_whole(), relay.bytes()), (true, 22));
        client.write_all(b"and all the rest, more").await.expect("written");
        assert_eq!(send(&mut relay, &mut source, &mut buffer).await, "and all the rest, ");
        assert!(!relay.is_whole() && relay.head.capacity() == 0 && buffer.unread() == b"more");
    }

    #[tokio::test]
    async fn without_a_bound_only_what_has_gone_with_the_head_can_be_sent_again() {
        let (mut client, mut source) = duplex(1024);
        let mut buffer = ReadBuffer::with_bytes(b"ab".to_vec());
        let mut relay = Relay::new(b"head: ".to_vec(), BodyLength::Fixed(3));
        assert_eq!(send(&mut relay, &mut source, &mut buffer).await, "head: ab");
        assert!(relay.is_whole());
        client.write_all(b"c").await.expect("written");
        assert_eq!(send(&mut relay, &mut source, &mut buffer).await, "c");
        assert!(!relay.is_whole());
    }
}
