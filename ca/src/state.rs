//! What the CA keeps on its disk: its authorities, each a root with what signs under it, in one file.
//!
//! The file is replaced whole, so that no crash leaves half of it, and one process at a time may have it.
//! `ca.crt` beside it is the trust bundle, for clients, and follows from it. Whatever is wrong with the file is an
//! error for a person: a silent new root would cut every workload from every other.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::bundle::TrustBundle;
use crate::signer::{Signer, SignerError, SignerFiles, SignerPem, SignerProblem, is_of};
use crate::spiffe::TrustDomain;

/// The authorities, keys and all, in the state directory.
pub const STATE_FILE: &str = "authorities.json";
/// The trust bundle in PEM, for clients, in the state directory.
pub const CA_CERT_FILE: &str = "ca.crt";
/// Key and certificate of the root of earlier releases, which signed leaves itself.
pub const FORMER_ROOT_FILE: &str = "root.pem";
/// Whoever runs on the directory has locked it.
const LOCK_FILE: &str = "lock";
/// The version of the file's form.
const VERSION: u32 = 1;

/// Why there is nothing to sign with.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
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
#[derive(Clone, Debug, Serialize, Deserialize)]
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

impl std::fmt::Debug for RootKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RootKey(..)")
    }
}

/// Everything, as it is on the disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
}

/// The state directory, locked for this process.
#[derive(Debug)]
pub struct StateDir {
    dir: PathBuf,
    /// Unlocked when it is closed.
    _lock: File,
}

impl StateDir {
    /// Takes the directory, which is made if it is not there.
    ///
    /// # Errors
    /// [`StateError::Locked`] while another process has it, [`StateError::Io`] otherwise.
    pub fn take(dir: &Path) -> Result<Self, StateError> {
        fs::create_dir_all(dir).map_err(|e| io_error(dir, e))?;
        let path = dir.join(LOCK_FILE);
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = lock.map_err(|e| io_error(&path, e))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { dir: dir.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::Locked(dir.to_owned())),
            Err(TryLockError::Error(e)) => Err(io_error(&path, e)),
        }
    }

    /// The file of the state.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.dir.join(STATE_FILE)
    }

    /// What is kept, or `None` in a new directory. The root of an earlier release is taken over.
    ///
    /// # Errors
    /// See [`StateError`]; whatever is wrong is left as it is.
    pub fn load(&self, trust_domain: &TrustDomain) -> Result<Option<State>, StateError> {
        let (file, former) = (self.file(), self.dir.join(FORMER_ROOT_FILE));
        let is_there = |path: &Path| path.try_exists().map_err(|e| io_error(path, e));
        if is_there(&file)? {
            if is_there(&former)? {
                tracing::warn!(file = %former.display(), "this file was taken over and is no longer read: remove it");
            }
            return read(&file, trust_domain).map(Some);
        }
        if is_there(&former)? {
            let state = take_over(&former, trust_domain)?;
            self.store(&state)?;
            fs::remove_file(&former).map_err(|e| io_error(&former, e))?;
            tracing::info!(file = %former.display(), "the root of an earlier release was taken over");
            return Ok(Some(state));
        }
        let cert = self.dir.join(CA_CERT_FILE);
        if is_there(&cert)? {
            return Err(StateError::KeyMissing { cert, state: file });
        }
        Ok(None)
    }

    /// Keeps the state, and then gives out its bundle: nobody ever has a root that would be forgotten by a crash.
    ///
    /// # Errors
    /// When the disk does not take it; what was there before is still there.
    pub fn store(&self, state: &State) -> Result<(), StateError> {
        let file = self.file();
        let text = serde_json::to_vec_pretty(state)
            .map_err(|source| StateError::Corrupt { path: file.clone(), source })?;
        replace(&file, &text, 0o600)?;
        self.give_out(state)
    }

    /// Writes the bundle for clients.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn give_out(&self, state: &State) -> Result<(), StateError> {
        replace(&self.dir.join(CA_CERT_FILE), state.bundle().to_pem().as_bytes(), 0o644)
    }
}

/// The signer of a state directory, as the disk has it now.
///
/// # Errors
/// See [`StateError`].
pub fn read_signer(dir: &Path, trust_domain: &TrustDomain) -> Result<Signer, StateError> {
    let file = dir.join(STATE_FILE);
    let state = read(&file, trust_domain)?;
    let signer = state.signing().and_then(|authority| authority.signer.as_ref());
    let signer = signer.ok_or_else(|| StateError::NoSigner(file.clone()))?;
    Ok(Signer::new(signer, &SignerFiles::all_in(file), OffsetDateTime::now_utc())?)
}

fn read(file: &Path, trust_domain: &TrustDomain) -> Result<State, StateError> {
    warn_of_readers(file)?;
    let text = fs::read(file).map_err(|e| io_error(file, e))?;
    let corrupt = |source| StateError::Corrupt { path: file.to_owned(), source };
    #[derive(Deserialize)]
    struct Form {
        version: u32,
    }
    let Form { version } = serde_json::from_slice(&text).map_err(corrupt)?;
    if version != VERSION {
        return Err(StateError::Version { path: file.to_owned(), version });
    }
    let state: State = serde_json::from_slice(&text).map_err(corrupt)?;
    if state.trust_domain != trust_domain.as_str() {
        let (path, actual, expected) = (file.to_owned(), state.trust_domain, trust_domain.clone());
        return Err(StateError::TrustDomain { path, actual, expected });
    }
    let signing = state.authorities.iter().filter(|authority| authority.phase == Phase::Signing);
    if signing.filter(|authority| authority.signer.is_some()).count() != 1 {
        return Err(StateError::NoSigner(file.to_owned()));
    }
    for signer in state.authorities.iter().filter_map(|authority| authority.signer.as_ref()) {
        match Signer::new(signer, &SignerFiles::all_in(file), OffsetDateTime::now_utc()) {
            // Time passes while nobody looks; anything else is a file that is spoilt.
            Ok(_) | Err(SignerError { problem: SignerProblem::NotValidNow { .. }, .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(state)
}

/// The root of an earlier release: it goes on signing leaves itself, as no issuer may be under it.
fn take_over(file: &Path, trust_domain: &TrustDomain) -> Result<State, StateError> {
    warn_of_readers(file)?;
    let text = fs::read_to_string(file).map_err(|e| io_error(file, e))?;
    let at = text.find("-----BEGIN CERTIFICATE").unwrap_or(text.len());
    let (key, root) = (text[..at].to_owned(), text[at..].to_owned());
    let pem = SignerPem { key, chain: root.clone(), roots: root.clone() };
    let signer = Signer::new(&pem, &SignerFiles::all_in(file), OffsetDateTime::now_utc())?;
    if !signer.roots().iter().all(|root| is_of(root, trust_domain)) {
        let problem = SignerProblem::TrustDomain(trust_domain.clone());
        return Err(SignerError { file: file.to_owned(), problem }.into());
    }
    let authority = Authority {
        origin: Origin::Own,
        phase: Phase::Signing,
        root_key: None,
        signer: Some(pem),
        roots: root,
        longest_leaf: crate::issue::MAX_LEAF_LIFETIME.as_secs(),
    };
    Ok(State { authorities: vec![authority], ..State::new(trust_domain) })
}

fn warn_of_readers(file: &Path) -> Result<(), StateError> {
    let mode = fs::metadata(file).map_err(|e| io_error(file, e))?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(file = %file.display(), mode = format!("{:o}", mode & 0o777), "the CA's keys are readable by others");
    }
    Ok(())
}

/// Writes a file whole or not at all, and waits until it is on the disk.
fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), StateError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let draft = PathBuf::from(name);
    let written =
        OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&draft).and_then(
            |mut file| {
                file.write_all(content)?;
                file.sync_all()
            },
        );
    written.map_err(|e| io_error(&draft, e))?;
    fs::rename(&draft, path).map_err(|e| io_error(path, e))?;
    // The new name survives a power cut as well.
    let Some(parent) = path.parent() else { return Ok(()) };
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(|e| io_error(parent, e))
}

fn io_error(path: &Path, source: io::Error) -> StateError {
    StateError::Io { path: path.to_owned(), source }
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
