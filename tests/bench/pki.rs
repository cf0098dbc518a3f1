//! Certificates for the contenders: one CA, and a leaf for each end with a SPIFFE ID, as the mesh has them.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};

/// The files of both ends: certificate, key, and both in one as HAProxy reads them.
#[derive(Debug)]
pub(crate) struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// Makes everything in a folder.
    pub(crate) fn make(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "the contenders' CA");
        let root = params.self_signed(&key).unwrap();
        fs::write(dir.join("ca.crt"), root.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        for name in ["client", "server"] {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
            let mut params = CertificateParams::default();
            let id = format!("spiffe://cluster.local/ns/outside/sa/{name}");
            params.subject_alt_names =
                vec![SanType::URI(id.try_into().unwrap()), SanType::DnsName(name.try_into().unwrap())];
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
            let leaf = params.signed_by(&key, &issuer).unwrap();
            fs::write(dir.join(format!("{name}.crt")), leaf.pem()).unwrap();
            fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
            fs::write(dir.join(format!("{name}.pem")), leaf.pem() + &key.serialize_pem()).unwrap();
        }
        Self { dir: dir.to_owned() }
    }

    /// The path of one of the files: `ca.crt`, `client.pem`, and so on.
    pub(crate) fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}
