//! A way to the API server on which bytes are counted, as they are on the wire: TLS included.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// The way, until it is dropped.
pub(crate) struct Relay {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    has_ended: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
    connections: AtomicU64,
}

/// What passed, seen from the client.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Passed {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) connections: u64,
}

impl Passed {
    pub(crate) const fn since(self, before: Self) -> Self {
        Self {
            sent: self.sent - before.sent,
            received: self.received - before.received,
            connections: self.connections - before.connections,
        }
    }
}

impl Relay {
    /// Passes on what comes to a listener, which may be in another network, to `target`, an address of this one.
    pub(crate) fn start(listener: TcpListener, target: &str) -> Self {
        let address = listener.local_addr().unwrap();
        let state = Arc::<State>::default();
        let (target, counted) = (target.to_owned(), Arc::clone(&state));
        thread::spawn(move || {
            for client in listener.incoming() {
                if counted.has_ended.load(Ordering::SeqCst) {
                    return;
                }
                counted.connections.fetch_add(1, Ordering::Relaxed);
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(&target)) else { continue };
                let copies = [(&client, &server, true), (&server, &client, false)];
                for (from, to, is_sent) in copies {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let counted = Arc::clone(&counted);
                    thread::spawn(move || {
                        pass_on(from, to, if is_sent { &counted.sent } else { &counted.received });
                    });
                }
            }
        });
        Self { address, state }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn passed(&self) -> Passed {
        let State { sent, received, connections, .. } = &*self.state;
        Passed {
            sent: sent.load(Ordering::Relaxed),
            received: received.load(Ordering::Relaxed),
            connections: connections.load(Ordering::Relaxed),
        }
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, counter: &AtomicU64) {
    let _as_it_comes = to.set_nodelay(true);
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        counter.fetch_add(length as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _closed_before = to.shutdown(Shutdown::Both);
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The next one who comes is turned away, and with the listener all that follow.
        self.state.has_ended.store(true, Ordering::SeqCst);
    }
}
