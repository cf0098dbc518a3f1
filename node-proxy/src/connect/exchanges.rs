//! HTTP/1.1 connections to endpoints for requests that have come by HTTP/2: each carries one exchange at a time.
//!
//! Requests that have come by HTTP/1.1 have their own way, without a translation ([`super::idle`]).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::idle::FRESH;
use super::shared::{self, Shareable, Tenure};
use super::{ConnectError, Destination, Dialled, HopKey};
use crate::accept::{JoinedPod, Worker};
use crate::http1::FIELD_LIMIT;
use crate::http2::{MAX_HEAD, RequestBody};
use crate::telemetry::Hop;
use crate::turns;

/// An HTTP/1.1 connection. Whoever has a clone of the pool's has it alone.
#[derive(Clone, Debug)]
pub struct ExchangeConnection {
    /// Takes a request.
    pub sender: Rc<RefCell<SendRequest<RequestBody>>>,
    /// How the two pods are joined.
    pub hop: Hop,
    /// Held until the answer has ended.
    pub under_way: Rc<()>,
    /// When its last request began; none has yet.
    used: Rc<Cell<Option<Instant>>>,
    tenure: Tenure,
}

impl Shareable for ExchangeConnection {
    fn is_usable(&self) -> bool {
        !self.sender.borrow().is_closed() && self.tenure.lasts()
    }

    fn has_room(&self) -> bool {
        // The pool's own is one of them.
        Rc::strong_count(&self.under_way) == 1 && self.sender.borrow().is_ready() && self.is_usable()
    }

    /// hyper ends a connection that nobody can send on any more.
    fn retire(&self) {}

    /// Its task ends with the pod.
    fn reset(&self) {}
}

impl ExchangeConnection {
    /// Notes that a request begins on it; whether one had before.
    #[must_use]
    pub fn begins(&self) -> bool {
        self.used.replace(Some(Instant::now())).is_some()
    }

    fn is_fresh(&self) -> bool {
        self.used.get().is_none_or(|at| at.elapsed() < FRESH)
    }
}

/// A connection for `key` that nothing is under way on, dialled now if there is none. `may_repeat`: the request may be sent
/// again, should the connection turn out to be dead.
///
/// # Errors
/// When the endpoint cannot be reached.
pub async fn open(
    worker: &Rc<Worker>,
    pod: &Arc<JoinedPod>,
    (key, destination): (&HopKey, &Destination),
    may_repeat: bool,
) -> Result<ExchangeConnection, ConnectError> {
    let suits = |connection: &ExchangeConnection| may_repeat || connection.is_fresh();
    let dial = async || {
        let dialled = super::open(worker, pod, key, destination).await?;
        begin(dialled, pod, destination).await
    };
    shared::open(&worker.exchanges, (key, destination), suits, dial).await
}

async fn begin(
    dialled: Dialled,
    pod: &JoinedPod,
    destination: &Destination,
) -> Result<ExchangeConnection, ConnectError> {
    let tenure = Tenure::of(&dialled);
    let Dialled { transport, hop, .. } = dialled;
    let (sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_headers(FIELD_LIMIT)
        .max_buf_size(MAX_HEAD as usize)
        .handshake(TokioIo::new(transport))
        .await
        .map_err(|error| ConnectError::of_preface(destination.address, error))?;
    turns::spawn(pod.while_there(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an HTTP/1.1 connection has ended");
        }
    }));
    let sender = Rc::new(RefCell::new(sender));
    Ok(ExchangeConnection { sender, hop, under_way: Rc::default(), used: Rc::default(), tenure })
}
