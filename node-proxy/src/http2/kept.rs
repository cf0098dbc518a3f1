//! A request that may be sent a second time: what has come of its body is kept, as long as that is not too much.
//!
//! Each try reads the body from its beginning, and goes on with the rest as it comes. Only the last one reads: whoever reads
//! for an earlier try is told that its stream is over.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request};
use hyper::body::{Body as _, Frame, SizeHint};

use super::body::{BodyError, ClientBody, RequestBody};
use crate::turns::Holding;

/// A request for several tries.
#[derive(Debug)]
pub struct KeptRequest {
    head: Parts,
    body: Rc<RefCell<Kept>>,
}

/// One try's view of the body.
#[derive(Debug)]
pub struct Reading {
    body: Rc<RefCell<Kept>>,
    /// Which try this is.
    number: u32,
    /// How many of the kept bytes it has had.
    read: usize,
    /// Whether it has had the trailers.
    has_trailers: bool,
    /// How many bytes of data it is still to have, if the client has said so.
    left: Option<u64>,
}

#[derive(Debug)]
struct Kept {
    client: ClientBody,
    /// Its data from the beginning.
    data: Vec<u8>,
    trailers: Option<HeaderMap>,
    has_ended: bool,
    /// Whether that is all that has come.
    is_whole: bool,
    bound: usize,
    holding: Holding,
    /// How many bytes of data it has, if the client has said so.
    size: Option<u64>,
    /// The last try.
    last: u32,
    /// Wakes whoever reads.
    waiting: Option<Waker>,
}

/// A request for its first try; and with a bound the same for others, of whose body so many bytes are kept as long as
/// the pod's memory has room.
#[must_use]
pub fn keep(
    (head, body): (Parts, ClientBody),
    bound: Option<usize>,
) -> (Request<RequestBody>, Option<KeptRequest>) {
    let Some(bound) = bound else { return (Request::from_parts(head, RequestBody::Client(body)), None) };
    let kept = Kept {
        size: body.inner.size_hint().exact(),
        has_ended: body.inner.is_end_stream(),
        client: body,
        data: Vec::new(),
        trailers: None,
        is_whole: true,
        bound,
        holding: Holding::new(),
        last: 0,
        waiting: None,
    };
    let kept = KeptRequest { head, body: Rc::new(RefCell::new(kept)) };
    (kept.for_another_try(), Some(kept))
}

impl KeptRequest {
    /// Whether nothing of it is gone.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.body.borrow().is_whole
    }

    /// The request from its beginning, for another try, if nothing of it is gone; whoever reads the body for the try
    /// before is told to stop.
    #[must_use]
    pub fn again(&self) -> Option<Request<RequestBody>> {
        self.is_whole().then(|| self.for_another_try())
    }

    fn for_another_try(&self) -> Request<RequestBody> {
        let mut kept = self.body.borrow_mut();
        kept.last += 1;
        if let Some(waker) = kept.waiting.take() {
            waker.wake();
        }
        let (body, number) = (Rc::clone(&self.body), kept.last);
        let reading = Reading { body, number, read: 0, has_trailers: false, left: kept.size };
        Request::from_parts(self.head.clone(), RequestBody::Kept(reading))
    }

    /// Keeps nothing (more): there is no other try.
    pub fn let_go(&self) {
        self.body.borrow_mut().is_whole = false;
    }
}

impl Kept {
    /// The next frame of the client.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Poll::Ready(frame) = self.client.poll_frame(cx) else {
            self.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        };
        match &frame {
            Some(Ok(frame)) => {
                self.keep(frame);
                self.has_ended = self.client.inner.is_end_stream();
            }
            // What is not whole is not sent again.
            Some(Err(_)) => self.is_whole = false,
            None => self.has_ended = true,
        }
        Poll::Ready(frame)
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        if !self.is_whole {
            return;
        }
        if let Some(data) = frame.data_ref() {
            self.is_whole = self.data.len() + data.len() <= self.bound && self.holding.may_grow(data.len());
            if self.is_whole {
                self.data.extend_from_slice(data);
                self.holding.set(self.data.capacity());
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
    }

    fn release(&mut self) {
        self.data = Vec::new();
        self.holding.set(0);
    }
}

impl Reading {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let kept = &mut *self.body.borrow_mut();
        if self.number != kept.last {
            return Poll::Ready(Some(Err(h2::Error::from(h2::Reason::CANCEL).into())));
        }
        let frame = if self.read < kept.data.len() {
            Some(Ok(Frame::data(Bytes::copy_from_slice(&kept.data[self.read..]))))
        } else if kept.has_ended {
            let trailers = if self.has_trailers { None } else { kept.trailers.clone() };
            trailers.map(|trailers| Ok(Frame::trailers(trailers)))
        } else {
            ready!(kept.poll_client(cx))
        };
        if let Some(Ok(frame)) = &frame {
            let count = frame.data_ref().map_or(0, Bytes::len);
            self.left = self.left.map(|left| left.saturating_sub(count as u64));
            self.has_trailers |= frame.is_trailers();
        }
        if !kept.is_whole {
            kept.release();
        }
        self.read = kept.data.len();
        Poll::Ready(frame)
    }

    pub(super) fn has_ended(&self) -> bool {
        let kept = self.body.borrow();
        let has_all = self.read == kept.data.len() && (self.has_trailers || kept.trailers.is_none());
        kept.has_ended && self.number == kept.last && has_all
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
