//! The application of the demo's pods: a small HTTP server that says who answered what.
//!
//! One line of text for people; with `Accept: application/json` everything that it was asked, for tests.
//! HTTP/1.1 and HTTP/2 by prior knowledge, on one thread. It knows nothing of the mesh.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::fault::DemoError;
use crate::turns::{self, Turns};

/// How an HTTP/2 client begins (RFC 9113 section 3.4), as far as it tells it from HTTP/1.1.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// The command line of the application.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct AppArgs {
    /// Who answers
    #[arg(long)]
    pub name: String,
    /// Where to listen
    #[arg(long, default_value = "[::]:8080")]
    pub listen: SocketAddr,
}

/// Serves until the process is ended. Says `listening on ADDRESS` on standard output once it does.
///
/// # Errors
/// When it cannot listen.
pub fn run(args: &AppArgs) -> Result<(), DemoError> {
    let failed = |source| DemoError::Start { program: format!("the application on {}", args.listen), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let app = Arc::new(App { name: args.name.clone(), pod: std::env::var("POD_NAME").ok() });
    let listener = runtime.block_on(TcpListener::bind(args.listen)).map_err(failed)?;
    println!("listening on {}", args.listen);
    let turns = Turns::default();
    let accepting = async move {
        loop {
            // A connection that failed before it was accepted is its client's affair.
            let Ok((stream, client)) = listener.accept().await else { continue };
            turns::spawn(Arc::clone(&app).connection(stream, client));
        }
    };
    turns.share().run(accepting).detach();
    runtime.block_on(turns.run());
    Ok(())
}

struct App {
    name: String,
    pod: Option<String>,
}

impl App {
    async fn connection(self: Arc<Self>, stream: TcpStream, client: SocketAddr) {
        let service = service_fn(move |request| {
            let app = Arc::clone(&self);
            async move { Ok::<_, Infallible>(app.answer(request, client).await) }
        });
        let mut start = [0; PREFACE.len()];
        let Ok(http2) = peek_preface(&stream, &mut start).await else { return };
        // How a connection ends is seen by its client; the application has nothing to add.
        if http2 {
            let builder = http2::Builder::new(TokioExecutor::new());
            let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
        } else {
            let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        }
    }

    async fn answer(&self, request: Request<Incoming>, client: SocketAddr) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        let wants_json = head.headers.get(ACCEPT).is_some_and(|value| value == "application/json");
        let client = client.ip().to_canonical();
        let (kind, text) = if wants_json {
            let answer = json!({
                "name": self.name, "pod": self.pod, "client": client, "method": head.method.as_str(),
                "target": target, "version": format!("{:?}", head.version),
                "headers": headers(&head.headers), "body_bytes": body.len(),
            });
            ("application/json", format!("{answer}\n"))
        } else {
            ("text/plain", format!("{}: {} {target} from {client}\n", self.name, head.method))
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Ok(name) = HeaderValue::from_str(&self.name) {
            response.headers_mut().insert("x-app", name);
        }
        response
    }
}

/// Whether the client begins with the HTTP/2 preface; waits until its bytes are enough to tell.
async fn peek_preface(stream: &TcpStream, start: &mut [u8]) -> std::io::Result<bool> {
    loop {
        let seen = stream.peek(start).await?;
        if seen == start.len() || !PREFACE.starts_with(&start[..seen]) || seen == 0 {
            return Ok(&start[..seen] == PREFACE);
        }
        // The rest of the preface is on its way; `peek` would return at once with what is there.
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

/// The fields by name, lower case; several lines of one name become a list.
fn headers(fields: &HeaderMap) -> Map<String, Value> {
    let lines = |name| fields.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    fields.keys().map(|name| (name.to_string(), json!(lines(name).collect::<Vec<_>>()))).collect()
}
