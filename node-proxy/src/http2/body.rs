//! Bodies on their way upstream: a client's, counted and maybe heard along, or the copy of one.

use std::cell::Cell;
use std::collections::VecDeque;
use std::error::Error;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::kept::Reading;
use crate::forward::tap::{self, End, Outlet};

/// Why a body is not whole.
pub type BodyError = Box<dyn Error + Send + Sync>;

/// A client's body.
#[derive(Debug)]
pub struct ClientBody {
    /// The body.
    pub inner: Incoming,
    /// Counts its bytes.
    pub bytes: Rc<Cell<u64>>,
    /// Who hears it along.
    pub taps: Vec<BodyTap>,
}

impl ClientBody {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { inner, bytes, taps } = self;
        let frame = ready!(Pin::new(&mut *inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                count(frame, bytes);
                taps.iter().for_each(|tap| tap.push(frame));
                // hyper does not ask again after the last frame.
                if inner.is_end_stream() {
                    taps.drain(..).for_each(|tap| tap.end());
                }
            }
            // Taps that are dropped break their copies off.
            Some(Err(_)) => taps.clear(),
            None => taps.drain(..).for_each(|tap| tap.end()),
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }
}

/// A request's body.
#[derive(Debug)]
pub enum RequestBody {
    /// As it comes from the client.
    Client(ClientBody),
    /// The same for one of several tries.
    Kept(Reading),
    /// A copy.
    Copy {
        /// The body.
        inner: BodyListener,
        /// Counts its bytes.
        bytes: Rc<Cell<u64>>,
    },
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut *self {
            Self::Client(body) => body.poll_frame(cx),
            Self::Kept(reading) => reading.poll_frame(cx),
            Self::Copy { inner, bytes } => {
                let frame = ready!(inner.poll_frame(cx));
                if let Some(Ok(frame)) = &frame {
                    count(frame, bytes);
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client(body) => body.inner.is_end_stream(),
            Self::Kept(reading) => reading.has_ended(),
            Self::Copy { inner, .. } => inner.has_ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Client(body) => body.inner.size_hint(),
            Self::Kept(reading) => reading.size_hint(),
            Self::Copy { inner, .. } => inner.size,
        }
    }
}

fn count(frame: &Frame<Bytes>, bytes: &Cell<u64>) {
    bytes.set(bytes.get() + frame.data_ref().map_or(0, |data| data.remaining() as u64));
}

/// Frames on their way.
#[derive(Debug, Default)]
struct Held {
    frames: VecDeque<Piece>,
    /// Of the data among them.
    bytes: usize,
}

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// Where frames go in ([`crate::forward::tap`]).
#[derive(Debug)]
pub struct BodyTap(tap::Tap<Held>);

/// Where they come out.
#[derive(Debug)]
pub struct BodyListener {
    outlet: Outlet<Held>,
    size: SizeHint,
}

impl BodyTap {
    /// A tap with its listener, for a body of this size.
    #[must_use]
    pub fn open(size: SizeHint) -> (Self, BodyListener) {
        let (tap, outlet) = tap::open();
        (Self(tap), BodyListener { outlet, size })
    }

    fn push(&self, frame: &Frame<Bytes>) {
        self.0.push(|held| {
            if let Some(data) = frame.data_ref() {
                held.bytes += data.len();
                held.frames.push_back(Piece::Data(data.clone()));
            } else if let Some(trailers) = frame.trailers_ref() {
                held.frames.push_back(Piece::Trailers(trailers.clone()));
            }
            held.bytes
        });
    }

    fn end(&self) {
        self.0.end();
    }
}

impl Held {
    fn take(&mut self) -> Option<Frame<Bytes>> {
        Some(match self.frames.pop_front()? {
            Piece::Data(data) => {
                self.bytes -= data.len();
                Frame::data(data)
            }
            Piece::Trailers(trailers) => Frame::trailers(trailers),
        })
    }
}

impl BodyListener {
    fn poll_frame(&self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.outlet.poll(cx, Held::take).map(|taken| match taken {
            Ok(frame) => Some(Ok(frame)),
            Err(End::Whole) => None,
            Err(End::Broken) => Some(Err("the copy was broken off".into())),
        })
    }

    fn has_ended(&self) -> bool {
        self.outlet.has_ended(|held| held.frames.is_empty())
    }
}
