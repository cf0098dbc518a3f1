//! What the CA answers: leaves, and the trust bundle.
//!
//! Authenticates before it reads a body, authorises before it signs, and counts the requests of each caller before
//! either.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH, RETRY_AFTER,
};
use hyper::{Method, Request, Response, StatusCode};
use time::OffsetDateTime;

use crate::api::{
    BUNDLE_PATH, BundleResponse, ErrorBody, LIVEZ_PATH, MAX_REQUEST_BODY, SIGN_PATH, SignRequest,
    SignResponse,
};
use crate::authorize::{AuthorizeError, Authorizer, Caller};
use crate::issue::{self, IssueError, Validity};
use crate::keeper::Keeper;
use crate::limit::{CallerKey, RateLimit};
use crate::metrics::Metrics;
use crate::spiffe::SpiffeId;

/// How often callers are to ask for the bundle: so many times in a leaf's life, and within these bounds.
const ASKED_PER_LEAF_LIFE: u32 = 20;
const MIN_AGE: Duration = Duration::from_secs(1);
const MAX_AGE: Duration = Duration::from_secs(300);
/// While a root waits for every node to be heard by one replica of several, they ask so much more often.
const HASTE: u32 = 10;

/// The CA: what signs, and who may ask how often for what.
#[derive(Debug)]
pub struct CertificateAuthority {
    /// What signs.
    pub keeper: Arc<Keeper>,
    /// Who may ask for what.
    pub authorizer: Box<dyn Authorizer>,
    /// How often.
    pub limit: RateLimit,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// An answer that is not what was asked for.
struct Refusal {
    status: StatusCode,
    message: String,
    retry_after: Option<Duration>,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after: None }
    }

    fn too_many(wait: Duration) -> Self {
        let seconds = wait.as_secs_f64().ceil();
        let message = format!("too many requests of this caller: the next is taken in {seconds} s");
        Self { status: StatusCode::TOO_MANY_REQUESTS, message, retry_after: Some(wait) }
    }
}

impl From<AuthorizeError> for Refusal {
    fn from(error: AuthorizeError) -> Self {
        let status = match &error {
            AuthorizeError::NoServiceAccount { .. }
            | AuthorizeError::NoSuchPod { .. }
            | AuthorizeError::NotOwn { .. }
            | AuthorizeError::Unbound
            | AuthorizeError::WrongPod { .. } => StatusCode::FORBIDDEN,
            AuthorizeError::NotTaken { .. } | AuthorizeError::UnknownToken => StatusCode::UNAUTHORIZED,
            AuthorizeError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
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
    /// Who asks, if it may ask at all and has not asked too often.
    async fn admit(&self, from: IpAddr, request: &Request<Incoming>) -> Result<Caller, Refusal> {
        let stranger = CallerKey::Stranger(from);
        let known = match bearer(request) {
            Ok(token) => {
                // To learn what a token is costs others something: not for who has shown too many that were none.
                if !self.authorizer.knows(token)
                    && let Some(wait) = self.limit.is_spent(&stranger, Instant::now())
                {
                    return Err(Refusal::too_many(wait));
                }
                self.authorizer.authenticate(token).await.map_err(Refusal::from)
            }
            Err(refusal) => Err(refusal),
        };
        let key = match &known {
            Ok(caller) => CallerKey::Known(caller.clone()),
            Err(_) => stranger,
        };
        self.limit.take(&key, Instant::now()).map_err(Refusal::too_many)?;
        known
    }

    /// One request to sign, from the token to the leaf.
    async fn sign(&self, from: IpAddr, request: Request<Incoming>) -> Result<SignResponse, Refusal> {
        let caller = self.admit(from, &request).await?;
        let wanted: SignRequest =
            serde_json::from_slice(&read_body(request.into_body()).await?).map_err(|e| {
                Refusal::new(StatusCode::BAD_REQUEST, format!("the body is not a request to sign: {e}"))
            })?;
        let identity: SpiffeId = wanted
            .identity
            .parse()
            .map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, format!("identity: {e}")))?;
        let trust_domain = self.keeper.trust_domain();
        if identity.trust_domain() != trust_domain {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                format!(
                    "trust domain `{}` is not signed for here, `{trust_domain}` is",
                    identity.trust_domain(),
                ),
            ));
        }
        self.authorizer.authorize(&caller, &identity).await?;
        let key = issue::prove_key(&wanted.csr, &identity)?;
        if !self.keeper.is_current() {
            let message = "nothing is signed now: the state that all replicas share cannot be read";
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message));
        }
        // Signer and bundle of one moment: a leaf never comes without the root that it is under.
        let live = self.keeper.live();
        let validity = Validity::within(live.signer.not_after(), OffsetDateTime::now_utc(), live.leaf)?;
        let leaf = issue::issue_leaf(live.signer.issuer(), &key, &identity, validity)?;
        let (node, pod) = (caller.node(), caller.own_pod().map(tracing::field::display));
        tracing::info!(%identity, node, pod, not_after = %validity.not_after, "leaf signed");
        Ok(SignResponse { chain: leaf + &live.intermediates, trust_bundle: live.bundle_pem.clone() })
    }

    /// The trust bundle, for a caller that may have it already: what a node says to have is noted.
    async fn bundle(
        &self,
        from: IpAddr,
        request: &Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Refusal> {
        let caller = match self.admit(from, request).await {
            Ok(caller) => Some(caller),
            // Roots are no secret: who cannot be checked now is answered, and not believed.
            Err(refusal) if refusal.status == StatusCode::SERVICE_UNAVAILABLE => None,
            Err(refusal) => return Err(refusal),
        };
        let live = self.keeper.live();
        let held = request.headers().get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
        let held = held.map(|tag| tag.trim().trim_matches('"'));
        // What a pod says that asks for itself is no word of its node's, whose proxy may be behind.
        if let (Some(tag), Some(node)) = (held, caller.as_ref().and_then(Caller::node)) {
            self.keeper.note_report(node, tag);
        }
        let is_held = held == Some(live.bundle.tag());
        if held.is_some() && !is_held && !self.keeper.is_current() {
            let message =
                "another replica may have a newer trust bundle: the state that all share cannot be read";
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message));
        }
        let mut response = if is_held {
            respond(StatusCode::NOT_MODIFIED, "application/json", Bytes::new())
        } else {
            json(StatusCode::OK, &BundleResponse { trust_bundle: live.bundle_pem.clone() })
        };
        let terms = self.keeper.terms();
        let age = (terms.leaf().duration() / ASKED_PER_LEAF_LIFE).clamp(MIN_AGE, MAX_AGE);
        let hurries = live.is_announcing && !terms.lag().is_zero();
        let age = if hurries { (age / HASTE).max(MIN_AGE) } else { age };
        set(&mut response, CACHE_CONTROL, &format!("private, max-age={}", age.as_secs()));
        set(&mut response, ETAG, &format!("\"{}\"", live.bundle.tag()));
        Ok(response)
    }

    /// Any request.
    pub(crate) async fn answer(&self, from: IpAddr, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path =
            [LIVEZ_PATH, BUNDLE_PATH, SIGN_PATH].into_iter().find(|path| *path == request.uri().path());
        let response = self.answer_any(from, request).await;
        self.metrics.answered(path.unwrap_or("other"), response.status());
        response
    }

    async fn answer_any(&self, from: IpAddr, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let outcome = match (request.method(), request.uri().path()) {
            (&Method::GET, LIVEZ_PATH) => Ok(respond(StatusCode::OK, "text/plain", "ok\n".into())),
            (&Method::GET, BUNDLE_PATH) => self.bundle(from, &request).await,
            (&Method::POST, SIGN_PATH) => {
                self.sign(from, request).await.map(|answer| json(StatusCode::OK, &answer))
            }
            (_, LIVEZ_PATH | SIGN_PATH | BUNDLE_PATH) => {
                Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "wrong method for this path"))
            }
            _ => Err(Refusal::new(StatusCode::NOT_FOUND, "no such path")),
        };
        outcome.unwrap_or_else(|refusal| {
            tracing::warn!(status = refusal.status.as_u16(), reason = refusal.message, "request refused");
            let mut response = json(refusal.status, &ErrorBody { error: refusal.message });
            if let Some(wait) = refusal.retry_after {
                set(&mut response, RETRY_AFTER, &wait.as_secs_f64().ceil().to_string());
            }
            response
        })
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
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Sets a header to a text of our own making.
fn set(response: &mut Response<Full<Bytes>>, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        response.headers_mut().insert(name, value);
    }
}
