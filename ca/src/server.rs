//! The CA's endpoint: TLS 1.3, HTTP/1.1, one request per connection.
//!
//! Authenticates before it reads a body, authorises before it signs. Everything that a stranger can make
//! it hold is bounded: connections, header and body bytes, seconds.

use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::api::{ErrorBody, LIVEZ_PATH, MAX_REQUEST_BODY, SIGN_PATH, SignRequest, SignResponse};
use crate::authorize::{AuthorizeError, Authorizer};
use crate::issue::{self, IssueError, LeafLifetime, Validity};
use crate::root::{Root, RootError};
use crate::spiffe::{SpiffeId, TrustDomain};

/// The most connections at a time; further ones wait in the backlog.
pub const MAX_CONNECTIONS: usize = 256;
/// How long a connection may take from its first byte to its last.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the certificate of the endpoint lives; a new one is made at half of it.
const SERVING_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Why the endpoint does not work.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No certificate for the endpoint.
    #[error("the endpoint has no certificate")]
    Root(#[from] RootError),
    /// TLS could not be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
}

/// The CA: a root, who may ask, and for how long the answer holds.
#[derive(Debug)]
pub struct CertificateAuthority {
    /// What signs.
    pub root: Root,
    /// The only trust domain that is signed for.
    pub trust_domain: TrustDomain,
    /// Who may ask for what.
    pub authorizer: Box<dyn Authorizer>,
    /// How long leaves live.
    pub leaf_lifetime: LeafLifetime,
}

/// An answer that is not a certificate.
struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

impl From<AuthorizeError> for Refusal {
    fn from(error: AuthorizeError) -> Self {
        let status = match &error {
            AuthorizeError::NoSuchPod { .. } => StatusCode::FORBIDDEN,
            AuthorizeError::UnknownToken => StatusCode::UNAUTHORIZED,
            AuthorizeError::Unavailable(source) => {
                tracing::error!(error = %source, "callers cannot be checked");
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        Self::new(status, error.to_string())
    }
}

impl From<IssueError> for Refusal {
    fn from(error: IssueError) -> Self {
        if error.is_callers() {
            return Self::new(StatusCode::BAD_REQUEST, error.to_string());
        }
        tracing::error!(%error, "no leaf made");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl CertificateAuthority {
    /// One request to sign, from the token to the leaf.
    async fn sign(&self, request: Request<Incoming>) -> Result<SignResponse, Refusal> {
        let token = bearer(&request)?.to_owned();
        let caller = self.authorizer.authenticate(&token).await?;
        let wanted: SignRequest =
            serde_json::from_slice(&read_body(request.into_body()).await?).map_err(|e| {
                Refusal::new(StatusCode::BAD_REQUEST, format!("the body is not a request to sign: {e}"))
            })?;
        let identity: SpiffeId = wanted
            .identity
            .parse()
            .map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, format!("identity: {e}")))?;
        if *identity.trust_domain() != self.trust_domain {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                format!(
                    "trust domain `{}` is not signed for here, `{}` is",
                    identity.trust_domain(),
                    self.trust_domain
                ),
            ));
        }
        self.authorizer.authorize(&caller, &identity).await?;
        let key = issue::prove_key(&wanted.csr, &identity)?;
        let validity =
            Validity::within(self.root.not_after(), OffsetDateTime::now_utc(), self.leaf_lifetime)?;
        let chain = issue::issue_leaf(self.root.issuer(), &key, &identity, validity)?;
        tracing::info!(%identity, node = caller.node, not_after = %validity.not_after, "leaf signed");
        Ok(SignResponse { chain, trust_bundle: self.root.certificate_pem().to_owned() })
    }

    /// Any request.
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let refusal = match (request.method(), request.uri().path()) {
            (&Method::GET, LIVEZ_PATH) => return respond(StatusCode::OK, "text/plain", "ok\n".into()),
            (&Method::POST, SIGN_PATH) => match self.sign(request).await {
                Ok(answer) => return json(StatusCode::OK, &answer),
                Err(refusal) => refusal,
            },
            (_, LIVEZ_PATH | SIGN_PATH) => {
                Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "wrong method for this path")
            }
            _ => Refusal::new(StatusCode::NOT_FOUND, "no such path"),
        };
        tracing::warn!(status = refusal.status.as_u16(), reason = refusal.message, "request refused");
        json(refusal.status, &ErrorBody { error: refusal.message })
    }
}

/// The whole body, if it is not too long; a declared length is believed at once.
async fn read_body(body: Incoming) -> Result<Bytes, Refusal> {
    let too_long = || {
        let message = format!("a request has at most {MAX_REQUEST_BODY} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    if usize::try_from(body.size_hint().lower()).map_or(true, |length| length > MAX_REQUEST_BODY) {
        return Err(too_long());
    }
    match Limited::new(body, MAX_REQUEST_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(too_long()),
        Err(_) => Err(Refusal::new(StatusCode::BAD_REQUEST, "the body was cut short")),
    }
}

/// The token of `Authorization: Bearer TOKEN` (RFC 6750 section 2.1).
fn bearer(request: &Request<Incoming>) -> Result<&str, Refusal> {
    let value =
        request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
            Ok(token.trim())
        }
        _ => Err(Refusal::new(StatusCode::UNAUTHORIZED, "no bearer token in the authorization header")),
    }
}

fn json(status: StatusCode, body: &impl serde::Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(body) {
        Ok(body) => respond(status, "application/json", body.into()),
        Err(_) => respond(StatusCode::INTERNAL_SERVER_ERROR, "application/json", Bytes::new()),
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}

/// The endpoint's own certificate, made anew at half its life.
#[derive(Debug)]
struct Serving {
    names: Vec<String>,
    current: Mutex<(Arc<ServerConfig>, Instant)>,
}

impl Serving {
    fn new(root: &Root, names: Vec<String>) -> Result<Self, ServeError> {
        let config = server_config(root, &names)?;
        Ok(Self { names, current: Mutex::new((config, Instant::now())) })
    }

    fn config(&self, root: &Root) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.1.elapsed() > SERVING_LIFETIME / 2 {
            match server_config(root, &self.names) {
                Ok(config) => *current = (config, Instant::now()),
                Err(error) => tracing::error!(%error, "endpoint certificate not renewed"),
            }
        }
        Arc::clone(&current.0)
    }
}

fn server_config(root: &Root, names: &[String]) -> Result<Arc<ServerConfig>, ServeError> {
    let cert = root.serving_cert(names, SERVING_LIFETIME)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(cert.chain, cert.key)?;
    Ok(Arc::new(config))
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
    let serving = Serving::new(&ca.root, server_names)?;
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
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: a pause lets some connections end.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (ca, config) = (Arc::clone(&ca), serving.config(&ca.root));
        tokio::spawn(async move {
            let _permit = permit;
            let served =
                tokio::time::timeout(CONNECTION_TIMEOUT, Box::pin(connection(stream, ca, config))).await;
            if served.is_err() {
                tracing::debug!("connection timed out");
            }
        });
    }
}

/// One connection: handshake, one request, its answer.
async fn connection(stream: TcpStream, ca: Arc<CertificateAuthority>, config: Arc<ServerConfig>) {
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await;
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "handshake failed"),
        Err(_) => return tracing::debug!("handshake timed out"),
    };
    let service = service_fn(move |request| {
        let ca = Arc::clone(&ca);
        async move { Ok::<_, Infallible>(ca.answer(request).await) }
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
