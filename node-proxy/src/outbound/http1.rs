//! HTTP/1.1 from a pod: request after request on the client's connection, each planned by itself.

use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::io::AsyncWriteExt;

use super::attempts::{Attempts, LATE, Limit};
use super::dial::{self, Chosen, Origin, Reuse, Wish};
use super::plan::{Action, Forwarding, RequestPlan};
use super::{Session, begin_session, http_label, http2, mirror};
use crate::accept::ClientStream;
use crate::balance::InFlight;
use crate::connect::idle::Repeatable;
use crate::connect::{Content, Destination, HopKey};
use crate::error::{FailureReason, REASON_HEADER, with_causes};
use crate::forward::copy::Copied;
use crate::forward::{Reset as _, copy_both};
use crate::http1::framing::BodyLength;
use crate::http1::head::{Persistence, Version};
use crate::http1::relay::Relay;
use crate::http1::{
    Exchange, ExchangeError, HeadError, Outcome, Parsed, ReadBuffer, RequestHead1, ResponseHead1, message,
};
use crate::route::filter::Preflight;
use crate::route::{Filters, RequestHead};
use crate::snapshot::service::{Endpoint, ServicePort};
use crate::telemetry::{Recording, RequestRecord};

/// How long and how many reads a client that is still sending is listened to after the last answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_READS: usize = 64;

/// A client's connection with what is used again from request to request.
struct Connection {
    session: Session,
    stream: ClientStream,
    buffer: ReadBuffer,
    request: RequestHead1,
    /// The length of its head, in bytes, which are at the beginning of the buffer until it is taken.
    head: usize,
    answer: ResponseHead1,
    /// An upstream connection that belongs to this client alone: one dialled for its first bytes, or one that
    /// its authentication has bound (NTLM, Negotiate).
    own: Option<Chosen>,
}

/// What follows a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Close,
    /// Both ways have ended already.
    Ended,
    /// This request, which has not been taken, goes on by HTTP/2.
    Version2,
    Request,
    Reset,
}

/// Serves a client's connection. `buffer` holds its first bytes, `own` the endpoint dialled for them.
pub(super) async fn serve(session: Session, stream: ClientStream, buffer: ReadBuffer, own: Option<Chosen>) {
    let mut connection = Connection {
        session,
        stream,
        buffer,
        request: RequestHead1::default(),
        head: 0,
        answer: ResponseHead1::default(),
        own,
    };
    loop {
        let next = match connection.read_head().await {
            // In a place of its own, so that a connection that waits for a request has no room for what one needs.
            Ok(Some(())) => Box::pin(connection.serve_request()).await,
            Ok(None) => Next::Close,
            Err(error) => connection.refuse(error).await,
        };
        match next {
            Next::Request => connection.buffer.release(),
            Next::Close => return connection.close().await,
            Next::Ended => return connection.part_with_own(),
            Next::Version2 => {
                connection.part_with_own();
                return http2::serve_version1(connection.session, connection.stream, connection.buffer).await;
            }
            Next::Reset => {
                connection.part_with_own();
                return connection.stream.reset();
            }
        }
    }
}

impl Connection {
    /// Ends the connection so that the client gets the last answer even if it is still sending: bytes that
    /// nobody has read would turn the end into a reset, and that would take the answer with it.
    async fn close(&mut self) {
        self.part_with_own();
        let _ = self.stream.shutdown().await;
        let draining = async {
            for _ in 0..LINGER_READS {
                let unread = self.buffer.unread().len();
                self.buffer.consume(unread);
                if !matches!(self.buffer.fill(&mut self.stream).await, Ok(count) if count > 0) {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(LINGER, draining).await;
    }

    fn part_with_own(&mut self) {
        if let Some(own) = self.own.take() {
            own.dialled.transport.close();
        }
    }

    /// Reads a request head. None when the client has ended the connection between requests.
    async fn read_head(&mut self) -> Result<Option<()>, HeadError> {
        loop {
            if !self.buffer.unread().is_empty() {
                match self.request.parse(self.buffer.unread())? {
                    Parsed::Complete(length) => {
                        self.head = length;
                        return Ok(Some(()));
                    }
                    Parsed::Partial => {}
                }
            }
            match self.buffer.fill(&mut self.stream).await {
                Ok(count) if count > 0 => {}
                _ => return Ok(None),
            }
        }
    }

    async fn serve_request(&mut self) -> Next {
        if self.session.worker.mesh.drain.has_begun() {
            self.request.be_the_last();
        }
        let mut record = self.record();
        let RequestPlan { rule, action, .. } = self.session.plan(&self.request, &mut record);
        if let Action::Forward(Forwarding { port, .. }) = &action
            && self.session.speaks_http2(port, rule.as_deref())
        {
            record.dismiss();
            return Next::Version2;
        }
        self.buffer.consume(self.head);
        record.rule = rule;
        match action {
            Action::Forward(forwarding) => {
                record.backend = record.rule.is_some().then(|| forwarding.port.key.clone());
                self.forward(record, forwarding).await
            }
            Action::Redirect { status, location } => {
                self.answer(record, &OwnAnswer::head(status, &[("location", location)])).await
            }
            Action::Preflight(Preflight(lines)) => {
                self.answer(record, &OwnAnswer::head(StatusCode::NO_CONTENT, &lines)).await
            }
            Action::Fail(reason) => self.answer_failure(record, reason).await,
        }
    }

    fn record(&self) -> Recording<RequestRecord> {
        self.session.worker.mesh.telemetry.request(RequestRecord {
            journey: self.session.journey(),
            protocol: http_label(false, false),
            method: Bytes::copy_from_slice(self.request.method().as_bytes()),
            path: Bytes::copy_from_slice(self.request.path().as_bytes()),
            status: None,
            rule: None,
            backend: None,
        })
    }

    /// Sends the request to an endpoint of `port`, and its answer to the client.
    async fn forward(&mut self, mut record: Recording<RequestRecord>, forwarding: Forwarding) -> Next {
        let taps = mirror::start(&self.session, &self.request, &forwarding, &record);
        let Forwarding { port, filters, stays_with, .. } = forwarding;
        let repeatable = if self.request.is_repeatable() { Repeatable::Yes } else { Repeatable::No };
        let mut reuse = Reuse::Pooled(repeatable);
        let in_session = (record.rule.as_ref(), stays_with);
        let terms = (self.request.is_idempotent(), Content::Version1);
        let mut attempts = Attempts::new(&self.session.worker, &port.key, in_session, terms);
        let filters = filters.as_deref();
        let kept = attempts.kept().unwrap_or_default();
        let mut message = message(&mut self.request, filters).heard_by(taps).keeping(kept);
        loop {
            record.journey.begin_again();
            let limit = attempts.limit();
            let finding = self.find_upstream(&port, (reuse, &mut attempts.wish), &mut record);
            let found = limit.hold(pin!(finding)).await.flatten();
            let mut chosen = match found {
                Ok(chosen) => chosen,
                Err(_) if attempts.goes_on(false).await => continue,
                Err(reason) => {
                    record.journey.fail(reason, "no endpoint was reached in time");
                    return self.answer_failure(record, reason).await;
                }
            };
            let tried = Try {
                port: &port,
                message: &mut message,
                filters,
                session: begin_session(&self.session, &record, &port, (stays_with, chosen.load.as_ref())),
                limit,
                attempts: &mut attempts,
            };
            let failed = match self.try_once(tried, &mut chosen, &mut record).await {
                Ok(outcome) if outcome.is_upgrade => return self.join(record, chosen).await,
                Ok(outcome) => return self.conclude(record, chosen, outcome),
                Err(failed) => failed,
            };
            // The server closed a pooled connection just as it was taken. Nothing of an answer has come, and
            // sending this request again can do no harm.
            let is_stale = failed.stage == FailedStage::NoAnswer && chosen.origin == Origin::Pooled;
            if is_stale && repeatable == Repeatable::Yes {
                reuse = Reuse::Never;
                attempts.wish.tried.pop();
                continue;
            }
            // Whatever the endpoint has of the request, it must not take it for the whole.
            chosen.dialled.transport.reset();
            if failed.stage == FailedStage::HeldBack {
                attempts.pause().await;
                continue;
            }
            let may_go_on = failed.stage.leaves_the_client_unanswered() && message.is_whole();
            if may_go_on && attempts.goes_on(true).await {
                continue;
            }
            record.journey.fail(failed.reason, failed.error);
            if failed.stage == FailedStage::Answered || failed.reason == FailureReason::ClientClosed {
                record.finish();
                return Next::Reset;
            }
            return self.answer_failure(record, failed.reason).await;
        }
    }

    /// Sends the request to the endpoint that was chosen, once, and passes its answer on.
    async fn try_once(
        &mut self,
        tried: Try<'_, '_>,
        chosen: &mut Chosen,
        record: &mut RequestRecord,
    ) -> Result<Outcome, FailedTry> {
        let sent = (&self.request, tried.message);
        let mut exchange = Exchange::new(sent, &mut self.answer, tried.filters)
            .saying(tried.session)
            .judged_by(tried.attempts);
        let client = (&mut self.stream, &mut self.buffer);
        let running = exchange.run(client, (&mut chosen.dialled.transport, &mut chosen.buffer));
        let outcome = tried.limit.hold(pin!(running)).await;
        note(&self.session, tried.port, (chosen, &outcome));
        record.journey.bytes_sent = exchange.bytes_sent();
        record.journey.bytes_received = exchange.bytes_received();
        record.status = exchange.status().and_then(|status| StatusCode::from_u16(status).ok());
        let (reason, error, stage) = match outcome {
            Ok(Ok(outcome)) => return Ok(outcome),
            Ok(Err(error)) => (error.reason(), with_causes(&error), FailedStage::of(&error)),
            Err(late) => (late, LATE.to_owned(), FailedStage::Upstream),
        };
        let stage = if exchange.has_answered() { FailedStage::Answered } else { stage };
        Err(FailedTry { reason, error, stage })
    }

    async fn find_upstream(
        &mut self,
        port: &ServicePort,
        (reuse, wish): (Reuse, &mut Wish),
        record: &mut Recording<RequestRecord>,
    ) -> Result<Chosen, FailureReason> {
        if let Some(mut own) = self.own.take() {
            let endpoint =
                port.endpoints.endpoints.iter().find(|endpoint| endpoint.address == own.key.address);
            // The endpoint may have become another pod, or mTLS may be due by now.
            let still_his = |endpoint: &Endpoint| {
                let mut destination = Destination::from(endpoint);
                destination.tls = self.session.originate_tls(port, Content::Version1);
                own.key == HopKey::new(&self.session.pod.pod, own.key.source, &destination)
            };
            if let Some(endpoint) = endpoint.filter(|endpoint| still_his(endpoint))
                && wish.stays_with.is_none_or(|id| endpoint.load.id == id)
                && own.dialled.transport.is_quiet()
            {
                dial::note_destination(&mut record.journey, endpoint);
                record.journey.hop = Some(own.dialled.hop);
                own.load.get_or_insert_with(|| InFlight::begin(&endpoint.load));
                return Ok(own);
            }
            own.dialled.transport.close();
        }
        let reuse = if self.request.binds_connection() { Reuse::Never } else { reuse };
        dial::choose((&self.session, port), (reuse, wish), &mut record.journey).await
    }

    fn conclude(&mut self, record: Recording<RequestRecord>, mut chosen: Chosen, outcome: Outcome) -> Next {
        record.finish();
        if outcome.upstream == Persistence::KeepAlive {
            // Once is for good: later requests of the client carry no sign of it, and are its user's all the same.
            chosen.is_bound |= outcome.binds_connection || self.request.binds_connection();
            if chosen.is_bound {
                self.own = Some(Chosen { origin: Origin::Pooled, load: None, ..chosen });
            } else {
                let Chosen { dialled, buffer, key, .. } = chosen;
                let mut idle = self.session.worker.idle.borrow_mut();
                idle.put(key, dialled, buffer, outcome.keep_alive_seconds);
            }
        } else {
            chosen.dialled.transport.close();
        }
        match outcome.client {
            Persistence::KeepAlive => Next::Request,
            Persistence::Close => Next::Close,
        }
    }

    /// Joins both connections after `101 Switching Protocols`: the timeouts of the rule have ended with it.
    async fn join(&mut self, mut record: Recording<RequestRecord>, chosen: Chosen) -> Next {
        let Chosen { mut dialled, mut buffer, load: _load, .. } = chosen;
        let mut copied = Copied::default();
        let client = (&mut self.stream, &mut self.buffer);
        let joined = copy_both(client, (&mut dialled.transport, &mut buffer), &mut copied).await;
        record.journey.bytes_sent += copied.sent;
        record.journey.bytes_received += copied.received;
        let next = match joined {
            Ok(()) => Next::Ended,
            Err(error) => {
                record.journey.fail(error.reason(), with_causes(&error));
                dialled.transport.reset();
                Next::Reset
            }
        };
        record.finish();
        next
    }

    /// Answers a head that was not taken.
    async fn refuse(&mut self, error: HeadError) -> Next {
        let mut record = self.record();
        record.journey.service = self.session.find_frontend().map(|frontend| frontend.port.key.clone());
        record.journey.fail(error.reason(), error.to_string());
        let _ = self.write_own(&mut record, &OwnAnswer::failure(error.reason()), Persistence::Close).await;
        record.finish();
        Next::Close
    }

    async fn answer_failure(&mut self, record: Recording<RequestRecord>, reason: FailureReason) -> Next {
        self.answer(record, &OwnAnswer::failure(reason)).await
    }

    /// Answers a request that goes no further.
    async fn answer(&mut self, mut record: Recording<RequestRecord>, answer: &OwnAnswer) -> Next {
        // A body that nobody reads would be taken for the next request.
        let persistence = match self.request.body_length() {
            BodyLength::None => self.request.persistence(),
            _ => Persistence::Close,
        };
        let written = self.write_own(&mut record, answer, persistence).await;
        record.finish();
        match (written, persistence) {
            (Ok(()), Persistence::KeepAlive) => Next::Request,
            (Ok(()), Persistence::Close) => Next::Close,
            (Err(_), _) => Next::Reset,
        }
    }

    async fn write_own(
        &mut self,
        record: &mut Recording<RequestRecord>,
        answer: &OwnAnswer,
        persistence: Persistence,
    ) -> io::Result<()> {
        record.status = Some(answer.status);
        let message = answer.write(self.request.method(), self.request.version(), persistence);
        self.stream.write_all(message.as_bytes()).await
    }
}

/// One try of a request.
struct Try<'a, 'p> {
    port: &'a ServicePort,
    message: &'a mut Relay,
    filters: Option<&'a Filters>,
    /// A field of the answer with which a session begins.
    session: Option<(Box<str>, Box<str>)>,
    limit: Limit,
    attempts: &'a mut Attempts<'p>,
}

/// Why a try has come to nothing.
struct FailedTry {
    reason: FailureReason,
    error: String,
    stage: FailedStage,
}

/// Where a try has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FailedStage {
    /// The client is to blame, or has left.
    Client,
    /// The endpoint's connection ended before anything of an answer came.
    NoAnswer,
    /// After that, and the client has seen nothing of an answer.
    Upstream,
    /// Nowhere: another try is to do better than an answer that was held back.
    HeldBack,
    /// The client has seen a part of an answer.
    Answered,
}

impl FailedStage {
    const fn of(error: &ExchangeError) -> Self {
        match error {
            ExchangeError::Client(_) | ExchangeError::ClientBody(_) => Self::Client,
            ExchangeError::NoAnswer(_) => Self::NoAnswer,
            ExchangeError::HeldBack(_) => Self::HeldBack,
            _ => Self::Upstream,
        }
    }

    /// Whether an answer of another endpoint would be the first that the client sees.
    const fn leaves_the_client_unanswered(self) -> bool {
        matches!(self, Self::NoAnswer | Self::Upstream)
    }
}

/// Notes what an exchange tells of its endpoint. A connection that was kept may have been closed in good order just as
/// it was taken.
fn note(
    session: &Session,
    port: &ServicePort,
    (chosen, outcome): (&Chosen, &Result<Result<Outcome, ExchangeError>, FailureReason>),
) {
    let Some(load) = &chosen.load else { return };
    let status = match outcome {
        Ok(Ok(Outcome { status, .. }) | Err(ExchangeError::HeldBack(status))) => *status,
        Ok(Err(ExchangeError::Client(_) | ExchangeError::ClientBody(_))) => return,
        Ok(Err(ExchangeError::NoAnswer(_))) if chosen.origin == Origin::Pooled => return,
        // The client's own side is to blame.
        Ok(Err(error))
            if matches!(error.reason(), FailureReason::BufferLimit | FailureReason::CertificateExpired) =>
        {
            return;
        }
        Err(FailureReason::RequestTimeout) => return,
        Ok(Err(_)) | Err(_) => return session.note_failure(port, load),
    };
    if let Ok(status) = StatusCode::from_u16(status) {
        session.note_status(port, load, status);
    }
}

/// An answer of the proxy's own making.
struct OwnAnswer {
    status: StatusCode,
    /// Fields, each with its line's end.
    fields: String,
    text: String,
}

impl OwnAnswer {
    fn failure(reason: FailureReason) -> Self {
        let fields = format!("{REASON_HEADER}: {reason}\r\ncontent-type: text/plain\r\n");
        Self { status: reason.status(), fields, text: format!("gammarus: {reason}\n") }
    }

    /// One with nothing but fields.
    fn head(status: StatusCode, lines: &[(&str, String)]) -> Self {
        let fields = lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        Self { status, fields, text: String::new() }
    }

    fn write(&self, method: &str, version: Version, persistence: Persistence) -> String {
        let connection = match (persistence, version) {
            (Persistence::Close, _) => "connection: close\r\n",
            // A 1.0 client would wait for the connection's end (RFC 9112 section 9.3).
            (Persistence::KeepAlive, Version::Http10) => "connection: keep-alive\r\n",
            (Persistence::KeepAlive, Version::Http11) => "",
        };
        // A 204 has none (RFC 9110 section 8.6).
        let length = match self.status {
            StatusCode::NO_CONTENT => String::new(),
            _ => format!("content-length: {}\r\n", self.text.len()),
        };
        let body = if method == "HEAD" { "" } else { &self.text };
        let (code, phrase) = (self.status.as_u16(), self.status.canonical_reason().unwrap_or_default());
        format!("HTTP/1.1 {code} {phrase}\r\n{}{length}{connection}\r\n{body}", self.fields)
    }
}
