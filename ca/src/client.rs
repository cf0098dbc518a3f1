//! The CA's client: makes a key, sends its CSR, brings back the chain and the trust bundle.
//!
//! Used by the node proxy. Token and bundle are read again at each call, because both rotate under a
//! running process. The private key stays in [`WorkloadKey`] and is never sent or written.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderName, IF_NONE_MATCH, RETRY_AFTER,
};
use hyper::http::request;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::{Zeroize as _, Zeroizing};

use crate::api::{
    BUNDLE_PATH, BundleResponse, ErrorBody, MAX_RESPONSE_BODY, SIGN_PATH, SignRequest, SignResponse,
};
use crate::bundle::TrustBundle;
use crate::spiffe::SpiffeId;

/// How long one call may take, from the dial to the last byte.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// However long the CA asks to wait, it is asked again after this.
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The answer is not what the protocol says.
    #[error("the CA's answer is not understood: {0}")]
    BadAnswer(&'static str),
    /// The CA's trust bundle on this machine cannot be used.
    #[error("the CA bundle {} holds no usable certificate", .0.display())]
    Bundle(PathBuf),
    /// The CA's own certificate does not hold at this moment: one of the two clocks is wrong.
    #[error("the certificate of the CA at {address} {problem}, and this node's clock says {now}")]
    Clock {
        /// The address that was dialled.
        address: String,
        /// From or until when it holds.
        problem: String,
        /// This node's clock.
        now: OffsetDateTime,
    },
    /// The connection or the handshake failed.
    #[error("the CA at {address} cannot be reached")]
    Connect {
        /// The address that was dialled.
        address: String,
        /// What the system or TLS said.
        source: io::Error,
    },
    /// The exchange broke off.
    #[error("the exchange with the CA failed")]
    Http(#[from] hyper::Error),
    /// A key or a CSR could not be made.
    #[error("a key or its CSR cannot be made")]
    Key(#[from] rcgen::Error),
    /// A file could not be read.
    #[error("{} cannot be read", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The CA said no.
    #[error("the CA answered {status}: {message}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its reason.
        message: String,
    },
    /// The server's name is neither a DNS name nor an address.
    #[error("`{0}` is not a name of a TLS server")]
    ServerName(String),
    /// No answer in time.
    #[error("the CA did not answer within {} seconds", CALL_TIMEOUT.as_secs())]
    Timeout,
    /// This node asks too often.
    #[error("the CA takes no request of this node for {} seconds", .retry_after.as_secs())]
    TooMany {
        /// For how long.
        retry_after: Duration,
    },
    /// TLS could not be set up.
    #[error("TLS towards the CA cannot be set up")]
    Tls(#[from] rustls::Error),
}

impl ClientError {
    /// How long the CA asks to wait before the next call, if it does.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooMany { retry_after } => Some(*retry_after),
            _ => None,
        }
    }

    /// Of a dial or a handshake; one that failed for the time names both clocks.
    fn connect(address: &str, source: io::Error) -> Self {
        let address = address.to_owned();
        let (problem, now) = match source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { time, not_after })) => {
                (format!("expired at {}", clock(*not_after)), clock(*time))
            }
            Some(rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext {
                time,
                not_before,
            })) => (format!("holds from {}", clock(*not_before)), clock(*time)),
            _ => return Self::Connect { address, source },
        };
        Self::Clock { address, problem, now }
    }
}

/// A time that can be printed.
fn clock(time: UnixTime) -> OffsetDateTime {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// What the CA gave for one identity.
#[derive(Clone, Debug)]
pub struct SignedIdentity {
    /// The leaf, then any intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots that peers are verified against.
    pub trust_bundle: Vec<CertificateDer<'static>>,
}

/// What the CA says to a question for its bundle.
#[derive(Clone, Debug)]
pub struct BundleAnswer {
    /// The newest bundle; `None` when it is the one that is held.
    pub bundle: Option<TrustBundle>,
    /// When to ask again, if the CA has said so.
    pub ask_again: Option<Duration>,
}

/// An ECDSA P-256 key of a workload, made here, kept in memory and wiped when it is dropped.
pub struct WorkloadKey(KeyPair);

impl fmt::Debug for WorkloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorkloadKey(..)")
    }
}

impl Drop for WorkloadKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl WorkloadKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`ClientError::Key`] if the system has no randomness.
    pub fn generate() -> Result<Self, ClientError> {
        Ok(Self(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?))
    }

    /// The CSR for `identity`, in PEM, signed with this key.
    ///
    /// # Errors
    /// [`ClientError::Key`] if it cannot be signed.
    pub fn csr(&self, identity: &SpiffeId) -> Result<String, ClientError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(identity.to_string())?)];
        Ok(params.serialize_request(&self.0)?.pem()?)
    }

    /// The key, for the TLS library; the copy wipes itself, too.
    #[must_use]
    pub fn into_private_key(self) -> Zeroizing<PrivateKeyDer<'static>> {
        Zeroizing::new(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.serialize_der())))
    }
}

/// A way to the CA. Each call is a connection of its own.
#[derive(Clone, Debug)]
pub struct CaClient {
    address: String,
    server_name: ServerName<'static>,
    bundle: PathBuf,
    token: PathBuf,
    /// The roots that the CA has named last.
    learned: Arc<Mutex<Vec<CertificateDer<'static>>>>,
}

impl CaClient {
    /// `address` is `HOST:PORT`, `server_name` what the CA's certificate must be for, `bundle` a PEM file with
    /// the roots of that certificate, `token` the file with this node's token.
    ///
    /// # Errors
    /// [`ClientError::ServerName`]; the files are not looked at before a call.
    pub fn new(
        address: impl Into<String>,
        server_name: &str,
        bundle: impl Into<PathBuf>,
        token: impl Into<PathBuf>,
    ) -> Result<Self, ClientError> {
        let server_name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| ClientError::ServerName(server_name.to_owned()))?;
        let (address, bundle, token) = (address.into(), bundle.into(), token.into());
        Ok(Self { address, server_name, bundle, token, learned: Arc::default() })
    }

    /// Asks for a leaf for `identity` with the key of `csr` (PEM, see [`WorkloadKey::csr`]).
    ///
    /// # Errors
    /// See [`ClientError`]. Whether the leaf fits key and identity is the caller's to check.
    pub async fn sign(&self, identity: &SpiffeId, csr: String) -> Result<SignedIdentity, ClientError> {
        tokio::time::timeout(CALL_TIMEOUT, Box::pin(self.ask_for_leaf(identity, csr)))
            .await
            .unwrap_or(Err(ClientError::Timeout))
    }

    /// Asks for the newest trust bundle. `held` is the tag of the one that is in use here, which the CA takes note of.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn trust_bundle(&self, held: Option<&str>) -> Result<BundleAnswer, ClientError> {
        tokio::time::timeout(CALL_TIMEOUT, Box::pin(self.ask_for_bundle(held)))
            .await
            .unwrap_or(Err(ClientError::Timeout))
    }

    async fn ask_for_leaf(&self, identity: &SpiffeId, csr: String) -> Result<SignedIdentity, ClientError> {
        let body = serde_json::to_vec(&SignRequest { csr, identity: identity.to_string() })
            .map_err(|_| ClientError::BadAnswer("the request cannot be written"))?;
        let request = Request::post(SIGN_PATH).header(CONTENT_TYPE, "application/json");
        let answer: SignResponse = read_json(&self.exchange(request, body.into()).await?)?;
        let chain = certificates(&answer.chain).ok_or(ClientError::BadAnswer("the chain is not PEM"))?;
        let trust_bundle = read_bundle(&answer.trust_bundle)?;
        self.learn(&trust_bundle);
        Ok(SignedIdentity { chain, trust_bundle })
    }

    async fn ask_for_bundle(&self, held: Option<&str>) -> Result<BundleAnswer, ClientError> {
        let mut request = Request::get(BUNDLE_PATH);
        if let Some(tag) = held {
            request = request.header(IF_NONE_MATCH, format!("\"{tag}\""));
        }
        let response = self.exchange(request, Bytes::new()).await?;
        let bundle = if response.status() == StatusCode::NOT_MODIFIED {
            None
        } else {
            let answer: BundleResponse = read_json(&response)?;
            Some(TrustBundle::new(read_bundle(&answer.trust_bundle)?))
        };
        if let Some(bundle) = &bundle {
            self.learn(bundle.roots());
        }
        let age =
            text(&response, CACHE_CONTROL).split(',').find_map(|part| part.trim().strip_prefix("max-age="));
        Ok(BundleAnswer { bundle, ask_again: age.and_then(|age| age.parse().ok()).map(Duration::from_secs) })
    }

    /// One request on a connection of its own, as this node; the whole answer, if it is a good one.
    async fn exchange(&self, request: request::Builder, body: Bytes) -> Result<Response<Bytes>, ClientError> {
        let token = String::from_utf8(read(&self.token).await?)
            .map_err(|_| ClientError::BadAnswer("the token is not text"))?;
        let tls = self.tls_config().await?;
        let connect = |source| ClientError::connect(&self.address, source);
        let tcp = TcpStream::connect(&self.address).await.map_err(connect)?;
        let stream = TlsConnector::from(Arc::new(tls))
            .connect(self.server_name.clone(), tcp)
            .await
            .map_err(connect)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = request
            .header(HOST, self.server_name.to_str().as_ref())
            .header(AUTHORIZATION, format!("Bearer {}", token.trim_ascii()))
            .body(Full::new(body))
            .map_err(|_| ClientError::BadAnswer("the token does not fit in a header"))?;
        let exchange = async {
            let (head, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, MAX_RESPONSE_BODY)
                .collect()
                .await
                .map_err(|_| ClientError::BadAnswer("the body is too long or cut short"))?;
            Ok::<_, ClientError>(Response::from_parts(head, body.to_bytes()))
        };
        check_status(drive(exchange, connection).await?)
    }

    /// From now on the CA may show a certificate of these roots as well: its file here may be older than they are.
    fn learn(&self, roots: &[CertificateDer<'static>]) {
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        *learned = roots.to_vec();
    }

    /// TLS 1.3 towards the CA, trusting what the bundle holds now.
    async fn tls_config(&self) -> Result<ClientConfig, ClientError> {
        let bad = || ClientError::Bundle(self.bundle.clone());
        let mut roots = RootCertStore::empty();
        for der in CertificateDer::pem_slice_iter(&read(&self.bundle).await?) {
            roots.add(der.map_err(|_| bad())?).map_err(|_| bad())?;
        }
        if roots.is_empty() {
            return Err(bad());
        }
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner).clone();
        roots.add_parsable_certificates(learned);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        Ok(ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth())
    }
}

/// Runs an exchange together with the connection under it, on the caller's task.
async fn drive<T>(
    exchange: impl Future<Output = Result<T, ClientError>>,
    connection: impl Future<Output = Result<(), hyper::Error>>,
) -> Result<T, ClientError> {
    let (mut exchange, mut connection) = (std::pin::pin!(exchange), std::pin::pin!(connection));
    tokio::select! {
        biased;
        done = &mut exchange => done,
        // The connection may be over when the answer is already read.
        closed = &mut connection => match exchange.await {
            Err(ClientError::Http(error)) => Err(ClientError::Http(closed.err().unwrap_or(error))),
            other => other,
        },
    }
}

/// A good answer, or what the CA says against it.
fn check_status(response: Response<Bytes>) -> Result<Response<Bytes>, ClientError> {
    let status = response.status();
    if matches!(status, StatusCode::OK | StatusCode::NOT_MODIFIED) {
        return Ok(response);
    }
    if status == StatusCode::TOO_MANY_REQUESTS {
        let seconds = text(&response, RETRY_AFTER).parse().unwrap_or(1);
        return Err(ClientError::TooMany { retry_after: Duration::from_secs(seconds).min(LONGEST_RETRY) });
    }
    let message = serde_json::from_slice::<ErrorBody>(response.body())
        .map_or_else(|_| "no reason given".to_owned(), |body| body.error.chars().take(400).collect());
    Err(ClientError::Refused { status, message })
}

/// A header as text; empty when it is not there.
fn text(response: &Response<Bytes>, name: HeaderName) -> &str {
    response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().trim()
}

fn read_json<T: serde::de::DeserializeOwned>(response: &Response<Bytes>) -> Result<T, ClientError> {
    serde_json::from_slice(response.body())
        .map_err(|_| ClientError::BadAnswer("the body is not the JSON of an answer"))
}

fn read_bundle(pem: &str) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    certificates(pem).ok_or(ClientError::BadAnswer("the trust bundle is not PEM"))
}

/// All certificates of a PEM text, if there is at least one and all are whole.
fn certificates(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().ok()?;
    (!certificates.is_empty()).then_some(certificates)
}

/// Reads a file.
async fn read(path: &Path) -> Result<Vec<u8>, ClientError> {
    let owned = path.to_owned();
    tokio::task::spawn_blocking(move || std::fs::read(owned))
        .await
        .map_err(io::Error::other)
        .and_then(|content| content)
        .map_err(|source| ClientError::Read { path: path.to_owned(), source })
}
