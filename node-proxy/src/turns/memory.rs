//! What the connections of one pod hold in memory, under one bound for all of them.
//!
//! A buffer says how much it holds whenever that changes ([`Holding`]). Threads add up what theirs hold and tell each
//! other in rough numbers, so that they seldom meet in one place. Nobody waits here: as long as no more than half is
//! used, windows and buffers may grow; beyond that, they do not, and windows that have grown shrink as they are read;
//! and of a pod whose bound is reached nothing new is taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::CURRENT;

/// How much a thread keeps to itself, in bytes, before it tells the others.
const UNTOLD: usize = 64 * 1024;

/// The memory of one pod's connections.
#[derive(Clone, Debug)]
pub struct Memory(Arc<Whole>);

#[derive(Debug)]
struct Whole {
    bound: usize,
    /// Of all threads; may be a little below zero, as they tell it late.
    held: AtomicUsize,
}

/// One thread's part of it.
#[derive(Debug)]
pub(super) struct Part {
    memory: Memory,
    /// Only its thread changes this.
    untold: AtomicUsize,
}

/// What one buffer holds, of the memory of the pod whose step it was first filled in. Given back when dropped.
#[derive(Debug, Default)]
pub struct Holding {
    part: Option<Arc<Part>>,
    bytes: usize,
}

impl Memory {
    /// Memory of `bound` bytes.
    #[must_use]
    pub fn new(bound: usize) -> Self {
        Self(Arc::new(Whole { bound, held: AtomicUsize::new(0) }))
    }

    /// How much is held, up to what threads have not told.
    #[must_use]
    pub fn held(&self) -> usize {
        usize::try_from(self.0.held.load(Ordering::Relaxed).cast_signed()).unwrap_or(0)
    }

    /// Whether there is nothing left for anything new.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.held() >= self.0.bound
    }

    /// Whether so much more may be held where it is not needed.
    fn has_room(&self, more: usize) -> bool {
        self.held().saturating_add(more) <= self.0.bound / 2
    }

    pub(super) fn part(&self) -> Arc<Part> {
        Arc::new(Part { memory: self.clone(), untold: AtomicUsize::new(0) })
    }
}

impl Default for Memory {
    /// Without a bound.
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl Part {
    fn change(&self, before: usize, now: usize) {
        let untold = self.untold.load(Ordering::Relaxed).wrapping_add(now.wrapping_sub(before));
        let is_much = untold.cast_signed().unsigned_abs() >= UNTOLD;
        if is_much {
            self.memory.0.held.fetch_add(untold, Ordering::Relaxed);
        }
        self.untold.store(if is_much { 0 } else { untold }, Ordering::Relaxed);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.memory.0.held.fetch_add(*self.untold.get_mut(), Ordering::Relaxed);
    }
}

impl Holding {
    /// One that holds nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { part: None, bytes: 0 }
    }

    fn memory(&mut self) -> Option<&Memory> {
        if self.part.is_none() {
            self.part = CURRENT.with_borrow(|share| share.as_ref().map(|share| Arc::clone(&share.0.part)));
        }
        self.part.as_ref().map(|part| &part.memory)
    }

    /// Holds so many bytes from now on. Only on the thread of the one step.
    pub fn set(&mut self, bytes: usize) {
        if bytes == self.bytes || self.memory().is_none() {
            return;
        }
        if let Some(part) = &self.part {
            part.change(self.bytes, bytes);
            self.bytes = bytes;
        }
    }

    /// Whether it may hold so many bytes more than it needs.
    #[must_use]
    pub fn may_grow(&mut self, more: usize) -> bool {
        self.memory().is_none_or(|memory| memory.has_room(more))
    }

    /// Whether there is nothing left for anything new.
    #[must_use]
    pub fn is_of_a_full_pod(&mut self) -> bool {
        self.memory().is_some_and(Memory::is_full)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(part: &Arc<Part>) -> Holding {
        Holding { part: Some(Arc::clone(part)), bytes: 0 }
    }

    #[test]
    fn what_is_held_is_known_up_to_what_a_thread_has_not_told() {
        let memory = Memory::new(1024 * 1024);
        let (one, other) = (memory.part(), memory.part());
        let mut small: Vec<Holding> = (0..3).map(|_| holding(&one)).collect();
        small.iter_mut().for_each(|small| small.set(16 * 1024));
        assert_eq!(memory.held(), 0, "too little to tell");
        let mut large = holding(&other);
        large.set(600 * 1024);
        small.push(holding(&one));
        small[3].set(16 * 1024);
        assert_eq!(memory.held(), (600 + 64) * 1024);
        assert!(!large.may_grow(1) && !large.is_of_a_full_pod());
        large.set(2 * 1024 * 1024);
        assert!(large.is_of_a_full_pod() && memory.is_full());
        drop(large);
        drop(small);
        drop((one, other));
        assert_eq!(memory.held(), 0);
        assert!(!memory.is_full());
    }

    #[test]
    fn threads_that_come_and_go_leave_nothing_behind() {
        let memory = Memory::new(usize::MAX);
        std::thread::scope(|scope| {
            for seed in 1..5_usize {
                let part = memory.part();
                scope.spawn(move || {
                    let mut held: Vec<Holding> = (0..10).map(|_| holding(&part)).collect();
                    for step in 0..10_000_usize {
                        held[step % 10].set((step * seed * 7919) % 300_000);
                    }
                });
            }
        });
        assert_eq!(memory.held(), 0);
        assert_eq!(memory.0.held.load(Ordering::Relaxed), 0);
    }
}
