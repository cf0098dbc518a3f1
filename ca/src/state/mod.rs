//! What the CA keeps: its authorities, each a root with what signs under it, in one text; and where it is kept.
//!
//! The text is replaced whole: in a directory ([`dir`]), which one process at a time may have, or in a Secret
//! ([`secret`]), which replicas share. The trust bundle follows from it and is given out beside it, for clients.
//! Whatever is wrong with the text is an error for a person: a silent new root would cut every workload from every
//! other.

pub mod dir;
pub mod secret;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

pub use self::dir::{FORMER_ROOT_FILE, StateDir, read_signer};
pub use self::secret::StateSecret;
use crate::bundle::TrustBundle;
use crate::cluster::ClusterError;
use crate::issue::LeafLifetime;
use crate::signer::{Signer, SignerError, SignerFiles, SignerPem, SignerProblem};
use crate::spiffe::TrustDomain;

/// The authorities, keys and all: a file of the state directory, or a key of the Secret.
pub const STATE_FILE: &str = "authorities.json";
/// The trust bundle in PEM, for clients: a file of the state directory, or a key of the ConfigMap.
pub const CA_CERT_FILE: &str = "ca.crt";
/// The version of the text's form.
const VERSION: u32 = 1;

/// Why there is nothing to sign with.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The API server did not do what is needed.
    #[error("{}", .place.display())]
    Cluster {
        /// The object.
        place: PathBuf,
        /// What it said.
        source: ClusterError,
    },
    /// Another replica was faster.
    #[error("{} was changed by another replica at this moment", .0.display())]
    Conflict(PathBuf),
    /// The file is not what this process writes.
    #[error("{} cannot be understood: restore it from a backup", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A release that is newer than this one has written it.
    #[error("{} has the form {version}, and this release knows {VERSION}", .path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        version: u32,
    },
    /// It does not say who signs.
    #[error("{} has not exactly one authority that signs: restore it from a backup", .0.display())]
    NoSigner(PathBuf),
    /// Reading or writing failed.
    #[error("{}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Clients have a root whose key is gone.
    #[error("{} is there but {} is missing: restore it, or remove the first to begin with a new root", .cert.display(), .state.display())]
    KeyMissing {
        /// The certificate that clients have.
        cert: PathBuf,
        /// The file that is missing.
        state: PathBuf,
    },
    /// Another process has the directory.
    #[error("another process runs on {}", .0.display())]
    Locked(PathBuf),
    /// What is to sign cannot.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// A certificate could not be made.
    #[error("a certificate cannot be made")]
    Make(#[from] rcgen::Error),
    /// Made for another trust domain.
    #[error("{} is of the trust domain {actual}, not {expected}", .path.display())]
    TrustDomain {
        /// The file.
        path: PathBuf,
        /// Its trust domain.
        actual: String,
        /// The trust domain that was configured.
        expected: TrustDomain,
    },
}

impl StateError {
    /// Whether it is not known what is kept now, because nobody could be asked.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        matches!(self, Self::Cluster { .. } | Self::Io { .. })
    }
}

/// What has become of what was stored.
#[derive(Debug)]
pub enum News {
    /// It is as it was.
    Nothing,
    /// It is there no more.
    Gone,
    /// Another process has stored this.
    Stored(State),
}

/// Where a state is kept, and where its bundle is given out. What is asked of it may block.
pub trait Store: fmt::Debug + Send {
    /// Where the state is, for errors.
    fn place(&self) -> PathBuf;

    /// Between two steps.
    fn period(&self) -> Duration;

    /// How far what this process knows may be behind what another one has stored; zero if it is alone.
    fn lag(&self) -> Duration;

    /// What is kept, or `None` in a new place.
    ///
    /// # Errors
    /// See [`StateError`]; whatever is wrong is left as it is.
    fn load(&mut self, trust_domain: &TrustDomain) -> Result<Option<State>, StateError>;

    /// What has become of what this process has loaded or stored last.
    ///
    /// # Errors
    /// See [`StateError`]; whatever is wrong is left as it is.
    fn news(&mut self, trust_domain: &TrustDomain) -> Result<News, StateError>;

    /// Keeps `state` in the place of what was loaded or stored last.
    ///
    /// # Errors
    /// [`StateError::Conflict`] if another process has stored one meanwhile. Otherwise what was there is still there,
    /// or `state` is, and the next news tell.
    fn store(&mut self, state: &State) -> Result<(), StateError>;

    /// Gives out the bundle of what is stored, unless that one is out already.
    ///
    /// # Errors
    /// When it cannot be written.
    fn give_out(&mut self, bundle_pem: &str) -> Result<(), StateError>;
}

/// Where an authority comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// Made here.
    Own,
    /// Given by a person, in files.
    Supplied,
}

/// Where an authority is in its life. Times are Unix seconds of this machine's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "phase")]
pub enum Phase {
    /// Its roots are given out, and nothing is signed yet.
    Announced {
        /// Since when.
        since: i64,
    },
    /// It signs.
    Signing,
    /// It signs no more; its roots stay as long as a leaf of it may live.
    Leaving {
        /// Until when.
        until: i64,
    },
}

impl Phase {
    /// The text of labels.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Announced { .. } => "announced",
            Self::Signing => "signing",
            Self::Leaving { .. } => "leaving",
        }
    }
}

/// A root with what signs under it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authority {
    /// Where it comes from.
    pub origin: Origin,
    /// Where it is in its life.
    #[serde(flatten)]
    pub phase: Phase,
    /// The key of an own root that has issuers under it: new ones are made with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_key: Option<RootKey>,
    /// What signs leaves; gone once it has signed its last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<SignerPem>,
    /// Its roots in PEM.
    pub roots: String,
    /// The longest life, in seconds, that a leaf of it was ever given.
    pub longest_leaf: u64,
}

/// The key of a root, in PEM; never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RootKey(pub String);

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKey(..)")
    }
}

/// Everything, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    version: u32,
    trust_domain: String,
    /// The oldest first.
    pub authorities: Vec<Authority>,
}

impl State {
    /// Without any authority.
    #[must_use]
    pub fn new(trust_domain: &TrustDomain) -> Self {
        Self { version: VERSION, trust_domain: trust_domain.to_string(), authorities: Vec::new() }
    }

    /// The one that signs.
    #[must_use]
    pub fn signing(&self) -> Option<&Authority> {
        self.authorities.iter().find(|authority| authority.phase == Phase::Signing)
    }

    /// The one that is to sign next.
    #[must_use]
    pub fn announced(&self) -> Option<(&Authority, i64)> {
        self.authorities.iter().find_map(|authority| match authority.phase {
            Phase::Announced { since } => Some((authority, since)),
            Phase::Signing | Phase::Leaving { .. } => None,
        })
    }

    /// The roots of all.
    #[must_use]
    pub fn bundle(&self) -> TrustBundle {
        let pem = |authority: &Authority| {
            CertificateDer::pem_slice_iter(authority.roots.as_bytes()).flatten().collect::<Vec<_>>()
        };
        TrustBundle::new(self.authorities.iter().flat_map(pem))
    }

    /// Makes room for leaves of this life: says whether there was not enough.
    pub fn cover(&mut self, leaf: LeafLifetime) -> bool {
        let (seconds, mut is_changed) = (leaf.duration().as_secs(), false);
        for authority in &mut self.authorities {
            if !matches!(authority.phase, Phase::Leaving { .. }) && authority.longest_leaf < seconds {
                (authority.longest_leaf, is_changed) = (seconds, true);
            }
        }
        is_changed
    }

    /// Reads the text that is at `place`.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn parse(text: &[u8], place: &Path, trust_domain: &TrustDomain) -> Result<Self, StateError> {
        let corrupt = |source| StateError::Corrupt { path: place.to_owned(), source };
        #[derive(Deserialize)]
        struct Form {
            version: u32,
        }
        let Form { version } = serde_json::from_slice(text).map_err(corrupt)?;
        if version != VERSION {
            return Err(StateError::Version { path: place.to_owned(), version });
        }
        let state: Self = serde_json::from_slice(text).map_err(corrupt)?;
        if state.trust_domain != trust_domain.as_str() {
            let (path, actual, expected) = (place.to_owned(), state.trust_domain, trust_domain.clone());
            return Err(StateError::TrustDomain { path, actual, expected });
        }
        let signing = state.authorities.iter().filter(|authority| authority.phase == Phase::Signing);
        if signing.filter(|authority| authority.signer.is_some()).count() != 1 {
            return Err(StateError::NoSigner(place.to_owned()));
        }
        for signer in state.authorities.iter().filter_map(|authority| authority.signer.as_ref()) {
            match Signer::new(signer, &SignerFiles::all_in(place), OffsetDateTime::now_utc()) {
                // Time passes while nobody looks; anything else is a text that is spoilt.
                Ok(_) | Err(SignerError { problem: SignerProblem::NotValidNow { .. }, .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(state)
    }

    /// The text that [`State::parse`] reads.
    ///
    /// # Errors
    /// [`StateError::Corrupt`], which does not happen.
    pub fn to_json(&self, place: &Path) -> Result<Vec<u8>, StateError> {
        serde_json::to_vec_pretty(self)
            .map_err(|source| StateError::Corrupt { path: place.to_owned(), source })
    }

    /// What signs, ready to do so.
    ///
    /// # Errors
    /// [`StateError::NoSigner`], or what is wrong with it.
    pub fn signer(&self, place: &Path, now: OffsetDateTime) -> Result<Signer, StateError> {
        let signer = self.signing().and_then(|authority| authority.signer.as_ref());
        let signer = signer.ok_or_else(|| StateError::NoSigner(place.to_owned()))?;
        Ok(Signer::new(signer, &SignerFiles::all_in(place), now)?)
    }
}

/// Unix seconds of a moment.
#[must_use]
pub const fn seconds(at: OffsetDateTime) -> i64 {
    at.unix_timestamp()
}

/// So many seconds, for sums with Unix seconds.
#[must_use]
pub fn span(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 2)
}
