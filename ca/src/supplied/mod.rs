//! A signer that a person supplies: `tls.crt`, `tls.key` and `ca.crt` of a Secret of type `kubernetes.io/tls`, as
//! cert-manager writes it, in a directory ([`dir`]) or in the Secret itself ([`secret`]).
//!
//! It is read again and again, as it may be replaced at any time, all at once or, in a directory, file by file: what
//! is new there counts when it has been the same twice. What is wrong is told once, and what signs goes on.

pub mod dir;
pub mod secret;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

pub use self::dir::SignerDir;
pub use self::secret::SignerSecret;
use crate::bundle::to_pem;
use crate::causes::{Complaint, with_causes};
use crate::cluster::ClusterError;
use crate::rotation::Wish;
use crate::signer::{Signer, SignerError, SignerFiles, SignerPem, SignerProblem};

/// The key of the signer.
const KEY: &str = "tls.key";
/// Its certificate, and those above it.
const CHAIN: &str = "tls.crt";
/// Its roots.
const ROOTS: &str = "ca.crt";
/// What was found wrong is judged again after this.
const JUDGED_AGAIN: Duration = Duration::from_secs(60);
/// A signer that is gone is waited for so long: whoever deletes a Secret may do so to have it made anew.
const MISSED: Duration = Duration::from_secs(60);

/// Why there is no supplied signer.
#[derive(Debug, thiserror::Error)]
pub enum SuppliedError {
    /// The Secret cannot be read.
    #[error("{}", .place.display())]
    Cluster {
        /// The Secret.
        place: PathBuf,
        /// What the API server said.
        source: ClusterError,
    },
    /// A file is not there, or cannot be read.
    #[error("{}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A part is there, and is wrong.
    #[error(transparent)]
    Signer(#[from] SignerError),
}

/// The texts of a signer, as they were found.
#[derive(Clone)]
pub struct SignerText {
    /// Of `tls.key`.
    pub key: String,
    /// Of `tls.crt`.
    pub chain: String,
    /// Of `ca.crt`; empty if it is not there.
    pub roots: String,
}

/// Where a person puts a signer. What is asked of it may block.
pub trait SignerSource: fmt::Debug + Send {
    /// Where each part is, for errors.
    fn files(&self) -> SignerFiles;

    /// Whether all parts change at one moment.
    fn is_whole(&self) -> bool;

    /// What is there now; `None` if no signer is there, and none need be.
    ///
    /// # Errors
    /// With the part that cannot be read.
    fn read(&self) -> Result<Option<SignerText>, SuppliedError>;
}

/// The source, and what was found in it.
#[derive(Debug)]
pub struct Supplied {
    source: Box<dyn SignerSource>,
    patience: Duration,
    /// As it was read last.
    seen: Option<SignerPem>,
    /// What was judged last, and when.
    judged: Option<(SignerPem, OffsetDateTime)>,
    good: Option<SignerPem>,
    complaint: Complaint,
    gone_since: Option<OffsetDateTime>,
}

impl Supplied {
    /// Nothing is read yet. One that goes away is waited for no longer than leaves live.
    #[must_use]
    pub fn new(source: Box<dyn SignerSource>, leaf: Duration) -> Self {
        let patience = MISSED.min(leaf);
        let complaint = Complaint::default();
        Self { source, patience, seen: None, judged: None, good: None, complaint, gone_since: None }
    }

    /// Reads and checks what is there now.
    ///
    /// # Errors
    /// With the part, and what is wrong with it.
    pub fn read(&mut self, now: OffsetDateTime) -> Result<Option<SignerPem>, SuppliedError> {
        let outcome = self.read_parts().and_then(|pem| pem.map(|pem| self.judge(pem, now)).transpose());
        self.complaint.settle();
        if let Err(error) = &outcome {
            let _told_by_who_asks = self.complaint.raise(with_causes(error));
        }
        outcome
    }

    /// What is wanted now. `is_used` says whether a supplied signer signs, or is to sign next.
    pub fn wish(&mut self, now: OffsetDateTime, is_used: bool) -> Wish {
        let outcome = match self.read_parts() {
            Ok(None) => return self.wish_without(now, is_used),
            Ok(Some(pem)) => self.look(pem, now),
            Err(error) => Err(error),
        };
        self.gone_since = None;
        if let Err(error) = outcome
            && let Some(error) = self.complaint.raise(with_causes(&error))
        {
            tracing::error!(error, "the supplied signer cannot be used; the last good one stays");
        }
        let good = self.good.clone().filter(|_| self.complaint.words().is_none());
        good.map_or(Wish::AsItIs, Wish::Supplied)
    }

    /// What is wrong with the parts, if anything is.
    #[must_use]
    pub fn complaint(&self) -> Option<&str> {
        self.complaint.words()
    }

    fn wish_without(&mut self, now: OffsetDateTime, is_used: bool) -> Wish {
        self.complaint.settle();
        (self.good, self.judged, self.seen) = (None, None, None);
        if !is_used {
            self.gone_since = None;
            return Wish::Own;
        }
        let patience = self.patience;
        let since = *self.gone_since.get_or_insert_with(|| {
            let seconds = patience.as_secs();
            tracing::warn!(seconds, "the supplied signer is gone; without it there will be one of our own");
            now
        });
        if now < since + patience { Wish::AsItIs } else { Wish::Own }
    }

    /// Takes what was read, if it is good and, unless it is replaced as a whole, was the same the last time.
    fn look(&mut self, pem: SignerPem, now: OffsetDateTime) -> Result<(), SuppliedError> {
        if self.good.as_ref() == Some(&pem) {
            self.complaint.settle();
        } else if self.was_judged(&pem, now) {
            // It was complained of.
        } else if self.source.is_whole() || self.seen.as_ref() == Some(&pem) {
            self.judge(pem, now)?;
        } else {
            self.seen = Some(pem);
        }
        Ok(())
    }

    /// Whether this was found wrong a moment ago. Later it may be right: its time may have come.
    fn was_judged(&self, pem: &SignerPem, now: OffsetDateTime) -> bool {
        self.judged.as_ref().is_some_and(|(judged, at)| judged == pem && now < *at + JUDGED_AGAIN)
    }

    fn judge(&mut self, pem: SignerPem, now: OffsetDateTime) -> Result<SignerPem, SuppliedError> {
        self.judged = Some((pem.clone(), now));
        Signer::new(&pem, &self.source.files(), now)?;
        self.complaint.settle();
        self.good = Some(pem.clone());
        Ok(pem)
    }

    fn read_parts(&self) -> Result<Option<SignerPem>, SuppliedError> {
        let Some(SignerText { key, chain, roots }) = self.source.read()? else { return Ok(None) };
        let files = self.source.files();
        let (chain, roots) = (normal(&chain, &files.chain)?, normal(&roots, &files.roots)?);
        let roots = if roots.is_empty() { top(&chain) } else { roots };
        Ok(Some(SignerPem { key, chain, roots }))
    }
}

/// The certificates of a text and nothing else, each as we write it: two texts that say the same are equal.
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
