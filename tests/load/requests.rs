//! HTTP/1.1 requests in an open loop, on connections that are kept and on some of their own.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::source::{Source, Turn};

const PORT: u16 = 80;
const TLS_PORT: u16 = 443;
/// The name that is asked for in TLS.
pub(crate) const HOST_IN_TLS: &str = "web.example.com";
/// Every so many requests one has a body, which makes it one that nobody may send twice.
const POST_EVERY: usize = 4;
/// Every so many requests one has a connection of its own.
const ALONE_EVERY: usize = 10;
/// Kept connections that there are at least.
const KEPT: usize = 10;
const BODY: usize = 1000;

type Connection = SendRequest<Full<Bytes>>;

/// One pod's HTTP client.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    source: Rc<Source>,
    tls: Option<Arc<ClientConfig>>,
    /// In the order in which they were used.
    kept: Rc<RefCell<VecDeque<Connection>>>,
    turn: Turn,
    family: Turn,
}

impl Requests {
    /// Requests in plain text, or in TLS to whom that trusts.
    pub(crate) fn new(source: &Rc<Source>, tls: Option<Arc<ClientConfig>>) -> Self {
        let (turn, family) = (Turn::default(), Turn::default());
        Self { source: Rc::clone(source), tls, kept: Rc::default(), turn, family }
    }

    /// One request, with all that is right about its answer.
    pub(crate) async fn ask(self) -> Result<(), String> {
        let number = self.turn.next();
        let is_alone = number.is_multiple_of(ALONE_EVERY);
        let mut connection = match self.idle().filter(|_| !is_alone) {
            Some(connection) => connection,
            None => self.open().await?,
        };
        let (method, body) = match number % POST_EVERY {
            0 => (Method::POST, Bytes::from_static(&[b'x'; BODY])),
            _ => (Method::GET, Bytes::new()),
        };
        let path = format!("/load/{number}");
        let expected = format!(" {path} {}\n", body.len());
        let host = if self.tls.is_some() { HOST_IN_TLS } else { "web" };
        let mut request = Request::builder().method(method).uri(&path).header(HOST, host);
        if is_alone {
            request = request.header(CONNECTION, "close");
        }
        let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        let answer = connection.send_request(request).await.map_err(explain)?;
        let status = answer.status();
        let reason = answer.headers().get("gammarus-reason").map(|reason| format!("{reason:?}"));
        let body = answer.into_body().collect().await.map_err(explain)?.to_bytes();
        let text = String::from_utf8_lossy(&body);
        if status != 200 || !text.ends_with(&expected) {
            return Err(format!("{path}: {status} {} {text:?}", reason.unwrap_or_default()));
        }
        // A connection that ends after this answer is not ready any more.
        if !is_alone && connection.ready().await.is_ok() {
            self.kept.borrow_mut().push_back(connection);
        }
        Ok(())
    }

    /// A kept connection that nobody uses, the one that has rested for longest. What has ended meanwhile is let go:
    /// nothing was said on it.
    fn idle(&self) -> Option<Connection> {
        let mut kept = self.kept.borrow_mut();
        kept.retain(|connection| !connection.is_closed());
        if kept.len() < KEPT { None } else { kept.pop_front() }
    }

    async fn open(&self) -> Result<Connection, String> {
        let port = if self.tls.is_some() { TLS_PORT } else { PORT };
        let destination = SocketAddr::new(self.family.of(&self.source.web), port);
        let failed = |error| format!("connecting to {destination}: {error}");
        let stream = self.source.connect(destination).await.map_err(failed)?;
        match &self.tls {
            Some(tls) => {
                let name = ServerName::try_from(HOST_IN_TLS).unwrap();
                let connecting = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
                begin(connecting.await.map_err(failed)?).await
            }
            None => begin(stream).await,
        }
    }
}

/// Begins to speak HTTP/1.1.
async fn begin(stream: impl AsyncRead + AsyncWrite + Unpin + 'static) -> Result<Connection, String> {
    let (connection, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(explain)?;
    // How it ends is told to the request on it.
    tokio::task::spawn_local(async move { drop(driver.await) });
    Ok(connection)
}

/// An error with its causes.
fn explain(error: hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
