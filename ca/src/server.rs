//! The CA's endpoint: TLS 1.3, HTTP/1.1, one request per connection.
//!
//! What the answers are is said in `answer`. Everything that a stranger can make it hold is bounded here and there:
//! connections, header and body bytes, seconds.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::answer::CertificateAuthority;
use crate::issue::{BACKDATED, random_serial};
use crate::keeper::Live;

/// The most connections at a time; further ones wait in the backlog.
pub const MAX_CONNECTIONS: usize = 256;
/// How long a connection may take from its first byte to its last.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the certificate of the endpoint lives at most; a new one is made at half of its life.
const SERVING_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Why the endpoint does not work.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A name of the server is neither a DNS name nor an address.
    #[error("server name `{0}` is neither a DNS name nor an IP address")]
    ServerName(String),
    /// No certificate for the endpoint.
    #[error("the endpoint has no certificate")]
    Sign(#[from] rcgen::Error),
    /// TLS could not be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
}

/// The endpoint's own certificate, made anew at half its life and whenever another signer signs.
#[derive(Debug)]
struct Serving {
    names: Vec<SanType>,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    until: Instant,
    signer: Arc<Live>,
}

impl Serving {
    fn new(live: Arc<Live>, names: &[String]) -> Result<Self, ServeError> {
        let names = names.iter().map(|name| server_name(name)).collect::<Result<Vec<_>, _>>()?;
        let current = Mutex::new(Current::new(live, &names)?);
        Ok(Self { names, current })
    }

    fn config(&self, live: Arc<Live>) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if Instant::now() > current.until || !Arc::ptr_eq(&live, &current.signer) {
            match Current::new(live, &self.names) {
                Ok(new) => *current = new,
                Err(error) => tracing::error!(%error, "endpoint certificate not renewed"),
            }
        }
        Arc::clone(&current.config)
    }
}

impl Current {
    fn new(live: Arc<Live>, names: &[SanType]) -> Result<Self, ServeError> {
        let now = OffsetDateTime::now_utc();
        let not_after = live.signer.not_after().min(now + SERVING_LIFETIME);
        let left = Duration::try_from(not_after - now).unwrap_or_default();
        let (chain, key) = serving_certificate(&live, names, (now - BACKDATED, not_after))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Ok(Self { config: Arc::new(config), until: Instant::now() + left / 2, signer: live })
    }
}

/// Makes a certificate for the endpoint, with a key of its own that is kept in memory only.
fn serving_certificate(
    live: &Live,
    names: &[SanType],
    (not_before, not_after): (OffsetDateTime, OffsetDateTime),
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names.to_vec();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(random_serial()?);
    (params.not_before, params.not_after) = (not_before, not_after);
    let leaf = params.signed_by(&key, live.signer.issuer())?;
    let chain = std::iter::once(leaf.der()).chain(live.signer.intermediates()).cloned().collect();
    Ok((chain, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))))
}

/// Takes a DNS name or an address.
fn server_name(name: &str) -> Result<SanType, ServeError> {
    let bad = || ServeError::ServerName(name.to_owned());
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    rustls::pki_types::DnsName::try_from(name).map_err(|_| bad())?;
    Ok(SanType::DnsName(Ia5String::try_from(name).map_err(|_| bad())?))
}

/// Serves on `listener` until `stop` is done; connections that are open then end with the runtime.
///
/// # Errors
/// [`ServeError`] if the endpoint's certificate for `server_names` cannot be made.
pub async fn serve(
    listener: TcpListener,
    ca: Arc<CertificateAuthority>,
    server_names: Vec<String>,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let serving = Serving::new(ca.keeper.live(), &server_names)?;
    let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut stop = std::pin::pin!(stop);
    loop {
        let accept = async {
            let permit = Arc::clone(&limit).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = &mut stop => return Ok(()),
            accepted = accept => accepted,
        };
        let (stream, from) = match accepted {
            Ok((stream, from)) => (stream, from.ip()),
            Err(error) => {
                // Out of descriptors, most likely: a pause lets some connections end.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (ca, config) = (Arc::clone(&ca), serving.config(ca.keeper.live()));
        tokio::spawn(async move {
            let _permit = permit;
            let connection = Box::pin(connection((stream, from), ca, config));
            if tokio::time::timeout(CONNECTION_TIMEOUT, connection).await.is_err() {
                tracing::debug!("connection timed out");
            }
        });
    }
}

/// One connection: handshake, one request, its answer.
async fn connection(
    (stream, from): (TcpStream, IpAddr),
    ca: Arc<CertificateAuthority>,
    config: Arc<ServerConfig>,
) {
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await;
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "handshake failed"),
        Err(_) => return tracing::debug!("handshake timed out"),
    };
    let service = service_fn(move |request| {
        let ca = Arc::clone(&ca);
        async move { Ok::<_, Infallible>(ca.answer(from, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(32)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection failed");
    }
}
