//! The one accept loop.

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpListener;

use super::{Incoming, JoinedPod, Seat, Worker};
use crate::error::FailureReason;
use crate::forward::{Reset as _, Socket};
use crate::pod::{Direction, PodListener};
use crate::telemetry::{ConnectionRecord, Journey, Peer};
use crate::turns::Until;

/// How long the loop rests when the process has no descriptor left, or after a panic.
const REST: Duration = Duration::from_millis(50);

/// Accepts a pod's connections on one listener, and deals them to the threads, until the pod has left or another
/// proxy accepts them.
pub async fn run(worker: Rc<Worker>, pod: Arc<JoinedPod>, listener: PodListener) {
    let superseded = worker.mesh.drain.begins_again();
    let direction = listener.direction;
    let socket = match TcpListener::from_std(listener.socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(pod = %pod.pod.pod, %error, "cannot watch a listening socket");
            return;
        }
    };
    let accepting = accept((&pod, direction), &socket, |accepted| deal(&worker, &pod, direction, accepted));
    pod.while_there(Until::new(accepting, superseded)).await;
}

/// Accepts on the socket until somebody closes it. A panic costs the connection that was being dealt and no other: the
/// socket is the pod's only way out or in.
pub(super) async fn accept(
    (pod, direction): (&JoinedPod, Direction),
    socket: &TcpListener,
    deal: impl Fn((Socket, SocketAddr)),
) {
    let accepting = async || {
        loop {
            match socket.accept().await {
                Ok((stream, client)) => deal((stream.into(), client)),
                Err(error) if is_of_the_connection(&error) => {}
                // Somebody has closed it (`ss --kill`): it is missed and replaced.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    // A Gateway's own goes with its listener.
                    if direction != Direction::Ingress {
                        tracing::warn!(pod = %pod.pod.pod, ?direction, "a listening socket was closed");
                    }
                    return;
                }
                Err(error) => {
                    tracing::warn!(pod = %pod.pod.pod, %error, "cannot accept");
                    tokio::time::sleep(REST).await;
                }
            }
        }
    };
    while ends_in_a_panic(pin!(accepting())).await {
        tracing::error!(pod = %pod.pod.pod, ?direction, "a panic while a connection was dealt: accepting goes on");
        tokio::time::sleep(REST).await;
    }
}

/// Runs a task to its end, and says whether that was a panic. The process's hook has told and counted it.
pub(crate) async fn ends_in_a_panic(mut task: Pin<&mut impl Future<Output = ()>>) -> bool {
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(cx))) {
        Ok(polled) => polled.map(|()| false),
        Err(_) => Poll::Ready(true),
    })
    .await
}

/// Whether only the connection that was to be accepted is at fault.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

fn deal(
    worker: &Rc<Worker>,
    pod: &Arc<JoinedPod>,
    direction: Direction,
    (stream, client): (Socket, SocketAddr),
) {
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    if pod.pod.proofs.claim(direction, client) {
        return;
    }
    match Seat::take(pod, &worker.mesh.limits) {
        Ok(seat) => worker.deal(Incoming { stream, client, pod: Arc::clone(pod), direction, seat }),
        Err(why) => refuse((worker, pod), direction, (stream, client), why),
    }
}

fn refuse(
    (worker, pod): (&Worker, &JoinedPod),
    direction: Direction,
    (stream, client): (Socket, SocketAddr),
    (reason, error): (FailureReason, &str),
) {
    let own = pod.as_peer(client);
    let (source, destination) = match direction {
        Direction::Inbound | Direction::Ingress => {
            (Peer { address: Some(client), ..Peer::default() }, Peer { address: None, ..own })
        }
        Direction::Outbound => (own, Peer::default()),
    };
    let mut journey = Journey::new(direction, source, destination);
    journey.fail(reason, error);
    worker.mesh.telemetry.connection(ConnectionRecord::new(journey)).finish();
    stream.reset();
}
