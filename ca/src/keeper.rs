//! Keeps the authorities: what signs now, what nodes are to trust, and the task that moves both on.
//!
//! Requests take what is live and never wait for a rotation. A step is on the disk, and its bundle given out, before
//! anything is signed by it; a step that fails leaves everything as it was.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use time::OffsetDateTime;

use crate::authorize::Authorizer;
use crate::bundle::TrustBundle;
use crate::rotation::{Step, Terms, Wish, decide, perform};
use crate::signer::{Signer, SignerFiles, ends};
use crate::spiffe::TrustDomain;
use crate::state::{Phase, State, StateDir, StateError};
use crate::supplied::{SignerDir, SuppliedError};

/// How often the clock, the supplied signer and the nodes' reports are looked at.
const TICK: Duration = Duration::from_millis(500);
/// More steps in a row than this are none that end.
const MAX_STEPS: usize = 8;

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The state directory is not as it should be.
    #[error(transparent)]
    State(#[from] StateError),
    /// The supplied signer is no good, and there is none from before.
    #[error(transparent)]
    Supplied(#[from] SuppliedError),
}

/// What signs and what is trusted, at one moment.
#[derive(Debug)]
pub struct Live {
    /// What signs.
    pub signer: Signer,
    /// What follows a leaf, in PEM.
    pub intermediates: String,
    /// What is trusted.
    pub bundle: TrustBundle,
    /// The same in PEM.
    pub bundle_pem: String,
}

impl Live {
    fn of(state: &State, dir: &StateDir, now: OffsetDateTime) -> Result<Self, StateError> {
        let signer = state.signing().and_then(|authority| authority.signer.as_ref());
        let signer = signer.ok_or_else(|| StateError::NoSigner(dir.file()))?;
        let signer = Signer::new(signer, &SignerFiles::all_in(dir.file()), now)?;
        let bundle = state.bundle();
        Ok(Self { intermediates: signer.intermediates_pem(), signer, bundle_pem: bundle.to_pem(), bundle })
    }
}

/// When a certificate of an authority ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// `root` or `issuer`.
    pub certificate: &'static str,
    /// `announced`, `signing` or `leaving`.
    pub phase: &'static str,
    /// The first 16 digits of its SHA-256.
    pub fingerprint: String,
    /// Its last second.
    pub not_after: OffsetDateTime,
}

/// The authorities of a trust domain.
#[derive(Debug)]
pub struct Keeper {
    dir: StateDir,
    trust_domain: TrustDomain,
    terms: Terms,
    state: Mutex<State>,
    live: RwLock<Arc<Live>>,
    supplied: Option<Mutex<SignerDir>>,
    /// The tag of the bundle that each node has reported last.
    reports: Mutex<HashMap<String, String>>,
}

impl Keeper {
    /// Takes a state directory, which is filled if it is new. With `supplied`, the signer comes from that directory.
    ///
    /// # Errors
    /// See [`KeeperError`]; whatever exists and is not right is left as it is.
    pub fn open(
        dir: &Path,
        trust_domain: &TrustDomain,
        terms: Terms,
        supplied: Option<&Path>,
    ) -> Result<Self, KeeperError> {
        Self::open_at(OffsetDateTime::now_utc(), dir, (trust_domain, terms), supplied)
    }

    /// As [`Keeper::open`], by a clock that says `now`.
    ///
    /// # Errors
    /// See [`Keeper::open`].
    pub fn open_at(
        now: OffsetDateTime,
        dir: &Path,
        (trust_domain, terms): (&TrustDomain, Terms),
        supplied: Option<&Path>,
    ) -> Result<Self, KeeperError> {
        let dir = StateDir::take(dir)?;
        let kept = dir.load(trust_domain)?;
        let mut supplied = supplied.map(SignerDir::new);
        let wish = match supplied.as_mut().map(|supplied| supplied.read(now)) {
            None => Wish::Own,
            Some(Ok(pem)) => Wish::Supplied(pem),
            Some(Err(error)) if kept.is_none() => return Err(error.into()),
            Some(Err(error)) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the supplied signer cannot be used"
                );
                Wish::AsItIs
            }
        };
        let mut state = kept.unwrap_or_else(|| State::new(trust_domain));
        for authority in &mut state.authorities {
            if !matches!(authority.phase, Phase::Leaving { .. }) {
                authority.longest_leaf = authority.longest_leaf.max(terms.leaf().duration().as_secs());
            }
        }
        for _ in 0..MAX_STEPS {
            let Some(step) = decide(&state, &wish, (&terms, now), false) else { break };
            tracing::info!(%trust_domain, "{}", step.as_text());
            state = perform(step, &state, &wish, (&terms, now), trust_domain)?;
        }
        let live = Live::of(&state, &dir, now)?;
        dir.store(&state)?;
        Ok(Self {
            dir,
            trust_domain: trust_domain.clone(),
            terms,
            state: Mutex::new(state),
            live: RwLock::new(Arc::new(live)),
            supplied: supplied.map(Mutex::new),
            reports: Mutex::default(),
        })
    }

    /// What signs and what is trusted now.
    #[must_use]
    pub fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How long everything lives.
    #[must_use]
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The trust domain.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// When each root ends, and each issuer that signs or is to sign.
    #[must_use]
    pub fn expiries(&self) -> Vec<Expiry> {
        let mut all = Vec::new();
        for authority in &lock(&self.state).authorities {
            let phase = authority.phase.as_label();
            let mut add = |certificate, pem: &str| {
                let ends = ends(pem).into_iter();
                all.extend(ends.map(|(fingerprint, not_after)| Expiry {
                    certificate,
                    phase,
                    fingerprint,
                    not_after,
                }));
            };
            add("root", &authority.roots);
            if let Some(signer) = authority.signer.as_ref().filter(|signer| signer.chain != authority.roots) {
                add("issuer", &signer.chain);
            }
        }
        all
    }

    /// Whether there is a directory for a supplied signer, and its files cannot be used.
    #[must_use]
    pub fn refuses_supplied(&self) -> bool {
        self.supplied.as_ref().is_some_and(|supplied| lock(supplied).complaint().is_some())
    }

    /// Notes that a node has the bundle with this tag, and uses it.
    pub fn note_report(&self, node: &str, tag: &str) {
        lock(&self.reports).insert(node.to_owned(), tag.to_owned());
    }

    /// Moves on whenever it is time to, until it is dropped.
    pub async fn keep(self: Arc<Self>, authorizer: &dyn Authorizer) {
        let mut failure = None;
        loop {
            tokio::time::sleep(TICK).await;
            let distributed = self.is_distributed(authorizer).await;
            let keeper = Arc::clone(&self);
            let stepping = tokio::task::spawn_blocking(move || {
                let now = OffsetDateTime::now_utc();
                keeper.step(now, distributed)
            });
            match stepping.await {
                Ok(Ok(step)) => {
                    failure = None;
                    if let Some(step) = step {
                        tracing::info!(bundle = self.live().bundle.tag(), "{}", step.as_text());
                    }
                }
                Ok(Err(error)) => {
                    let text = error.to_string();
                    if failure.as_ref() != Some(&text) {
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "the authorities stay as they are"
                        );
                        failure = Some(text);
                    }
                }
                Err(error) => tracing::error!(%error, "a step was broken off"),
            }
        }
    }

    /// Takes the next step, if it is time for one.
    ///
    /// # Errors
    /// When it cannot be done or kept: nothing has changed.
    pub fn step(&self, now: OffsetDateTime, distributed: bool) -> Result<Option<Step>, StateError> {
        let wish = match &self.supplied {
            None => Wish::Own,
            Some(supplied) => lock(supplied).look(now).cloned().map_or(Wish::AsItIs, Wish::Supplied),
        };
        let mut state = lock(&self.state);
        let at = (&self.terms, now);
        let (mut next, mut outcome) = (state.clone(), Ok(None));
        for steps in 0..MAX_STEPS {
            let Some(step) = decide(&next, &wish, at, distributed && steps == 0) else { break };
            next = perform(step, &next, &wish, at, &self.trust_domain)?;
            match Live::of(&next, &self.dir, now) {
                Ok(live) => {
                    self.dir.store(&next)?;
                    *state = next;
                    *self.live.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(live);
                    return Ok(Some(step));
                }
                // What signs has ended while nobody looked: the steps that follow may bring another.
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    /// Whether every node has reported the bundle of now. Asked only while something waits for it.
    async fn is_distributed(&self, authorizer: &dyn Authorizer) -> bool {
        if lock(&self.state).announced().is_none() {
            return false;
        }
        let nodes = match authorizer.nodes().await {
            Ok(nodes) => nodes,
            Err(error) => {
                tracing::warn!(%error, "it is not known which nodes there are");
                return false;
            }
        };
        let live = self.live();
        let reports = lock(&self.reports);
        let has_it = |node: &String| reports.get(node).is_some_and(|tag| tag == live.bundle.tag());
        !nodes.is_empty() && nodes.iter().all(has_it)
    }
}

/// Nothing that is done under these locks can panic half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
