//! Turning a CSR into a leaf: the CA's signing policy.
//!
//! Reached only by callers that `authorize` has let through. Takes the public key from the CSR and nothing
//! else; never signs a key whose holder did not prove to have it.

use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use crate::api::MAX_CSR;
use crate::spiffe::SpiffeId;

/// The longest life of a leaf: what is stolen with a node is useless a day later.
pub const MAX_LEAF_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The shortest: below it, renewal at half life would be a constant load on the CA.
pub const MIN_LEAF_LIFETIME: Duration = Duration::from_secs(10);
/// How far `NotBefore` lies in the past: a node whose clock is this much behind the CA's still takes a fresh leaf.
/// Room for a CA that is five minutes ahead, and for nodes that differ by as much.
pub const BACKDATED: Duration = Duration::from_secs(10 * 60);

/// Why no leaf was made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The CSR is not PEM, not PKCS#10, or has bytes behind its end.
    #[error("the CSR is not one PKCS#10 request in PEM")]
    BadCsr,
    /// The CSR's own signature does not fit the key in it.
    #[error("the CSR is not signed with the key that it carries")]
    BadCsrSignature,
    /// The CSR asks for an attribute or an extension that is not the identity.
    #[error("the CSR asks for more than its identity: {0}")]
    ForeignExtension(String),
    /// The CSR carries another name than the identity asked for.
    #[error("the CSR carries the name `{0}`, which is not the identity asked for")]
    ForeignName(String),
    /// The configured lifetime is out of bounds.
    #[error("a leaf lives between {} and {} seconds, not {}", MIN_LEAF_LIFETIME.as_secs(), MAX_LEAF_LIFETIME.as_secs(), .0.as_secs())]
    Lifetime(Duration),
    /// What signs has not long enough to live.
    #[error("what signs expires at {0}: no leaf may outlive it")]
    SignerExpires(OffsetDateTime),
    /// The signer failed.
    #[error("the leaf cannot be made")]
    Sign(#[from] rcgen::Error),
    /// The CSR is too long.
    #[error("a CSR has at most {MAX_CSR} bytes, this one {0}")]
    TooLong(usize),
    /// The key is not of a kind that is signed.
    #[error("the key of the CSR is not ECDSA P-256")]
    UnsupportedKey,
}

impl IssueError {
    /// Whether the request is at fault, and not the CA.
    #[must_use]
    pub const fn is_callers(&self) -> bool {
        match self {
            Self::BadCsr
            | Self::BadCsrSignature
            | Self::ForeignExtension(_)
            | Self::ForeignName(_)
            | Self::TooLong(_)
            | Self::UnsupportedKey => true,
            Self::Lifetime(_) | Self::SignerExpires(_) | Self::Sign(_) => false,
        }
    }
}

/// How long a leaf lives: checked once, at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafLifetime(Duration);

impl LeafLifetime {
    /// Takes a lifetime between [`MIN_LEAF_LIFETIME`] and [`MAX_LEAF_LIFETIME`].
    ///
    /// # Errors
    /// [`IssueError::Lifetime`] outside of these.
    pub fn new(lifetime: Duration) -> Result<Self, IssueError> {
        if (MIN_LEAF_LIFETIME..=MAX_LEAF_LIFETIME).contains(&lifetime) {
            Ok(Self(lifetime))
        } else {
            Err(IssueError::Lifetime(lifetime))
        }
    }

    /// The lifetime.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// This one, or a shorter one of so many seconds.
    #[must_use]
    pub fn at_most(self, seconds: u64) -> Self {
        Self(self.0.min(Duration::from_secs(seconds)))
    }
}

/// The public key of a CSR whose holder proved to have the private one, and which asked for nothing else.
#[derive(Clone, Debug)]
pub struct ProvenKey(SubjectPublicKeyInfo);

/// Reads a CSR in PEM and takes its key, for the identity that was asked for.
///
/// The subject of the CSR is ignored. A SAN is allowed only if it is the identity and nothing else.
///
/// # Errors
/// One for each thing that is wrong with the CSR, see [`IssueError`].
pub fn prove_key(csr_pem: &str, identity: &SpiffeId) -> Result<ProvenKey, IssueError> {
    if csr_pem.len() > MAX_CSR {
        return Err(IssueError::TooLong(csr_pem.len()));
    }
    let der =
        CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes()).map_err(|_| IssueError::BadCsr)?;
    let (rest, csr) = X509CertificationRequest::from_der(&der).map_err(|_| IssueError::BadCsr)?;
    if !rest.is_empty() {
        return Err(IssueError::BadCsr);
    }
    let request = &csr.certification_request_info;
    let key =
        SubjectPublicKeyInfo::from_der(request.subject_pki.raw).map_err(|_| IssueError::UnsupportedKey)?;
    if rcgen::PublicKeyData::algorithm(&key) != &rcgen::PKCS_ECDSA_P256_SHA256 {
        return Err(IssueError::UnsupportedKey);
    }
    csr.verify_signature().map_err(|_| IssueError::BadCsrSignature)?;
    for attribute in request.attributes() {
        let ParsedCriAttribute::ExtensionRequest(wanted) = attribute.parsed_attribute() else {
            return Err(IssueError::ForeignExtension(format!("attribute {}", attribute.oid)));
        };
        for extension in &wanted.extensions {
            let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
                return Err(IssueError::ForeignExtension(format!("extension {}", extension.oid)));
            };
            check_names(&names.general_names, identity)?;
        }
    }
    Ok(ProvenKey(key))
}

/// Refuses every name but the one identity.
fn check_names(names: &[GeneralName<'_>], identity: &SpiffeId) -> Result<(), IssueError> {
    let identity = identity.to_string();
    for name in names {
        if !matches!(name, GeneralName::URI(uri) if *uri == identity) {
            return Err(IssueError::ForeignName(
                name.to_string().chars().take(120).flat_map(char::escape_default).collect(),
            ));
        }
    }
    if names.len() > 1 {
        return Err(IssueError::ForeignName("the identity, more than once".to_owned()));
    }
    Ok(())
}

/// Makes the leaf for `identity`, in PEM: the X.509-SVID of section 2 to 4 of that specification.
///
/// The SPIFFE ID is the only SAN and, as the subject is empty, critical. The leaf never outlives what signs it.
///
/// # Errors
/// [`IssueError::SignerExpires`] with less than a minute of the signer's life left, [`IssueError::Sign`] otherwise.
pub fn issue_leaf(
    issuer: &Issuer<'_, KeyPair>,
    key: &ProvenKey,
    identity: &SpiffeId,
    validity: Validity,
) -> Result<String, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(identity.to_string())?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(random_serial()?);
    params.not_before = validity.not_before;
    params.not_after = validity.not_after;
    Ok(params.signed_by(&key.0, issuer)?.pem())
}

/// From when to when a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before: OffsetDateTime,
    /// The last second.
    pub not_after: OffsetDateTime,
}

impl Validity {
    /// A life of `lifetime` from `now`, backdated by [`BACKDATED`] and cut to the signer's end.
    ///
    /// # Errors
    /// [`IssueError::SignerExpires`] if less than a minute, and less than half of `lifetime`, would be left of it.
    pub fn within(
        signer_not_after: OffsetDateTime,
        now: OffsetDateTime,
        lifetime: LeafLifetime,
    ) -> Result<Self, IssueError> {
        if signer_not_after < now + Duration::from_secs(60).min(lifetime.0 / 2) {
            return Err(IssueError::SignerExpires(signer_not_after));
        }
        Ok(Self { not_before: now - BACKDATED, not_after: signer_not_after.min(now + lifetime.0) })
    }
}

/// 16 random bytes, positive and without a leading zero (RFC 5280 section 4.1.2.2).
pub(crate) fn random_serial() -> Result<SerialNumber, rcgen::Error> {
    let mut bytes = [0_u8; 16];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| rcgen::Error::RingUnspecified)?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from(bytes.to_vec()))
}
