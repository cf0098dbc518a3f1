//! A hop's connection: the streams' frames through TLS and the socket, by one task of the data path's thread.
//!
//! Frames leave when every ready task has had its turn, so that streams which speak at once share records and calls.

use std::cell::RefCell;
use std::io::{self, BufRead as _, IoSlice, Write as _};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use rustls::Connection;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::frame::{FrameHead, HEAD_LENGTH, Kind, MAX_PAYLOAD};
use super::handle::Hop;
use super::lane::wake;
use super::sink::Sink;
use super::stream::OpenError;
use super::switch::{SharedLane, Side, Switch};
use crate::forward::{Reset as _, Socket};
use crate::turns::Holding;

/// What one read asks the socket for. The buffer is the thread's, not the connection's.
const READ_SIZE: usize = 256 * 1024;
/// Streams wait while more than this is on its way to the socket, in bytes.
const BACKLOG: usize = 512 * 1024;
/// A hop ends that has more than this on its way: what a peer asks for must be answered, and it does not listen.
const OVERFLOW: usize = 8 * BACKLOG;
/// Reads in a row, before what is to be sent has its turn.
const READS: usize = 4;
/// What TLS adds to a record's content, and how much that is (RFC 8446 section 5.2).
const RECORD_EXTRA: usize = 22;
const RECORD_CONTENT: usize = HEAD_LENGTH + MAX_PAYLOAD;
/// Payloads of at least this go through TLS from where they are, not by way of the outbox.
const DIRECT: usize = 4 * 1024;
/// How long the other side of an ended hop has for its own end.
const FAREWELL: Duration = Duration::from_secs(2);

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_SIZE].into());
}

/// Where a hop is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It takes new streams.
    Open,
    /// It ends in order after its last stream.
    Closing,
    /// It has ended.
    Over(io::ErrorKind),
}

/// What is behind a hop.
#[derive(Debug)]
pub(super) struct Core {
    /// Gone as soon as the hop is over: streams may be held for longer, and an open socket keeps its pod's
    /// namespace alive.
    socket: Option<Socket>,
    pub(super) tls: Connection,
    pub(super) switch: Switch,
    pub(super) life: Life,
    /// Encrypted bytes that the socket has not taken.
    unsent: usize,
    /// What is on its way to the socket.
    holding: Holding,
    /// Streams that wait for room.
    crowd: Vec<SharedLane>,
    driver: Option<Waker>,
    /// What has ended it, when it was not in order.
    pub(super) why: Option<Arc<str>>,
}

impl Core {
    /// A connection whose handshake is done.
    pub(super) fn new(side: Side, socket: Socket, mut tls: Connection) -> Self {
        // What may wait is limited here, stream by stream.
        tls.set_buffer_limit(None);
        Self {
            socket: Some(socket),
            tls,
            switch: Switch::new(side),
            life: Life::Open,
            unsent: 0,
            holding: Holding::new(),
            crowd: Vec::new(),
            driver: None,
            why: None,
        }
    }

    pub(super) fn ended(&self) -> OpenError {
        OpenError::Ended(self.why.clone().unwrap_or_else(|| "in order".into()))
    }

    fn backlog(&self) -> usize {
        self.switch.outbox().len() + self.unsent
    }

    /// Whether the socket takes no more at the moment.
    pub(super) fn is_crowded(&self) -> bool {
        self.backlog() >= BACKLOG
    }

    pub(super) fn wake_driver(&mut self) {
        wake(&mut self.driver);
    }

    /// Queues bytes of a stream, as many as there is credit and room for.
    pub(super) fn poll_send(
        &mut self,
        cx: &Context<'_>,
        lane: &SharedLane,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = lane.borrow_mut();
        if state.credit == 0 {
            if !state.starved {
                state.starved = true;
                self.queue(FrameHead::new(state.id, Kind::Starved));
            }
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if self.is_crowded() {
            state.writer = Some(cx.waker().clone());
            if !state.is_in_crowd {
                state.is_in_crowd = true;
                self.crowd.push(Rc::clone(lane));
            }
            return Poll::Pending;
        }
        let allowed = usize::try_from(state.credit).unwrap_or(usize::MAX).min(MAX_PAYLOAD);
        let bytes = &bytes[..bytes.len().min(allowed)];
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        state.credit -= length;
        Poll::Ready(self.queue_data(FrameHead::data(state.id, length), bytes).map(|()| bytes.len()))
    }

    /// Queues a frame without a payload.
    pub(super) fn queue(&mut self, head: FrameHead) {
        self.switch.send(head);
        self.wake_driver();
    }

    fn queue_data(&mut self, head: FrameHead, bytes: &[u8]) -> io::Result<()> {
        self.wake_driver();
        if bytes.len() < DIRECT {
            self.switch.send_data(head, bytes);
            return Ok(());
        }
        self.encrypt_outbox()?;
        let head = head.encode();
        // Without a limit, all is taken.
        let count = self.tls.writer().write_vectored(&[IoSlice::new(&head), IoSlice::new(bytes)])?;
        self.unsent += encrypted_length(count);
        Ok(())
    }

    fn encrypt_outbox(&mut self) -> io::Result<()> {
        let outbox = self.switch.outbox();
        if !outbox.is_empty() {
            self.tls.writer().write_all(outbox)?;
            self.unsent += encrypted_length(outbox.len());
            self.switch.clear_outbox();
        }
        Ok(())
    }

    /// Ends everything at once.
    pub(super) fn fail(&mut self, kind: io::ErrorKind) {
        self.life = Life::Over(kind);
        if let Some(socket) = self.socket.take() {
            socket.reset();
        }
        self.switch.break_off(kind);
        self.crowd.clear();
        self.wake_driver();
    }

    /// Reads and sends what can be. Ready when the hop has ended in order and only the farewell is left.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Life::Over(kind) = self.life {
            return Poll::Ready(Err(kind.into()));
        }
        let ended = match self.poll_receive(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => false,
        };
        if ended {
            self.check_end()?;
        }
        if self.switch.is_sent_away() && self.life == Life::Open {
            self.life = Life::Closing;
        }
        let _all_or_not = self.poll_transmit(cx)?;
        self.holding.set(self.backlog());
        if self.backlog() > OVERFLOW {
            return Poll::Ready(Err(io::Error::other("the peer says more than it listens to")));
        }
        if ended || (self.life == Life::Closing && self.switch.is_empty()) {
            return Poll::Ready(Ok(()));
        }
        // Only now: what was done here has woken nobody in vain.
        self.driver = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether the other side may end the hop now.
    fn check_end(&self) -> io::Result<()> {
        if self.switch.is_in_use() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Ready when the other side has ended the hop.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        SCRATCH.with_borrow_mut(|scratch| {
            for _ in 0..READS {
                let mut space = ReadBuf::new(scratch);
                let Some(socket) = &mut self.socket else { return Poll::Ready(Ok(())) };
                ready!(Pin::new(socket).poll_read(cx, &mut space))?;
                if space.filled().is_empty() {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                if self.decrypt(space.filled())? == Ended::Yes {
                    return Poll::Ready(Ok(()));
                }
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    /// Takes encrypted bytes, after what the handshake has left.
    fn decrypt(&mut self, mut input: &[u8]) -> io::Result<Ended> {
        loop {
            if !input.is_empty() {
                self.tls.read_tls(&mut input)?;
            }
            let state = match self.tls.process_new_packets() {
                Ok(state) => state,
                Err(error) => {
                    // An alert says why, if it gets through at once.
                    let _ = self.write_tls(&mut Context::from_waker(Waker::noop()));
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            };
            let mut left = state.plaintext_bytes_to_read();
            while left > 0 {
                let chunk = self.tls.reader().into_first_chunk()?;
                let count = chunk.len();
                self.switch.take(chunk).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                self.tls.reader().consume(count);
                left -= count.min(left);
            }
            if state.peer_has_closed() {
                return Ok(Ended::Yes);
            }
            if input.is_empty() {
                return Ok(Ended::No);
            }
        }
    }

    /// Ready when everything was taken by the socket.
    fn poll_transmit(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        self.encrypt_outbox()?;
        while self.tls.wants_write() {
            match self.write_tls(cx) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.unsent = self.unsent.saturating_sub(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.backlog() < BACKLOG / 2 {
                        self.disperse();
                    }
                    return Ok(Poll::Pending);
                }
                Err(error) => return Err(error),
            }
        }
        self.unsent = 0;
        self.disperse();
        Ok(Poll::Ready(()))
    }

    fn write_tls(&mut self, cx: &mut Context<'_>) -> io::Result<usize> {
        let socket = self.socket.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        self.tls.write_tls(&mut Sink::new(socket, cx))
    }

    /// There is room again.
    fn disperse(&mut self) {
        for lane in self.crowd.drain(..) {
            let mut lane = lane.borrow_mut();
            lane.is_in_crowd = false;
            wake(&mut lane.writer);
        }
    }

    /// Says the end, and listens to the other side's.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_transmit(cx)?);
        let socket = self.socket.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        ready!(Pin::new(&mut *socket).poll_shutdown(cx))?;
        let mut rest = [0; 1024];
        loop {
            let mut space = ReadBuf::new(&mut rest);
            ready!(Pin::new(&mut *socket).poll_read(cx, &mut space))?;
            if space.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// How many bytes so many become.
const fn encrypted_length(count: usize) -> usize {
    count + RECORD_EXTRA * count.div_ceil(RECORD_CONTENT)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    No,
    Yes,
}

/// The task behind a hop. Dropping it ends the hop with a reset.
#[derive(Debug)]
pub struct Driver(pub(super) Hop);

impl Driver {
    /// Moves what streams say and hear until the hop has ended.
    ///
    /// # Errors
    /// When it did not end in order.
    pub async fn run(self) -> io::Result<()> {
        let core = self.0.core();
        // The handshake may have read more than its own.
        let handed_on = core.borrow_mut().decrypt(&[]);
        let outcome = match handed_on {
            Ok(Ended::No) => std::future::poll_fn(|cx| core.borrow_mut().poll(cx)).await,
            Ok(Ended::Yes) => core.borrow().check_end(),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            let mut core = core.borrow_mut();
            core.why.get_or_insert_with(|| error.to_string().into());
            core.fail(io::ErrorKind::ConnectionReset);
            return Err(error);
        }
        {
            let mut core = core.borrow_mut();
            core.life = Life::Over(io::ErrorKind::NotConnected);
            core.switch.break_off(io::ErrorKind::ConnectionReset);
            core.tls.send_close_notify();
        }
        let farewell = std::future::poll_fn(|cx| core.borrow_mut().poll_farewell(cx));
        // However that ends, nothing is left to be said.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
        core.borrow_mut().socket = None;
        Ok(())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let mut core = self.0.core().borrow_mut();
        if core.socket.is_some() {
            core.fail(io::ErrorKind::ConnectionReset);
        }
    }
}
