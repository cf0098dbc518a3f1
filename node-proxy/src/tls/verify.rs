//! Judging a peer's certificate: a path to the trust bundle, and exactly one SPIFFE ID that may be here.
//!
//! The client's side expects one identity, the server's side any of its trust domain. Never looks at DNS
//! names or at a common name, and never takes a chain without proof of its key.

use std::sync::Arc;

use gammarus_ca::spiffe::SpiffeError;
use gammarus_ca::{SpiffeId, TrustDomain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use time::OffsetDateTime;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::error::FailureReason;

/// Why a peer's certificate is refused.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Its time is over.
    #[error("the peer's certificate expired at {not_after}, and this node's clock says {now}")]
    Expired {
        /// This node's clock.
        now: OffsetDateTime,
        /// The certificate's last second.
        not_after: OffsetDateTime,
    },
    /// The certificate may sign others, which a workload's must not (X.509-SVID section 4.3).
    #[error("the peer's certificate has the usages of a CA")]
    IsCa,
    /// The peer did not sign the handshake with the certificate's key.
    #[error("the peer did not prove that it has the key of its certificate")]
    KeyNotProven,
    /// Its URI is not the identity of a service account.
    #[error("the peer's certificate has no SPIFFE ID of a service account")]
    NotSpiffe(#[from] SpiffeError),
    /// Its time has not come.
    #[error("the peer's certificate holds from {not_before}, and this node's clock says {now}")]
    NotYetValid {
        /// This node's clock.
        now: OffsetDateTime,
        /// The certificate's first second.
        not_before: OffsetDateTime,
    },
    /// Another workload than the one that was dialled.
    #[error("the peer is {actual}, and not {expected}")]
    OtherIdentity {
        /// What the certificate says.
        actual: SpiffeId,
        /// Who was dialled.
        expected: SpiffeId,
    },
    /// A workload of another trust domain.
    #[error("the peer {actual} is not of the trust domain {expected}")]
    OtherTrustDomain {
        /// What the certificate says.
        actual: SpiffeId,
        /// Ours.
        expected: TrustDomain,
    },
    /// Not exactly one URI among its names (X.509-SVID section 2).
    #[error("the peer's certificate has {0} URI names, and not exactly one")]
    UriNames(usize),
    /// It cannot be read.
    #[error("the peer's certificate cannot be read")]
    Unreadable,
    /// No path to the trust bundle, or not for this use.
    #[error("the peer's certificate is not trusted: {0}")]
    Untrusted(webpki::Error),
}

impl From<PeerError> for Error {
    fn from(error: PeerError) -> Self {
        CertificateError::Other(OtherError(Arc::new(error))).into()
    }
}

/// The one SPIFFE ID of the first certificate. Says nothing about whether to trust it.
///
/// # Errors
/// [`PeerError::UriNames`] for none or several, [`PeerError::NotSpiffe`] for another URI,
/// [`PeerError::Unreadable`] for no certificate.
pub fn peer_identity(certs: &[CertificateDer<'_>]) -> Result<SpiffeId, PeerError> {
    let leaf = certs.first().ok_or(PeerError::Unreadable)?;
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| PeerError::Unreadable)?;
    let usage = leaf.key_usage().map_err(|_| PeerError::Unreadable)?;
    if leaf.is_ca() || usage.is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign()) {
        return Err(PeerError::IsCa);
    }
    let names = leaf.subject_alternative_name().map_err(|_| PeerError::Unreadable)?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    match uris[..] {
        [uri] => Ok(uri.parse()?),
        _ => Err(PeerError::UriNames(uris.len())),
    }
}

/// What the verifiers here found wrong with the peer, if that is why the handshake failed.
#[must_use]
pub fn peer_error(error: &Error) -> Option<&PeerError> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref(),
        _ => None,
    }
}

/// The reason that a user meets for a handshake that failed on this side.
///
/// The peer's certificate is at fault, or the proof of its key: `PeerIdentityRefused`. Anything else,
/// a missing certificate and an alert of the peer included: `HandshakeFailed`.
#[must_use]
pub fn failure_reason(error: &Error) -> FailureReason {
    match peer_error(error) {
        Some(_) => FailureReason::PeerIdentityRefused,
        None => FailureReason::HandshakeFailed,
    }
}

/// The library's error in that of a TLS stream, which wraps it.
fn library_error(error: &std::io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// Whether the peer's certificate is under a root that is not known here: it may be known in a newer bundle.
#[must_use]
pub fn has_unknown_issuer(error: &std::io::Error) -> bool {
    let error = library_error(error).and_then(peer_error);
    matches!(error, Some(PeerError::Untrusted(webpki::Error::UnknownIssuer)))
}

/// Reason and text for an error of a TLS stream, which wraps that of the library.
///
/// The text is for the log: the library's own shows a [`PeerError`] only as a debug dump.
#[must_use]
pub fn explain(error: &std::io::Error) -> (FailureReason, String) {
    let Some(inner) = library_error(error) else {
        return (FailureReason::HandshakeFailed, error.to_string());
    };
    let text = peer_error(inner).map_or_else(|| inner.to_string(), ToString::to_string);
    (failure_reason(inner), text)
}

/// Whether a handshake has failed because the client has shown no certificate.
#[must_use]
pub fn is_anonymous(error: &std::io::Error) -> bool {
    matches!(library_error(error), Some(Error::NoCertificatesPresented))
}

/// The roots that a leaf came with, and how signatures are checked.
#[derive(Clone, Debug)]
pub struct Trust {
    anchors: Arc<[TrustAnchor<'static>]>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Trust {
    /// Takes the certificates of a trust bundle.
    ///
    /// # Errors
    /// [`PeerError::Untrusted`] if one of them cannot be a root.
    pub fn new(
        bundle: &[CertificateDer<'_>],
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<Self, PeerError> {
        let anchors = bundle
            .iter()
            .map(|root| webpki::anchor_from_trusted_cert(root).map(|anchor| anchor.to_owned()))
            .collect::<Result<_, _>>()
            .map_err(PeerError::Untrusted)?;
        Ok(Self { anchors, algorithms })
    }

    /// Checks path, time and use of a chain, and returns its identity.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<SpiffeId, PeerError> {
        let parsed = EndEntityCert::try_from(leaf).map_err(|_| PeerError::Unreadable)?;
        parsed
            .verify_for_usage(self.algorithms.all, &self.anchors, intermediates, now, usage, None, None)
            .map_err(path_error)?;
        peer_identity(std::slice::from_ref(leaf))
    }

    fn verify_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match rustls::crypto::verify_tls13_signature(message, cert, signed, &self.algorithms) {
            Err(Error::InvalidCertificate(CertificateError::BadSignature)) => {
                Err(PeerError::KeyNotProven.into())
            }
            other => other,
        }
    }
}

/// Gives the errors about time both clocks.
fn path_error(error: webpki::Error) -> PeerError {
    match error {
        webpki::Error::CertExpired { time, not_after } => {
            PeerError::Expired { now: clock(time), not_after: clock(not_after) }
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            PeerError::NotYetValid { now: clock(time), not_before: clock(not_before) }
        }
        other => PeerError::Untrusted(other),
    }
}

/// A time that can be printed.
fn clock(time: UnixTime) -> OffsetDateTime {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// What a client takes: exactly the workload that it dialled.
#[derive(Debug)]
pub struct ExpectedServer {
    /// The roots.
    pub trust: Trust,
    /// Who must answer.
    pub expected: SpiffeId,
}

impl ServerCertVerifier for ExpectedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let actual = self.trust.verify_chain(end_entity, intermediates, now, KeyUsage::server_auth())?;
        if actual.trust_domain() != self.expected.trust_domain() {
            let expected = self.expected.trust_domain().clone();
            return Err(PeerError::OtherTrustDomain { actual, expected }.into());
        }
        if actual != self.expected {
            return Err(PeerError::OtherIdentity { actual, expected: self.expected.clone() }.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken on a hop".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust.verify_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}

/// What a server takes: any workload of its trust domain, and nobody without a certificate.
#[derive(Debug)]
pub struct MeshClients {
    /// The roots.
    pub trust: Trust,
    /// Ours.
    pub trust_domain: TrustDomain,
}

impl ClientCertVerifier for MeshClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hint: a client of the mesh has one certificate, and names of roots only make the flight longer.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let actual = self.trust.verify_chain(end_entity, intermediates, now, KeyUsage::client_auth())?;
        if *actual.trust_domain() != self.trust_domain {
            return Err(PeerError::OtherTrustDomain { actual, expected: self.trust_domain.clone() }.into());
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken on a hop".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust.verify_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}
