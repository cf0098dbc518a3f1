//! What signs: a CA's certificate with its key and its way up to a root; how our own are made, and what is checked
//! before one may sign.
//!
//! Whatever is wrong is an error for a person, which names the file. A signer whose leaves a peer would refuse is
//! found out here: one is signed and verified before the first real one.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::bundle::{fingerprint, to_pem};
use crate::issue::{BACKDATED, random_serial};
use crate::spiffe::TrustDomain;

/// What is wrong with a file of a signer.
#[derive(Debug, thiserror::Error)]
pub enum SignerProblem {
    /// The key belongs to another certificate.
    #[error("has a key that does not fit the first certificate of {}", .0.display())]
    KeyMismatch(PathBuf),
    /// No certificate.
    #[error("has no certificate in PEM")]
    NoCertificate,
    /// No key.
    #[error("has no private key in PEM")]
    NoKey,
    /// Neither here nor at the chain's end there is a root.
    #[error("has no root, and {} does not end in one", .0.display())]
    NoRoot(PathBuf),
    /// The first certificate may not sign others.
    #[error("has the certificate `{0}`, which is not a CA's: it needs CA:TRUE and the usage keyCertSign")]
    NotCa(String),
    /// Its time is over, or has not come.
    #[error(
        "has the certificate `{subject}`, which holds from {not_before} to {not_after}, and it is {now} now"
    )]
    NotValidNow {
        /// Whose.
        subject: String,
        /// The clock of this machine.
        now: OffsetDateTime,
        /// The first second.
        not_before: OffsetDateTime,
        /// The last second.
        not_after: OffsetDateTime,
    },
    /// Made for another trust domain.
    #[error("has a root that is not of the trust domain {0}")]
    TrustDomain(TrustDomain),
    /// A certificate is broken.
    #[error("has a certificate that cannot be read")]
    Unreadable,
    /// The key's kind is not known.
    #[error("has a key that is neither ECDSA nor Ed25519 nor RSA")]
    UnsupportedKey,
    /// Peers would refuse its leaves.
    #[error("signs leaves that no peer would take: {0}")]
    Untrusted(webpki::Error),
    /// It fails to sign.
    #[error("cannot sign")]
    Sign(#[from] rcgen::Error),
}

/// What is wrong with a signer, and where.
#[derive(Debug, thiserror::Error)]
#[error("{} {problem}", .file.display())]
pub struct SignerError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: SignerProblem,
}

/// A signer in PEM, as it is kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignerPem {
    /// Its private key.
    pub key: String,
    /// Its certificate, and those above it up to a root.
    pub chain: String,
    /// Its roots.
    pub roots: String,
}

impl fmt::Debug for SignerPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignerPem").field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// Where the parts of a signer come from, for errors.
#[derive(Clone, Debug)]
pub struct SignerFiles {
    /// The key's file.
    pub key: PathBuf,
    /// The chain's.
    pub chain: PathBuf,
    /// The roots'.
    pub roots: PathBuf,
}

impl SignerFiles {
    /// All in one file.
    #[must_use]
    pub fn all_in(file: impl Into<PathBuf>) -> Self {
        let file = file.into();
        Self { key: file.clone(), chain: file.clone(), roots: file }
    }
}

/// A signer that was checked. Its key stays in here.
#[derive(Debug)]
pub struct Signer {
    issuer: Issuer<'static, KeyPair>,
    /// The signing certificate and those above it, without a root.
    intermediates: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    not_after: OffsetDateTime,
}

impl Signer {
    /// Checks the parts of a signer against each other, the clock, and what peers will say of its leaves.
    ///
    /// # Errors
    /// The first thing that is wrong, with its file.
    pub fn new(pem: &SignerPem, files: &SignerFiles, now: OffsetDateTime) -> Result<Self, SignerError> {
        let in_key = |problem| SignerError { file: files.key.clone(), problem };
        let in_chain = |problem| SignerError { file: files.chain.clone(), problem };
        let in_roots = |problem| SignerError { file: files.roots.clone(), problem };
        let chain = certificates(&pem.chain).map_err(in_chain)?;
        let Some(first) = chain.first() else { return Err(in_chain(SignerProblem::NoCertificate)) };
        let key =
            PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).map_err(|_| in_key(SignerProblem::NoKey))?;
        let key = KeyPair::try_from(&key).map_err(|_| in_key(SignerProblem::UnsupportedKey))?;
        let parsed = parse(first).map_err(in_chain)?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(in_key(SignerProblem::KeyMismatch(files.chain.clone())));
        }
        let mut not_after = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(u32::MAX.into());
        let mut intermediates = Vec::new();
        let mut top = None;
        for der in &chain {
            let certificate = parse(der).map_err(in_chain)?;
            not_after = not_after.min(check_ca(&certificate, now).map_err(in_chain)?);
            if certificate.subject() == certificate.issuer() {
                top = Some(der);
            } else {
                intermediates.push(der.clone());
            }
        }
        let mut roots = certificates(&pem.roots).map_err(in_roots)?;
        for der in &roots {
            let root = parse(der).map_err(in_roots)?;
            let end = check_ca(&root, now).map_err(in_roots)?;
            // Of several roots the last to end counts: which of them is above us is the peers' affair.
            not_after = if roots.len() == 1 { not_after.min(end) } else { not_after };
        }
        if roots.is_empty() {
            let top = top.ok_or_else(|| in_roots(SignerProblem::NoRoot(files.chain.clone())))?;
            roots.push(top.clone());
        }
        let issuer =
            Issuer::from_ca_cert_der(first, key).map_err(|error| in_chain(SignerProblem::Sign(error)))?;
        let signer = Self { issuer, intermediates, roots, not_after };
        signer.try_out(now).map_err(in_chain)?;
        Ok(signer)
    }

    /// Signs in the signer's name.
    #[must_use]
    pub const fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// What has to follow a leaf on its way to a root.
    #[must_use]
    pub fn intermediates(&self) -> &[CertificateDer<'static>] {
        &self.intermediates
    }

    /// The same in PEM.
    #[must_use]
    pub fn intermediates_pem(&self) -> String {
        self.intermediates.iter().map(to_pem).collect()
    }

    /// The roots that peers need.
    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The last second in which it may sign.
    #[must_use]
    pub const fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// Signs a leaf for nobody's use and judges it as a peer would.
    fn try_out(&self, now: OffsetDateTime) -> Result<(), SignerProblem> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names =
            vec![SanType::URI(Ia5String::try_from("spiffe://example.org/ns/default/sa/default")?)];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (now - BACKDATED, now + BACKDATED);
        let leaf = params.signed_by(&key, &self.issuer)?;
        let leaf = EndEntityCert::try_from(leaf.der()).map_err(SignerProblem::Untrusted)?;
        let anchors = self.roots.iter().map(webpki::anchor_from_trusted_cert).collect::<Result<Vec<_>, _>>();
        let anchors = anchors.map_err(SignerProblem::Untrusted)?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(
            u64::try_from(now.unix_timestamp()).unwrap_or_default(),
        ));
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
        for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
            leaf.verify_for_usage(algorithms, &anchors, &self.intermediates, at, usage, None, None)
                .map_err(SignerProblem::Untrusted)?;
        }
        Ok(())
    }
}

/// All certificates of a PEM text.
fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, SignerProblem> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| SignerProblem::Unreadable)
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, SignerProblem> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(SignerProblem::Unreadable),
    }
}

/// Whether the certificate may sign others now; gives its last second.
fn check_ca(certificate: &X509Certificate<'_>, now: OffsetDateTime) -> Result<OffsetDateTime, SignerProblem> {
    let subject = certificate.subject().to_string();
    let usage = certificate.key_usage().map_err(|_| SignerProblem::Unreadable)?;
    if !certificate.is_ca() || !usage.is_none_or(|usage| usage.value.key_cert_sign()) {
        return Err(SignerProblem::NotCa(subject));
    }
    let validity = certificate.validity();
    let (not_before, not_after) = (validity.not_before.to_datetime(), validity.not_after.to_datetime());
    if now < not_before || now > not_after {
        return Err(SignerProblem::NotValidNow { subject, now, not_before, not_after });
    }
    Ok(not_after)
}

/// Whether the certificate carries the SPIFFE ID of the trust domain.
#[must_use]
pub fn is_of(certificate: &CertificateDer<'_>, trust_domain: &TrustDomain) -> bool {
    let wanted = format!("spiffe://{trust_domain}");
    parse(certificate).is_ok_and(|certificate| {
        certificate.subject_alternative_name().ok().flatten().is_some_and(|san| {
            san.value.general_names.iter().any(|name| matches!(name, GeneralName::URI(uri) if *uri == wanted))
        })
    })
}

/// From when to when the first certificate of a PEM text holds.
#[must_use]
pub fn first_validity(pem: &str) -> Option<(OffsetDateTime, OffsetDateTime)> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let certificate = parse(&der).ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.to_datetime(), validity.not_after.to_datetime()))
}

/// The certificates of a PEM text: the first 16 digits of the SHA-256 of each, and its last second.
#[must_use]
pub fn ends(pem: &str) -> Vec<(String, OffsetDateTime)> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes()).flatten();
    let end = |der: CertificateDer<'_>| {
        let not_after = parse(&der).ok()?.validity().not_after.to_datetime();
        Some((fingerprint(&der).chars().take(16).collect(), not_after))
    };
    all.filter_map(end).collect()
}

/// Makes a root: its key and its certificate, in PEM.
///
/// # Errors
/// When the system has no randomness.
pub fn make_root(
    trust_domain: &TrustDomain,
    lifetime: Duration,
    now: OffsetDateTime,
) -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = ca_params("root", trust_domain, 1, now)?;
    params.not_after = now + lifetime;
    let certificate = params.self_signed(&key)?;
    Ok((key.serialize_pem(), certificate.pem()))
}

/// Makes an issuer under a root that [`make_root`] has made: its key and its certificate, in PEM. It ends with the
/// root at the latest.
///
/// # Errors
/// When the root cannot be read, or the system has no randomness.
pub fn make_issuer(
    (root_key, root): (&str, &str),
    trust_domain: &TrustDomain,
    lifetime: Duration,
    now: OffsetDateTime,
) -> Result<(String, String), rcgen::Error> {
    let (_, root_end) = first_validity(root).ok_or(rcgen::Error::CouldNotParseCertificate)?;
    let root = Issuer::from_ca_cert_pem(root, KeyPair::from_pem(root_key)?)?;
    let key = KeyPair::generate()?;
    let mut params = ca_params("issuer", trust_domain, 0, now)?;
    params.use_authority_key_identifier_extension = true;
    params.not_after = root_end.min(now + lifetime);
    let certificate = params.signed_by(&key, &root)?;
    Ok((key.serialize_pem(), certificate.pem()))
}

/// What roots and issuers have in common.
fn ca_params(
    what: &str,
    trust_domain: &TrustDomain,
    below: u8,
    now: OffsetDateTime,
) -> Result<CertificateParams, rcgen::Error> {
    let serial = random_serial()?;
    let short: String = serial.to_bytes().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // Roots of one bundle have names of their own: whoever looks for the right one need not try them all.
    params.distinguished_name.push(DnType::CommonName, format!("Gammarus {what} {short} of {trust_domain}"));
    // A signing certificate may carry the trust domain's own SPIFFE ID (X.509-SVID section 3.2). No name
    // constraints: webpki refuses every chain that has some on URIs.
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(format!("spiffe://{trust_domain}"))?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial);
    params.not_before = now - BACKDATED;
    Ok(params)
}
