//! When an authority is to be replaced, and by which steps: what to do next follows from the state, the clock and
//! what the nodes have reported, and from nothing else.
//!
//! A root is announced first: its certificate is in the bundle, and nothing is signed. It signs when every node has
//! reported that bundle, or a whole leaf life later, when each leaf that still holds has come with it. The one before
//! leaves the bundle when its last leaf has ended. An issuer under the same root needs none of that: it comes with
//! each leaf. Where several processes sign, each of these takes longer by as much as one may be behind another.

use std::time::Duration;

use time::OffsetDateTime;

use crate::issue::{BACKDATED, LeafLifetime};
use crate::signer::{SignerPem, first_validity};
use crate::state::{Authority, Origin, Phase, RootKey, State, StateError, seconds, span};
use crate::{signer, spiffe::TrustDomain};

/// How long an issuer lives unless it is said otherwise.
pub const ISSUER_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long a root lives unless it is said otherwise.
pub const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Lifetimes that do not go together.
#[derive(Debug, thiserror::Error)]
pub enum TermsError {
    /// The issuer's is too short.
    #[error("an issuer has to live for at least three leaf lives, {} seconds, and not {}", .at_least.as_secs(), .issuer.as_secs())]
    Issuer {
        /// What was asked for.
        issuer: Duration,
        /// What is needed.
        at_least: Duration,
    },
    /// The root's is too short.
    #[error("a root has to live for at least twice the life of an issuer, {} seconds, and not {}", .at_least.as_secs(), .root.as_secs())]
    Root {
        /// What was asked for.
        root: Duration,
        /// What is needed.
        at_least: Duration,
    },
}

/// How long everything lives. Issuers and roots are replaced in the last third of their lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    leaf: LeafLifetime,
    issuer: Duration,
    root: Duration,
    lag: Duration,
}

impl Terms {
    /// Takes lifetimes that leave time for each rotation.
    ///
    /// # Errors
    /// For an issuer of less than three leaf lives, and a root of less than two issuers' lives.
    pub fn new(leaf: LeafLifetime, issuer: Duration, root: Duration) -> Result<Self, TermsError> {
        let at_least = leaf.duration() * 3;
        if issuer < at_least {
            return Err(TermsError::Issuer { issuer, at_least });
        }
        let at_least = issuer * 2;
        if root < at_least {
            return Err(TermsError::Root { root, at_least });
        }
        Ok(Self { leaf, issuer, root, lag: Duration::ZERO })
    }

    /// Issuers and roots of the usual lives.
    #[must_use]
    pub const fn usual(leaf: LeafLifetime) -> Self {
        Self { leaf, issuer: ISSUER_LIFETIME, root: ROOT_LIFETIME, lag: Duration::ZERO }
    }

    /// The same where other processes sign, too, each by what it knew so long ago at worst.
    #[must_use]
    pub const fn behind(self, lag: Duration) -> Self {
        Self { lag, ..self }
    }

    /// How long leaves live.
    #[must_use]
    pub const fn leaf(&self) -> LeafLifetime {
        self.leaf
    }

    /// How far what one process knows may be behind what another one has stored.
    #[must_use]
    pub const fn lag(&self) -> Duration {
        self.lag
    }
}

/// What a person wants to be signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Roots and issuers that are made here.
    Own,
    /// This one.
    Supplied(SignerPem),
    /// What was supplied last: what there is now is no good.
    AsItIs,
}

/// The next thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Sign with what is wanted at once: nobody has a bundle yet.
    Begin,
    /// Give out the roots of what is wanted.
    Announce,
    /// Take back what was announced: it is not wanted any more.
    Withdraw,
    /// Sign with what was announced.
    Promote,
    /// Make a new issuer under the root that signs.
    RenewIssuer,
    /// Sign with what is wanted at once: peers have its roots already.
    Replace,
    /// Drop the roots whose last leaf has ended.
    Forget,
}

impl Step {
    /// What was done, for the log.
    #[must_use]
    pub const fn as_text(self) -> &'static str {
        match self {
            Self::Begin => "a first authority signs",
            Self::Announce => "a new root is given out, and does not sign yet",
            Self::Withdraw => "a root that has not signed is taken back",
            Self::Promote => "the new root signs",
            Self::RenewIssuer => "a new issuer signs under the same root",
            Self::Replace => "a new signer signs under the same root",
            Self::Forget => "an old root has left the bundle",
        }
    }
}

/// What to do next, if anything. `distributed` says whether every node has reported the bundle of now.
#[must_use]
pub fn decide(
    state: &State,
    wish: &Wish,
    (terms, now): (&Terms, OffsetDateTime),
    distributed: bool,
) -> Option<Step> {
    let Some(signing) = state.signing() else { return Some(Step::Begin) };
    let has_left =
        |authority: &Authority| matches!(authority.phase, Phase::Leaving { until } if until <= seconds(now));
    if state.authorities.iter().any(has_left) {
        return Some(Step::Forget);
    }
    let own_is_due = || left(&signing.roots, now) < terms.root / 3;
    let (is_signing, is_announced): (bool, fn(&Authority, &Wish) -> bool) = match wish {
        Wish::Own => {
            (signing.origin == Origin::Own && !own_is_due(), |announced, _| announced.origin == Origin::Own)
        }
        Wish::Supplied(pem) => (signing.signer.as_ref() == Some(pem), is_this_one),
        Wish::AsItIs => (true, |_, _| true),
    };
    if let Some((announced, since)) = state.announced() {
        // One of our own goes on even where the clock of another process says that it is not due yet.
        if !is_announced(announced, wish) || (is_signing && matches!(wish, Wish::Supplied(_))) {
            return Some(Step::Withdraw);
        }
        // Under a root that has ended no leaf holds: there is nobody to wait for.
        let is_over = left(&signing.roots, now).is_zero();
        if distributed || is_over || seconds(now) >= since.saturating_add(longest(signing) + span(terms.lag))
        {
            return Some(Step::Promote);
        }
    } else if !is_signing {
        let has_these_roots = matches!(wish, Wish::Supplied(pem) if pem.roots == signing.roots);
        return Some(if has_these_roots { Step::Replace } else { Step::Announce });
    }
    issuer_is_due(signing, terms, now).then_some(Step::RenewIssuer)
}

fn is_this_one(authority: &Authority, wish: &Wish) -> bool {
    matches!(wish, Wish::Supplied(pem) if authority.signer.as_ref() == Some(pem))
}

/// For how long the first certificate of a PEM text still holds.
fn left(pem: &str, now: OffsetDateTime) -> Duration {
    let end = first_validity(pem).map(|(_, not_after)| not_after - now);
    end.and_then(|left| left.try_into().ok()).unwrap_or_default()
}

/// How long the last leaf of an authority may live from now on, in seconds.
fn longest(authority: &Authority) -> i64 {
    i64::try_from(authority.longest_leaf).unwrap_or(i64::MAX / 4)
}

/// The same of an issuer: one of a clock that was ahead for a while, which does not hold yet, is none to keep.
fn issuer_left(pem: &str, now: OffsetDateTime) -> Duration {
    let holds = first_validity(pem).is_some_and(|(not_before, _)| not_before <= now);
    if holds { left(pem, now) } else { Duration::ZERO }
}

/// An issuer that would end no later than the one before is none to be made.
fn issuer_is_due(signing: &Authority, terms: &Terms, now: OffsetDateTime) -> bool {
    let (Some(_), Some(signer)) = (&signing.root_key, &signing.signer) else { return false };
    let issuer = issuer_left(&signer.chain, now);
    issuer < terms.issuer / 3 && left(&signing.roots, now) > issuer + terms.leaf.duration()
}

/// The state after a step.
///
/// # Errors
/// When keys or certificates cannot be made.
pub fn perform(
    step: Step,
    state: &State,
    wish: &Wish,
    (terms, now): (&Terms, OffsetDateTime),
    trust_domain: &TrustDomain,
) -> Result<State, StateError> {
    let mut next = state.clone();
    match step {
        Step::Begin => next.authorities.push(make(wish, Phase::Signing, (terms, now), trust_domain)?),
        Step::Announce => {
            let phase = Phase::Announced { since: seconds(now) };
            next.authorities.push(make(wish, phase, (terms, now), trust_domain)?);
        }
        Step::Withdraw => next.authorities.retain(|one| !matches!(one.phase, Phase::Announced { .. })),
        Step::Promote => {
            for authority in &mut next.authorities {
                match authority.phase {
                    Phase::Signing => retire(authority, terms, now),
                    Phase::Announced { .. } => authority.phase = Phase::Signing,
                    Phase::Leaving { .. } => {}
                }
            }
        }
        Step::RenewIssuer | Step::Replace => {
            let signing = next.authorities.iter_mut().find(|one| one.phase == Phase::Signing);
            if let Some(signing) = signing {
                signing.signer = Some(match (wish, &signing.root_key) {
                    (Wish::Supplied(pem), _) => pem.clone(),
                    (_, Some(root_key)) => {
                        let root = (&*root_key.0, &*signing.roots);
                        let (key, chain) = signer::make_issuer(root, trust_domain, terms.issuer, now)?;
                        SignerPem { key, chain, roots: signing.roots.clone() }
                    }
                    (Wish::Own | Wish::AsItIs, None) => return Ok(next),
                });
            }
        }
        Step::Forget => next
            .authorities
            .retain(|one| !matches!(one.phase, Phase::Leaving { until } if until <= seconds(now))),
    }
    Ok(next)
}

/// Takes its keys from an authority that signs no more. Clocks differ: its roots stay a little longer than its leaves.
fn retire(authority: &mut Authority, terms: &Terms, now: OffsetDateTime) {
    let longest = longest(authority) + span(terms.lag);
    let until = seconds(now) + longest + (longest / 4).min(span(BACKDATED));
    (authority.phase, authority.root_key, authority.signer) = (Phase::Leaving { until }, None, None);
}

fn make(
    wish: &Wish,
    phase: Phase,
    (terms, now): (&Terms, OffsetDateTime),
    trust_domain: &TrustDomain,
) -> Result<Authority, StateError> {
    let longest_leaf = terms.leaf.duration().as_secs();
    if let Wish::Supplied(pem) = wish {
        return Ok(Authority {
            origin: Origin::Supplied,
            phase,
            root_key: None,
            roots: pem.roots.clone(),
            signer: Some(pem.clone()),
            longest_leaf,
        });
    }
    let (root_key, roots) = signer::make_root(trust_domain, terms.root, now)?;
    let (key, chain) = signer::make_issuer((&root_key, &roots), trust_domain, terms.issuer, now)?;
    let signer = Some(SignerPem { key, chain, roots: roots.clone() });
    let root_key = Some(RootKey(root_key));
    Ok(Authority { origin: Origin::Own, phase, root_key, signer, roots, longest_leaf })
}
