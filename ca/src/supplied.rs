//! A signer that a person supplies: a directory as a Secret of type `kubernetes.io/tls` is mounted, with `tls.crt`,
//! `tls.key` and `ca.crt`, as cert-manager writes it.
//!
//! Its files are read again and again, as they may be replaced at any time, all at once or one by one. What is new
//! counts when it has been the same twice. What is wrong is told once, and the last good signer stays.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::bundle::to_pem;
use crate::causes::with_causes;
use crate::signer::{Signer, SignerError, SignerFiles, SignerPem, SignerProblem};

/// Files that were found wrong are judged again after this.
const JUDGED_AGAIN: Duration = Duration::from_secs(60);

/// Why there is no supplied signer.
#[derive(Debug, thiserror::Error)]
pub enum SuppliedError {
    /// A file is not there, or cannot be read.
    #[error("{}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is there, and is wrong.
    #[error(transparent)]
    Signer(#[from] SignerError),
}

/// The directory, and what was found in it.
#[derive(Debug)]
pub struct SignerDir {
    dir: PathBuf,
    /// As it was read last.
    seen: Option<SignerPem>,
    /// What was judged last, and when.
    judged: Option<(SignerPem, OffsetDateTime)>,
    good: Option<SignerPem>,
    complaint: Option<String>,
}

impl SignerDir {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), seen: None, judged: None, good: None, complaint: None }
    }

    fn files(&self) -> SignerFiles {
        let file = |name| self.dir.join(name);
        SignerFiles { key: file("tls.key"), chain: file("tls.crt"), roots: file("ca.crt") }
    }

    /// Reads and checks what is there now.
    ///
    /// # Errors
    /// With the file, and what is wrong with it.
    pub fn read(&mut self, now: OffsetDateTime) -> Result<SignerPem, SuppliedError> {
        let outcome = self.read_files().and_then(|pem| self.judge(pem, now));
        self.complaint = outcome.as_ref().err().map(|error| with_causes(error));
        outcome
    }

    /// What is there now, if it is good and has been the same twice, or else what was good last.
    pub fn look(&mut self, now: OffsetDateTime) -> Option<&SignerPem> {
        let outcome = match self.read_files() {
            Ok(pem) if self.good.as_ref() == Some(&pem) => {
                self.complaint = None;
                Ok(())
            }
            Ok(pem) if self.was_judged(&pem, now) => Ok(()),
            Ok(pem) if self.seen.as_ref() == Some(&pem) => self.judge(pem, now).map(drop),
            Ok(pem) => {
                self.seen = Some(pem);
                Ok(())
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => {}
            Err(error) => {
                let text = with_causes(&error);
                if self.complaint.as_ref() != Some(&text) {
                    tracing::error!(
                        error = text,
                        "the supplied signer cannot be used; the last good one stays"
                    );
                    self.complaint = Some(text);
                }
            }
        }
        self.good.as_ref()
    }

    /// What is wrong with the files, if anything is.
    #[must_use]
    pub fn complaint(&self) -> Option<&str> {
        self.complaint.as_deref()
    }

    /// Whether this was found wrong a moment ago. Later it may be right: its time may have come.
    fn was_judged(&self, pem: &SignerPem, now: OffsetDateTime) -> bool {
        self.judged.as_ref().is_some_and(|(judged, at)| judged == pem && now < *at + JUDGED_AGAIN)
    }

    fn judge(&mut self, pem: SignerPem, now: OffsetDateTime) -> Result<SignerPem, SuppliedError> {
        self.judged = Some((pem.clone(), now));
        Signer::new(&pem, &self.files(), now)?;
        self.complaint = None;
        self.good = Some(pem.clone());
        Ok(pem)
    }

    fn read_files(&self) -> Result<SignerPem, SuppliedError> {
        let files = self.files();
        let key = read(&files.key)?;
        let chain = normal(&read(&files.chain)?, &files.chain)?;
        let roots = match read(&files.roots) {
            Err(SuppliedError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                String::new()
            }
            text => normal(&text?, &files.roots)?,
        };
        let roots = if roots.is_empty() { top(&chain) } else { roots };
        Ok(SignerPem { key, chain, roots })
    }
}

fn read(path: &Path) -> Result<String, SuppliedError> {
    fs::read_to_string(path).map_err(|source| SuppliedError::Io { path: path.to_owned(), source })
}

/// The certificates of a file and nothing else, each as we write it: two files that say the same are equal.
fn normal(text: &str, file: &Path) -> Result<String, SuppliedError> {
    let unreadable = |_| SignerError { file: file.to_owned(), problem: SignerProblem::Unreadable };
    let all = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    Ok(all.map_err(unreadable)?.iter().map(to_pem).collect())
}

/// The root that a chain ends in, if it ends in one.
fn top(chain: &str) -> String {
    let last = CertificateDer::pem_slice_iter(chain.as_bytes()).flatten().last();
    let is_root = |der: &CertificateDer<'_>| {
        X509Certificate::from_der(der).is_ok_and(|(_, cert)| cert.subject() == cert.issuer())
    };
    last.filter(is_root).as_ref().map(to_pem).unwrap_or_default()
}
