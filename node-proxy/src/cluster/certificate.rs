//! Certificates as users keep them: a chain with its key in a Secret of type `kubernetes.io/tls`, authorities in a
//! ConfigMap. Pure: nothing is read but the object.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// The chain and its key.
///
/// # Errors
/// In words: which entry is missing or cannot be read, or that both do not belong together.
pub fn read_pair(secret: &Secret) -> Result<Arc<CertifiedKey>, String> {
    let entry = |name: &str| {
        let found = secret.data.as_ref().and_then(|data| data.get(name)).map(|bytes| bytes.0.as_slice());
        let text = secret.string_data.as_ref().and_then(|data| data.get(name)).map(String::as_bytes);
        found.or(text).filter(|bytes| !bytes.is_empty()).ok_or_else(|| format!("{name} is missing"))
    };
    let chain = CertificateDer::pem_slice_iter(entry("tls.crt")?).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| format!("tls.crt: {error}"))?;
    if chain.is_empty() {
        return Err("tls.crt: there is no certificate in it".to_owned());
    }
    let key =
        PrivateKeyDer::from_pem_slice(entry("tls.key")?).map_err(|error| format!("tls.key: {error}"))?;
    let pair = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider());
    pair.map(Arc::new).map_err(|error| format!("tls.crt and tls.key: {error}"))
}

/// The certificates of `ca.crt`.
///
/// # Errors
/// In words: that there are none, or that one cannot be read.
pub fn read_authorities(config_map: &ConfigMap) -> Result<RootCertStore, String> {
    let text = config_map.data.as_ref().and_then(|data| data.get("ca.crt")).ok_or("ca.crt is missing")?;
    parse_authorities(text.as_bytes()).map_err(|error| format!("ca.crt: {error}"))
}

/// The certificates of a text in PEM.
///
/// # Errors
/// In words: that there are none, or that one cannot be read.
pub fn parse_authorities(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut authorities = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        authorities.add(certificate).map_err(|error| error.to_string())?;
    }
    if authorities.is_empty() {
        return Err("there is no certificate in it".to_owned());
    }
    Ok(authorities)
}
