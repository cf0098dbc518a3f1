//! One message on its way from one connection to another: head first, then the body as it comes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use thiserror::Error;
use tokio::io::AsyncWrite;

use super::ReadBuffer;
use super::framing::{BodyDecoder, BodyLength, ChunkError};
use super::tap::Tap;
use crate::forward::Source;

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
    /// Bytes of our own making that go first: the head.
    head: Vec<u8>,
    written: usize,
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
        Self { head, written: 0, decoder: BodyDecoder::new(body), approved: 0, bytes: 0, taps: Vec::new() }
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
        if self.written == 0 {
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
