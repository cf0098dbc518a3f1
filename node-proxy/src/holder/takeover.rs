//! The beginning of a proxy that has a holder: everything is taken over before it says that it is ready.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gammarus_ca::{SignedIdentity, SpiffeId};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::keeper::{self, Heard, HeldPod, Orders};
use super::link::Link;
use super::protocol::{Note, Role, VERSION};
use crate::error::with_causes;
use crate::pod::PodListener;
use crate::tls::WorkloadCert;

/// Between two tries to reach the holder; it may be about to start.
const PAUSE: Duration = Duration::from_millis(100);
/// One in so many tries that failed is logged.
const TRIES_PER_LINE: u32 = 100;

/// Why nothing was taken over.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// The holder has said no.
    #[error("the holder refuses this proxy: {0}")]
    Refused(String),
    /// What it said is not understood, or what it gave cannot be kept.
    #[error("what the holder gives cannot be taken")]
    NotUnderstood(#[source] io::Error),
}

/// What was taken over.
#[derive(Debug, Default)]
pub struct Taken {
    /// The node's own listening sockets, by what they are for.
    pub sockets: BTreeMap<String, OwnedFd>,
    /// The pods that are enrolled.
    pub pods: Vec<HeldPod>,
    /// The leaves that still hold.
    pub leaves: Vec<Arc<WorkloadCert>>,
}

/// Takes everything over that the holder holds, and goes on to tell it of every change and to hear from it. Waits for
/// the holder as long as it is not there: without the sockets that it holds, nothing can be accepted.
///
/// # Errors
/// When it says no, or is not understood.
pub async fn take_over(
    path: &Path,
    orders: Orders,
) -> Result<(Taken, mpsc::UnboundedReceiver<Heard>), TakeOverError> {
    let mut tries: u32 = 0;
    loop {
        match try_take_over(path).await {
            Ok(Ok((taken, link))) => {
                let heard = keeper::start((link, path), &taken, orders);
                return heard.map(|heard| (taken, heard)).map_err(TakeOverError::NotUnderstood);
            }
            Ok(Err(why)) => return Err(TakeOverError::Refused(why)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(TakeOverError::NotUnderstood(error));
            }
            Err(error) => {
                if tries.is_multiple_of(TRIES_PER_LINE) {
                    tracing::warn!(socket = %path.display(), %error, "waiting for the holder");
                }
                tries = tries.wrapping_add(1);
                sleep(PAUSE).await;
            }
        }
    }
}

/// The inner error is why the holder says no.
async fn try_take_over(path: &Path) -> io::Result<Result<(Taken, Link), String>> {
    let link = Link::connect(path)?;
    link.send(&Note::Hello { version: VERSION, role: Role::Starting, since: 0 }, &[], &[]).await?;
    let mut taken = Taken::default();
    while let Some(mut received) = link.receive().await? {
        let mut fds = std::mem::take(&mut received.fds);
        let (note, secret) = received.read()?;
        match note {
            Note::Complete => return Ok(Ok((taken, link))),
            Note::Refused { why } => return Ok(Err(why)),
            Note::Socket { name } => taken.sockets.extend(fds.pop().map(|socket| (name, socket))),
            note @ Note::Pod { .. } => taken.pods.push(held_pod(note, fds)?),
            // It has left while this was going on.
            Note::Left { uid } => taken.pods.retain(|pod| *pod.uid != *uid),
            note @ Note::Leaf { .. } => taken.leaves.extend(held_leaf(&note, secret).map(Arc::new)),
            _ => {}
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// A pod out of its note. The namespace comes first, then the listeners in their order.
pub(super) fn held_pod(note: Note, fds: Vec<OwnedFd>) -> io::Result<HeldPod> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "a pod without its sockets");
    let Note::Pod { uid, identity, record, listeners } = note else { return Err(malformed()) };
    let mut fds = fds.into_iter();
    let netns = fds.next().ok_or_else(malformed)?;
    let sockets = listeners.into_iter().zip(fds);
    let listeners = sockets.map(|(direction, fd)| PodListener { direction, socket: TcpListener::from(fd) });
    Ok(HeldPod { uid: uid.into(), identity, record, netns, listeners: listeners.collect() })
}

/// A leaf out of its note, if it can still be used.
pub(super) fn held_leaf(note: &Note, secret: &[u8]) -> Option<WorkloadCert> {
    let Note::Leaf { identity, key, chain, bundle } = note else { return None };
    let read = || {
        let (key, mut rest) = secret.split_at_checked(*key).ok_or("its key is not there")?;
        let mut certificates = |lengths: &[usize]| -> Result<Vec<CertificateDer<'static>>, &'static str> {
            let mut found = Vec::with_capacity(lengths.len());
            for length in lengths {
                let (der, after) = rest.split_at_checked(*length).ok_or("a certificate is not there")?;
                found.push(CertificateDer::from(der.to_vec()));
                rest = after;
            }
            Ok(found)
        };
        let signed = SignedIdentity { chain: certificates(chain)?, trust_bundle: certificates(bundle)? };
        let identity: SpiffeId = identity.parse().map_err(|_| "its identity is none")?;
        Ok::<_, &'static str>((identity, signed, PrivateKeyDer::try_from(key)?))
    };
    let made = read().map_err(str::to_owned).and_then(|(identity, signed, key)| {
        WorkloadCert::new(&identity, signed, &key).map_err(|error| with_causes(&error))
    });
    made.inspect_err(|error| tracing::warn!(%identity, error, "a leaf that was held is of no use")).ok()
}
