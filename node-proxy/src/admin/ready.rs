//! Readiness: whoever must be done before traffic may come holds a guard.
//!
//! The proxy is ready when the last guard is gone. A stage takes its guard before it starts, so that there is no moment
//! at which nothing blocks because nothing has begun.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What is being waited for.
#[derive(Clone, Debug, Default)]
pub struct Ready {
    guards: Arc<Mutex<Guards>>,
    reached: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Guards {
    next: u64,
    held: BTreeMap<u64, &'static str>,
    remark: Option<String>,
}

impl Ready {
    /// Nothing blocks yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Blocks readiness until the guard is dropped. `what` completes "waiting for:".
    #[must_use = "a guard that is dropped at once blocks nothing"]
    pub fn block(&self, what: &'static str) -> BlockReady {
        let mut guards = self.lock();
        let id = guards.next;
        guards.next += 1;
        guards.held.insert(id, what);
        BlockReady { ready: self.clone(), id }
    }

    /// What blocks, oldest first; empty when ready.
    #[must_use]
    pub fn blocking(&self) -> Vec<&'static str> {
        self.lock().held.values().copied().collect()
    }

    /// Waits until nothing blocks.
    pub async fn wait(&self) {
        loop {
            let mut reached = pin!(self.reached.notified());
            reached.as_mut().enable();
            if self.blocking().is_empty() {
                return;
            }
            reached.await;
        }
    }

    /// What is to be known of a proxy that is ready, if anything.
    #[must_use]
    pub fn remark(&self) -> Option<String> {
        self.lock().remark.clone()
    }

    /// Says what is to be known, or that nothing is.
    pub fn set_remark(&self, remark: Option<String>) {
        self.lock().remark = remark;
    }

    fn lock(&self) -> MutexGuard<'_, Guards> {
        // The map is whole at every step: a panic elsewhere does not spoil it.
        self.guards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Blocks readiness while it is held.
#[derive(Debug)]
pub struct BlockReady {
    ready: Ready,
    id: u64,
}

impl Drop for BlockReady {
    fn drop(&mut self) {
        let mut guards = self.ready.lock();
        guards.held.remove(&self.id);
        if guards.held.is_empty() {
            self.ready.reached.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_the_last_guard_is_dropped() {
        let ready = Ready::new();
        let snapshot = ready.block("first snapshot");
        let again = ready.block("first snapshot");
        let sockets = ready.block("enrolment socket");
        assert_eq!(ready.blocking(), ["first snapshot", "first snapshot", "enrolment socket"]);
        drop(snapshot);
        assert_eq!(ready.blocking(), ["first snapshot", "enrolment socket"]);
        drop(sockets);
        assert_eq!(ready.blocking(), ["first snapshot"]);
        drop(again);
        assert!(ready.blocking().is_empty());
    }

    #[tokio::test]
    async fn whoever_waits_is_told_when_nothing_blocks_any_more() {
        let ready = Ready::new();
        ready.wait().await;
        let guards = [ready.block("one"), ready.block("other")];
        let (waited, ()) = tokio::join!(
            async {
                ready.wait().await;
                ready.blocking().len()
            },
            async {
                for guard in guards {
                    tokio::task::yield_now().await;
                    drop(guard);
                }
            }
        );
        assert_eq!(waited, 0);
    }

    #[test]
    fn a_guard_lost_in_a_panic_no_longer_blocks() {
        let ready = Ready::new();
        let guard = ready.block("a task");
        let thread = std::thread::spawn(move || {
            let _guard = guard;
            panic!("as planned");
        });
        thread.join().unwrap_err();
        assert!(ready.blocking().is_empty());
    }
}
