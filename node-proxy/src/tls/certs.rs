//! One identity's leaf, key and trust bundle, with the TLS configurations made from them once.
//!
//! Made by the [`CertStore`](super::CertStore), read by `connect` and `inbound`. Everything about a
//! handshake that is a choice is chosen here, for both sides at once.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use gammarus_ca::bundle::TrustBundle;
use gammarus_ca::{ClientError, SignedIdentity, SpiffeId};
use rustls::client::{Resumption, WantsClientCert};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ConfigBuilder, ServerConfig};
use webpki::KeyUsage;
use zeroize::Zeroizing;

use super::HOP_ALPN;
use super::clock::validity;
use super::verify::{ExpectedServer, MeshClients, PeerError, Trust};

/// How many peers' configurations are kept per leaf; beyond it they are made anew.
const MAX_CLIENT_CONFIGS: usize = 4096;

/// Why there is no certificate for an identity.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// The CA gave none.
    #[error("the CA gave no certificate for {identity}")]
    Ca {
        /// The identity asked for.
        identity: SpiffeId,
        /// What the client says.
        source: ClientError,
    },
    /// Nobody needs this identity any more.
    #[error("{0} was forgotten while its certificate was waited for")]
    Forgotten(SpiffeId),
    /// What came does not verify against its own bundle.
    #[error("the certificate for {identity} is not usable")]
    Leaf {
        /// The identity asked for.
        identity: SpiffeId,
        /// What is wrong with it.
        source: Box<PeerError>,
    },
    /// The certificate is another's.
    #[error("a certificate for {actual} came, and not for {expected}")]
    OtherIdentity {
        /// What it says.
        actual: SpiffeId,
        /// What was asked for.
        expected: SpiffeId,
    },
    /// Key and certificate do not fit, or TLS could not be set up.
    #[error("TLS cannot be set up with the certificate")]
    Tls(#[from] rustls::Error),
}

impl CertError {
    /// How long the CA asks to wait before the next try, if it does.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Ca { source, .. } => source.retry_after(),
            _ => None,
        }
    }
}

/// The cryptography of the hop: AES-128-GCM first, the hybrid post-quantum key share before the classic ones.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    })
});

/// The leaf of one identity and what was made from it.
pub struct WorkloadCert {
    identity: SpiffeId,
    not_before: SystemTime,
    not_after: SystemTime,
    /// From the first above the leaf up to the root, which is not among them.
    issuers: Vec<CertificateDer<'static>>,
    bundle: Arc<TrustBundle>,
    trust: Trust,
    key: Arc<CertifiedKey>,
    secret: Arc<Zeroizing<PrivateKeyDer<'static>>>,
    resolver: Arc<SingleCertAndKey>,
    server_config: Arc<ServerConfig>,
    client_configs: Mutex<HashMap<SpiffeId, Arc<ClientConfig>>>,
}

impl fmt::Debug for WorkloadCert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadCert")
            .field("identity", &self.identity)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl WorkloadCert {
    /// Takes what the CA signed for `key`, after checking that it is `identity`, valid now, and of that key.
    ///
    /// # Errors
    /// See [`CertError`]: a leaf that peers would refuse is refused here first.
    pub fn new(
        identity: &SpiffeId,
        signed: SignedIdentity,
        key: &PrivateKeyDer<'_>,
    ) -> Result<Self, CertError> {
        let secret = Arc::new(Zeroizing::new(key.clone_key()));
        let key = CertifiedKey::new(signed.chain, aws_lc_rs::sign::any_supported_type(key)?);
        key.keys_match()?;
        Self::with(identity, (Arc::new(key), secret), Arc::new(TrustBundle::new(signed.trust_bundle)))
    }

    /// The same leaf and key, with which peers are taken by another trust bundle.
    ///
    /// # Errors
    /// As [`WorkloadCert::new`]: without its root in the bundle, a leaf is of no use.
    pub fn with_bundle(&self, bundle: Arc<TrustBundle>) -> Result<Self, CertError> {
        Self::with(&self.identity, (Arc::clone(&self.key), Arc::clone(&self.secret)), bundle)
    }

    fn with(
        identity: &SpiffeId,
        (key, secret): (Arc<CertifiedKey>, Arc<Zeroizing<PrivateKeyDer<'static>>>),
        bundle: Arc<TrustBundle>,
    ) -> Result<Self, CertError> {
        let leaf_error = |source| CertError::Leaf { identity: identity.clone(), source: Box::new(source) };
        let trust =
            Trust::new(bundle.roots(), PROVIDER.signature_verification_algorithms).map_err(leaf_error)?;
        let Some((leaf, issuers)) = key.cert.split_first() else {
            return Err(leaf_error(PeerError::Unreadable));
        };
        for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
            let actual = trust.verify_chain(leaf, issuers, UnixTime::now(), usage).map_err(leaf_error)?;
            if actual != *identity {
                return Err(CertError::OtherIdentity { actual, expected: identity.clone() });
            }
        }
        let (not_before, not_after) = validity(leaf).ok_or_else(|| leaf_error(PeerError::Unreadable))?;
        let resolver = Arc::new(SingleCertAndKey::from(CertifiedKey::clone(&key)));
        let server_config = server_config(identity, &trust, &resolver)?;
        Ok(Self {
            identity: identity.clone(),
            not_before,
            not_after,
            issuers: issuers.to_vec(),
            bundle,
            trust,
            key,
            secret,
            resolver,
            server_config,
            client_configs: Mutex::default(),
        })
    }

    /// Whose leaf it is.
    #[must_use]
    pub const fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// What the CA gave: with [`Self::key_der`] enough to make this again, in another process.
    #[must_use]
    pub fn signed(&self) -> SignedIdentity {
        SignedIdentity { chain: self.key.cert.clone(), trust_bundle: self.bundle.roots().to_vec() }
    }

    /// The private key, as DER. For the holder alone.
    #[must_use]
    pub fn key_der(&self) -> &[u8] {
        self.secret.secret_der()
    }

    /// The first second of the leaf.
    #[must_use]
    pub const fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The last second of the leaf.
    #[must_use]
    pub const fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// What its leaf is under, from the first above it; roots are in the bundle.
    #[must_use]
    pub fn issuers(&self) -> &[CertificateDer<'static>] {
        &self.issuers
    }

    /// The roots that its peers are verified against.
    #[must_use]
    pub const fn bundle(&self) -> &Arc<TrustBundle> {
        &self.bundle
    }

    /// Whether the leaf still holds at `now`.
    #[must_use]
    pub fn is_live(&self, now: SystemTime) -> bool {
        now <= self.not_after
    }

    /// For the inbound side: takes any workload of the trust domain that proves its identity.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server_config)
    }

    /// For the outbound side: takes `peer` alone. Made once per peer.
    ///
    /// # Errors
    /// What the library says if it cannot be made.
    pub fn client_config(&self, peer: &SpiffeId) -> Result<Arc<ClientConfig>, rustls::Error> {
        let mut configs = self.client_configs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = configs.get(peer) {
            return Ok(Arc::clone(config));
        }
        let client = client_of(&self.trust, peer)?;
        let config = client.with_client_cert_resolver(Arc::<SingleCertAndKey>::clone(&self.resolver));
        let config = as_hop(config);
        if configs.len() >= MAX_CLIENT_CONFIGS {
            configs.clear();
        }
        let config = Arc::new(config);
        configs.insert(peer.clone(), Arc::clone(&config));
        Ok(config)
    }
}

/// For asking whether `peer` takes hops, by whoever is nobody in the mesh: it ends where the client would show who it is.
///
/// # Errors
/// When the bundle holds what cannot be a root, and what the library says if the configuration cannot be made.
pub fn asking_config(bundle: &TrustBundle, peer: &SpiffeId) -> Result<ClientConfig, rustls::Error> {
    let trust = Trust::new(bundle.roots(), PROVIDER.signature_verification_algorithms)?;
    Ok(as_hop(client_of(&trust, peer)?.with_no_client_auth()))
}

/// A client that takes `peer` alone.
fn client_of(
    trust: &Trust,
    peer: &SpiffeId,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error> {
    let verifier = Arc::new(ExpectedServer { trust: trust.clone(), expected: peer.clone() });
    Ok(ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

/// What is asked of every client of the hop.
fn as_hop(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![HOP_ALPN.to_vec()];
    // A resumed session would outlive the leaf and the root that it was made under.
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.enable_early_data = false;
    config
}

fn server_config(
    identity: &SpiffeId,
    trust: &Trust,
    resolver: &Arc<SingleCertAndKey>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let clients = MeshClients { trust: trust.clone(), trust_domain: identity.trust_domain().clone() };
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(clients))
        .with_cert_resolver(Arc::<SingleCertAndKey>::clone(resolver));
    config.alpn_protocols = vec![HOP_ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}
