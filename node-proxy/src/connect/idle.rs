//! Idle HTTP/1.1 connections to endpoints, used again by the pod they belong to.
//!
//! A connection is one to the application: a stream of a hop, or a socket in plain text.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{Dialled, HopKey, is_forsaken};
use crate::forward::Reset as _;
use crate::http1::ReadBuffer;
use crate::snapshot::Snapshot;

/// How long an idle connection is kept unless its server says less.
const MAX_IDLE: Duration = Duration::from_secs(15);
/// A request that is not safe to repeat goes only on a connection that was idle for less than this.
pub(super) const FRESH: Duration = Duration::from_secs(1);
/// How many idle connections one pod keeps to one endpoint.
const MAX_IDLE_CONNECTIONS: usize = 256;

/// An open HTTP/1.1 connection between requests.
#[derive(Debug)]
pub struct IdleConnection {
    /// The connection.
    pub dialled: Dialled,
    /// Its read buffer, empty.
    pub buffer: ReadBuffer,
    since: Instant,
    until: Instant,
}

impl IdleConnection {
    fn is_usable(&mut self, now: Instant) -> bool {
        now < self.until && self.dialled.transport.is_quiet()
    }
}

/// The idle connections of one thread.
#[derive(Debug, Default)]
pub struct IdlePool {
    idle: HashMap<HopKey, Vec<IdleConnection>, foldhash::fast::RandomState>,
}

impl IdlePool {
    /// The connection that was used last, if one may take a request. `repeatable` says whether the request may be
    /// sent again should it turn out to be dead.
    pub fn take(&mut self, key: &HopKey, repeatable: Repeatable) -> Option<IdleConnection> {
        let connections = self.idle.get_mut(key)?;
        let now = Instant::now();
        while let Some(mut connection) = connections.pop() {
            if repeatable == Repeatable::No && now - connection.since >= FRESH {
                connections.push(connection);
                return None;
            }
            if connection.is_usable(now) {
                return Some(connection);
            }
            connection.dialled.transport.close();
        }
        None
    }

    /// Keeps a connection after a complete exchange. `keep_alive_seconds` is what the server said.
    pub fn put(
        &mut self,
        key: HopKey,
        dialled: Dialled,
        mut buffer: ReadBuffer,
        keep_alive_seconds: Option<u64>,
    ) {
        // Unread bytes after a complete answer belong to nobody: such a connection is not used again.
        if !buffer.unread().is_empty() {
            return dialled.transport.close();
        }
        buffer.release();
        let since = Instant::now();
        // One second less than the server's own patience, so that a request does not meet its close.
        let idle = keep_alive_seconds.map_or(MAX_IDLE, |seconds| {
            MAX_IDLE.min(Duration::from_secs(seconds).saturating_sub(Duration::from_secs(1)))
        });
        let until = dialled.usable_until.min(since + idle);
        let connections = self.idle.entry(key).or_default();
        if connections.len() < MAX_IDLE_CONNECTIONS {
            connections.push(IdleConnection { dialled, buffer, since, until });
        } else {
            dialled.transport.close();
        }
    }

    /// Closes connections whose time is over, whose server has ended them, or that lead where nobody is sent any more.
    pub fn sweep(&mut self, snapshot: &Snapshot) {
        let now = Instant::now();
        self.idle.retain(|key, connections| {
            let is_over = |connection: &mut IdleConnection| {
                is_forsaken(snapshot, key, connection.dialled.endpoint.as_ref()) || !connection.is_usable(now)
            };
            for connection in connections.extract_if(.., is_over) {
                connection.dialled.transport.close();
            }
            !connections.is_empty()
        });
    }

    /// Closes every connection in order.
    pub fn retire(&mut self) {
        for (_, connections) in self.idle.drain() {
            connections.into_iter().for_each(|connection| connection.dialled.transport.close());
        }
    }

    /// Closes every connection of a pod that has left, by resets: an end that waits for its acknowledgement would keep
    /// the pod's namespace alive.
    pub fn forget(&mut self, client: &str) {
        for (_, connections) in self.idle.extract_if(|key, _| &*key.client == client) {
            connections.iter().for_each(|connection| connection.dialled.transport.reset());
        }
    }

    /// How many connections are idle.
    #[must_use]
    pub fn len(&self) -> usize {
        self.idle.values().map(Vec::len).sum()
    }

    /// Whether no connection is idle.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.idle.is_empty()
    }
}

/// Whether a request may be sent twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeatable {
    /// It may not.
    No,
    /// It is idempotent and nothing of it would be lost.
    Yes,
}
