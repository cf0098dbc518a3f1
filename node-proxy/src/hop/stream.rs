//! A stream of a hop, as the rest of the data path sees it: a connection to the application behind the other side.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::frame::{FrameHead, Kind};
use super::handle::Hop;
use super::lane::{Opening, Purpose, Way};
use super::proof::Proof;
use super::switch::SharedLane;
use crate::forward::{Reset, Source, read_behind};

/// Why a stream was not opened.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OpenError {
    /// It is not taken, by the application or, where an older hop was to be continued, by the proxy; nothing was passed
    /// on.
    #[error("the application behind the peer's proxy refuses the connection")]
    Refused,
    /// The other side takes no new streams on this hop; on another one it does.
    #[error("the peer asks for another hop")]
    SentAway,
    /// The hop has ended, before or meanwhile.
    #[error("the hop has ended: {0}")]
    Ended(Arc<str>),
}

/// A stream. Dropping it before both of its ways have ended breaks it off: nobody takes a part for the whole.
#[derive(Debug)]
pub struct HopStream {
    hop: Hop,
    lane: SharedLane,
}

impl HopStream {
    pub(super) const fn new(hop: Hop, lane: SharedLane) -> Self {
        Self { hop, lane }
    }

    /// Whether the hop below takes new streams: one that has fallen silent does not.
    #[must_use]
    pub fn is_on_an_open_hop(&self) -> bool {
        self.hop.is_open()
    }

    /// The hop below.
    #[must_use]
    pub const fn hop(&self) -> &Hop {
        &self.hop
    }

    /// All is said on it, and both sides know.
    pub(super) fn settle(&self) {
        self.lane.borrow_mut().break_off(io::ErrorKind::NotConnected);
    }

    /// Passes credit on to the other side.
    fn grant(&self, credit: Option<u32>) {
        if let Some(credit) = credit {
            self.hop.queue(FrameHead::window(self.lane.borrow().id, credit));
        }
    }

    pub(super) fn poll_opening(&self, cx: &Context<'_>) -> Poll<Result<(), OpenError>> {
        let mut lane = self.lane.borrow_mut();
        match lane.opening {
            Opening::Accepted => Poll::Ready(Ok(())),
            Opening::Refused => Poll::Ready(Err(OpenError::Refused)),
            // Broken off before it was taken: nothing was said on it.
            Opening::Asked if lane.inbound != Way::Open && self.hop.is_open() => {
                Poll::Ready(Err(OpenError::Refused))
            }
            Opening::Asked if lane.inbound != Way::Open => Poll::Ready(Err(self.hop.ended())),
            Opening::Asked => {
                lane.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Reset for HopStream {
    fn reset(&self) {
        let mut lane = self.lane.borrow_mut();
        if !lane.is_over() {
            self.hop.queue(FrameHead::new(lane.id, Kind::Reset));
            lane.break_off(io::ErrorKind::ConnectionAborted);
        }
    }
}

impl Drop for HopStream {
    fn drop(&mut self) {
        self.hop.let_go(&self.lane);
    }
}

impl AsyncRead for HopStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut lane = self.lane.borrow_mut();
        let unread = lane.unread();
        if unread.is_empty() {
            return match lane.inbound {
                Way::Ended => Poll::Ready(Ok(())),
                Way::Broken(kind) => Poll::Ready(Err(kind.into())),
                Way::Open => {
                    lane.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        }
        let count = unread.len().min(space.remaining());
        space.put_slice(&unread[..count]);
        let credit = lane.consume(count);
        drop(lane);
        self.grant(credit);
        Poll::Ready(Ok(()))
    }
}

impl Source for HopStream {
    fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut Vec<u8>,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        let piece = if bytes.is_empty() { self.lane.borrow_mut().take_piece() } else { None };
        match piece {
            Some((piece, credit)) => {
                self.grant(credit);
                *bytes = piece;
                Poll::Ready(Ok(bytes.len()))
            }
            None => {
                // Whoever only waits needs none.
                let room = if self.lane.borrow().unread().is_empty() { 0 } else { room };
                read_behind(self, cx, bytes, room)
            }
        }
    }
}

impl AsyncWrite for HopStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outbound = self.lane.borrow().outbound;
        match outbound {
            Way::Open if bytes.is_empty() => Poll::Ready(Ok(0)),
            Way::Open => self.hop.poll_send(cx, &self.lane, bytes),
            Way::Ended => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Way::Broken(kind) => Poll::Ready(Err(kind.into())),
        }
    }

    /// What was written leaves by itself.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut lane = self.lane.borrow_mut();
        match lane.outbound {
            Way::Open => {
                lane.outbound = Way::Ended;
                self.hop.queue(FrameHead::new(lane.id, Kind::End));
                Poll::Ready(Ok(()))
            }
            Way::Ended => Poll::Ready(Ok(())),
            Way::Broken(kind) => Poll::Ready(Err(kind.into())),
        }
    }
}

/// A stream that the other side has opened. Dropping it breaks it off.
#[derive(Debug)]
pub struct Arrival(HopStream);

impl Arrival {
    pub(super) const fn new(stream: HopStream) -> Self {
        Self(stream)
    }

    /// Resolves when the other side has broken the stream off.
    pub async fn broken_off(&self) {
        std::future::poll_fn(|cx| {
            let mut lane = self.0.lane.borrow_mut();
            if matches!(lane.inbound, Way::Broken(_)) {
                return Poll::Ready(());
            }
            lane.reader = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// What the other side wants with it.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        self.0.lane.borrow().purpose
    }

    /// Of which older hop it is, when its purpose is to continue one.
    ///
    /// # Errors
    /// When it was broken off.
    pub async fn proof(&mut self) -> io::Result<Proof> {
        let mut bytes = [0; Proof::LENGTH];
        self.0.read_exact(&mut bytes).await?;
        Ok(Proof::from(bytes))
    }

    /// Says that the older hop lives on.
    pub fn grant(self) {
        let Self(stream) = self;
        stream.hop.queue(FrameHead::new(stream.lane.borrow().id, Kind::Accept));
        stream.settle();
    }

    /// Takes the stream: the application has taken the connection.
    #[must_use]
    pub fn accept(self) -> HopStream {
        let Self(stream) = self;
        stream.hop.queue(FrameHead::new(stream.lane.borrow().id, Kind::Accept));
        stream.lane.borrow_mut().opening = Opening::Accepted;
        stream
    }

    /// Says that the application has not taken the connection, or that no older hop lives on.
    pub fn refuse(self) {
        let mut lane = self.0.lane.borrow_mut();
        if !lane.is_over() {
            self.0.hop.queue(FrameHead::new(lane.id, Kind::Refuse));
            lane.break_off(io::ErrorKind::ConnectionRefused);
        }
    }
}
