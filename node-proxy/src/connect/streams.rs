//! Open HTTP/2 connections to endpoints, shared by all requests of the pod they belong to.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::hops::HopKey;
use super::{ConnectError, Destination, Dialled};
use crate::accept::{JoinedPod, Mesh};
use crate::http2::{CountedBody, LocalExecutor, MAX_HEAD};
use crate::telemetry::Hop;

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
    pub sender: SendRequest<CountedBody>,
    /// How the two pods are joined.
    pub hop: Hop,
    /// Held until the answer has ended.
    pub under_way: Rc<()>,
    usable_until: Instant,
}

impl Stream {
    fn is_usable(&self) -> bool {
        !self.sender.is_closed() && Instant::now() < self.usable_until
    }

    fn is_free(&self) -> bool {
        self.is_usable() && Rc::strong_count(&self.under_way) <= MAX_REQUESTS
    }
}

/// The connections to one endpoint.
#[derive(Debug, Default)]
struct Place {
    open: RefCell<Vec<Stream>>,
    /// Whoever dials holds it, and the others wait for that one dial.
    dialling: tokio::sync::Mutex<()>,
    /// How many dials have failed, and how the last one did.
    failures: RefCell<(u64, Option<ConnectError>)>,
}

impl Place {
    fn find_free(&self) -> Option<Stream> {
        self.open.borrow().iter().find(|stream| stream.is_free()).cloned()
    }

    fn failures(&self) -> u64 {
        self.failures.borrow().0
    }

    /// How the dial failed that this request has waited for, if it did.
    fn failure_since(&self, failures: u64) -> Option<ConnectError> {
        let (count, last) = &*self.failures.borrow();
        last.clone().filter(|_| *count > failures)
    }

    fn keep(&self, outcome: &Result<Stream, ConnectError>) {
        match outcome {
            Ok(stream) => self.open.borrow_mut().push(stream.clone()),
            Err(error) => {
                let (count, last) = &mut *self.failures.borrow_mut();
                *count += 1;
                *last = Some(error.clone());
            }
        }
    }
}

/// The HTTP/2 connections of one thread.
#[derive(Debug, Default)]
pub struct StreamPool {
    places: HashMap<HopKey, Rc<Place>>,
}

impl StreamPool {
    fn place(&mut self, key: &HopKey) -> Rc<Place> {
        if let Some(place) = self.places.get(key) {
            return Rc::clone(place);
        }
        let place = Rc::<Place>::default();
        self.places.insert(key.clone(), Rc::clone(&place));
        place
    }

    /// Closes connections that have ended or are too old; those with requests under way end after them.
    pub fn sweep(&mut self) {
        self.places.retain(|_, place| {
            let mut open = place.open.borrow_mut();
            open.retain(Stream::is_usable);
            !open.is_empty() || Rc::strong_count(place) > 1
        });
    }

    /// Closes every connection of a pod that has left.
    pub fn forget(&mut self, client: &str) {
        self.places.retain(|key, _| &*key.client != client);
    }
}

/// An open connection for `key` that takes one more request, dialled now if there is none. A request that has
/// waited for a dial in vain fails as that dial did: one by one, each would wait longer than the one before.
///
/// # Errors
/// When the endpoint cannot be reached.
pub async fn open(
    pool: &RefCell<StreamPool>,
    (mesh, pod): (&Mesh, &JoinedPod),
    key: &HopKey,
    destination: &Destination,
) -> Result<Stream, ConnectError> {
    let place = pool.borrow_mut().place(key);
    if let Some(open) = place.find_free() {
        return Ok(open);
    }
    let failures = place.failures();
    let _dialling = place.dialling.lock().await;
    if let Some(open) = place.find_free() {
        return Ok(open);
    }
    if let Some(error) = place.failure_since(failures) {
        return Err(error);
    }
    let outcome = match super::open(mesh, pod, key.source, destination).await {
        Ok(dialled) => handshake(dialled, pod, destination).await,
        Err(error) => Err(error),
    };
    place.keep(&outcome);
    outcome
}

async fn handshake(
    dialled: Dialled,
    pod: &JoinedPod,
    destination: &Destination,
) -> Result<Stream, ConnectError> {
    let Dialled { transport, hop, usable_until } = dialled;
    let (sender, connection) = hyper::client::conn::http2::Builder::new(LocalExecutor)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD)
        .handshake(TokioIo::new(transport))
        .await
        .map_err(|error| ConnectError::Dial {
            address: destination.address,
            source: Arc::new(std::io::Error::other(error)),
        })?;
    let gone = pod.gone();
    tokio::task::spawn_local(async move {
        tokio::select! {
            ended = connection => if let Err(error) = ended {
                tracing::debug!(%error, "an HTTP/2 hop has ended");
            },
            // Taking leave of a peer that does not listen would keep the pod's namespace alive.
            () = gone => {}
        }
    });
    Ok(Stream { sender, hop, under_way: Rc::default(), usable_until })
}
