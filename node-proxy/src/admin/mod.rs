//! Health, metrics, the dump of the live configuration, and the log's level, over HTTP/1.1.
//!
//! Runs on the control runtime, never on a data path thread. There are two surfaces: the loopback address has
//! everything; the one that is reachable from outside has metrics and health alone and changes nothing.

pub mod doors;
pub mod ready;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub use doors::{Doors, MayCome};
pub use ready::{BlockReady, Ready};

use crate::telemetry::{LogControl, Metrics, metrics};
use crate::tls::Expiries;

/// Makes a document of what is true now.
pub type Dump = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// Lists the certificates of now, with their ends.
pub type Certificates = Arc<dyn Fn() -> Expiries + Send + Sync>;

/// Connections at once; more wait in the backlog.
const MOST_CONNECTIONS: usize = 32;
/// A client that has not sent its request head by then is cut off.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// However slow a scraper is, its connection ends then.
const CONNECTION_LIMIT: Duration = Duration::from_secs(300);
/// After an accept that failed, for want of file descriptors most likely.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Who can reach a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// Processes of this machine: everything.
    Loopback,
    /// Anybody: `/metrics`, `/livez`, `/readyz`.
    Outside,
}

/// What the admin server answers from.
pub struct Admin {
    /// `/metrics`.
    pub metrics: Arc<Metrics>,
    /// When certificates end; part of `/metrics`.
    pub certificates: Certificates,
    /// `/readyz`.
    pub ready: Ready,
    /// `/snapshot`: the live configuration.
    pub snapshot: Dump,
    /// `/status`: the conditions of routes and what was wrong with files.
    pub status: Dump,
    /// `/log`: the filter of the log.
    pub log: LogControl,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("ready", &self.ready).field("log", &self.log).finish_non_exhaustive()
    }
}

/// Listens on an address; on `[::]` for both families, whatever the node's settings say, or for IPv4 alone where
/// the kernel has no IPv6. Needs a tokio runtime.
///
/// # Errors
/// If the address is taken or is none of this machine.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match listen_on(address) {
        Err(error)
            if error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32)
                && address.ip() == Ipv6Addr::UNSPECIFIED =>
        {
            listen_on((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        outcome => outcome,
    }
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

/// Serves one surface until the future is dropped, which also ends its connections.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>, surface: Surface) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let admin = admin.clone();
                connections.spawn(async move {
                    serve_connection(stream, admin, surface).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the admin server");
                sleep(ACCEPT_REST).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, admin: Arc<Admin>, surface: Surface) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = admin.answer(surface, &request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_headers(64)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = timeout(CONNECTION_LIMIT, connection).await {
        tracing::debug!(%error, "a connection to the admin server failed");
    }
}

/// A resource of the admin server.
#[derive(Clone, Copy)]
enum Resource {
    Live,
    Log,
    Metrics,
    Ready,
    Snapshot,
    Status,
}

impl Resource {
    fn find(surface: Surface, path: &str) -> Option<Self> {
        match (surface, path) {
            (_, "/livez") => Some(Self::Live),
            (_, "/metrics") => Some(Self::Metrics),
            (_, "/readyz") => Some(Self::Ready),
            (Surface::Loopback, "/log") => Some(Self::Log),
            (Surface::Loopback, "/snapshot") => Some(Self::Snapshot),
            (Surface::Loopback, "/status") => Some(Self::Status),
            _ => None,
        }
    }

    const fn allowed(self) -> &'static str {
        match self {
            Self::Log => "GET, HEAD, POST, PUT",
            Self::Live | Self::Metrics | Self::Ready | Self::Snapshot | Self::Status => "GET, HEAD",
        }
    }
}

impl Admin {
    /// The answer to a request. For HEAD it has the body of GET, which hyper does not send but measures.
    fn answer<B>(&self, surface: Surface, request: &Request<B>) -> Response<Full<Bytes>> {
        let Some(resource) = Resource::find(surface, request.uri().path()) else {
            return text(StatusCode::NOT_FOUND, "not found\n");
        };
        match (resource, request.method()) {
            (_, &Method::GET | &Method::HEAD) => self.read(resource),
            (Resource::Log, &Method::POST | &Method::PUT) => self.change_log(request.uri().query()),
            _ => {
                let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static(resource.allowed()));
                answer
            }
        }
    }

    fn read(&self, resource: Resource) -> Response<Full<Bytes>> {
        match resource {
            Resource::Live => text(StatusCode::OK, "ok\n"),
            Resource::Log => match self.log.filter() {
                Some(filter) => text(StatusCode::OK, format!("{filter}\n")),
                None => text(StatusCode::INTERNAL_SERVER_ERROR, "the log is gone\n"),
            },
            Resource::Metrics => self.scrape(),
            Resource::Ready => match self.ready.blocking().as_slice() {
                [] => match self.ready.remark() {
                    None => text(StatusCode::OK, "ready\n"),
                    Some(remark) => text(StatusCode::OK, format!("ready\n{remark}\n")),
                },
                waiting => {
                    let body = format!("not ready, waiting for:\n{}\n", waiting.join("\n"));
                    text(StatusCode::SERVICE_UNAVAILABLE, body)
                }
            },
            Resource::Snapshot => json(&(self.snapshot)()),
            Resource::Status => json(&(self.status)()),
        }
    }

    fn scrape(&self) -> Response<Full<Bytes>> {
        self.metrics.set_cert_expiries(&(self.certificates)());
        match self.metrics.render() {
            Ok(body) => typed(StatusCode::OK, metrics::CONTENT_TYPE, body),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    fn change_log(&self, query: Option<&str>) -> Response<Full<Bytes>> {
        let parameters = query.unwrap_or_default().split('&');
        let Some(level) = parameters.filter_map(|pair| pair.strip_prefix("level=")).next_back() else {
            return text(StatusCode::BAD_REQUEST, "say what to log: /log?level=[target=]level,...\n");
        };
        let Some(level) = percent_decoded(level) else {
            return text(StatusCode::BAD_REQUEST, "the level is not percent-encoded UTF-8\n");
        };
        match self.log.set_filter(&level) {
            Ok(()) => {
                tracing::info!(filter = %level, "the filter of the log has changed");
                text(StatusCode::OK, format!("{level}\n"))
            }
            Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        }
    }
}

/// A query value as it was before it was put into a URI (RFC 3986 section 2.1).
fn percent_decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let [high, low] = [rest.next()?, rest.next()?].map(|digit| char::from(digit).to_digit(16));
                u8::try_from(high? * 16 + low?).ok()?
            }
            plain => plain,
        });
    }
    String::from_utf8(bytes).ok()
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body)
}

fn json(value: &serde_json::Value) -> Response<Full<Bytes>> {
    typed(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
