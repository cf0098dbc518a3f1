//! What is heard along while it passes: what goes to one server goes to another one, too.
//!
//! The copy never holds up what it is a copy of: a listener that is too slow is cut off. Both ends are of one thread.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// How far a listener may be behind, in bytes.
pub const PATIENCE: usize = 256 * 1024;

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// That was all.
    Whole,
    /// There was more.
    Broken,
}

/// What is on its way, in whatever form the wire has it.
#[derive(Debug, Default)]
struct Pipe<Q> {
    queue: Q,
    end: Option<End>,
    waiting: Option<Waker>,
}

/// Where it goes in. One that is dropped before its end breaks the copy off.
#[derive(Debug)]
pub struct Tap<Q>(Rc<RefCell<Pipe<Q>>>);

/// Where it comes out.
#[derive(Debug)]
pub struct Outlet<Q>(Rc<RefCell<Pipe<Q>>>);

/// A tap with its outlet.
#[must_use]
pub fn open<Q: Default>() -> (Tap<Q>, Outlet<Q>) {
    let pipe = Rc::<RefCell<Pipe<Q>>>::default();
    (Tap(Rc::clone(&pipe)), Outlet(pipe))
}

impl<Q> Pipe<Q> {
    fn wake(&mut self) {
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    fn close(&mut self, end: End) {
        self.end.get_or_insert(end);
        self.wake();
    }
}

impl<Q: Default> Tap<Q> {
    /// Passes something on. `add` puts it into the queue, and says how many bytes are in there now.
    pub fn push(&self, add: impl FnOnce(&mut Q) -> usize) {
        let mut pipe = self.0.borrow_mut();
        if pipe.end.is_some() {
            return;
        }
        if add(&mut pipe.queue) > PATIENCE {
            pipe.queue = Q::default();
            pipe.close(End::Broken);
        } else {
            pipe.wake();
        }
    }
}

impl<Q> Tap<Q> {
    /// Says that this was all.
    pub fn end(&self) {
        self.0.borrow_mut().close(End::Whole);
    }
}

impl<Q> Drop for Tap<Q> {
    fn drop(&mut self) {
        self.0.borrow_mut().close(End::Broken);
    }
}

impl<Q> Outlet<Q> {
    /// What `take` gets out of the queue, or how it ended once there is nothing left.
    pub fn poll<T>(&self, cx: &Context<'_>, take: impl FnOnce(&mut Q) -> Option<T>) -> Poll<Result<T, End>> {
        let mut pipe = self.0.borrow_mut();
        if let Some(taken) = take(&mut pipe.queue) {
            return Poll::Ready(Ok(taken));
        }
        if let Some(end) = pipe.end {
            return Poll::Ready(Err(end));
        }
        pipe.waiting = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether all has come out, by what `is_empty` says of the queue.
    #[must_use]
    pub fn has_ended(&self, is_empty: impl FnOnce(&Q) -> bool) -> bool {
        let pipe = self.0.borrow();
        pipe.end == Some(End::Whole) && is_empty(&pipe.queue)
    }
}
