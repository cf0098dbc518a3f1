//! One request and its answer, both ways at once: an answer may begin before the request has ended.

use std::fmt::Debug;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use thiserror::Error;
use tokio::io::AsyncWrite;
use tokio::time::{Sleep, sleep};

use crate::error::FailureReason;
use crate::forward::Source;
use crate::hop;
use crate::http1::framing::BodyLength;
use crate::http1::head::{Persistence, RequestHead1, ResponseHead1, Version};
use crate::http1::relay::{Relay, RelayError};
use crate::http1::{HeadError, Parsed, ReadBuffer};
use crate::route::{FieldEdit, Filters, RequestHead};

/// How long a client that has ended its half waits for an answer to begin. By then, the kernel has forgotten
/// one that has in truth left (`tcp_fin_timeout`), and nothing else would tell the two apart.
const HALF_CLOSED_PATIENCE: Duration = Duration::from_secs(60);

/// Why an exchange ended early.
#[derive(Debug, Error)]
pub enum ExchangeError {
    /// The client's connection failed.
    #[error("client connection failed")]
    Client(#[source] io::Error),
    /// The client's body is malformed.
    #[error("request body is malformed")]
    ClientBody(#[source] RelayError),
    /// The upstream connection ended or failed before the first byte of an answer.
    #[error("upstream connection ended before an answer")]
    NoAnswer(#[source] io::Error),
    /// The upstream connection failed in the middle of an answer.
    #[error("upstream connection failed inside an answer")]
    Upstream(#[source] RelayError),
    /// The answer's head is not to be understood.
    #[error("upstream answer")]
    Answer(#[source] HeadError),
    /// An answer that another try may do better than: nothing of it was passed on.
    #[error("upstream answered {0}")]
    HeldBack(u16),
    /// An answer that takes the connection over without having been asked to.
    #[error("upstream switched protocols without being asked")]
    SwitchedProtocols,
}

impl ExchangeError {
    /// The reason to give.
    #[must_use]
    pub fn reason(&self) -> FailureReason {
        match self {
            Self::Client(_) => FailureReason::ClientClosed,
            Self::ClientBody(_) => FailureReason::MalformedRequest,
            Self::NoAnswer(error) | Self::Upstream(RelayError::Source(error))
                if error.kind() == hop::EXPIRED =>
            {
                FailureReason::CertificateExpired
            }
            Self::NoAnswer(error) | Self::Upstream(RelayError::Source(error))
                if error.kind() == hop::SHED =>
            {
                FailureReason::BufferLimit
            }
            Self::HeldBack(_) | Self::NoAnswer(_) | Self::Upstream(_) => FailureReason::UpstreamReset,
            Self::Answer(_) | Self::SwitchedProtocols => FailureReason::MalformedResponse,
        }
    }
}

/// What an exchange came to.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// The status of the answer.
    pub status: u16,
    /// Whether both connections go on with another protocol: what comes on one belongs to the other.
    pub is_upgrade: bool,
    /// Whether the client's connection takes another request.
    pub client: Persistence,
    /// Whether the upstream connection takes another request.
    pub upstream: Persistence,
    /// For how many seconds the server says it keeps an idle connection.
    pub keep_alive_seconds: Option<u64>,
    /// Whether the answer bound the upstream connection to this client by its authentication scheme.
    pub binds_connection: bool,
}

/// Whoever may take an answer back before anything of it was passed on, as another try may do better.
pub trait Judge: Debug {
    /// Whether an answer of this status is taken back. Asked once, about the final one, and only if the request can be
    /// sent again.
    fn holds_back(&mut self, status: u16) -> bool;
}

/// A request's message to an upstream connection.
#[must_use]
pub fn message(request: &mut RequestHead1, filters: Option<&Filters>) -> Relay {
    let mut head = Vec::with_capacity(1024);
    request.write(filters, &mut head);
    Relay::new(head, request.body_length())
}

/// One request on its way to an upstream connection, and the answer on its way back.
#[derive(Debug)]
pub struct Exchange<'a> {
    method: String,
    client_version: Version,
    client_persistence: Persistence,
    request: &'a mut Relay,
    request_state: RequestState,
    answer_head: &'a mut ResponseHead1,
    judge: Option<&'a mut (dyn Judge + 'a)>,
    /// What becomes of the answer's fields, if anything does.
    answer_edit: Option<FieldEdit>,
    /// Whether the request offers another protocol.
    offers_upgrade: bool,
    answer: Option<Relay>,
    /// Interim answers on their way to the client.
    interim: Option<Relay>,
    outcome: Option<Outcome>,
    /// Runs once the client has ended its half.
    patience: Option<Pin<Box<Sleep>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestState {
    UnderWay,
    Sent,
    /// The client has ended its half after the request, and so the upstream's half is ended.
    HalfClosing,
    HalfClosed,
    /// The upstream stopped reading; an answer may still come.
    Stopped,
}

impl<'a> Exchange<'a> {
    /// Prepares the exchange of `request`, whose [`message`] is sent from its beginning. `answer_head` is only room that
    /// is used again.
    #[must_use]
    pub fn new(
        (request, message): (&RequestHead1, &'a mut Relay),
        answer_head: &'a mut ResponseHead1,
        filters: Option<&Filters>,
    ) -> Self {
        message.begin_again();
        Self {
            method: request.method().to_owned(),
            client_version: request.version(),
            client_persistence: request.persistence(),
            request: message,
            request_state: RequestState::UnderWay,
            answer_head,
            judge: None,
            offers_upgrade: request.offers_upgrade(),
            answer_edit: filters.map(|filters| filters.answer_edit(request)),
            answer: None,
            interim: None,
            outcome: None,
            patience: None,
        }
    }

    /// The same exchange, which ends with [`ExchangeError::HeldBack`] at an answer that is taken back.
    #[must_use]
    pub fn judged_by(mut self, judge: &'a mut (dyn Judge + 'a)) -> Self {
        self.judge = Some(judge);
        self
    }

    /// The same exchange, whose answer has this field, too.
    #[must_use]
    pub fn saying(mut self, field: Option<(Box<str>, Box<str>)>) -> Self {
        if let Some((name, value)) = &field {
            let edit = FieldEdit::new(&[], &[(name, value)], &[]);
            self.answer_edit =
                Some(self.answer_edit.map_or_else(|| edit.clone(), |before| before.then(&edit)));
        }
        self
    }

    /// Bytes of the request's body that were passed on.
    #[must_use]
    pub const fn bytes_sent(&self) -> u64 {
        self.request.bytes()
    }

    /// Bytes of the answer's body that were passed on.
    #[must_use]
    pub fn bytes_received(&self) -> u64 {
        self.answer.as_ref().map_or(0, Relay::bytes)
    }

    /// The status of the final answer, once its head is there.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.outcome.map(|outcome| outcome.status)
    }

    /// Whether the client has been sent a part of the final answer.
    #[must_use]
    pub const fn has_answered(&self) -> bool {
        self.answer.is_some() || self.interim.is_some()
    }

    /// Runs the exchange to its end.
    ///
    /// # Errors
    /// When it cannot be completed; [`Self::has_answered`] says whether the client may still be told so.
    pub async fn run<C, U>(
        &mut self,
        client: (&mut C, &mut ReadBuffer),
        upstream: (&mut U, &mut ReadBuffer),
    ) -> Result<Outcome, ExchangeError>
    where
        C: Source + AsyncWrite,
        U: Source + AsyncWrite,
    {
        let (client, client_buffer) = client;
        let (upstream, upstream_buffer) = upstream;
        std::future::poll_fn(|cx| {
            self.poll(cx, (&mut *client, &mut *client_buffer), (&mut *upstream, &mut *upstream_buffer))
        })
        .await
    }

    fn poll<C, U>(
        &mut self,
        cx: &mut Context<'_>,
        client: (&mut C, &mut ReadBuffer),
        upstream: (&mut U, &mut ReadBuffer),
    ) -> Poll<Result<Outcome, ExchangeError>>
    where
        C: Source + AsyncWrite,
        U: Source + AsyncWrite,
    {
        let (client, client_buffer) = client;
        let (upstream, upstream_buffer) = upstream;
        self.poll_request(cx, (client, client_buffer), upstream)?;
        self.poll_client(cx, (client, client_buffer), upstream)?;
        if self.answer.is_none() {
            ready!(self.poll_answer_head(cx, (upstream, upstream_buffer), client))?;
        }
        let (Some(answer), Some(outcome)) = (&mut self.answer, self.outcome) else { return Poll::Pending };
        ready!(answer.poll(cx, (upstream, upstream_buffer), client)).map_err(|error| match error {
            RelayError::Sink(error) => ExchangeError::Client(error),
            error => ExchangeError::Upstream(error),
        })?;
        Poll::Ready(Ok(self.settle(outcome)))
    }

    fn poll_request<C, U>(
        &mut self,
        cx: &mut Context<'_>,
        client: (&mut C, &mut ReadBuffer),
        upstream: &mut U,
    ) -> Result<(), ExchangeError>
    where
        C: Source,
        U: AsyncWrite + Unpin,
    {
        if self.request_state != RequestState::UnderWay {
            return Ok(());
        }
        match self.request.poll(cx, client, upstream) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(())) => {
                self.request_state = RequestState::Sent;
                Ok(())
            }
            Poll::Ready(Err(RelayError::Sink(_))) => {
                self.request_state = RequestState::Stopped;
                Ok(())
            }
            Poll::Ready(Err(RelayError::Source(error))) => Err(ExchangeError::Client(error)),
            Poll::Ready(Err(error @ RelayError::Body(_))) => Err(ExchangeError::ClientBody(error)),
        }
    }

    /// Listens to a client whose request has been sent: one that has left must not keep a server at work. One
    /// that has ended its half may be there still: the server is told, and decides, as without a proxy.
    fn poll_client<C, U>(
        &mut self,
        cx: &mut Context<'_>,
        (client, buffer): (&mut C, &mut ReadBuffer),
        upstream: &mut U,
    ) -> Result<(), ExchangeError>
    where
        C: Source,
        U: AsyncWrite + Unpin,
    {
        // Unread bytes are the next request: it waits, and keeps what comes after it from being seen.
        if self.request_state == RequestState::Sent && buffer.unread().is_empty() {
            match buffer.poll_fill(cx, client) {
                Poll::Ready(Ok(0)) => {
                    self.request_state = RequestState::HalfClosing;
                    self.patience = Some(Box::pin(sleep(HALF_CLOSED_PATIENCE)));
                }
                Poll::Ready(Err(error)) => return Err(ExchangeError::Client(error)),
                Poll::Ready(Ok(_)) | Poll::Pending => {}
            }
        }
        if self.request_state == RequestState::HalfClosing {
            // Should that fail, the connection's reading end tells.
            if Pin::new(upstream).poll_shutdown(cx).is_ready() {
                self.request_state = RequestState::HalfClosed;
            }
        }
        if let Some(patience) = &mut self.patience
            && self.answer.is_none()
            && patience.as_mut().poll(cx).is_ready()
        {
            return Err(ExchangeError::Client(io::ErrorKind::TimedOut.into()));
        }
        Ok(())
    }

    /// Reads heads until the final one, passing interim ones on.
    fn poll_answer_head<C, U>(
        &mut self,
        cx: &mut Context<'_>,
        (upstream, buffer): (&mut U, &mut ReadBuffer),
        client: &mut C,
    ) -> Poll<Result<(), ExchangeError>>
    where
        C: Source + AsyncWrite,
        U: Source,
    {
        loop {
            if let Some(interim) = &mut self.interim {
                let mut nothing = ReadBuffer::default();
                ready!(interim.poll(cx, (&mut tokio::io::empty(), &mut nothing), client))
                    .map_err(|error| ExchangeError::Client(io::Error::other(error)))?;
                self.interim = None;
            }
            let parsed = if buffer.unread().is_empty() {
                Parsed::Partial
            } else {
                self.answer_head.parse(buffer.unread()).map_err(ExchangeError::Answer)?
            };
            if let Parsed::Complete(length) = parsed {
                buffer.consume(length);
                if self.take_answer_head()? {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let nothing_came = buffer.unread().is_empty();
            match ready!(buffer.poll_fill(cx, upstream)) {
                Ok(0) => {
                    let error = io::Error::from(io::ErrorKind::UnexpectedEof);
                    return Poll::Ready(Err(Self::broken_head(nothing_came, error)));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(Self::broken_head(nothing_came, error))),
            }
        }
    }

    const fn broken_head(nothing_came: bool, error: io::Error) -> ExchangeError {
        if nothing_came {
            ExchangeError::NoAnswer(error)
        } else {
            ExchangeError::Upstream(RelayError::Source(error))
        }
    }

    /// Takes over a parsed head. True when it was the final one.
    fn take_answer_head(&mut self) -> Result<bool, ExchangeError> {
        let head = &mut *self.answer_head;
        let is_upgrade = head.status() == 101;
        // One that nobody asked for, or that comes while the request is under way, would make of the rest of the
        // request what nobody has looked at.
        let is_due = self.offers_upgrade && head.is_upgrade() && self.request_state == RequestState::Sent;
        if is_upgrade && !is_due {
            return Err(ExchangeError::SwitchedProtocols);
        }
        let mut text = Vec::with_capacity(512);
        if head.is_interim() && !is_upgrade {
            // An HTTP/1.0 client does not know interim answers (RFC 9110 section 15.2).
            if self.client_version == Version::Http11 {
                head.write((self.client_version, Persistence::KeepAlive), None, &mut text);
                self.interim = Some(Relay::new(text, BodyLength::None));
            }
            return Ok(false);
        }
        if self.request.is_whole() && self.judge.as_mut().is_some_and(|judge| judge.holds_back(head.status()))
        {
            return Err(ExchangeError::HeldBack(head.status()));
        }
        self.request.let_go();
        let body = head.body_length(&self.method);
        let client = match body {
            BodyLength::UntilClose => Persistence::Close,
            _ if self.request_state != RequestState::Sent => Persistence::Close,
            _ => self.client_persistence,
        };
        let outcome = Outcome {
            is_upgrade,
            status: head.status(),
            client,
            upstream: if body == BodyLength::UntilClose { Persistence::Close } else { head.persistence() },
            keep_alive_seconds: head.keep_alive_seconds(),
            binds_connection: head.binds_connection(),
        };
        head.write((self.client_version, client), self.answer_edit.as_ref(), &mut text);
        self.answer = Some(Relay::new(text, body));
        self.outcome = Some(outcome);
        Ok(true)
    }

    fn settle(&self, outcome: Outcome) -> Outcome {
        // A request that was not read to its end leaves bytes behind that are no request.
        let upstream =
            if self.request_state == RequestState::Sent { outcome.upstream } else { Persistence::Close };
        Outcome { upstream, ..outcome }
    }
}

#[cfg(test)]
mod tests;
