//! How a pod stands to the mesh, and how it is used: what enrolment and the data path tell each other of it.

use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// Where a pod stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stand {
    /// In the mesh, and every node knows.
    Member,
    /// On its way in.
    Entering,
    /// On its way out.
    Leaving,
}

/// How a pod stands to the mesh.
///
/// A pod that is on its way in or out speaks plain text itself wherever that is allowed: another node may not know yet,
/// or still not know, what it is. On its way out it takes plain text even where its namespace is strict.
#[derive(Debug)]
pub struct Standing {
    stand: AtomicU8,
    /// Connections through the proxy, both directions.
    connections: AtomicUsize,
    /// Handshakes and streams of the hop towards the pod.
    mesh_uses: AtomicU64,
    seen: Mutex<(u64, Instant)>,
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            stand: AtomicU8::new(Stand::Member as u8),
            connections: AtomicUsize::new(0),
            mesh_uses: AtomicU64::new(0),
            seen: Mutex::new((0, Instant::now())),
        }
    }
}

impl Standing {
    /// Whether the pod is on its way in or out.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.stand.load(Ordering::Acquire) != Stand::Member as u8
    }

    /// Whether the pod is on its way out.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.stand.load(Ordering::Acquire) == Stand::Leaving as u8
    }

    /// Says where the pod stands from now on.
    pub(super) fn set(&self, stand: Stand) {
        self.stand.store(stand as u8, Ordering::Release);
    }

    /// Counts a connection; returns how many there were.
    pub fn connection_begins(&self) -> usize {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts it no more.
    pub fn connection_ends(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many connections the proxy carries for the pod.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// A peer has used the hop for something new.
    pub fn mesh_is_used(&self) {
        self.mesh_uses.fetch_add(1, Ordering::Relaxed);
    }

    /// Since when, at the latest, nobody has begun anything new on a hop to the pod: exact to the time between two
    /// calls. The data path only counts, and never asks for the time.
    pub(super) fn unused_since(&self) -> Instant {
        let uses = self.mesh_uses.load(Ordering::Relaxed);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.0 != uses {
            *seen = (uses, Instant::now());
        }
        seen.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_unused_from_the_look_that_found_nothing_new() {
        let standing = Standing::default();
        let first = standing.unused_since();
        assert_eq!(standing.unused_since(), first);
        standing.mesh_is_used();
        let second = standing.unused_since();
        assert!(second > first);
        assert_eq!(standing.unused_since(), second);
    }
}
