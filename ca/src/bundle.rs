//! The trust bundle: the roots that peers are verified against, in one order, with a tag that names exactly these.

use base64::Engine as _;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::CertificateDer;

/// A set of roots. Two are equal when they hold the same roots in the same order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    roots: Vec<CertificateDer<'static>>,
    tag: String,
}

impl TrustBundle {
    /// Of these roots, each once.
    #[must_use]
    pub fn new(all: impl IntoIterator<Item = CertificateDer<'static>>) -> Self {
        let mut roots: Vec<CertificateDer<'static>> = Vec::new();
        for root in all {
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
        let tag = fingerprint(&roots.iter().flat_map(|root| root.iter().copied()).collect::<Vec<_>>());
        Self { roots, tag }
    }

    /// The roots.
    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The SHA-256 of all roots, in hexadecimal: what two processes compare.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The roots in PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.roots.iter().map(to_pem).collect()
    }
}

/// The SHA-256 of bytes in hexadecimal; of a certificate, what tools call its fingerprint.
#[must_use]
pub fn fingerprint(bytes: &[u8]) -> String {
    let hash = TLS13_AES_128_GCM_SHA256.tls13().map(|suite| suite.common.hash_provider.hash(bytes));
    hash.iter().flat_map(|hash| hash.as_ref()).map(|byte| format!("{byte:02x}")).collect()
}

/// A certificate in PEM.
pub(crate) fn to_pem(der: &CertificateDer<'static>) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_names_exactly_these_roots() {
        let root = |byte: u8| CertificateDer::from(vec![byte; 3]);
        let one = TrustBundle::new([root(1), root(2), root(1)]);
        assert_eq!(one.roots().len(), 2);
        assert_eq!(one, TrustBundle::new([root(1), root(2)]));
        assert_ne!(one.tag(), TrustBundle::new([root(2), root(1)]).tag());
        assert_eq!(
            TrustBundle::new([CertificateDer::from(b"abc".to_vec())]).tag(),
            // The first example of FIPS 180-2, appendix B.1.
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
