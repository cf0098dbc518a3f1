//! HTTP/2 and gRPC from a pod: each request of the client's connection is planned by itself, and goes to the
//! endpoint chosen for it on that endpoint's shared connection.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::dial;
use super::plan::{RequestPlan, plan};
use super::{Session, http_label};
use crate::accept::rewind::Rewind;
use crate::balance::{self, InFlight};
use crate::connect::Destination;
use crate::connect::streams::{self, Stream};
use crate::error::{FailureReason, REASON_HEADER, with_causes};
use crate::forward::Socket;
use crate::http1::{FIELD_LIMIT, ReadBuffer};
use crate::http2::{CountedBody, LocalExecutor, MAX_HEAD, RequestHead2};
use crate::route::{RouteKind, is_grpc};
use crate::snapshot::service::ServicePort;
use crate::telemetry::{Recording, RequestRecord};

/// Streams that one client connection may have open.
const MAX_STREAMS: u32 = 1000;
/// Resets that a client may cause before its connection is closed (rapid reset, made-you-reset).
const MAX_RESETS: usize = 64;

/// Serves a client's connection. `buffer` holds its first bytes.
pub(super) async fn serve(session: Session, stream: Socket, buffer: ReadBuffer) {
    let session = Rc::new(session);
    let service = service_fn(move |request| {
        let session = Rc::clone(&session);
        async move { Ok::<_, Infallible>(Box::pin(answer(&session, request)).await) }
    });
    let serving = hyper::server::conn::http2::Builder::new(LocalExecutor)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD)
        .max_pending_accept_reset_streams(Some(MAX_RESETS))
        .max_local_error_reset_streams(Some(MAX_RESETS))
        .serve_connection(TokioIo::new(Rewind::new(buffer, stream)), service);
    if let Err(error) = serving.await {
        tracing::debug!(%error, "an HTTP/2 client connection has ended");
    }
}

/// The body of an answer.
#[derive(Debug)]
enum AnswerBody {
    /// Passed on from upstream; the record is written when it ends.
    Upstream {
        inner: Incoming,
        sent: Rc<Cell<u64>>,
        record: Option<Recording<RequestRecord>>,
        /// Held, not read: the endpoint and the connection are busy as long as the answer lasts.
        _busy: (InFlight, Rc<()>),
    },
    /// Of the proxy's own making.
    Own(Option<Bytes>),
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let (inner, sent, record) = match &mut *self {
            Self::Own(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Upstream { inner, sent, record, .. } => (inner, sent, record),
        };
        let frame = ready!(Pin::new(&mut *inner).poll_frame(cx));
        let Some(open) = record else { return Poll::Ready(frame) };
        match &frame {
            Some(Ok(frame)) => {
                open.journey.bytes_received += frame.data_ref().map_or(0, |data| data.remaining() as u64);
            }
            Some(Err(error)) => open.journey.fail(FailureReason::UpstreamReset, with_causes(error)),
            None => {}
        }
        // hyper does not ask again after the last frame of a stream.
        if !matches!(&frame, Some(Ok(_))) || inner.is_end_stream() {
            open.journey.bytes_sent = sent.get();
            if let Some(record) = record.take() {
                record.finish();
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            // An open record must be finished by a last poll.
            Self::Upstream { inner, record, .. } => record.is_none() && inner.is_end_stream(),
            Self::Own(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Upstream { inner, .. } => inner.size_hint(),
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
        }
    }
}

async fn answer(session: &Session, request: Request<Incoming>) -> Response<AnswerBody> {
    let (parts, body) = request.into_parts();
    let head = RequestHead2(&parts);
    let grpc = is_grpc(&head);
    let mut record = session.worker.mesh.telemetry.request(RequestRecord {
        journey: session.journey(),
        protocol: http_label(grpc, true),
        method: Bytes::copy_from_slice(parts.method.as_str().as_bytes()),
        path: Bytes::copy_from_slice(parts.uri.path().as_bytes()),
        status: None,
        rule: None,
        backend: None,
    });
    let Some(frontend) = session.find_frontend() else {
        record.journey.fail(FailureReason::NoEndpoint, "the service is gone");
        return failure(record, FailureReason::NoEndpoint, grpc);
    };
    record.journey.service = Some(frontend.port.key.clone());
    if let Some((reason, error)) = refusal(&parts) {
        record.journey.fail(reason, error);
        return failure(record, reason, grpc);
    }
    let RequestPlan { kind, rule, backend } = {
        let snapshot = session.worker.mesh.snapshot.load();
        plan(&snapshot, &frontend, &session.pod.pod.pod.namespace, &head, balance::random())
    };
    // HTTPRoute says which HTTP status a failure has, whatever the request may carry.
    let grpc = grpc && kind != Some(RouteKind::Http);
    record.rule = rule;
    match backend {
        Ok(port) => {
            record.backend = record.rule.is_some().then(|| port.key.clone());
            forward(session, record, &port, (Request::from_parts(parts, body), grpc)).await
        }
        Err(reason) => {
            record.journey.fail(reason, format!("for {}", frontend.port.key.service));
            failure(record, reason, grpc)
        }
    }
}

/// Why a head is not taken. One that is too long never gets here: the wire answers it 431.
fn refusal(parts: &Parts) -> Option<(FailureReason, &'static str)> {
    if parts.method == http::Method::CONNECT {
        return Some((FailureReason::ConnectMethodRefused, "CONNECT is not proxied"));
    }
    (parts.headers.len() > FIELD_LIMIT)
        .then_some((FailureReason::HeadTooLarge, "the head has too many fields"))
}

async fn forward(
    session: &Session,
    mut record: Recording<RequestRecord>,
    port: &Arc<ServicePort>,
    (request, grpc): (Request<Incoming>, bool),
) -> Response<AnswerBody> {
    let (mut parts, body) = request.into_parts();
    // A request without `:authority` (RFC 9113 section 8.3.1 lets it have Host alone) is known to the client's
    // library as one of HTTP/1.1 only.
    parts.version = if parts.uri.authority().is_some() { Version::HTTP_2 } else { Version::HTTP_11 };
    let sent = Rc::new(Cell::new(0));
    let mut request = Request::from_parts(parts, CountedBody::new(body, Rc::clone(&sent)));
    let mut tried = Vec::new();
    let mut attempts = 0;
    loop {
        attempts += 1;
        let (stream, load) = match find_stream(session, port, &mut tried, &mut record).await {
            Ok(found) => found,
            Err(reason) => return failure(record, reason, grpc),
        };
        let Stream { mut sender, hop, under_way, .. } = stream;
        record.journey.hop = Some(hop);
        let mut unsent = match sender.try_send_request(request).await {
            Ok(response) => return passed_on(record, response, sent, (load, under_way)),
            Err(error) => error,
        };
        match unsent.take_message() {
            // The connection closed before it took the request: the same endpoint on a new one does no harm.
            Some(again) if attempts < dial::MAX_TRIES => {
                tried.pop();
                request = again;
            }
            _ => {
                record.journey.fail(FailureReason::UpstreamReset, with_causes(unsent.error()));
                return failure(record, FailureReason::UpstreamReset, grpc);
            }
        }
    }
}

/// An open connection to an endpoint that was not tried yet.
async fn find_stream(
    session: &Session,
    port: &ServicePort,
    tried: &mut Vec<SocketAddr>,
    record: &mut Recording<RequestRecord>,
) -> Result<(Stream, InFlight), FailureReason> {
    let connect = async |key, destination: &Destination| {
        streams::open(&session.worker, &session.pod, &key, destination).await
    };
    dial::try_endpoints((session, &port.endpoints), tried, &mut record.journey, connect).await
}

fn passed_on(
    mut record: Recording<RequestRecord>,
    response: Response<Incoming>,
    sent: Rc<Cell<u64>>,
    busy: (InFlight, Rc<()>),
) -> Response<AnswerBody> {
    record.status = Some(response.status());
    let record = if response.body().is_end_stream() {
        // The end is in the head: for gRPC that makes it an answer without messages ("Trailers-Only").
        record.finish();
        None
    } else {
        Some(record)
    };
    response.map(|inner| AnswerBody::Upstream { inner, sent, record, _busy: busy })
}

/// An answer of the proxy's own: for gRPC a status in the head alone ("Trailers-Only").
fn failure(mut record: Recording<RequestRecord>, reason: FailureReason, grpc: bool) -> Response<AnswerBody> {
    let text = format!("gammarus: {reason}");
    let mut response = if grpc {
        record.status = Some(StatusCode::OK);
        let mut response = Response::new(AnswerBody::Own(None));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(u16::from(reason.grpc_status())));
        if let Ok(message) = HeaderValue::try_from(&text) {
            headers.insert("grpc-message", message);
        }
        response
    } else {
        record.status = Some(reason.status());
        // An answer to HEAD has no body (RFC 9110 section 9.3.2).
        let body = (&*record.method != b"HEAD").then(|| format!("{text}\n").into());
        let mut response = Response::new(AnswerBody::Own(body));
        *response.status_mut() = reason.status();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        response
    };
    response.headers_mut().insert(REASON_HEADER, HeaderValue::from_static(reason.as_label()));
    record.finish();
    response
}
