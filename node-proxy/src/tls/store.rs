//! The leaves of the identities that have a pod on this node: fetched, renewed, forgotten.
//!
//! `pod` asks for an identity when its first pod comes and forgets it with the last one; the data path only
//! ever calls [`CertStore::find`], which does no I/O. An expired leaf is never given out.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use gammarus_ca::bundle::{TrustBundle, fingerprint};
use gammarus_ca::{CaClient, SpiffeId, WorkloadKey};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::certs::{CertError, WorkloadCert, asking_config};
use super::clock::{sleep_until, validity};
use super::trust::{BundleSource, NodeTrust};
use crate::error::with_causes;

/// The pause after a first failure; it doubles from there.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A leaf, later.
pub type Fetch<'a> = Pin<Box<dyn Future<Output = Result<WorkloadCert, CertError>> + Send + 'a>>;

/// Is told of each leaf that is to be used from now on.
pub type Fetched = UnboundedSender<Arc<WorkloadCert>>;

/// Where leaves come from.
pub trait CertSource: BundleSource {
    /// Gets a new leaf for `identity`, with a new key.
    fn fetch<'a>(&'a self, identity: &'a SpiffeId) -> Fetch<'a>;
}

impl CertSource for CaClient {
    fn fetch<'a>(&'a self, identity: &'a SpiffeId) -> Fetch<'a> {
        Box::pin(async move {
            let ca_error = |source| CertError::Ca { identity: identity.clone(), source };
            let key = WorkloadKey::generate().map_err(ca_error)?;
            let csr = key.csr(identity).map_err(ca_error)?;
            let signed = self.sign(identity, csr).await.map_err(ca_error)?;
            WorkloadCert::new(identity, signed, &key.into_private_key())
        })
    }
}

/// One identity: its newest leaf, and the task that keeps it new.
#[derive(Debug)]
struct Entry {
    current: watch::Receiver<Option<Arc<WorkloadCert>>>,
    task: AbortHandle,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// When certificates end. Issuers and roots go by the first 16 digits of their SHA-256.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expiries {
    /// Of each local identity, if it has a leaf.
    pub leaves: Vec<(SpiffeId, Option<SystemTime>)>,
    /// Of the certificates that a Gateway's listeners show, by their Secret.
    pub listeners: BTreeMap<String, SystemTime>,
    /// Of the certificate that a Gateway shows to backends, by its Secret.
    pub clients: BTreeMap<String, SystemTime>,
    /// Of what those leaves are under.
    pub issuers: BTreeMap<String, SystemTime>,
    /// Of the roots that peers are verified against.
    pub roots: BTreeMap<String, SystemTime>,
}

fn end_of(certificate: &CertificateDer<'_>) -> Option<(String, SystemTime)> {
    let (_, not_after) = validity(certificate)?;
    Some((fingerprint(certificate).chars().take(16).collect(), not_after))
}

type Entries = Mutex<HashMap<SpiffeId, Entry>>;

/// The current leaf of each local identity, and the trust bundle of all. Its work runs on the runtime that it was
/// given.
#[derive(Debug)]
pub struct CertStore {
    source: Arc<dyn CertSource>,
    runtime: Handle,
    entries: Arc<Entries>,
    trust: Arc<NodeTrust>,
    following: AbortHandle,
    fetched: Option<Fetched>,
}

impl Drop for CertStore {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl CertStore {
    /// An empty store that fetches from `source` on `runtime`.
    #[must_use]
    pub fn new(source: Arc<dyn CertSource>, runtime: Handle) -> Self {
        let entries = Arc::<Entries>::default();
        let trust = Arc::new(NodeTrust::new(Arc::<dyn CertSource>::clone(&source)));
        let (followed, leaves) = (Arc::clone(&trust), Arc::clone(&entries));
        let following = async move { followed.follow(|| in_use(&followed, &leaves)).await };
        let following = runtime.spawn(following).abort_handle();
        Self { source, runtime, entries, trust, following, fetched: None }
    }

    /// Also says so to `fetched` whenever there is a new leaf; not of one that was adopted.
    #[must_use]
    pub fn telling(mut self, fetched: Fetched) -> Self {
        self.fetched = Some(fetched);
        self
    }

    /// Takes a leaf that another process has fetched, unless a live one is here, and keeps it new from then on.
    pub fn adopt(&self, cert: Arc<WorkloadCert>) {
        let identity = cert.identity().clone();
        let mut entries = self.entries();
        let is_live = |entry: &Entry| {
            entry.current.borrow().as_ref().is_some_and(|cert| cert.is_live(SystemTime::now()))
        };
        if !entries.get(&identity).is_some_and(is_live) {
            let entry = self.entry(&identity, Some(cert));
            entries.insert(identity, entry);
        }
    }

    /// Asks for a newer trust bundle soon: a peer's issuer is not known.
    pub fn doubt_trust(&self) {
        self.trust.doubt();
    }

    /// The leaf of `identity`, if it is here and has not expired.
    #[must_use]
    pub fn find(&self, identity: &SpiffeId) -> Option<Arc<WorkloadCert>> {
        let current = self.entries().get(identity)?.current.borrow().clone()?;
        current.is_live(SystemTime::now()).then_some(current)
    }

    /// Begins to fetch a leaf for `identity` and to keep it new, unless that is going on already.
    pub fn start(&self, identity: &SpiffeId) {
        drop(self.subscribe(identity));
    }

    /// Waits until there is a leaf for `identity`; failures are tried again in the background without end, so
    /// the caller sets the deadline. Calls for one identity share one request.
    ///
    /// # Errors
    /// [`CertError::Forgotten`] if [`CertStore::forget`] is called meanwhile.
    pub async fn ensure(&self, identity: &SpiffeId) -> Result<Arc<WorkloadCert>, CertError> {
        let mut current = self.subscribe(identity);
        let live = |cert: &Option<Arc<WorkloadCert>>| {
            cert.as_ref().is_some_and(|cert| cert.is_live(SystemTime::now()))
        };
        match current.wait_for(live).await.map(|cert| cert.clone()) {
            Ok(Some(cert)) => Ok(cert),
            Ok(None) | Err(_) => Err(CertError::Forgotten(identity.clone())),
        }
    }

    /// Drops leaf and key of `identity` and ends their renewal. Connections that are open keep theirs: they go with
    /// their pods, the last of which has left by now.
    pub fn forget(&self, identity: &SpiffeId) {
        let forgotten = self.entries().remove(identity);
        if forgotten.is_some() {
            tracing::info!(%identity, "certificate forgotten");
        }
    }

    /// For asking whether `peer` takes hops ([`asking_config`]); none as long as there is no trust bundle.
    ///
    /// # Errors
    /// When the bundle is of no use.
    pub fn asking_config(&self, peer: &SpiffeId) -> Result<Option<ClientConfig>, rustls::Error> {
        self.trust.current().map(|bundle| asking_config(&bundle, peer)).transpose()
    }

    /// When the certificates that are kept end.
    #[must_use]
    pub fn expiries(&self) -> Expiries {
        let mut expiries = Expiries::default();
        for (identity, entry) in self.entries().iter() {
            let cert = entry.current.borrow().clone();
            expiries.leaves.push((identity.clone(), cert.as_ref().map(|cert| cert.not_after())));
            let issuers = cert.iter().flat_map(|cert| cert.issuers());
            expiries.issuers.extend(issuers.filter_map(end_of));
        }
        let bundle = self.trust.current();
        expiries.roots.extend(bundle.iter().flat_map(|bundle| bundle.roots()).filter_map(end_of));
        expiries
    }

    fn subscribe(&self, identity: &SpiffeId) -> watch::Receiver<Option<Arc<WorkloadCert>>> {
        let mut entries = self.entries();
        let entry = entries.entry(identity.clone()).or_insert_with(|| self.entry(identity, None));
        entry.current.clone()
    }

    fn entry(&self, identity: &SpiffeId, first: Option<Arc<WorkloadCert>>) -> Entry {
        let (publish, current) = watch::channel(first);
        let publish = Publish { current: publish, fetched: self.fetched.clone() };
        let (source, trust) = (Arc::clone(&self.source), Arc::clone(&self.trust));
        let renewal = keep_new(source, trust, identity.clone(), publish);
        Entry { current, task: self.runtime.spawn(renewal).abort_handle() }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<SpiffeId, Entry>> {
        lock(&self.entries)
    }
}

/// Where a leaf is put when it is new.
struct Publish {
    current: watch::Sender<Option<Arc<WorkloadCert>>>,
    fetched: Option<Fetched>,
}

impl Publish {
    fn put(&self, cert: WorkloadCert) {
        let cert = Arc::new(cert);
        if let Some(fetched) = &self.fetched {
            // Whoever listened may be gone, and this process about to end.
            let _ = fetched.send(Arc::clone(&cert));
        }
        self.current.send_replace(Some(cert));
    }

    fn current(&self) -> Option<Arc<WorkloadCert>> {
        self.current.borrow().clone()
    }
}

fn lock(entries: &Entries) -> MutexGuard<'_, HashMap<SpiffeId, Entry>> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The bundle of the node, if every leaf is used with it.
fn in_use(trust: &NodeTrust, entries: &Entries) -> Option<Arc<TrustBundle>> {
    let bundle = trust.current()?;
    let agrees = |entry: &Entry| entry.current.borrow().as_ref().is_none_or(|cert| *cert.bundle() == bundle);
    lock(entries).values().all(agrees).then_some(bundle)
}

/// Fetches a leaf, and a new one at about half of its life, until it is aborted.
async fn keep_new(source: Arc<dyn CertSource>, trust: Arc<NodeTrust>, identity: SpiffeId, publish: Publish) {
    let (mut failures, mut bundles) = (0_u32, trust.subscribe());
    if let Some(adopted) = publish.current() {
        // It makes its bundle known, or is put under a newer one.
        trust.settle(adopted.bundle()).await;
        tokio::select! {
            () = sleep_until(half_life(&adopted)) => {}
            () = follow_bundles(&mut bundles, &publish) => {}
        }
    }
    loop {
        match fetch(&*source, &trust, &identity).await {
            Ok(cert) => {
                failures = 0;
                let left = time_left(&cert);
                let renewal = SystemTime::now() + left.mul_f64(0.45 + 0.1 * random_fraction());
                tracing::info!(%identity, seconds_left = left.as_secs(), "certificate fetched");
                publish.put(cert);
                tokio::select! {
                    () = sleep_until(renewal) => {}
                    () = follow_bundles(&mut bundles, &publish) => {}
                }
            }
            Err(error) => {
                let left = publish.current().map(|cert| time_left(&cert));
                let longest = longest_pause(left.unwrap_or_default());
                let pause = pause_after(failures, longest).max(error.retry_after().unwrap_or_default());
                // What was tried often because time was short is no reason to wait for long when it is over.
                if FIRST_PAUSE * (1 << failures) < longest {
                    failures += 1;
                }
                let error = with_causes(&error);
                let try_again_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                tracing::warn!(%identity, error, failures, try_again_ms, "certificate not fetched");
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// A new leaf, with the bundle of the node.
async fn fetch(
    source: &dyn CertSource,
    trust: &NodeTrust,
    identity: &SpiffeId,
) -> Result<WorkloadCert, CertError> {
    let cert = source.fetch(identity).await?;
    let bundle = trust.settle(cert.bundle()).await;
    if bundle == *cert.bundle() { Ok(cert) } else { cert.with_bundle(bundle) }
}

/// Puts the leaf of now under each new bundle, until one has no root for it any more.
async fn follow_bundles(bundles: &mut watch::Receiver<Option<Arc<TrustBundle>>>, publish: &Publish) {
    loop {
        let (bundle, cert) = (bundles.borrow_and_update().clone(), publish.current());
        if let (Some(bundle), Some(cert)) = (bundle, cert)
            && *cert.bundle() != bundle
        {
            match cert.with_bundle(bundle) {
                Ok(cert) => publish.put(cert),
                Err(error) => {
                    let error = with_causes(&error);
                    return tracing::warn!(error, "the leaf is not of the new trust bundle: renewed at once");
                }
            }
        }
        if bundles.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// For how long a leaf still holds, by our clock: the CA's may be another.
fn time_left(cert: &WorkloadCert) -> Duration {
    cert.not_after().duration_since(SystemTime::now()).unwrap_or_default()
}

/// The longest pause while a leaf holds for so long: it is tried to be renewed some times before it ends, however
/// short its life is.
pub(crate) fn longest_pause(left: Duration) -> Duration {
    if left.is_zero() { LONGEST_PAUSE } else { LONGEST_PAUSE.min((left / 4).max(FIRST_PAUSE)) }
}

/// When a leaf that was not fetched here is due: at about half of its whole life.
fn half_life(cert: &WorkloadCert) -> SystemTime {
    let life = cert.not_after().duration_since(cert.not_before()).unwrap_or_default();
    cert.not_before() + life.mul_f64(0.45 + 0.1 * random_fraction())
}

/// The pause after so many earlier failures: doubling, capped, and half of it random, so that nodes that
/// lost the CA together do not come back together.
pub(crate) fn pause_after(failures: u32, longest: Duration) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(10)).min(longest);
    pause.mul_f64(0.5 + 0.5 * random_fraction())
}

/// A random number from 0 up to 1.
pub(crate) fn random_fraction() -> f64 {
    let mut bytes = [0_u8; 4];
    // Without randomness there is no jitter, and nothing else is lost.
    let _ = rustls::crypto::aws_lc_rs::default_provider().secure_random.fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_cap_and_never_vanish() {
        for (failures, left, at_least, at_most) in [
            (0, 0, 125, 250),
            (1, 0, 250, 500),
            (3, 0, 1000, 2000),
            (9, 0, 15_000, 30_000),
            (u32::MAX, 3600, 15_000, 30_000),
            (9, 8, 1000, 2000),
            (u32::MAX, 1, 125, 250),
        ] {
            let longest = longest_pause(Duration::from_secs(left));
            let pause = pause_after(failures, longest).as_millis();
            assert!((at_least..=at_most).contains(&pause), "{failures}, {left:?}: {pause}");
        }
    }
}
