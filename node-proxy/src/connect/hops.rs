//! Idle HTTP/1.1 connections to endpoints, used again by the pod they belong to.
//!
//! A hop belongs to one client pod, its source address, and one endpoint's pod (design D2): a reused address
//! is another endpoint, and no pod ever speaks on another pod's connection.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use tokio::time::Instant;

use super::{Destination, Dialled};
use crate::http1::ReadBuffer;
use crate::snapshot::workload::{Enrolment, MtlsMode};
use crate::tls::{self, WorkloadCert};

/// A hop is never older than this.
pub const MAX_AGE: Duration = Duration::from_secs(600);
/// How long an idle hop is kept unless its server says less.
const MAX_IDLE: Duration = Duration::from_secs(15);
/// A request that is not safe to repeat goes only on a hop that was idle for less than this.
const FRESH: Duration = Duration::from_secs(1);
/// How many idle hops one pod keeps to one endpoint.
const MAX_IDLE_HOPS: usize = 256;

/// Whose connection to whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HopKey {
    /// The client pod's uid.
    pub client: Arc<str>,
    /// The client pod's address on the connection.
    pub source: IpAddr,
    /// The endpoint.
    pub address: SocketAddr,
    /// The endpoint's pod uid.
    pub workload: Option<Arc<str>>,
    /// How the endpoint was to be spoken with: its mark may come and go, and its namespace turn strict. A hop
    /// in plain text is never used again once mTLS is due.
    pub terms: Option<(Enrolment, MtlsMode)>,
}

impl HopKey {
    /// The key of connections from a pod to a destination.
    #[must_use]
    pub fn new(client: &Arc<str>, source: IpAddr, destination: &Destination) -> Self {
        let workload = destination.workload.as_ref();
        Self {
            client: Arc::clone(client),
            source,
            address: destination.address,
            workload: workload.map(|workload| Arc::clone(&workload.uid)),
            terms: workload.map(|workload| (workload.enrolment, workload.mtls)),
        }
    }
}

/// An open HTTP/1.1 connection between requests.
#[derive(Debug)]
pub struct IdleHop {
    /// The connection.
    pub dialled: Dialled,
    /// Its read buffer, empty.
    pub buffer: ReadBuffer,
    since: Instant,
    until: Instant,
}

impl IdleHop {
    fn is_usable(&mut self, now: Instant) -> bool {
        now < self.until && self.dialled.transport.is_quiet()
    }
}

/// The idle hops of one thread.
#[derive(Debug, Default)]
pub struct HopPool {
    idle: HashMap<HopKey, Vec<IdleHop>>,
}

impl HopPool {
    /// The hop that was used last, if one may take a request. `repeatable` says whether the request may be
    /// sent again should the hop turn out to be dead.
    pub fn take(&mut self, key: &HopKey, repeatable: Repeatable) -> Option<IdleHop> {
        let hops = self.idle.get_mut(key)?;
        let now = Instant::now();
        while let Some(mut hop) = hops.pop() {
            if repeatable == Repeatable::No && now - hop.since >= FRESH {
                hops.push(hop);
                return None;
            }
            if hop.is_usable(now) {
                return Some(hop);
            }
            hop.dialled.transport.close();
        }
        None
    }

    /// Keeps a hop after a complete exchange. `keep_alive_seconds` is what the server said.
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
        let hops = self.idle.entry(key).or_default();
        if hops.len() < MAX_IDLE_HOPS {
            hops.push(IdleHop { dialled, buffer, since, until });
        } else {
            dialled.transport.close();
        }
    }

    /// Closes hops whose time is over or whose server has ended them.
    pub fn sweep(&mut self) {
        let now = Instant::now();
        self.idle.retain(|_, hops| {
            for hop in hops.extract_if(.., |hop| !hop.is_usable(now)) {
                hop.dialled.transport.close();
            }
            !hops.is_empty()
        });
    }

    /// Closes every hop of a pod that has left, by resets: an end that waits for its acknowledgement would keep
    /// the pod's namespace alive.
    pub fn forget(&mut self, client: &str) {
        for (_, hops) in self.idle.extract_if(|key, _| &*key.client == client) {
            hops.iter().for_each(|hop| hop.dialled.transport.tcp().reset());
        }
    }

    /// How many hops are idle.
    #[must_use]
    pub fn len(&self) -> usize {
        self.idle.values().map(Vec::len).sum()
    }

    /// Whether no hop is idle.
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

/// Until when a new hop may be used: ten minutes, or less when either leaf ends sooner.
#[must_use]
pub fn usable_until(own: &WorkloadCert, peer: Option<&[CertificateDer<'_>]>) -> Instant {
    let left = |end: SystemTime| end.duration_since(SystemTime::now()).unwrap_or_default();
    let peer_left = peer.and_then(<[_]>::first).and_then(tls::certs::not_after).map_or(Duration::ZERO, left);
    Instant::now() + MAX_AGE.min(left(own.not_after())).min(peer_left)
}
