//! Open HTTP/2 connections to endpoints, shared by all requests of the pod they belong to.

use std::rc::Rc;
use std::sync::Arc;

use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::TokioIo;

use super::shared::{self, Shareable, Tenure};
use super::{ConnectError, Destination, Dialled, HopKey};
use crate::accept::{JoinedPod, Worker};
use crate::http2::{LocalExecutor, MAX_HEAD, RequestBody};
use crate::telemetry::Hop;
use crate::turns;

/// How many streams hyper may hold back for flow control, in bytes, each way.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// Of all streams of one connection together.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Requests under way on one connection. Servers may allow no more (RFC 9113 section 5.1.2 recommends at least
/// as many), and a request beyond their limit would wait unseen for another one's end.
const MAX_REQUESTS: usize = 100;

/// An open HTTP/2 connection. Each clone is a request under way.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Takes requests.
    pub sender: SendRequest<RequestBody>,
    /// How the two pods are joined.
    pub hop: Hop,
    /// Held until the answer has ended.
    pub under_way: Rc<()>,
    tenure: Tenure,
}

impl Shareable for Stream {
    fn is_usable(&self) -> bool {
        !self.sender.is_closed() && self.tenure.lasts()
    }

    fn has_room(&self) -> bool {
        self.is_usable() && Rc::strong_count(&self.under_way) <= MAX_REQUESTS
    }

    /// hyper ends a connection that nobody can send on any more.
    fn retire(&self) {}

    /// Its task ends with the pod.
    fn reset(&self) {}
}

/// An open connection for `key` that takes one more request, dialled now if there is none.
///
/// # Errors
/// When the endpoint cannot be reached.
pub async fn open(
    worker: &Rc<Worker>,
    pod: &Arc<JoinedPod>,
    key: &HopKey,
    destination: &Destination,
) -> Result<Stream, ConnectError> {
    let dial = async || {
        let dialled = super::open(worker, pod, key, destination).await?;
        handshake(dialled, pod, destination).await
    };
    shared::open(&worker.streams, (key, destination), |_| true, dial).await
}

async fn handshake(
    dialled: Dialled,
    pod: &JoinedPod,
    destination: &Destination,
) -> Result<Stream, ConnectError> {
    let tenure = Tenure::of(&dialled);
    let Dialled { transport, hop, .. } = dialled;
    let (sender, connection) = hyper::client::conn::http2::Builder::new(LocalExecutor)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD)
        .handshake(TokioIo::new(transport))
        .await
        .map_err(|error| ConnectError::of_preface(destination.address, error))?;
    turns::spawn(pod.while_there(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an HTTP/2 hop has ended");
        }
    }));
    Ok(Stream { sender, hop, under_way: Rc::default(), tenure })
}
