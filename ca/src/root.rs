//! The root: made on first start, kept on disk, never made twice; and the CA's own serving certificate.
//!
//! `root.pem` holds key and certificate in one file, so that no crash can leave half of the pair, and
//! `ca.crt` is the certificate alone, for clients. Whatever is wrong with them is an error for a person: a
//! silent new root would cut every workload from every other.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::issue::{BACKDATED, random_serial};
use crate::spiffe::TrustDomain;

/// Key and certificate of the root, in the state directory.
pub const ROOT_FILE: &str = "root.pem";
/// The root's certificate alone, for clients, in the state directory.
pub const CA_CERT_FILE: &str = "ca.crt";
/// How long a new root lives.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Why there is no root to sign with.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The file does not hold one private key and one certificate.
    #[error("{} does not hold one private key and one certificate in PEM: restore it from a backup", .0.display())]
    Corrupt(PathBuf),
    /// The root's time is over, or has not come.
    #[error("the root in {} holds from {not_before} to {not_after}, and it is {now} now", .path.display())]
    NotValidNow {
        /// The file.
        path: PathBuf,
        /// The clock of this machine.
        now: OffsetDateTime,
        /// The root's first second.
        not_before: OffsetDateTime,
        /// The root's last second.
        not_after: OffsetDateTime,
    },
    /// Reading or writing failed.
    #[error("{}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Clients have a root whose key is gone.
    #[error("{} is there but {} is missing: restore it, or remove the first to begin with a new root", .cert.display(), .root.display())]
    KeyMissing {
        /// The certificate that clients have.
        cert: PathBuf,
        /// The file that is missing.
        root: PathBuf,
    },
    /// The certificate is not a CA's, or not of this key.
    #[error("the certificate in {} is not a root that this key signed", .0.display())]
    NotOurs(PathBuf),
    /// A certificate could not be made.
    #[error("a certificate cannot be made")]
    Sign(#[from] rcgen::Error),
    /// A name of the server is neither a DNS name nor an address.
    #[error("server name `{0}` is neither a DNS name nor an IP address")]
    ServerName(String),
    /// The root was made for another trust domain.
    #[error("the root in {} is not of the trust domain {trust_domain}", .path.display())]
    TrustDomain {
        /// The file.
        path: PathBuf,
        /// The trust domain that was configured.
        trust_domain: TrustDomain,
    },
}

/// The root that signs: its key stays in here.
#[derive(Debug)]
pub struct Root {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    not_after: OffsetDateTime,
}

/// A certificate of the CA's own endpoint.
#[derive(Debug)]
pub struct ServingCert {
    /// The leaf.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

impl Root {
    /// Loads the root of `state_dir`, or makes it if this is the first start; writes `ca.crt`.
    ///
    /// # Errors
    /// See [`RootError`]; whatever exists and is not a valid root of `trust_domain` is left as it is.
    pub fn load_or_create(state_dir: &Path, trust_domain: &TrustDomain) -> Result<Self, RootError> {
        fs::create_dir_all(state_dir).map_err(|e| io_error(state_dir, e))?;
        let path = state_dir.join(ROOT_FILE);
        let cert_path = state_dir.join(CA_CERT_FILE);
        // In this order: another process that starts just now writes the root first.
        let clients_have_one = cert_path.try_exists().map_err(|e| io_error(&cert_path, e))?;
        if !path.try_exists().map_err(|e| io_error(&path, e))? {
            if clients_have_one {
                return Err(RootError::KeyMissing { cert: cert_path, root: path });
            }
            create(&path, trust_domain)?;
            tracing::info!(file = %path.display(), %trust_domain, "root made");
        }
        let root = Self::load(&path, trust_domain)?;
        replace(&cert_path, root.certificate_pem.as_bytes())?;
        Ok(root)
    }

    /// Reads and checks `root.pem`.
    fn load(path: &Path, trust_domain: &TrustDomain) -> Result<Self, RootError> {
        let corrupt = || RootError::Corrupt(path.to_owned());
        let mode = fs::metadata(path).map_err(|e| io_error(path, e))?.permissions().mode();
        if mode & 0o077 != 0 {
            tracing::warn!(file = %path.display(), mode = format!("{:o}", mode & 0o777), "root key is readable by others");
        }
        let pem = fs::read(path).map_err(|e| io_error(path, e))?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_| corrupt())?;
        let key = KeyPair::try_from(&key).map_err(|_| corrupt())?;
        let certs: Vec<_> =
            CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|_| corrupt())?;
        let [der] = &certs[..] else { return Err(corrupt()) };
        let (rest, cert) = X509Certificate::from_der(der).map_err(|_| corrupt())?;
        if !rest.is_empty() {
            return Err(corrupt());
        }
        if !cert.is_ca()
            || cert.public_key().raw != key.subject_public_key_info()
            || cert.verify_signature(None).is_err()
        {
            return Err(RootError::NotOurs(path.to_owned()));
        }
        if !is_of(&cert, trust_domain) {
            return Err(RootError::TrustDomain { path: path.to_owned(), trust_domain: trust_domain.clone() });
        }
        let (not_before, not_after) =
            (cert.validity().not_before.to_datetime(), cert.validity().not_after.to_datetime());
        let now = OffsetDateTime::now_utc();
        if now < not_before || now > not_after {
            return Err(RootError::NotValidNow { path: path.to_owned(), now, not_before, not_after });
        }
        Ok(Self { certificate_pem: to_pem(der), issuer: Issuer::from_ca_cert_der(der, key)?, not_after })
    }

    /// Signs in the root's name.
    #[must_use]
    pub const fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// The root's certificate: the trust bundle of the mesh.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The last second of the root.
    #[must_use]
    pub const fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// Makes a certificate for the CA's own endpoint, with a key of its own that is kept in memory only.
    ///
    /// # Errors
    /// [`RootError::ServerName`] for a name that no certificate can carry, [`RootError::Sign`] otherwise.
    pub fn serving_cert(&self, names: &[String], lifetime: Duration) -> Result<ServingCert, RootError> {
        let key = KeyPair::generate()?;
        let now = OffsetDateTime::now_utc();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names.iter().map(|name| server_name(name)).collect::<Result<_, _>>()?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(random_serial()?);
        params.not_before = now - BACKDATED;
        params.not_after = self.not_after.min(now + lifetime);
        let leaf = params.signed_by(&key, &self.issuer)?;
        Ok(ServingCert {
            chain: vec![leaf.der().clone()],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        })
    }
}

/// Takes a DNS name or an address.
fn server_name(name: &str) -> Result<SanType, RootError> {
    let bad = || RootError::ServerName(name.to_owned());
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    rustls::pki_types::DnsName::try_from(name).map_err(|_| bad())?;
    Ok(SanType::DnsName(Ia5String::try_from(name).map_err(|_| bad())?))
}

/// Makes key and certificate, and puts them there in one step; loses without harm against another process.
fn create(path: &Path, trust_domain: &TrustDomain) -> Result<(), RootError> {
    let key = KeyPair::generate()?;
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Gammarus root of {trust_domain}"));
    // A signing certificate may carry the trust domain's own SPIFFE ID (X.509-SVID section 3.2). No name
    // constraints: webpki refuses every chain that has some on URIs.
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(format!("spiffe://{trust_domain}"))?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(random_serial()?);
    params.not_before = now - BACKDATED;
    params.not_after = now + ROOT_LIFETIME;
    let cert = params.self_signed(&key)?;
    let temporary =
        write_temporary(path, format!("{}{}", key.serialize_pem(), cert.pem()).as_bytes(), 0o600)?;
    // A link, unlike a rename, never replaces a root that another process has made meanwhile.
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary).map_err(|e| io_error(&temporary, e))?;
    match linked {
        Ok(()) => sync_parent(path),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(io_error(path, e)),
    }
}

/// Whether the certificate carries the SPIFFE ID of the trust domain.
fn is_of(cert: &X509Certificate<'_>, trust_domain: &TrustDomain) -> bool {
    let wanted = format!("spiffe://{trust_domain}");
    cert.subject_alternative_name().ok().flatten().is_some_and(|san| {
        san.value.general_names.iter().any(|n| matches!(n, GeneralName::URI(u) if *u == wanted))
    })
}

/// The certificate in PEM.
fn to_pem(der: &CertificateDer<'_>) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// Writes a public file whole or not at all.
fn replace(path: &Path, content: &[u8]) -> Result<(), RootError> {
    let temporary = write_temporary(path, content, 0o644)?;
    fs::rename(&temporary, path).map_err(|e| io_error(path, e))?;
    sync_parent(path)
}

/// Writes a file beside `path` and waits until it is on the disk.
fn write_temporary(path: &Path, content: &[u8], mode: u32) -> Result<PathBuf, RootError> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(name);
    let written =
        OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary).and_then(
            |mut file| {
                file.write_all(content)?;
                file.sync_all()
            },
        );
    written.map_err(|e| io_error(&temporary, e))?;
    Ok(temporary)
}

/// Makes the name of `path` survive a power cut.
fn sync_parent(path: &Path) -> Result<(), RootError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(|e| io_error(parent, e))
}

/// The error of one file.
fn io_error(path: &Path, source: io::Error) -> RootError {
    RootError::Io { path: path.to_owned(), source }
}
