//! HTTP/2 and gRPC from a pod: each request of the client's connection is planned by itself, and goes to the
//! endpoint chosen for it on that endpoint's shared connection.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::service::{Service, service_fn};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::sleep_until;

use super::answer_body::{AnswerBody, Busy, Origin, is_of_the_endpoint};
use super::attempts::{Attempts, LATE, Limit};
use super::dial::{self, Wish};
use super::plan::{Action, Forwarding, RequestPlan};
use super::upstream::Upstream;
use super::{Session, begin_session, http_label, mirror, tunnel};
use crate::accept::ClientStream;
use crate::accept::rewind::Rewind;
use crate::balance::InFlight;
use crate::connect::{Content, Destination, exchanges, streams};
use crate::error::{FailureReason, REASON_HEADER, with_causes};
use crate::http1::{FIELD_LIMIT, Judge as _, ReadBuffer};
use crate::http2::body::BodyTap;
use crate::http2::translate::to_http2;
use crate::http2::{self, ClientBody, KeptRequest, LocalExecutor, MAX_HEAD, RequestBody, RequestHead2};
use crate::route::filter::Preflight;
use crate::route::{FieldEdit, Filters, RouteKind, is_grpc};
use crate::snapshot::service::ServicePort;
use crate::telemetry::{Recording, RequestRecord};
use crate::turns;

/// Streams that one client connection may have open.
const MAX_STREAMS: u32 = 1000;
/// Resets that a client may cause before its connection is closed (rapid reset, made-you-reset).
const MAX_RESETS: usize = 64;

/// What one stream may have on its way to a client that does not read, in bytes.
const MAX_SENT: usize = 64 * 1024;

/// Serves a client's connection. `buffer` holds its first bytes.
pub(super) async fn serve(session: Session, stream: ClientStream, buffer: ReadBuffer) {
    let session = Rc::new(session);
    let service = answering(&session);
    let mut builder = hyper::server::conn::http2::Builder::new(LocalExecutor);
    if session.gate.is_none() {
        // Behind a Gateway most endpoints speak HTTP/1.1, which has another way to WebSocket: clients are to take that.
        builder.enable_connect_protocol();
    }
    let serving = builder
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD)
        .max_send_buf_size(MAX_SENT)
        .max_pending_accept_reset_streams(Some(MAX_RESETS))
        .max_local_error_reset_streams(Some(MAX_RESETS))
        .serve_connection(TokioIo::new(Rewind::new(buffer, stream)), service);
    serve_to_end(&session, Box::pin(serving), |serving| serving.graceful_shutdown()).await;
}

/// Serves a client's connection of HTTP/1.1 whose requests go on by HTTP/2. `buffer` holds its first bytes.
pub(super) async fn serve_version1(session: Session, stream: ClientStream, buffer: ReadBuffer) {
    let session = Rc::new(session);
    let service = answering(&session);
    let serving = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .max_headers(FIELD_LIMIT)
        .max_buf_size(MAX_HEAD as usize)
        .serve_connection(TokioIo::new(Rewind::new(buffer, stream)), service);
    serve_to_end(&session, Box::pin(serving), |serving| serving.graceful_shutdown()).await;
}

/// Answers the requests of one connection.
fn answering(
    session: &Rc<Session>,
) -> impl Service<Request<Incoming>, Response = Response<AnswerBody>, Error = Infallible, Future: 'static> + use<>
{
    let session = Rc::clone(session);
    service_fn(move |request| {
        let session = Rc::clone(&session);
        async move { Ok(Box::pin(answer(&session, request)).await) }
    })
}

/// Serves a connection to its end, which it is asked for when another proxy has taken over.
///
/// It has a place of its own, so that a connection that never comes to this has no room for it.
async fn serve_to_end<C>(session: &Session, mut serving: Pin<Box<C>>, ask_to_end: impl FnOnce(Pin<&mut C>))
where
    C: Future<Output = hyper::Result<()>>,
{
    let superseded = session.worker.mesh.drain.begun();
    let outcome = tokio::select! {
        outcome = serving.as_mut() => outcome,
        () = superseded => {
            ask_to_end(serving.as_mut());
            serving.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a client's connection has ended");
    }
}

async fn answer(session: &Rc<Session>, request: Request<Incoming>) -> Response<AnswerBody> {
    let (parts, body) = request.into_parts();
    let head = RequestHead2(&parts);
    let grpc = is_grpc(&head);
    let mut record = session.worker.mesh.telemetry.request(RequestRecord {
        journey: session.journey(),
        protocol: http_label(grpc, parts.version == Version::HTTP_2),
        method: Bytes::copy_from_slice(parts.method.as_str().as_bytes()),
        path: Bytes::copy_from_slice(parts.uri.path().as_bytes()),
        status: None,
        rule: None,
        backend: None,
    });
    if let Some((reason, error)) = refusal(&parts) {
        record.journey.service = session.find_frontend().map(|frontend| frontend.port.key.clone());
        record.journey.fail(reason, error);
        return failure(record, reason, grpc);
    }
    let RequestPlan { kind, rule, action } = session.plan(&head, &mut record);
    // HTTPRoute says which HTTP status a failure has, whatever the request may carry.
    let grpc = grpc && kind != Some(RouteKind::Http);
    record.rule = rule;
    match action {
        Action::Forward(forwarding) => {
            record.backend = record.rule.is_some().then(|| forwarding.port.key.clone());
            let mut request = Request::from_parts(parts, body);
            if request.version() != Version::HTTP_2 {
                to_http2(&mut request);
            }
            forward(session, record, forwarding, (request, grpc)).await
        }
        Action::Redirect { status, location } => head_only(record, status, &[("location", location)]),
        Action::Preflight(Preflight(lines)) => head_only(record, StatusCode::NO_CONTENT, &lines),
        Action::Fail(reason) => failure(record, reason, grpc),
    }
}

/// Why a head is not taken. One that is too long never gets here: the wire answers it 431.
fn refusal(parts: &Parts) -> Option<(FailureReason, &'static str)> {
    if parts.method == http::Method::CONNECT && !tunnel::is_tunnel(parts) {
        return Some((FailureReason::ConnectMethodRefused, "CONNECT is not proxied"));
    }
    (parts.headers.len() > FIELD_LIMIT)
        .then_some((FailureReason::HeadTooLarge, "the head has too many fields"))
}

async fn forward(
    session: &Rc<Session>,
    mut record: Recording<RequestRecord>,
    forwarding: Forwarding,
    (request, grpc): (Request<Incoming>, bool),
) -> Response<AnswerBody> {
    let (mut parts, body) = request.into_parts();
    // There only if the request is a CONNECT.
    let mut tunnel = parts.extensions.remove::<OnUpgrade>();
    let answer_edit = edit_request(&mut parts, forwarding.filters.as_deref());
    let taps = copy(session, &forwarding, (&parts, &body), &record);
    let sent = Rc::new(Cell::new(0));
    let Forwarding { port, stays_with, .. } = forwarding;
    let in_session = (record.rule.as_ref(), stays_with);
    let content = session.content_towards(&port, record.rule.as_deref());
    let terms = (parts.method.is_idempotent(), content);
    let mut attempts = Attempts::new(&session.worker, &port.key, in_session, terms);
    let body = ClientBody { inner: body, bytes: Rc::clone(&sent), taps };
    // One connection carries one exchange there, and is kept for the next one: its server may close it at any time.
    let is_repeatable = parts.method.is_idempotent() && body.inner.is_end_stream();
    attempts.wish.may_repeat = content == Content::Version1 && is_repeatable;
    let kept = attempts.kept().or_else(|| attempts.wish.may_repeat.then_some(0));
    let (first, kept) = http2::keep((parts, body), kept);
    let mut unsent = Some(first);
    loop {
        record.journey.begin_again();
        let limit = attempts.limit();
        let sending = send((session, &*port), &mut unsent, &mut attempts.wish, &mut record);
        let outcome = limit.hold(pin!(sending)).await.flatten();
        match outcome {
            Ok((mut response, busy)) => {
                if kept.as_ref().is_some_and(KeptRequest::is_whole)
                    && attempts.holds_back(response.status().as_u16())
                {
                    // Before the pause, in which nothing may be read for the try before.
                    unsent = kept.as_ref().and_then(KeptRequest::again);
                    drop((response, busy));
                    attempts.pause().await;
                    continue;
                }
                kept.iter().for_each(KeptRequest::let_go);
                let session_field = begin_session(session, &record, &port, (stays_with, Some(&busy.0)));
                edit_answer(&mut response, answer_edit.as_ref(), session_field);
                if let Some(client) = tunnel.take_if(|_| response.status().is_success()) {
                    record.status = Some(response.status());
                    tunnel::join(record, client, hyper::upgrade::on(&mut response), busy);
                    return response.map(|_none| AnswerBody::Own(None));
                }
                let origin = Origin { session: Rc::clone(session), port, busy };
                return passed_on(record, response, sent, (limit, origin));
            }
            Err(reason) => {
                note_late((session, &*port), reason, &record);
                let was_sent = unsent.is_none();
                if was_sent {
                    unsent = kept.as_ref().and_then(KeptRequest::again);
                }
                if unsent.is_some() && attempts.wish.forgives() {
                    continue;
                }
                if unsent.is_none() || !attempts.goes_on(was_sent).await {
                    record.journey.fail(reason, LATE);
                    return failure(record, reason, grpc);
                }
            }
        }
    }
}

/// Changes the head of a request as the filters say; gives what is to become of its answer's.
fn edit_request(parts: &mut Parts, filters: Option<&Filters>) -> Option<FieldEdit> {
    let answer_edit = filters.map(|filters| filters.answer_edit(&RequestHead2(parts)));
    if let Some(filters) = filters {
        http2::apply(filters, parts);
    }
    // A request without `:authority` (RFC 9113 section 8.3.1 lets it have Host alone) is known to the client's
    // library as one of HTTP/1.1 only.
    parts.version = if parts.uri.authority().is_some() { Version::HTTP_2 } else { Version::HTTP_11 };
    answer_edit
}

/// Changes the head of an answer as the filters say, and begins a session with it if there is one to begin.
fn edit_answer(
    response: &mut Response<Incoming>,
    filters: Option<&FieldEdit>,
    session: Option<(Box<str>, Box<str>)>,
) {
    if let Some(edit) = filters {
        http2::edit(edit, response.headers_mut());
    }
    if let Some((name, value)) = session {
        http2::edit(&FieldEdit::new(&[], &[(&name, &value)], &[]), response.headers_mut());
    }
}

/// Notes that the endpoint of a request has let a try's time pass.
fn note_late((session, port): (&Session, &ServicePort), reason: FailureReason, record: &RequestRecord) {
    let address = record.journey.destination.address;
    let mut endpoints = port.endpoints.endpoints.iter();
    if reason == FailureReason::BackendTimeout
        && let Some(endpoint) = endpoints.find(|endpoint| Some(endpoint.address) == address)
    {
        session.note_failure(port, &InFlight::begin(&endpoint.load));
    }
}

/// Sends a request to an endpoint of the port, one that is wished for if there is. It is left in its place if
/// nothing of it was sent.
async fn send(
    (session, port): (&Session, &ServicePort),
    request: &mut Option<Request<RequestBody>>,
    wish: &mut Wish,
    record: &mut Recording<RequestRecord>,
) -> Result<(Response<Incoming>, Busy), FailureReason> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let (upstream, load) = find_upstream(session, port, wish, record).await?;
        record.journey.hop = Some(upstream.hop());
        let under_way = upstream.under_way();
        let Some(sent) = request.take() else { return Err(FailureReason::UpstreamReset) };
        let may_be_stale = upstream.begins();
        let mut error = match upstream.send(sent).await {
            Ok(response) => {
                let is_whole = response.body().is_end_stream();
                session.note_head(port, &load, (response.status(), is_whole));
                return Ok((response, (load, under_way)));
            }
            Err(error) => error,
        };
        *request = error.take_message();
        // The connection closed before it took the request: the same endpoint on a new one does no harm.
        if request.is_some() && attempts < dial::MAX_TRIES {
            wish.tried.pop();
            continue;
        }
        wish.was_stale = may_be_stale;
        if !may_be_stale && is_of_the_endpoint(error.error()) {
            session.note_failure(port, &load);
        }
        record.journey.fail(FailureReason::UpstreamReset, with_causes(error.error()));
        return Err(FailureReason::UpstreamReset);
    }
}

/// Starts the copies of a request (see [`mirror`]); its body goes into their taps.
fn copy(
    session: &Session,
    forwarding: &Forwarding,
    (parts, body): (&Parts, &Incoming),
    record: &RequestRecord,
) -> Vec<BodyTap> {
    // What follows a CONNECT is a conversation, of which there is no copy.
    let mirrors = if parts.method == http::Method::CONNECT { &[][..] } else { &forwarding.mirrors };
    let copies = mirrors.iter().map(|port| {
        let (tap, listener) = BodyTap::open(body.size_hint());
        let sent = Rc::<Cell<u64>>::default();
        let body = RequestBody::Copy { inner: listener, bytes: Rc::clone(&sent) };
        let request = Request::from_parts(parts.clone(), body);
        let mut record = mirror::record(session, record, port);
        let (session, port) = (session.clone(), Arc::clone(port));
        let content = session.content_towards(&port, record.rule.as_deref());
        let mut wish = Wish { content, ..Wish::default() };
        turns::spawn(async move {
            let sending = async {
                let (response, busy) =
                    send((&session, &port), &mut Some(request), &mut wish, &mut record).await?;
                record.status = Some(response.status());
                let mut body = response.into_body();
                while let Some(frame) = body.frame().await {
                    if let Err(error) = frame {
                        record.journey.fail(FailureReason::UpstreamReset, with_causes(&error));
                        return Ok(());
                    }
                }
                session.note_end(&port, &busy.0, record.status);
                Ok::<(), FailureReason>(())
            };
            // Why it has failed is in its record.
            let outcome = tokio::time::timeout(mirror::PATIENCE, Box::pin(sending)).await;
            if outcome.is_err() {
                record.journey.fail(FailureReason::UpstreamReset, "the copy has taken too long");
            }
            record.journey.bytes_sent = sent.get();
            record.finish();
        });
        tap
    });
    copies.collect()
}

/// An open connection to an endpoint that was not tried yet.
async fn find_upstream(
    session: &Session,
    port: &ServicePort,
    wish: &mut Wish,
    record: &mut Recording<RequestRecord>,
) -> Result<(Upstream, InFlight), FailureReason> {
    let (content, may_repeat) = (wish.content, wish.may_repeat);
    let connect = async |key, destination: &Destination| {
        let (worker, pod) = (&session.worker, &session.pod);
        Ok(match content {
            Content::Version1 => {
                Upstream::Version1(exchanges::open(worker, pod, (&key, destination), may_repeat).await?)
            }
            Content::Version2 | Content::Bytes => {
                Upstream::Version2(streams::open(worker, pod, &key, destination).await?)
            }
        })
    };
    dial::try_endpoints((session, port), wish, &mut record.journey, connect).await
}

fn passed_on(
    mut record: Recording<RequestRecord>,
    response: Response<Incoming>,
    sent: Rc<Cell<u64>>,
    (limit, origin): (Limit, Origin),
) -> Response<AnswerBody> {
    record.status = Some(response.status());
    let record = if response.body().is_end_stream() {
        // The end is in the head: for gRPC that makes it an answer without messages ("Trailers-Only").
        record.finish();
        None
    } else {
        Some(record)
    };
    let limit = limit.end().map(|(end, late)| (Box::pin(sleep_until(end)), late));
    response.map(|inner| AnswerBody::Upstream { inner, sent, record, limit, origin })
}

/// An answer of the proxy's own with nothing but fields.
fn head_only(
    mut record: Recording<RequestRecord>,
    status: StatusCode,
    lines: &[(&'static str, String)],
) -> Response<AnswerBody> {
    record.status = Some(status);
    let mut response = Response::new(AnswerBody::Own(None));
    *response.status_mut() = status;
    for (name, value) in lines {
        // What a request said comes back here: bytes that a field cannot hold are left out with their field.
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().append(*name, value);
        }
    }
    record.finish();
    response
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
