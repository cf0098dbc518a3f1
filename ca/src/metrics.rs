//! The CA's metrics and health, in plain HTTP/1.1 on an address of their own: nothing secret, and nothing changes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Encoder as _, GaugeVec, IntCounterVec, IntGauge, Opts, Registry, TEXT_FORMAT, TextEncoder};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::api::LIVEZ_PATH;
use crate::keeper::{Expiry, Keeper};

/// Where metrics are (GET).
pub const METRICS_PATH: &str = "/metrics";
/// Connections at a time; more wait in the backlog.
const MAX_CONNECTIONS: usize = 32;
/// How long a request's head may take, and a connection as a whole.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// What the CA counts, and what it keeps.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    expiries: GaugeVec,
    supplied_is_refused: IntGauge,
    is_failing: IntGauge,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// If a name or label is refused, which is a mistake in this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let requests =
            Opts::new("gammarus_ca_requests_total", "Requests, by what was asked for and the status.");
        let expiries = Opts::new(
            "gammarus_ca_certificate_expiry_seconds",
            "Seconds until a root or an issuer of the CA expires.",
        );
        let metrics = Self {
            registry: Registry::new(),
            requests: IntCounterVec::new(requests, &["path", "status"])?,
            expiries: GaugeVec::new(expiries, &["certificate", "phase", "fingerprint"])?,
            supplied_is_refused: IntGauge::new(
                "gammarus_ca_supplied_signer_refused",
                "1 while the supplied signer cannot be used.",
            )?,
            is_failing: IntGauge::new(
                "gammarus_ca_state_failing",
                "1 while the CA's state or bundle cannot be read or written.",
            )?,
        };
        metrics.registry.register(Box::new(metrics.requests.clone()))?;
        metrics.registry.register(Box::new(metrics.expiries.clone()))?;
        metrics.registry.register(Box::new(metrics.supplied_is_refused.clone()))?;
        metrics.registry.register(Box::new(metrics.is_failing.clone()))?;
        Ok(metrics)
    }

    /// One request was answered. `path` is one that the CA knows.
    pub fn answered(&self, path: &str, status: StatusCode) {
        self.requests.with_label_values(&[path, status.as_str()]).inc();
    }

    fn render(&self, keeper: &Keeper, now: OffsetDateTime) -> Result<Vec<u8>, prometheus::Error> {
        self.expiries.reset();
        for Expiry { certificate, phase, fingerprint, not_after } in keeper.expiries() {
            let left = (not_after - now).as_seconds_f64();
            self.expiries.with_label_values(&[certificate, phase, &fingerprint]).set(left);
        }
        self.supplied_is_refused.set(keeper.refuses_supplied().into());
        self.is_failing.set(keeper.is_failing().into());
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    fn answer(&self, keeper: &Keeper, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, LIVEZ_PATH) => text(StatusCode::OK, "text/plain", "ok\n"),
            (&Method::GET, METRICS_PATH) => match self.render(keeper, OffsetDateTime::now_utc()) {
                Ok(body) => text(StatusCode::OK, TEXT_FORMAT, body),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
            },
            (_, LIVEZ_PATH | METRICS_PATH) => {
                text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n")
            }
            _ => text(StatusCode::NOT_FOUND, "text/plain", "not found\n"),
        }
    }
}

fn text(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Serves metrics and health until it is dropped.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, keeper: Arc<Keeper>) {
    let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&limit).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (metrics, keeper) = (Arc::clone(&metrics), Arc::clone(&keeper));
        tokio::spawn(async move {
            let _permit = permit;
            let service = service_fn(move |request| {
                let answer = metrics.answer(&keeper, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let serving = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_headers(64)
                .serve_connection(TokioIo::new(stream), service);
            // A scraper that is slow or rude loses its connection, and nobody else anything.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, serving).await;
        });
    }
}
