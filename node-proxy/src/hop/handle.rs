//! A hop as the data path holds it: streams are opened and arrive here, and here it is told how to end.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use rustls::Connection;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use super::connection::{Core, Driver, Life};
use super::frame::{FrameHead, Kind};
use super::lane::Purpose;
use super::proof::Proof;
use super::stream::{Arrival, HopStream, OpenError};
use super::switch::{SharedLane, Side};
use crate::forward::Socket;

/// How streams fail when their hop has reached the end of a certificate. No socket of the data path says this.
pub const EXPIRED: io::ErrorKind = io::ErrorKind::PermissionDenied;

/// A hop, seen from the data path. Clones are the same hop.
#[derive(Clone, Debug)]
pub struct Hop(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    core: RefCell<Core>,
    idle_since: Cell<Instant>,
}

impl Hop {
    /// A hop over a connection whose handshake is done, and what moves it: to be run as a task of the same thread.
    #[must_use]
    pub fn new(side: Side, socket: Socket, tls: Connection) -> (Self, Driver) {
        let core = RefCell::new(Core::new(side, socket, tls));
        let hop = Self(Rc::new(Shared { core, idle_since: Cell::new(Instant::now()) }));
        (hop.clone(), Driver(hop))
    }

    /// How many streams it carries.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.0.core.borrow().switch.len()
    }

    /// Whether it takes new streams.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let core = self.0.core.borrow();
        core.life == Life::Open && !core.switch.is_used_up()
    }

    /// Whether its socket takes no more at the moment.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.0.core.borrow().is_crowded()
    }

    /// Since when it has had no stream; `None` while it has one.
    #[must_use]
    pub fn idle_since(&self) -> Option<Instant> {
        (self.streams() == 0).then(|| self.0.idle_since.get())
    }

    /// Opens a stream, and waits until the application behind the other side has taken it.
    ///
    /// # Errors
    /// When it has not, or the hop has ended.
    pub async fn open(&self) -> Result<HopStream, OpenError> {
        let stream = self.ask_for(Purpose::Application)?;
        std::future::poll_fn(|cx| stream.poll_opening(cx)).await?;
        Ok(stream)
    }

    /// What the two ends of this very hop know, and nobody else. `None` when it has ended.
    #[must_use]
    pub fn proof(&self) -> Option<Proof> {
        Proof::of(&self.0.core.borrow().tls).ok()
    }

    /// Asks the other side to let an older hop between the same two pods live on for as long as this one may, and waits for
    /// its answer.
    ///
    /// # Errors
    /// When it does not know such a hop, or this one has ended.
    pub async fn continue_older(&self, proof: &Proof) -> Result<(), OpenError> {
        let mut stream = self.ask_for(Purpose::Continuation)?;
        stream.write_all(proof.as_bytes()).await.map_err(|_| self.ended())?;
        std::future::poll_fn(|cx| stream.poll_opening(cx)).await?;
        stream.settle();
        Ok(())
    }

    fn ask_for(&self, purpose: Purpose) -> Result<HopStream, OpenError> {
        let mut core = self.0.core.borrow_mut();
        if core.switch.is_sent_away() {
            return Err(OpenError::SentAway);
        }
        if core.life != Life::Open {
            return Err(core.ended());
        }
        core.wake_driver();
        let lane = core.switch.open(purpose);
        drop(core);
        Ok(HopStream::new(self.clone(), lane))
    }

    /// The next stream that the other side opens. `None` when there will be none.
    pub async fn arrival(&self) -> Option<Arrival> {
        std::future::poll_fn(|cx| {
            let mut core = self.0.core.borrow_mut();
            if let Some(lane) = core.switch.arrival() {
                return Poll::Ready(Some(Arrival::new(HopStream::new(self.clone(), lane))));
            }
            if matches!(core.life, Life::Over(_)) {
                return Poll::Ready(None);
            }
            core.switch.await_arrival(cx.waker());
            Poll::Pending
        })
        .await
    }

    /// Ends the hop in order after its last stream; it takes no new ones.
    pub fn close(&self) {
        let mut core = self.0.core.borrow_mut();
        if core.life == Life::Open {
            core.life = Life::Closing;
            core.wake_driver();
        }
    }

    /// Asks the other side to open no new streams, and to end the hop after its last one.
    pub fn go_away(&self) {
        let mut core = self.0.core.borrow_mut();
        if core.life == Life::Open {
            core.queue(FrameHead::new(0, Kind::GoAway));
        }
    }

    /// Ends it now, with a reset, and its streams with it.
    pub fn reset(&self) {
        self.0.core.borrow_mut().fail(io::ErrorKind::ConnectionAborted);
    }

    /// Ends it now, as a certificate of one of its ends no longer holds; its streams fail with [`EXPIRED`].
    pub fn expire(&self) {
        let mut core = self.0.core.borrow_mut();
        if !matches!(core.life, Life::Over(_)) {
            core.why = Some("a certificate of it has expired".into());
            core.fail(EXPIRED);
        }
    }

    pub(super) fn core(&self) -> &RefCell<Core> {
        &self.0.core
    }

    /// Queues bytes of a stream, as many as there is credit and room for.
    pub(super) fn poll_send(
        &self,
        cx: &Context<'_>,
        lane: &SharedLane,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.core.borrow_mut().poll_send(cx, lane, bytes)
    }

    /// Why there are no streams any more.
    #[must_use]
    pub fn ended(&self) -> OpenError {
        self.0.core.borrow().ended()
    }

    /// Queues a frame without a payload.
    pub(super) fn queue(&self, head: FrameHead) {
        self.0.core.borrow_mut().queue(head);
    }

    /// Forgets a stream.
    pub(super) fn let_go(&self, lane: &SharedLane) {
        let mut core = self.0.core.borrow_mut();
        core.switch.let_go(&mut lane.borrow_mut());
        core.wake_driver();
        if core.switch.is_empty() {
            self.0.idle_since.set(Instant::now());
        }
    }
}
