//! What signs and what is trusted, at one moment: what requests are answered from.

use std::path::Path;

use time::OffsetDateTime;

use crate::bundle::TrustBundle;
use crate::issue::LeafLifetime;
use crate::signer::{Signer, ends};
use crate::state::{State, StateError};

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
    /// How long a leaf lives: no longer than is written down, for by that the root leaves the bundle.
    pub leaf: LeafLifetime,
    /// Whether a root waits for the nodes to have it.
    pub is_announcing: bool,
}

impl Live {
    /// Of a state that is kept at `place`.
    pub(crate) fn of(
        state: &State,
        leaf: LeafLifetime,
        place: &Path,
        now: OffsetDateTime,
    ) -> Result<Self, StateError> {
        let signer = state.signer(place, now)?;
        let bundle = state.bundle();
        let longest = state.signing().map_or(0, |authority| authority.longest_leaf);
        Ok(Self {
            intermediates: signer.intermediates_pem(),
            signer,
            bundle_pem: bundle.to_pem(),
            bundle,
            leaf: leaf.at_most(longest),
            is_announcing: state.announced().is_some(),
        })
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

/// When each root of a state ends, and each issuer that signs or is to sign.
pub(crate) fn expiries(state: &State) -> Vec<Expiry> {
    let mut all = Vec::new();
    for authority in &state.authorities {
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
