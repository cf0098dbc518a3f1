//! The state in a directory: for one process, which has locked it.
//!
//! The file is replaced whole, so that no crash leaves half of it. `ca.crt` beside it is the trust bundle.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use time::OffsetDateTime;

use super::{Authority, CA_CERT_FILE, News, Origin, Phase, STATE_FILE, State, StateError, Store};
use crate::signer::{Signer, SignerError, SignerFiles, SignerPem, SignerProblem, is_of};
use crate::spiffe::TrustDomain;

/// Key and certificate of the root of earlier releases, which signed leaves itself.
pub const FORMER_ROOT_FILE: &str = "root.pem";
/// Whoever runs on the directory has locked it.
const LOCK_FILE: &str = "lock";
/// How often the clock, the supplied signer and the nodes' reports are looked at.
const PERIOD: Duration = Duration::from_millis(500);

/// The state directory, locked for this process.
#[derive(Debug)]
pub struct StateDir {
    dir: PathBuf,
    /// The bundle that this process has written.
    given_out: Option<String>,
    lock: File,
}

impl Drop for StateDir {
    fn drop(&mut self) {
        // Not left to the closing of the file: a child that was forked a moment ago has it open until it runs its program.
        let _no_worse_than_closed = self.lock.unlock();
    }
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
            Ok(()) => Ok(Self { dir: dir.to_owned(), given_out: None, lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::Locked(dir.to_owned())),
            Err(TryLockError::Error(e)) => Err(io_error(&path, e)),
        }
    }
}

impl Store for StateDir {
    fn place(&self) -> PathBuf {
        self.dir.join(STATE_FILE)
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    fn lag(&self) -> Duration {
        Duration::ZERO
    }

    /// The root of an earlier release is taken over.
    fn load(&mut self, trust_domain: &TrustDomain) -> Result<Option<State>, StateError> {
        let (file, former) = (self.place(), self.dir.join(FORMER_ROOT_FILE));
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

    fn news(&mut self, _: &TrustDomain) -> Result<News, StateError> {
        Ok(News::Nothing)
    }

    fn store(&mut self, state: &State) -> Result<(), StateError> {
        let file = self.place();
        replace(&file, &state.to_json(&file)?, 0o600)
    }

    fn give_out(&mut self, bundle_pem: &str) -> Result<(), StateError> {
        if self.given_out.as_deref() != Some(bundle_pem) {
            replace(&self.dir.join(CA_CERT_FILE), bundle_pem.as_bytes(), 0o644)?;
            self.given_out = Some(bundle_pem.to_owned());
        }
        Ok(())
    }
}

/// The signer of a state directory, as the disk has it now.
///
/// # Errors
/// See [`StateError`].
pub fn read_signer(dir: &Path, trust_domain: &TrustDomain) -> Result<Signer, StateError> {
    let file = dir.join(STATE_FILE);
    read(&file, trust_domain)?.signer(&file, OffsetDateTime::now_utc())
}

fn read(file: &Path, trust_domain: &TrustDomain) -> Result<State, StateError> {
    warn_of_readers(file)?;
    State::parse(&fs::read(file).map_err(|e| io_error(file, e))?, file, trust_domain)
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
