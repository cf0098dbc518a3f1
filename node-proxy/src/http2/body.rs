//! Bodies on their way upstream: a client's, counted and maybe heard along, or the copy of one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::error::Error;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// Why a body is not whole.
pub type BodyError = Box<dyn Error + Send + Sync>;

/// How far a copy may be behind, in bytes.
const PATIENCE: usize = 256 * 1024;

/// A request's body.
#[derive(Debug)]
pub enum RequestBody {
    /// As it comes from the client.
    Client {
        /// The body.
        inner: Incoming,
        /// Counts its bytes.
        bytes: Rc<Cell<u64>>,
        /// Who hears it along.
        taps: Vec<BodyTap>,
    },
    /// A copy.
    Copy {
        /// The body.
        inner: BodyListener,
        /// Counts its bytes.
        bytes: Rc<Cell<u64>>,
    },
    /// None.
    Empty,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let (inner, bytes, taps) = match &mut *self {
            Self::Client { inner, bytes, taps } => (inner, bytes, taps),
            Self::Copy { inner, bytes } => {
                let frame = ready!(inner.poll_frame(cx));
                if let Some(Ok(frame)) = &frame {
                    count(frame, bytes);
                }
                return Poll::Ready(frame);
            }
            Self::Empty => return Poll::Ready(None),
        };
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

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client { inner, .. } => inner.is_end_stream(),
            Self::Copy { inner, .. } => inner.has_ended(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Client { inner, .. } => inner.size_hint(),
            Self::Copy { inner, .. } => inner.size,
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

fn count(frame: &Frame<Bytes>, bytes: &Cell<u64>) {
    bytes.set(bytes.get() + frame.data_ref().map_or(0, |data| data.remaining() as u64));
}

#[derive(Debug, Default)]
struct Pipe {
    frames: VecDeque<Piece>,
    /// Of the data among them.
    bytes: usize,
    end: Option<End>,
    waiting: Option<Waker>,
}

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    Broken,
}

/// Where frames go in. One that is dropped before its end breaks the copy off.
#[derive(Debug)]
pub struct BodyTap(Rc<RefCell<Pipe>>);

/// Where they come out.
#[derive(Debug)]
pub struct BodyListener {
    pipe: Rc<RefCell<Pipe>>,
    size: SizeHint,
}

impl BodyTap {
    /// A tap with its listener, for a body of this size.
    #[must_use]
    pub fn open(size: SizeHint) -> (Self, BodyListener) {
        let pipe = Rc::<RefCell<Pipe>>::default();
        (Self(Rc::clone(&pipe)), BodyListener { pipe, size })
    }

    fn push(&self, frame: &Frame<Bytes>) {
        let mut pipe = self.0.borrow_mut();
        if pipe.end.is_some() {
            return;
        }
        if let Some(data) = frame.data_ref() {
            pipe.bytes += data.len();
            pipe.frames.push_back(Piece::Data(data.clone()));
        } else if let Some(trailers) = frame.trailers_ref() {
            pipe.frames.push_back(Piece::Trailers(trailers.clone()));
        }
        if pipe.bytes > PATIENCE {
            pipe.frames.clear();
            pipe.close(End::Broken);
        } else if let Some(waker) = pipe.waiting.take() {
            waker.wake();
        }
    }

    fn end(&self) {
        self.0.borrow_mut().close(End::Whole);
    }
}

impl Drop for BodyTap {
    fn drop(&mut self) {
        self.0.borrow_mut().close(End::Broken);
    }
}

impl Pipe {
    fn close(&mut self, end: End) {
        self.end.get_or_insert(end);
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }
}

impl BodyListener {
    fn poll_frame(&self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut pipe = self.pipe.borrow_mut();
        match pipe.frames.pop_front() {
            Some(Piece::Data(data)) => {
                pipe.bytes -= data.len();
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Some(Piece::Trailers(trailers)) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            None => {}
        }
        match pipe.end {
            Some(End::Whole) => Poll::Ready(None),
            Some(End::Broken) => Poll::Ready(Some(Err("the copy was broken off".into()))),
            None => {
                pipe.waiting = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn has_ended(&self) -> bool {
        let pipe = self.pipe.borrow();
        pipe.frames.is_empty() && pipe.end == Some(End::Whole)
    }
}
