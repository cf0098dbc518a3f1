//! One stream's state at one end: what has come and was not read, and what may still be sent.
//!
//! Each side grants the other credit, byte by byte, so that a reader that is slow holds back its own stream and
//! nothing else. The credit grows for a stream that is read faster than it is granted, and only for such a one, as long
//! as the pod's connections hold little; when they hold much, it shrinks again as it is read. A stream that is not read
//! while its pod holds all that it may is broken off: one pod's streams have one bound.

use std::collections::VecDeque;
use std::io;
use std::task::Waker;

use super::frame::WireError;
use crate::turns::Holding;

/// What a stream may send before it is granted more, in bytes, each way.
pub const INITIAL_WINDOW: u32 = 64 * 1024;
/// What the credit may grow to: enough for 10 Gb/s over 3 ms.
const MAX_WINDOW: u32 = 4 * 1024 * 1024;
/// What comes in pieces of at least this is much, and gets large buffers.
const MUCH: usize = 8 * 1024;
/// A large buffer: what is then passed on in one piece.
const LARGE: usize = 256 * 1024;
/// What a piece has room for that waits behind another: bytes may come one by one.
const SMALL: usize = 4 * 1024;

/// What an unread stream may hold of a pod that holds all it may, in bytes.
const LEAST: usize = 16 * 1024;

/// What reading a stream fails with that was broken off for its pod's memory.
pub const SHED: io::ErrorKind = io::ErrorKind::QuotaExceeded;

/// What became of bytes that have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// They wait to be read, or nobody will read them.
    Taken,
    /// There is no room for them: the stream is broken off, and the other side must be told.
    Shed,
}

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be the connection of an application.
    Application,
    /// To prove which older hop this one continues: the proxies' own.
    Continuation,
}

/// Whether the other side has taken the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// It has not said yet.
    Asked,
    /// It has.
    Accepted,
    /// It has not, and nothing was passed on.
    Refused,
}

/// What one direction has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Bytes may come.
    Open,
    /// None will, in order.
    Ended,
    /// The stream was broken off.
    Broken(io::ErrorKind),
}

/// A stream at one end.
#[derive(Debug)]
pub struct Lane {
    /// Its number.
    pub id: u32,
    /// What it is for.
    pub purpose: Purpose,
    /// Whether the other side has taken it.
    pub opening: Opening,
    /// What comes in.
    pub inbound: Way,
    /// What goes out.
    pub outbound: Way,
    /// How many bytes may be sent.
    pub credit: u32,
    /// Whether the other side was told that this is too little.
    pub starved: bool,
    /// Whoever waits to read, or to be accepted.
    pub reader: Option<Waker>,
    /// Whoever waits to write.
    pub writer: Option<Waker>,
    /// Whether that is for room on the hop.
    pub is_in_crowd: bool,
    received: VecDeque<Vec<u8>>,
    /// What the pieces take in memory, in bytes.
    size: usize,
    holding: Holding,
    /// How much of the first piece was read.
    start: usize,
    /// How many bytes may still come.
    allowance: u32,
    window: u32,
    /// Bytes that were read and not yet granted again.
    owed: u32,
    /// Bytes that have come since the window has grown.
    used: u32,
    wants_more: bool,
}

impl Lane {
    /// A stream at its beginning.
    #[must_use]
    pub const fn new(id: u32, purpose: Purpose) -> Self {
        Self {
            id,
            purpose,
            opening: Opening::Asked,
            inbound: Way::Open,
            outbound: Way::Open,
            credit: INITIAL_WINDOW,
            starved: false,
            reader: None,
            writer: None,
            is_in_crowd: false,
            received: VecDeque::new(),
            size: 0,
            holding: Holding::new(),
            start: 0,
            allowance: INITIAL_WINDOW,
            window: INITIAL_WINDOW,
            owed: 0,
            used: 0,
            wants_more: false,
        }
    }

    /// The first piece of what has come and was not read. Empty when there is nothing.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        self.received.front().map_or(&[], |piece| &piece[self.start..])
    }

    /// Takes bytes that have come.
    ///
    /// # Errors
    /// When they are more than was granted.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Received, WireError> {
        let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.allowance = self.allowance.checked_sub(count).ok_or(WireError::BeyondWindow(self.id))?;
        self.used = self.used.saturating_add(count);
        // After an end or a reset nobody reads.
        if self.inbound != Way::Open {
            return Ok(Received::Taken);
        }
        if self.size > LEAST && self.holding.is_of_a_full_pod() {
            self.forget_unread();
            self.break_off(SHED);
            return Ok(Received::Shed);
        }
        self.append(bytes);
        self.note_size();
        wake(&mut self.reader);
        Ok(Received::Taken)
    }

    /// Memory is held for what has come and, where the window has grown, for what may come.
    fn note_size(&mut self) {
        let grown = usize::try_from(self.window - INITIAL_WINDOW).unwrap_or(usize::MAX);
        self.holding.set(self.size.max(grown));
    }

    fn append(&mut self, bytes: &[u8]) {
        if let Some(last) = self.received.back_mut()
            && last.capacity() - last.len() >= bytes.len()
        {
            return last.extend_from_slice(bytes);
        }
        let room = match bytes.len() {
            alone if self.received.is_empty() => alone,
            // A second piece before the first was read: there may be many, as far as they may come.
            much @ MUCH.. => LARGE.min(much + usize::try_from(self.allowance).unwrap_or(LARGE)).max(much),
            few => few.max(SMALL),
        };
        let mut piece = Vec::with_capacity(room);
        self.size += piece.capacity();
        piece.extend_from_slice(bytes);
        self.received.push_back(piece);
    }

    /// Drops the first `count` bytes of the first piece. Gives the credit to grant for them, if it is time to.
    #[must_use]
    pub fn consume(&mut self, count: usize) -> Option<u32> {
        self.start += count;
        if self.received.front().is_some_and(|piece| self.start >= piece.len()) {
            self.part_with_piece();
            self.start = 0;
        }
        self.note_read(count)
    }

    /// Hands over the first piece, if none of it was read, with the credit to grant for it.
    pub fn take_piece(&mut self) -> Option<(Vec<u8>, Option<u32>)> {
        if self.start > 0 {
            return None;
        }
        let piece = self.part_with_piece()?;
        let credit = self.note_read(piece.len());
        Some((piece, credit))
    }

    fn part_with_piece(&mut self) -> Option<Vec<u8>> {
        let piece = self.received.pop_front()?;
        self.size -= piece.capacity();
        Some(piece)
    }

    fn note_read(&mut self, count: usize) -> Option<u32> {
        self.owed += u32::try_from(count).unwrap_or(u32::MAX);
        let credit = self.grant();
        self.note_size();
        credit
    }

    /// Notes that the other side would send more than it may. Gives the credit to grant at once.
    #[must_use]
    pub fn starve(&mut self) -> Option<u32> {
        self.wants_more = true;
        let credit = self.grant();
        self.note_size();
        credit
    }

    /// Whoever reads all there is, and is asked for more, keeps up: it may have more at a time. Asking alone gets
    /// nothing: a window grows only after it was used.
    fn grant(&mut self) -> Option<u32> {
        if self.inbound != Way::Open {
            return None;
        }
        let keeps_up = self.wants_more && self.unread().is_empty() && self.used >= self.window;
        let more = self.window.min(MAX_WINDOW - self.window);
        let may_grow = self.holding.may_grow(usize::try_from(more).unwrap_or(usize::MAX));
        if !may_grow && !self.holding.may_grow(0) {
            let withheld = self.owed.min(self.window - INITIAL_WINDOW);
            self.owed -= withheld;
            self.window -= withheld;
        }
        if !keeps_up && self.owed < self.window / 2 {
            return None;
        }
        let growth = if keeps_up && may_grow { more } else { 0 };
        let credit = self.owed + growth;
        self.window += growth;
        self.owed = 0;
        if keeps_up {
            self.wants_more = false;
            self.used = 0;
        }
        self.allowance += credit;
        (credit > 0).then_some(credit)
    }

    /// Takes credit that was granted.
    pub fn credit(&mut self, bytes: u32) {
        self.credit = self.credit.saturating_add(bytes);
        self.starved = false;
        wake(&mut self.writer);
    }

    /// Drops what nobody will read.
    pub fn forget_unread(&mut self) {
        self.received = VecDeque::new();
        self.start = 0;
        self.size = 0;
        self.holding.set(0);
    }

    /// Ends what comes in.
    pub fn end(&mut self) {
        if self.inbound == Way::Open {
            self.inbound = Way::Ended;
        }
        wake(&mut self.reader);
    }

    /// Breaks off both ways. What has ended in order has ended.
    pub fn break_off(&mut self, kind: io::ErrorKind) {
        for way in [&mut self.inbound, &mut self.outbound] {
            if *way == Way::Open {
                *way = Way::Broken(kind);
            }
        }
        wake(&mut self.reader);
        wake(&mut self.writer);
    }

    /// Whether both ways have ended, one way or the other.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.inbound != Way::Open && self.outbound != Way::Open
    }
}

/// Wakes whoever waits there.
pub(super) fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turns::{Memory, Turns};

    /// Does something in a step of a pod that may hold so many bytes.
    fn within(bound: usize, work: impl FnOnce() + 'static) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let turns = Turns::default();
        let step = turns.share_of(&Memory::new(bound)).run(async move { work() });
        runtime.block_on(async {
            tokio::select! {
                () = step => {}
                () = turns.run() => unreachable!("it never ends"),
            }
        });
    }

    fn lane(id: u32) -> Lane {
        Lane::new(id, Purpose::Application)
    }

    /// All that may come comes, is read, and more is asked for.
    fn keep_up(lane: &mut Lane) {
        let used = vec![0; usize::try_from(lane.allowance).expect("small")];
        lane.receive(&used).expect("within the window");
        let _ = lane.starve();
        while let Some((_, _credit)) = lane.take_piece() {}
    }

    #[test]
    fn windows_grow_within_the_memory_of_their_pod_and_shrink_again() {
        within(1024 * 1024, || {
            let mut lanes: Vec<Lane> = (1..=8).map(lane).collect();
            let grown = |lanes: &[Lane]| lanes.iter().map(|lane| lane.window - INITIAL_WINDOW).sum::<u32>();
            (0..20).for_each(|_| lanes.iter_mut().for_each(keep_up));
            assert!((256 * 1024..=640 * 1024).contains(&grown(&lanes)), "{}", grown(&lanes));
            // Something else needs it.
            let mut other = Holding::new();
            other.set(1024 * 1024);
            (0..20).for_each(|_| lanes.iter_mut().for_each(keep_up));
            assert_eq!(grown(&lanes), 0);
            assert!(lanes.iter().all(|lane| lane.allowance > 0), "all go on");
            other.set(0);
            (0..20).for_each(|_| lanes.iter_mut().for_each(keep_up));
            assert!(grown(&lanes) >= 256 * 1024, "{}", grown(&lanes));
        });
    }

    #[test]
    fn streams_that_are_not_read_hold_what_was_granted_and_are_not_broken_off_for_more() {
        const STREAMS: u32 = 20;
        // Twice what may be on its way to all of them before it is read.
        within(2 * 20 * 64 * 1024, || {
            let mut lanes: Vec<Lane> = (0..STREAMS).map(lane).collect();
            for lane in &mut lanes {
                while lane.allowance > 0 {
                    let bytes = vec![0; usize::try_from(lane.allowance).expect("small").min(10_000)];
                    assert_eq!(lane.receive(&bytes), Ok(Received::Taken));
                }
            }
            let held: usize = lanes.iter().map(|lane| lane.size).sum();
            assert!(held <= 20 * (64 * 1024 + SMALL), "{held} bytes are held");
        });
    }

    #[test]
    fn of_a_full_pod_a_stream_that_is_not_read_keeps_little_and_one_that_is_goes_on() {
        within(1024 * 1024, || {
            let mut other = Holding::new();
            other.set(2 * 1024 * 1024);
            let mut read = lane(1);
            (0..100).for_each(|_| {
                assert_eq!(read.receive(&[0; 8 * 1024]), Ok(Received::Taken));
                let _ = read.take_piece();
            });
            let mut unread = lane(2);
            let came = (0..100).take_while(|_| unread.receive(&[0; 8 * 1024]) == Ok(Received::Taken)).count();
            assert!((2..=6).contains(&came), "{came} times 8 KiB");
            assert_eq!((unread.inbound, unread.size), (Way::Broken(SHED), 0));
            assert!(unread.is_over() && !read.is_over());
        });
    }

    #[test]
    fn credit_comes_back_in_halves_and_grows_only_for_a_reader_that_keeps_up() {
        let mut lane = lane(1);
        let half = INITIAL_WINDOW / 2;
        let bytes = vec![0; usize::try_from(INITIAL_WINDOW).expect("small")];
        lane.receive(&bytes).expect("within the window");
        assert_eq!(lane.receive(b"x"), Err(WireError::BeyondWindow(1)));
        assert_eq!(lane.consume(10), None);
        assert_eq!(lane.consume(bytes.len() / 2), Some(half + 10));
        // It is asked for more, and has not read all: no growth yet.
        assert_eq!(lane.starve(), None);
        let rest = lane.unread().len();
        assert_eq!(lane.consume(rest), Some(half - 10 + INITIAL_WINDOW), "now it keeps up");
        assert_eq!(lane.window, 2 * INITIAL_WINDOW);
        assert_eq!(lane.starve(), None, "asking alone");
        for _ in 0..10 {
            let used = vec![0; usize::try_from(lane.allowance).expect("small")];
            lane.receive(&used).expect("within the window");
            let _ = lane.starve();
            while let Some((_, _credit)) = lane.take_piece() {}
        }
        assert_eq!(lane.window, MAX_WINDOW);
        assert_eq!(lane.allowance, MAX_WINDOW);
    }

    #[test]
    fn an_end_keeps_what_has_come_and_takes_nothing_more() {
        let mut lane = lane(1);
        lane.receive(b"part").expect("within the window");
        lane.end();
        lane.receive(b"late").expect("within the window");
        assert_eq!(lane.unread(), b"part");
        assert!(!lane.is_over());
        lane.break_off(io::ErrorKind::ConnectionReset);
        assert!(lane.is_over());
    }
}
