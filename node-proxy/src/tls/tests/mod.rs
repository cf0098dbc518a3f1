//! Tests of the hop's TLS, with a small PKI that also makes the certificates that nobody should take.

mod client_hello;
mod handshake;
mod store;

use std::time::Duration;

use gammarus_ca::{SignedIdentity, SpiffeId};
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

use super::WorkloadCert;

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const DB: &str = "spiffe://cluster.local/ns/shop/sa/db";

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

/// A root and what it signs.
struct Pki {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

/// A chain with a key that may or may not be its own.
struct Presented {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Pki {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), root }
    }

    /// A leaf as our CA makes it, for an hour, after `change`.
    fn present(&self, identity: &str, change: impl FnOnce(&mut CertificateParams)) -> Presented {
        let key = KeyPair::generate().unwrap();
        let now = OffsetDateTime::now_utc();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(identity)];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = now - Duration::from_secs(300);
        params.not_after = now + Duration::from_secs(3600);
        change(&mut params);
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Presented { chain: vec![leaf.der().clone()], key }
    }

    /// A good leaf that lives for `lifetime`.
    fn workload_for(&self, identity: &str, lifetime: Duration) -> WorkloadCert {
        let presented =
            self.present(identity, |params| params.not_after = OffsetDateTime::now_utc() + lifetime);
        self.accept(identity, presented).unwrap()
    }

    fn workload(&self, identity: &str) -> WorkloadCert {
        self.workload_for(identity, Duration::from_secs(3600))
    }

    fn accept(&self, identity: &str, presented: Presented) -> Result<WorkloadCert, super::CertError> {
        let signed = SignedIdentity { chain: presented.chain, trust_bundle: vec![self.root.clone()] };
        WorkloadCert::new(&id(identity), signed, &presented.key)
    }
}
