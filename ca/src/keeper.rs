//! Keeps the authorities: what signs now, what nodes are to trust, and the task that moves both on.
//!
//! Requests take what is live and never wait for a rotation. A step is stored, and its bundle given out, before
//! anything is signed by it; a step that fails leaves everything as it was. Where replicas share a store, each looks
//! there before it decides, and takes over what another one has made.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use crate::authorize::Authorizer;
use crate::causes::{Complaint, with_causes};
use crate::live::expiries;
pub use crate::live::{Expiry, Live};
use crate::reports::Reports;
use crate::rotation::{Step, Terms, Wish, decide, perform};
use crate::spiffe::TrustDomain;
use crate::state::{News, Origin, Phase, State, StateDir, StateError, Store};
use crate::supplied::{SignerDir, SignerSource, Supplied, SuppliedError};

/// More steps in a row than this are none that end.
const MAX_STEPS: usize = 8;
/// Other replicas that are faster at the start: each has stored what this one then begins with.
const MAX_CONFLICTS: usize = 16;
/// The nodes that there are hold for so many parts of a leaf's life, and within these bounds.
const LISTS_PER_LEAF_LIFE: u32 = 20;
const SHORTEST_LIST: Duration = Duration::from_secs(1);
const LONGEST_LIST: Duration = Duration::from_secs(300);

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// What is kept is not as it should be.
    #[error(transparent)]
    State(#[from] StateError),
    /// The supplied signer is no good, and there is none from before.
    #[error(transparent)]
    Supplied(#[from] SuppliedError),
}

impl KeeperError {
    /// Whether nobody could be asked, and a later try may do better.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        match self {
            Self::State(error) => error.is_unknown(),
            Self::Supplied(error) => matches!(error, SuppliedError::Cluster { .. }),
        }
    }
}

/// The authorities of a trust domain.
#[derive(Debug)]
pub struct Keeper {
    trust_domain: TrustDomain,
    terms: Terms,
    period: Duration,
    /// Held by whoever takes a step.
    store: Mutex<Box<dyn Store>>,
    state: Mutex<State>,
    live: RwLock<Arc<Live>>,
    supplied: Option<Mutex<Supplied>>,
    reports: Mutex<Reports>,
    /// When the store was seen to hold what is live.
    seen: Mutex<Instant>,
    is_failing: AtomicBool,
    refuses_supplied: AtomicBool,
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
        let supplied = supplied.map(|dir| Box::new(SignerDir::new(dir)) as Box<dyn SignerSource>);
        Self::open_in(now, Box::new(StateDir::take(dir)?), (trust_domain, terms), supplied)
    }

    /// Takes what a store has, and fills it if it is new. With `supplied`, the signer comes from there.
    ///
    /// # Errors
    /// See [`Keeper::open`].
    pub fn open_in(
        now: OffsetDateTime,
        mut store: Box<dyn Store>,
        (trust_domain, terms): (&TrustDomain, Terms),
        supplied: Option<Box<dyn SignerSource>>,
    ) -> Result<Self, KeeperError> {
        let terms = terms.behind(store.lag());
        let mut supplied = supplied.map(|source| Supplied::new(source, terms.leaf().duration()));
        let mut conflicts = 0;
        let (seen, state, live) = loop {
            let seen = Instant::now();
            match begin(&mut *store, supplied.as_mut(), (trust_domain, &terms), now) {
                Ok((state, live)) => break (seen, state, live),
                Err(KeeperError::State(StateError::Conflict(_))) if conflicts < MAX_CONFLICTS => {
                    conflicts += 1;
                }
                Err(error) => return Err(error),
            }
        };
        let refuses_supplied = supplied.as_ref().is_some_and(|supplied| supplied.complaint().is_some());
        Ok(Self {
            trust_domain: trust_domain.clone(),
            terms,
            period: store.period(),
            store: Mutex::new(store),
            state: Mutex::new(state),
            live: RwLock::new(Arc::new(live)),
            supplied: supplied.map(Mutex::new),
            reports: Mutex::new(Reports::new(terms.lag())),
            seen: Mutex::new(seen),
            is_failing: AtomicBool::new(false),
            refuses_supplied: AtomicBool::new(refuses_supplied),
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

    /// Whether what is live is what the store holds, as far as it matters. Otherwise other replicas may be steps ahead.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.terms.lag().is_zero() || lock(&self.seen).elapsed() <= self.terms.lag()
    }

    /// Whether the store cannot be read or written, or the bundle not be given out.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Relaxed)
    }

    /// When each root ends, and each issuer that signs or is to sign.
    #[must_use]
    pub fn expiries(&self) -> Vec<Expiry> {
        expiries(&lock(&self.state))
    }

    /// Whether there is a supplied signer, and it cannot be used.
    #[must_use]
    pub fn refuses_supplied(&self) -> bool {
        self.refuses_supplied.load(Ordering::Relaxed)
    }

    /// Notes that a node has the bundle with this tag, and uses it.
    pub fn note_report(&self, node: &str, tag: &str) {
        lock(&self.reports).note(node, tag);
    }

    /// Moves on whenever it is time to, until it is dropped.
    pub async fn keep(self: Arc<Self>, authorizer: &dyn Authorizer) {
        let mut complaint = Complaint::default();
        loop {
            tokio::time::sleep(self.period).await;
            let distributed = self.is_distributed(authorizer).await;
            let keeper = Arc::clone(&self);
            let stepping = tokio::task::spawn_blocking(move || {
                let now = OffsetDateTime::now_utc();
                keeper.step(now, distributed)
            });
            let outcome = match stepping.await {
                // What the other one has stored is taken over the next time.
                Ok(Err(StateError::Conflict(_))) => Ok(None),
                Ok(outcome) => outcome.map_err(|error| with_causes(&error)),
                Err(error) => Err(error.to_string()),
            };
            self.is_failing.store(outcome.is_err(), Ordering::Relaxed);
            match outcome {
                Ok(step) => {
                    complaint.settle();
                    if let Some(step) = step {
                        tracing::info!(bundle = self.live().bundle.tag(), "{}", step.as_text());
                    }
                }
                Err(error) => {
                    if let Some(error) = complaint.raise(error) {
                        tracing::error!(error, "the authorities stay as they are");
                    }
                }
            }
        }
    }

    /// Takes over what another replica has stored, and then the next step, if it is time for one.
    ///
    /// # Errors
    /// When the store cannot be read, or a step not be done or kept: what is live has not changed.
    pub fn step(&self, now: OffsetDateTime, distributed: bool) -> Result<Option<Step>, StateError> {
        let mut store = lock(&self.store);
        let mut state = lock(&self.state).clone();
        let asked = Instant::now();
        let news = store.news(&self.trust_domain);
        if !news.as_ref().is_err_and(StateError::is_unknown) {
            *lock(&self.seen) = asked;
        }
        match news? {
            News::Nothing => {}
            News::Gone => {
                tracing::warn!(state = %store.place().display(), "what was kept is gone: it is stored again");
                store.store(&state)?;
            }
            News::Stored(theirs) if theirs == state => {}
            News::Stored(theirs) => {
                tracing::info!("another replica has moved on: its authorities are taken over");
                state = theirs;
                self.take(state.clone(), &**store, now)?;
            }
        }
        let given_out = store.give_out(&self.live().bundle_pem);
        if state.cover(self.terms.leaf()) {
            self.put(state.clone(), &mut **store, now)?;
        }
        match self.next(&state, &store.place(), distributed, now)? {
            // Nothing is signed under a root that is not given out.
            Some((Step::Promote, _)) if given_out.is_err() => {}
            Some((step, next)) => {
                self.put(next, &mut **store, now)?;
                store.give_out(&self.live().bundle_pem)?;
                return Ok(Some(step));
            }
            None => {}
        }
        given_out.map(|()| None)
    }

    /// The next step that leads to something that can sign, and what it leads to.
    fn next(
        &self,
        state: &State,
        place: &Path,
        distributed: bool,
        now: OffsetDateTime,
    ) -> Result<Option<(Step, State)>, StateError> {
        let (mut wish, at) = (Wish::Own, (&self.terms, now));
        if let Some(supplied) = &self.supplied {
            let mut supplied = lock(supplied);
            wish = supplied.wish(now, uses_supplied(state));
            self.refuses_supplied.store(supplied.complaint().is_some(), Ordering::Relaxed);
        }
        let (mut next, mut outcome) = (state.clone(), Ok(None));
        for steps in 0..MAX_STEPS {
            let Some(step) = decide(&next, &wish, at, distributed && steps == 0) else { break };
            next = perform(step, &next, &wish, at, &self.trust_domain)?;
            match next.signer(place, now) {
                Ok(_) => return Ok(Some((step, next))),
                // What signs has ended while nobody looked: the steps that follow may bring another.
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    /// Stores a state, and lives by it from then on.
    fn put(&self, state: State, store: &mut dyn Store, now: OffsetDateTime) -> Result<(), StateError> {
        store.store(&state)?;
        self.take(state, store, now)
    }

    /// Lives by a state that is stored.
    fn take(&self, state: State, store: &dyn Store, now: OffsetDateTime) -> Result<(), StateError> {
        let live = Live::of(&state, self.terms.leaf(), &store.place(), now);
        *lock(&self.state) = state;
        let live = Arc::new(live?);
        let mut current = self.live.write().unwrap_or_else(PoisonError::into_inner);
        if live.bundle != current.bundle {
            *lock(&self.reports) = Reports::new(self.terms.lag());
        }
        *current = live;
        Ok(())
    }

    /// Whether every node has reported the bundle of now. Asked only while something waits for it.
    async fn is_distributed(&self, authorizer: &dyn Authorizer) -> bool {
        let live = self.live();
        let age = self.terms.leaf().duration() / LISTS_PER_LEAF_LIFE;
        let age = age.clamp(SHORTEST_LIST, LONGEST_LIST);
        if !live.is_announcing || lock(&self.reports).lacks(live.bundle.tag(), age) {
            return false;
        }
        match authorizer.nodes().await {
            Ok(nodes) => lock(&self.reports).complete(live.bundle.tag(), nodes),
            Err(error) => {
                tracing::warn!(%error, "it is not known which nodes there are");
                false
            }
        }
    }
}

/// What a store begins with: what it has, and the steps that it is time for.
fn begin(
    store: &mut dyn Store,
    supplied: Option<&mut Supplied>,
    (trust_domain, terms): (&TrustDomain, &Terms),
    now: OffsetDateTime,
) -> Result<(State, Live), KeeperError> {
    let kept = store.load(trust_domain)?;
    let wish = match supplied.map(|supplied| supplied.read(now)) {
        None => Wish::Own,
        Some(Ok(Some(pem))) => Wish::Supplied(pem),
        Some(Ok(None)) if kept.as_ref().is_some_and(uses_supplied) => Wish::AsItIs,
        Some(Ok(None)) => Wish::Own,
        Some(Err(error)) if kept.is_none() => return Err(error.into()),
        Some(Err(error)) => {
            tracing::error!(error = with_causes(&error), "the supplied signer cannot be used");
            Wish::AsItIs
        }
    };
    let mut state = kept.clone().unwrap_or_else(|| State::new(trust_domain));
    state.cover(terms.leaf());
    for _ in 0..MAX_STEPS {
        let Some(step) = decide(&state, &wish, (terms, now), false) else { break };
        tracing::info!(%trust_domain, "{}", step.as_text());
        state = perform(step, &state, &wish, (terms, now), trust_domain)?;
    }
    let live = Live::of(&state, terms.leaf(), &store.place(), now)?;
    if kept.as_ref() != Some(&state) {
        store.store(&state)?;
    }
    store.give_out(&live.bundle_pem)?;
    Ok((state, live))
}

/// Whether a supplied signer signs, or is to sign next.
fn uses_supplied(state: &State) -> bool {
    let is_used = |phase| matches!(phase, Phase::Signing | Phase::Announced { .. });
    state.authorities.iter().any(|one| one.origin == Origin::Supplied && is_used(one.phase))
}

/// Nothing that is done under these locks can panic half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
