//! What is to be done next: each subject once, however often it changes, and none twice at the same time. Pure.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

/// Things to do, by when they are due.
#[derive(Debug)]
pub(super) struct Queue<K> {
    waiting: BTreeMap<K, Waiting>,
    due: BTreeSet<(Instant, u64, K)>,
    /// Under way; with since when it is to be done again, if it is.
    running: BTreeMap<K, Option<Instant>>,
    added: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    due: Instant,
    number: u64,
    /// When it changed first, of what has not been done.
    since: Instant,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), due: BTreeSet::new(), running: BTreeMap::new(), added: 0 }
    }
}

impl<K: Ord + Clone> Queue<K> {
    /// Something has changed at `since`: it is due at once, or when what is under way for it has ended.
    pub(super) fn add(&mut self, key: K, since: Instant) {
        if let Some(again) = self.running.get_mut(&key) {
            again.get_or_insert(since);
            return;
        }
        let since = self.waiting.get(&key).map_or(since, |waiting| waiting.since);
        self.put(key, since, since);
    }

    /// Takes what is due, in the order of time, with when it changed.
    pub(super) fn take(&mut self, now: Instant) -> Option<(K, Instant)> {
        let (due, _, _) = self.due.first()?;
        if *due > now {
            return None;
        }
        let (_, _, key) = self.due.pop_first()?;
        let waiting = self.waiting.remove(&key)?;
        self.running.insert(key.clone(), None);
        Some((key, waiting.since))
    }

    /// What was taken has ended. It is to be done again at `again`, or when it has changed meanwhile.
    pub(super) fn end(&mut self, key: K, since: Instant, again: Option<Instant>) {
        let changed = self.running.remove(&key).flatten();
        match (changed, again) {
            (Some(changed), None) => self.put(key, changed, changed),
            // It was not done: it is late since it changed first.
            (Some(changed), Some(_)) => self.put(key, changed, since),
            (None, Some(again)) => self.put(key, again, since),
            (None, None) => {}
        }
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _, _)| *due)
    }

    /// How many wait or are under way.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.running.len()
    }

    fn put(&mut self, key: K, due: Instant, since: Instant) {
        if let Some(waiting) = self.waiting.get(&key) {
            if waiting.due <= due {
                return;
            }
            self.due.remove(&(waiting.due, waiting.number, key.clone()));
        }
        self.added += 1;
        self.waiting.insert(key.clone(), Waiting { due, number: self.added, since });
        self.due.insert((due, self.added, key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn each_is_done_once_in_the_order_of_time() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let mut queue = Queue::default();
        for (key, since) in [("a", 0), ("b", 1), ("a", 2), ("c", 1)] {
            queue.add(key, later(since));
        }
        assert_eq!((queue.len(), queue.next_due()), (3, Some(start)));
        let order: Vec<_> = std::iter::from_fn(|| queue.take(later(2))).collect();
        assert_eq!(order, [("a", start), ("b", later(1)), ("c", later(1))]);
        assert_eq!((queue.len(), queue.next_due()), (3, None), "they are under way");
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_under_way_is_done_again_and_never_twice_at_once() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let mut queue = Queue::default();
        queue.add("a", start);
        assert_eq!(queue.take(start), Some(("a", start)));
        queue.add("a", later(1));
        queue.add("a", later(2));
        assert_eq!(queue.take(later(9)), None);
        queue.end("a", start, None);
        assert_eq!(queue.take(later(9)), Some(("a", later(1))));
        queue.end("a", later(1), None);
        assert_eq!((queue.take(later(9)), queue.len()), (None, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_waits_unless_it_changes() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let mut queue = Queue::default();
        queue.add("a", start);
        queue.take(start).unwrap();
        queue.end("a", start, Some(later(30)));
        assert_eq!((queue.take(later(29)), queue.next_due()), (None, Some(later(30))));
        queue.add("a", later(29));
        assert_eq!(queue.take(later(29)), Some(("a", start)), "late since the first change");
        queue.add("a", later(31));
        queue.end("a", start, Some(later(60)));
        assert_eq!(queue.take(later(31)), Some(("a", start)));
    }
}
