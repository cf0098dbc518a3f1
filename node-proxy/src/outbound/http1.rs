//! HTTP/1.1 from a pod: request after request on the client's connection, each planned by itself.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::io::AsyncWriteExt;

use super::dial::{self, Chosen, Origin, Reuse};
use super::plan::{RequestPlan, plan};
use super::{Session, http_label};
use crate::balance::{self, InFlight};
use crate::connect::idle::Repeatable;
use crate::connect::{Destination, HopKey};
use crate::error::{FailureReason, REASON_HEADER, with_causes};
use crate::forward::{Reset as _, Socket};
use crate::http1::framing::BodyLength;
use crate::http1::head::{Persistence, Version};
use crate::http1::{
    Exchange, ExchangeError, HeadError, Outcome, Parsed, ReadBuffer, RequestHead1, ResponseHead1,
};
use crate::route::RequestHead;
use crate::snapshot::service::{Endpoint, ServicePort};
use crate::telemetry::{Recording, RequestRecord};

/// How long and how many reads a client that is still sending is listened to after the last answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_READS: usize = 64;

/// A client's connection with what is used again from request to request.
struct Connection {
    session: Session,
    stream: Socket,
    buffer: ReadBuffer,
    request: RequestHead1,
    answer: ResponseHead1,
    /// An upstream connection that belongs to this client alone: one dialled for its first bytes, or one that
    /// its authentication has bound (NTLM, Negotiate).
    own: Option<Chosen>,
}

/// What follows a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Close,
    Request,
    Reset,
}

/// Serves a client's connection. `buffer` holds its first bytes, `own` the endpoint dialled for them.
pub(super) async fn serve(session: Session, stream: Socket, buffer: ReadBuffer, own: Option<Chosen>) {
    let mut connection = Connection {
        session,
        stream,
        buffer,
        request: RequestHead1::default(),
        answer: ResponseHead1::default(),
        own,
    };
    loop {
        let next = match connection.read_head().await {
            Ok(Some(())) => connection.serve_request().await,
            Ok(None) => Next::Close,
            Err(error) => connection.refuse(error).await,
        };
        match next {
            Next::Request => connection.buffer.release(),
            Next::Close => return connection.close().await,
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
    async fn close(mut self) {
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
                        self.buffer.consume(length);
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
        let mut record = self.record();
        let Some(frontend) = self.session.find_frontend() else {
            record.journey.fail(FailureReason::NoEndpoint, "the service is gone");
            return self.answer_failure(record, FailureReason::NoEndpoint).await;
        };
        let namespace = &self.session.pod.pod.pod.namespace;
        let RequestPlan { rule, backend, .. } = {
            let snapshot = self.session.worker.mesh.snapshot.load();
            plan(&snapshot, &frontend, namespace, &self.request, balance::random())
        };
        record.journey.service = Some(frontend.port.key.clone());
        record.rule = rule;
        match backend {
            Ok(port) => {
                record.backend = record.rule.is_some().then(|| port.key.clone());
                self.forward(record, port).await
            }
            Err(reason) => {
                record.journey.fail(reason, format!("for {}", frontend.port.key.service));
                self.answer_failure(record, reason).await
            }
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
    async fn forward(&mut self, mut record: Recording<RequestRecord>, port: Arc<ServicePort>) -> Next {
        let repeatable = if self.request.is_repeatable() { Repeatable::Yes } else { Repeatable::No };
        let mut reuse = Reuse::Pooled(repeatable);
        loop {
            let mut chosen = match self.find_upstream(&port, reuse, &mut record).await {
                Ok(chosen) => chosen,
                Err(reason) => return self.answer_failure(record, reason).await,
            };
            let mut exchange = Exchange::new(&mut self.request, &mut self.answer);
            let outcome = Box::pin(exchange.run(
                (&mut self.stream, &mut self.buffer),
                (&mut chosen.dialled.transport, &mut chosen.buffer),
            ))
            .await;
            record.journey.bytes_sent = exchange.bytes_sent();
            record.journey.bytes_received = exchange.bytes_received();
            let answered = exchange.has_answered();
            match outcome {
                Ok(outcome) => return self.conclude(record, chosen, outcome),
                // The server closed a pooled connection just as it was taken. Nothing of an answer has come, and
                // sending this request again can do no harm.
                Err(ExchangeError::NoAnswer(_))
                    if chosen.origin == Origin::Pooled && repeatable == Repeatable::Yes && !answered =>
                {
                    reuse = Reuse::Never;
                }
                Err(error) => {
                    record.journey.fail(error.reason(), with_causes(&error));
                    // Whatever the endpoint has of the request, it must not take it for the whole.
                    chosen.dialled.transport.reset();
                    if answered || matches!(error, ExchangeError::Client(_)) {
                        record.finish();
                        return Next::Reset;
                    }
                    return self.answer_failure(record, error.reason()).await;
                }
            }
        }
    }

    async fn find_upstream(
        &mut self,
        port: &ServicePort,
        reuse: Reuse,
        record: &mut Recording<RequestRecord>,
    ) -> Result<Chosen, FailureReason> {
        if let Some(mut own) = self.own.take() {
            let endpoint =
                port.endpoints.endpoints.iter().find(|endpoint| endpoint.address == own.key.address);
            // The endpoint may have become another pod, or mTLS may be due by now.
            let still_his = |endpoint: &Endpoint| {
                let destination = Destination::from(endpoint);
                own.key == HopKey::new(&self.session.pod.pod.uid, own.key.source, &destination)
            };
            if let Some(endpoint) = endpoint.filter(|endpoint| still_his(endpoint))
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
        dial::choose(&self.session, &port.endpoints, reuse, &mut record.journey).await
    }

    fn conclude(
        &mut self,
        mut record: Recording<RequestRecord>,
        mut chosen: Chosen,
        outcome: Outcome,
    ) -> Next {
        record.status = StatusCode::from_u16(outcome.status).ok();
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

    /// Answers a head that was not taken.
    async fn refuse(&mut self, error: HeadError) -> Next {
        let mut record = self.record();
        record.journey.service = self.session.find_frontend().map(|frontend| frontend.port.key.clone());
        record.journey.fail(error.reason(), error.to_string());
        let _ = self.write_failure(&mut record, error.reason(), Persistence::Close).await;
        record.finish();
        Next::Close
    }

    async fn answer_failure(&mut self, mut record: Recording<RequestRecord>, reason: FailureReason) -> Next {
        // A body that nobody reads would be taken for the next request.
        let persistence = match self.request.body_length() {
            BodyLength::None => self.request.persistence(),
            _ => Persistence::Close,
        };
        let written = self.write_failure(&mut record, reason, persistence).await;
        record.finish();
        match (written, persistence) {
            (Ok(()), Persistence::KeepAlive) => Next::Request,
            (Ok(()), Persistence::Close) => Next::Close,
            (Err(_), _) => Next::Reset,
        }
    }

    async fn write_failure(
        &mut self,
        record: &mut Recording<RequestRecord>,
        reason: FailureReason,
        persistence: Persistence,
    ) -> io::Result<()> {
        let status = reason.status();
        record.status = Some(status);
        let text = format!("gammarus: {reason}\n");
        let connection = match (persistence, self.request.version()) {
            (Persistence::Close, _) => "connection: close\r\n",
            // A 1.0 client would wait for the connection's end (RFC 9112 section 9.3).
            (Persistence::KeepAlive, Version::Http10) => "connection: keep-alive\r\n",
            (Persistence::KeepAlive, Version::Http11) => "",
        };
        let body = if self.request.method() == "HEAD" { "" } else { &text };
        let message = format!(
            "HTTP/1.1 {} {}\r\n{REASON_HEADER}: {reason}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n{connection}\r\n{body}",
            status.as_u16(),
            status.canonical_reason().unwrap_or_default(),
            text.len(),
        );
        self.stream.write_all(message.as_bytes()).await
    }
}
