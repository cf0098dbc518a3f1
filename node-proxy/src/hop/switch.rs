//! Frames to streams and back, for one hop: no I/O, and no TLS.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::task::Waker;

use super::frame::{FrameHead, FrameReader, HEAD_LENGTH, Kind, Piece, WireError};
use super::lane::{Lane, Opening, Purpose, Received, wake};

/// Streams that wait to be taken by the destination's side; more are refused.
const MAX_ARRIVALS: usize = 1024;
/// An empty outbox of more than this is given back.
const KEPT: usize = 16 * 1024;

/// Which end of the hop this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It opens the streams.
    Client,
    /// It takes them.
    Server,
}

/// A stream, shared by its reader and writer and by the hop.
pub type SharedLane = Rc<RefCell<Lane>>;

/// The streams of one hop.
#[derive(Debug)]
pub struct Switch {
    side: Side,
    lanes: HashMap<u32, SharedLane, foldhash::fast::RandomState>,
    /// The number of the next stream to be opened, here or by the other side.
    next: u32,
    frames: FrameReader,
    /// Frames to be sent.
    outbox: Vec<u8>,
    /// Streams that the other side has opened and nobody has taken.
    arrivals: VecDeque<SharedLane>,
    acceptor: Option<Waker>,
    /// Whether the other side has asked for no new streams.
    is_sent_away: bool,
}

impl Switch {
    /// A hop without streams.
    #[must_use]
    pub fn new(side: Side) -> Self {
        Self {
            side,
            lanes: HashMap::default(),
            next: 1,
            frames: FrameReader::default(),
            outbox: Vec::new(),
            arrivals: VecDeque::new(),
            acceptor: None,
            is_sent_away: false,
        }
    }

    /// How many streams there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Whether there is no stream.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Whether a stream is not over yet. One that is may still be read to its end.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.lanes.values().any(|lane| !lane.borrow().is_over())
    }

    /// Whether every number was used.
    #[must_use]
    pub const fn is_used_up(&self) -> bool {
        self.next == u32::MAX
    }

    /// Whether the other side has asked for no new streams.
    #[must_use]
    pub const fn is_sent_away(&self) -> bool {
        self.is_sent_away
    }

    /// Opens a stream. The other side is asked to take it.
    pub fn open(&mut self, purpose: Purpose) -> SharedLane {
        let id = self.next;
        self.next = self.next.saturating_add(1);
        let lane = self.enter(id, purpose);
        let kind = match purpose {
            Purpose::Application => Kind::Open,
            Purpose::Continuation => Kind::Continue,
        };
        self.send(FrameHead::new(id, kind));
        lane
    }

    /// A stream that the other side has opened.
    pub fn arrival(&mut self) -> Option<SharedLane> {
        self.arrivals.pop_front()
    }

    /// Wakes `acceptor` at the next arrival, and when there will be none.
    pub fn await_arrival(&mut self, acceptor: &Waker) {
        self.acceptor = Some(acceptor.clone());
    }

    /// Queues a frame without a payload.
    pub fn send(&mut self, head: FrameHead) {
        self.outbox.extend_from_slice(&head.encode());
    }

    /// Queues bytes of a stream.
    pub fn send_data(&mut self, head: FrameHead, bytes: &[u8]) {
        self.outbox.reserve(bytes.len() + HEAD_LENGTH);
        self.send(head);
        self.outbox.extend_from_slice(bytes);
    }

    /// What is queued.
    #[must_use]
    pub fn outbox(&self) -> &[u8] {
        &self.outbox
    }

    /// Drops what was queued: it is on its way.
    pub fn clear_outbox(&mut self) {
        if self.outbox.capacity() > KEPT {
            self.outbox = Vec::new();
        } else {
            self.outbox.clear();
        }
    }

    /// Forgets a stream that its reader and writer has let go. Says so to the other side, unless both ways had
    /// ended.
    pub fn let_go(&mut self, lane: &mut Lane) {
        if self.lanes.remove(&lane.id).is_some() && !lane.is_over() {
            self.send(FrameHead::new(lane.id, Kind::Reset));
        }
        lane.forget_unread();
    }

    /// Breaks off every stream: the hop is no more.
    pub fn break_off(&mut self, kind: io::ErrorKind) {
        for lane in self.lanes.values() {
            lane.borrow_mut().break_off(kind);
        }
        self.lanes.clear();
        self.arrivals.clear();
        wake(&mut self.acceptor);
    }

    /// Takes bytes of the other side, any number of them.
    ///
    /// # Errors
    /// When they are not what this version of the hop says.
    pub fn take(&mut self, mut input: &[u8]) -> Result<(), WireError> {
        while let Some(piece) = self.frames.next(&mut input)? {
            match piece {
                Piece::Head(head) => self.handle(head)?,
                Piece::Payload(stream, bytes) => {
                    // A stream that was let go may still be spoken on for a moment.
                    let lane = self.lanes.get(&stream);
                    let received = lane.map(|lane| lane.borrow_mut().receive(bytes)).transpose()?;
                    if received == Some(Received::Shed) {
                        self.send(FrameHead::new(stream, Kind::Reset));
                    }
                }
            }
        }
        Ok(())
    }

    fn handle(&mut self, head: FrameHead) -> Result<(), WireError> {
        match head.kind {
            Kind::Open => return self.handle_open(head.stream, Purpose::Application),
            Kind::Continue => return self.handle_open(head.stream, Purpose::Continuation),
            Kind::GoAway => {
                self.is_sent_away = self.side == Side::Client;
                return Ok(());
            }
            _ => {}
        }
        let Some(lane) = self.lanes.get(&head.stream) else { return Ok(()) };
        let mut lane = lane.borrow_mut();
        match head.kind {
            Kind::Data | Kind::GoAway | Kind::Open | Kind::Continue => {}
            Kind::Accept => {
                lane.opening = Opening::Accepted;
                wake(&mut lane.reader);
            }
            Kind::Refuse => {
                lane.opening = Opening::Refused;
                lane.break_off(io::ErrorKind::ConnectionRefused);
            }
            Kind::End => lane.end(),
            Kind::Reset => lane.break_off(io::ErrorKind::ConnectionReset),
            Kind::Window => lane.credit(head.length),
            Kind::Starved => {
                let credit = lane.starve();
                drop(lane);
                if let Some(credit) = credit {
                    self.send(FrameHead::window(head.stream, credit));
                }
            }
        }
        Ok(())
    }

    fn handle_open(&mut self, stream: u32, purpose: Purpose) -> Result<(), WireError> {
        // The last number is none: whoever counts on would meet it again.
        if self.side == Side::Client || stream < self.next || stream == u32::MAX {
            return Err(WireError::Open(stream));
        }
        self.next = stream.saturating_add(1);
        if self.arrivals.len() >= MAX_ARRIVALS {
            self.send(FrameHead::new(stream, Kind::Refuse));
            return Ok(());
        }
        let lane = self.enter(stream, purpose);
        self.arrivals.push_back(lane);
        wake(&mut self.acceptor);
        Ok(())
    }

    fn enter(&mut self, stream: u32, purpose: Purpose) -> SharedLane {
        let lane = Rc::new(RefCell::new(Lane::new(stream, purpose)));
        self.lanes.insert(stream, Rc::clone(&lane));
        lane
    }
}
