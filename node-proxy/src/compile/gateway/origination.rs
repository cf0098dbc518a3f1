//! What a Gateway begins TLS with towards a backend → the configurations of its handshakes.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use webpki::EndEntityCert;

use super::PROVIDER;
use crate::attach::gateway::policy::{BackendAuthorities, BackendName, BackendValidation, PortPolicy};
use crate::snapshot::gateway::{BackendHandshake, BackendTls, BackendTlsPorts};
use crate::snapshot::service::ServicePortKey;

/// The authorities that everybody takes, as Mozilla lists them.
#[must_use]
pub fn well_known_authorities() -> RootCertStore {
    webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()
}

/// How the ports are spoken to for which there are policies; `client` is what the Gateway shows there.
pub(super) fn compile_backends<'p>(
    policies: impl Iterator<Item = (&'p ServicePortKey, PortPolicy)>,
    client: Option<&Arc<CertifiedKey>>,
    system: &Arc<RootCertStore>,
) -> BackendTlsPorts {
    let compile = |policy: &PortPolicy| {
        let id = identify(policy, client);
        let handshake = policy.as_ref().and_then(|validation| build(validation, client, system).ok());
        Arc::new(BackendTls { id, handshake })
    };
    policies.map(|(port, policy)| (port.clone(), compile(&policy))).collect()
}

/// A number that differs where anything of the handshake does: no connection is used again for another.
fn identify(policy: &PortPolicy, client: Option<&Arc<CertifiedKey>>) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let Some(BackendValidation { hostname, names, authorities }) = policy.as_deref() {
        hostname.hash(&mut hasher);
        for name in names {
            match name {
                BackendName::Dns(name) => (0, name).hash(&mut hasher),
                BackendName::Uri(name) => (1, name).hash(&mut hasher),
            }
        }
        if let BackendAuthorities::Given(store) = authorities {
            store.roots.iter().for_each(|root| root.subject_public_key_info.as_ref().hash(&mut hasher));
        }
    }
    client.into_iter().flat_map(|client| &client.cert).for_each(|der| der.as_ref().hash(&mut hasher));
    hasher.finish()
}

fn build(
    validation: &BackendValidation,
    client: Option<&Arc<CertifiedKey>>,
    system: &Arc<RootCertStore>,
) -> Result<BackendHandshake, Error> {
    let name = ServerName::try_from(validation.hostname.to_string())
        .map_err(|_| Error::General("the hostname is no DNS name".to_owned()))?;
    let authorities = match &validation.authorities {
        BackendAuthorities::System => Arc::clone(system),
        BackendAuthorities::Given(authorities) => Arc::clone(authorities),
    };
    let verifier = Backend { authorities, names: validation.names.clone() };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let bytes = match client {
        Some(client) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::clone(client))))
        }
        None => builder.with_no_client_auth(),
    };
    let speaking = |protocol: &[u8]| {
        let mut config = bytes.clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    };
    let (version1, version2) = (speaking(b"http/1.1"), speaking(b"h2"));
    Ok(BackendHandshake { name, version1, version2, bytes: Arc::new(bytes) })
}

/// Takes a backend's certificate by its authorities, and by its names: the one that is asked for, unless others are given.
#[derive(Debug)]
struct Backend {
    authorities: Arc<RootCertStore>,
    names: Vec<BackendName>,
}

impl Backend {
    fn has_a_name(&self, end_entity: &CertificateDer<'_>) -> Result<bool, Error> {
        let unreadable = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let certificate = EndEntityCert::try_from(end_entity).map_err(unreadable)?;
        let uris: Vec<&str> = certificate.valid_uri_names().collect();
        Ok(self.names.iter().any(|name| match name {
            BackendName::Dns(name) => {
                ServerName::try_from(&**name).is_ok_and(|name| verify_server_name(&parsed, &name).is_ok())
            }
            BackendName::Uri(name) => uris.contains(&&**name),
        }))
    }
}

impl ServerCertVerifier for Backend {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = PROVIDER.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.authorities,
            intermediates,
            now,
            algorithms,
        )?;
        if self.names.is_empty() {
            verify_server_name(&parsed, server_name)?;
        } else if !self.has_a_name(end_entity)? {
            return Err(Error::InvalidCertificate(CertificateError::NotValidForName));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &PROVIDER.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &PROVIDER.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_that_everybody_takes_are_built_in() {
        let store = well_known_authorities();
        assert!(store.len() > 100, "{}", store.len());
        for name in ["ISRG Root X1", "DigiCert Global Root G2", "GTS Root R1"] {
            let has_it = |root: &&rustls::pki_types::TrustAnchor<'_>| {
                root.subject.as_ref().windows(name.len()).any(|text| text == name.as_bytes())
            };
            let found: Vec<_> = store.roots.iter().filter(has_it).collect();
            assert!(matches!(found[..], [root] if root.name_constraints.is_none()), "{name}: {found:?}");
        }
    }
}
