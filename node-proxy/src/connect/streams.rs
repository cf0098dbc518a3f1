//! Open HTTP/2 connections to endpoints, shared by all requests of the pod they belong to.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::hops::HopKey;
use super::{ConnectError, Destination, Dialled};
use crate::accept::{JoinedPod, Mesh};
use crate::http2::{CountedBody, LocalExecutor};
use crate::telemetry::Hop;

/// How many streams hyper may hold back for flow control, in bytes, each way.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// Of all streams of one connection together.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// An open HTTP/2 connection.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Takes requests.
    pub sender: SendRequest<CountedBody>,
    /// How the two pods are joined.
    pub hop: Hop,
    usable_until: Instant,
}

/// The place of one connection: whoever dials holds the lock, and the others wait for that one dial.
type Place = Rc<tokio::sync::Mutex<Option<Stream>>>;

/// The HTTP/2 connections of one thread.
#[derive(Debug, Default)]
pub struct StreamPool {
    places: HashMap<HopKey, Place>,
}

impl StreamPool {
    fn place(&mut self, key: &HopKey) -> Place {
        if let Some(place) = self.places.get(key) {
            return Rc::clone(place);
        }
        let place = Place::default();
        self.places.insert(key.clone(), Rc::clone(&place));
        place
    }

    /// Closes connections that have ended or are too old; those with requests under way end after them.
    pub fn sweep(&mut self) {
        let now = Instant::now();
        self.places.retain(|_, place| {
            let Ok(mut stream) = place.try_lock() else { return true };
            if stream.as_ref().is_some_and(|stream| stream.sender.is_closed() || stream.usable_until <= now) {
                *stream = None;
            }
            stream.is_some()
        });
    }

    /// Closes every connection of a pod that has left.
    pub fn forget(&mut self, client: &str) {
        self.places.retain(|key, _| &*key.client != client);
    }
}

/// The open connection for `key`, dialled now if there is none.
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
    let mut stream = place.lock().await;
    if let Some(open) = &*stream
        && !open.sender.is_closed()
        && Instant::now() < open.usable_until
    {
        return Ok(open.clone());
    }
    *stream = None;
    let dialled = super::open(mesh, pod, key.source, destination).await?;
    let opened = handshake(dialled, pod, destination).await?;
    *stream = Some(opened.clone());
    Ok(opened)
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
        .handshake(TokioIo::new(transport))
        .await
        .map_err(|error| ConnectError::Dial {
            address: destination.address,
            source: std::io::Error::other(error),
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
    Ok(Stream { sender, hop, usable_until })
}
