//! What a listener ends TLS with → the configuration of its handshakes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};

use super::PROVIDER;
use crate::attach::gateway::Validation;
use crate::route::HostnameMatch;
use crate::route::hostname::Hostnames;

/// What is in the TLS of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// HTTP, of the version that is agreed on (RFC 7301).
    Http,
    /// Anything.
    Anything,
}

/// What a listener ends TLS with.
#[derive(Debug)]
pub(super) struct Termination {
    pub(super) certificates: Vec<Arc<CertifiedKey>>,
    pub(super) validation: Option<Validation>,
    pub(super) content: Content,
}

impl Termination {
    /// Whether handshakes of both are the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let same_validation = match (&self.validation, &other.validation) {
            (Some(one), Some(other)) => {
                one.is_fallback == other.is_fallback && one.authorities.roots == other.authorities.roots
            }
            (None, None) => true,
            _ => false,
        };
        let chain = |key: &Arc<CertifiedKey>| key.cert.clone();
        same_validation
            && self.content == other.content
            && self.certificates.iter().map(chain).eq(other.certificates.iter().map(chain))
    }

    /// The configuration of its handshakes.
    ///
    /// # Errors
    /// When there is no authority to judge clients by.
    pub(super) fn build(&self) -> Result<Arc<ServerConfig>, Error> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
        let builder = match &self.validation {
            Some(validation) => builder.with_client_cert_verifier(build_verifier(validation)?),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(Certificates::new(&self.certificates)));
        if self.content == Content::Http {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        Ok(Arc::new(config))
    }
}

fn build_verifier(validation: &Validation) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let authorities = Arc::clone(&validation.authorities);
    let verifier = WebPkiClientVerifier::builder_with_provider(authorities, Arc::clone(&PROVIDER))
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    Ok(if validation.is_fallback { Arc::new(InsecureFallback(verifier)) } else { verifier })
}

/// Asks for a certificate, and lets in whoever has none that is good (`AllowInsecureFallback`). That the client has the
/// key of what it shows is still checked.
#[derive(Debug)]
struct InsecureFallback(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for InsecureFallback {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The certificates of a listener by the names that they are for; of several for a name, the first that the client can
/// check. For names that none of them has, the first of the list, as the API says nothing better.
struct Certificates {
    by_name: Hostnames<Vec<Arc<CertifiedKey>>>,
    all: Vec<Arc<CertifiedKey>>,
}

impl Certificates {
    fn new(certificates: &[Arc<CertifiedKey>]) -> Self {
        let mut by_name: BTreeMap<HostnameMatch, Vec<Arc<CertifiedKey>>> = BTreeMap::new();
        for certificate in certificates {
            for name in names(certificate) {
                by_name.entry(name).or_default().push(Arc::clone(certificate));
            }
        }
        let by_name = Hostnames::new(by_name.into_iter().map(|(name, keys)| (Some(name), keys)));
        Self { by_name, all: certificates.to_vec() }
    }
}

/// The DNS names of a certificate.
fn names(certificate: &CertifiedKey) -> Vec<HostnameMatch> {
    let leaf = certificate.cert.first().and_then(|leaf| webpki::EndEntityCert::try_from(leaf).ok());
    leaf.iter().flat_map(|leaf| leaf.valid_dns_names()).map(HostnameMatch::new).collect()
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("count", &self.all.len()).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().unwrap_or_default().to_ascii_lowercase();
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let named = self.by_name.find_all(&name).flatten();
        named.chain(&self.all).find(fits).cloned()
    }
}
