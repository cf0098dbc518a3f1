//! The sessions of a port on one thread, by client, and which of them has been silent for the longest. Pure: whoever asks
//! says what time it is.
//!
//! There are two lines of them, as in the kernel's own connection tracking. A session is *brief* until its client has
//! gone on after an answer: what asks once, and what only pretends to have its address, never gets further. A brief one
//! is given up sooner, and gives way first where there is no room.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::Instant;

/// How long a brief session may be silent.
pub(super) const BRIEF_PATIENCE: Duration = Duration::from_secs(30);
/// How long any other may: at least two minutes (RFC 4787, REQ-5).
pub(super) const LASTING_PATIENCE: Duration = Duration::from_secs(120);

/// Stands for no place.
const NOWHERE: usize = usize::MAX;

/// Whose session it is: the client, and which of our addresses it writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The client's address and port.
    pub(super) client: SocketAddr,
    /// The address that it writes to.
    pub(super) local: IpAddr,
}

/// Which line a session is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Its client has not come back after an answer.
    Brief,
    /// It has.
    Lasting,
}

/// The sessions, each with what is kept of it.
#[derive(Debug)]
pub(super) struct Table<T> {
    places: HashMap<Key, usize, RandomState>,
    slots: Vec<Slot<T>>,
    free: Vec<usize>,
    brief: Ends,
    lasting: Ends,
}

#[derive(Debug)]
struct Slot<T> {
    key: Key,
    /// None while the place is free.
    session: Option<T>,
    last: Instant,
    line: Line,
    before: usize,
    after: usize,
}

/// Both ends of a line: who has been silent for the longest, and for the shortest.
#[derive(Clone, Copy, Debug)]
struct Ends {
    first: usize,
    last: usize,
}

const EMPTY: Ends = Ends { first: NOWHERE, last: NOWHERE };

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { places: HashMap::default(), slots: Vec::new(), free: Vec::new(), brief: EMPTY, lasting: EMPTY }
    }
}

impl<T> Table<T> {
    /// The session of a client.
    pub(super) fn find(&mut self, key: &Key) -> Option<&mut T> {
        let place = *self.places.get(key)?;
        self.slots[place].session.as_mut()
    }

    /// Notes that something was said in a session. One that is lasting stays so.
    pub(super) fn touch(&mut self, key: &Key, line: Line, now: Instant) {
        let Some(&place) = self.places.get(key) else { return };
        self.unlink(place);
        let slot = &mut self.slots[place];
        slot.last = now;
        if line == Line::Lasting {
            slot.line = line;
        }
        self.link(place);
    }

    /// Enters a session, brief as it begins.
    pub(super) fn insert(&mut self, key: Key, session: T, now: Instant) {
        self.remove(&key);
        let slot = Slot {
            key,
            session: Some(session),
            last: now,
            line: Line::Brief,
            before: NOWHERE,
            after: NOWHERE,
        };
        let place = match self.free.pop() {
            Some(place) => {
                self.slots[place] = slot;
                place
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        self.places.insert(key, place);
        self.link(place);
    }

    /// Takes a session out.
    pub(super) fn remove(&mut self, key: &Key) -> Option<T> {
        let place = self.places.remove(key)?;
        self.unlink(place);
        self.free.push(place);
        self.slots[place].session.take()
    }

    /// Takes out the session that has to give way: the one that has been silent for the longest, of brief ones if there
    /// are any.
    pub(super) fn give_way(&mut self) -> Option<T> {
        let first = if self.brief.first == NOWHERE { self.lasting.first } else { self.brief.first };
        let key = self.slots.get(first)?.key;
        self.remove(&key)
    }

    /// Takes out a session that has been silent for too long; to be asked until there is none.
    pub(super) fn expire(&mut self, now: Instant) -> Option<T> {
        let lines = [(self.brief, BRIEF_PATIENCE), (self.lasting, LASTING_PATIENCE)];
        let is_over = |(ends, patience): &(Ends, Duration)| {
            self.slots.get(ends.first).is_some_and(|slot| now.duration_since(slot.last) >= *patience)
        };
        let (ends, _) = lines.into_iter().find(is_over)?;
        let key = self.slots[ends.first].key;
        self.remove(&key)
    }

    /// Those of which this is true, to be taken out.
    pub(super) fn select(&self, is_meant: impl Fn(&T) -> bool) -> Vec<Key> {
        let all = self.slots.iter().filter(|slot| slot.session.as_ref().is_some_and(&is_meant));
        all.map(|slot| slot.key).collect()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    fn ends(&mut self, line: Line) -> &mut Ends {
        match line {
            Line::Brief => &mut self.brief,
            Line::Lasting => &mut self.lasting,
        }
    }

    /// Puts a place at the end of its line.
    fn link(&mut self, place: usize) {
        let line = self.slots[place].line;
        let ends = self.ends(line);
        let before = ends.last;
        ends.last = place;
        if before == NOWHERE {
            ends.first = place;
        } else {
            self.slots[before].after = place;
        }
        self.slots[place].before = before;
        self.slots[place].after = NOWHERE;
    }

    /// Takes a place out of its line.
    fn unlink(&mut self, place: usize) {
        let Slot { line, before, after, .. } = self.slots[place];
        if before == NOWHERE {
            self.ends(line).first = after;
        } else {
            self.slots[before].after = after;
        }
        if after == NOWHERE {
            self.ends(line).last = before;
        } else {
            self.slots[after].before = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> Key {
        Key { client: SocketAddr::from(([10, 0, 0, 1], port)), local: IpAddr::from([10, 0, 0, 2]) }
    }

    /// A table with these sessions, one begun in each second.
    fn table(ports: &[u16]) -> (Table<u16>, Instant) {
        let (mut table, begun) = (Table::default(), Instant::now());
        for (second, port) in (0..).zip(ports) {
            table.insert(key(*port), *port, begun + Duration::from_secs(second));
        }
        (table, begun)
    }

    fn order(mut table: Table<u16>) -> Vec<u16> {
        std::iter::from_fn(|| table.give_way()).collect()
    }

    #[test]
    fn the_one_that_is_silent_for_the_longest_gives_way() {
        let (mut table, begun) = table(&[1, 2, 3]);
        table.touch(&key(1), Line::Brief, begun + Duration::from_secs(9));
        assert_eq!(table.len(), 3);
        assert_eq!(order(table), [2, 3, 1]);
    }

    #[test]
    fn whose_client_has_come_back_stays_when_others_give_way_and_is_never_brief_again() {
        let (mut table, begun) = table(&[1, 2, 3, 4]);
        let at = |second| begun + Duration::from_secs(second);
        table.touch(&key(2), Line::Lasting, at(5));
        table.touch(&key(1), Line::Lasting, at(6));
        table.touch(&key(2), Line::Brief, at(7));
        assert_eq!(order(table), [3, 4, 1, 2]);
    }

    #[test]
    fn a_silent_session_is_over_after_its_patience_and_no_sooner() {
        let (mut table, begun) = table(&[1, 2, 3]);
        table.touch(&key(2), Line::Lasting, begun + Duration::from_secs(4));
        let mut over =
            |after: Duration| std::iter::from_fn(|| table.expire(begun + after)).collect::<Vec<_>>();
        let moment = Duration::from_millis(1);
        assert!(over(BRIEF_PATIENCE - moment).is_empty());
        assert_eq!(over(BRIEF_PATIENCE), [1]);
        assert_eq!(over(BRIEF_PATIENCE + Duration::from_secs(2)), [3]);
        assert!(over(LASTING_PATIENCE + Duration::from_secs(4) - moment).is_empty());
        assert_eq!(over(LASTING_PATIENCE + Duration::from_secs(4)), [2]);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn places_are_used_again_and_lines_stay_whole() {
        let (mut table, begun) = table(&[1, 2, 3]);
        assert_eq!((table.remove(&key(2)), table.remove(&key(2))), (Some(2), None));
        table.insert(key(4), 4, begun + Duration::from_secs(4));
        assert_eq!(
            (table.slots.len(), table.find(&key(4)).copied(), table.find(&key(2))),
            (3, Some(4), None)
        );
        table.insert(key(1), 11, begun + Duration::from_secs(5));
        assert_eq!(table.select(|session| *session > 3).len(), 2);
        assert_eq!(order(table), [3, 4, 11]);
    }

    #[test]
    fn an_address_of_ours_that_is_written_to_is_part_of_whose_session_it_is() {
        let (mut table, begun) = table(&[1]);
        let other = Key { local: IpAddr::from([10, 0, 0, 3]), ..key(1) };
        table.insert(other, 2, begun);
        assert_eq!((table.len(), table.find(&other).copied()), (2, Some(2)));
    }
}
