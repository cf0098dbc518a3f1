//! A way to the API server, or to a controller, that can be cut: connections through it are the real ones, byte for byte.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use crate::api_server::ApiServer;

/// The way, until it is dropped.
pub(crate) struct Relay {
    address: SocketAddr,
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    is_cut: AtomicBool,
    has_ended: AtomicBool,
    tries: AtomicUsize,
    answered: AtomicUsize,
    open: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// A way to `server`.
    pub(crate) fn to(server: &ApiServer) -> Self {
        Self::to_address(server.url().strip_prefix("https://").unwrap().to_owned())
    }

    /// A way to whoever listens there: a host and a port.
    pub(crate) fn to_address(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<State>::default();
        let accepting = thread::spawn({
            let state = Arc::clone(&state);
            move || state.accept(&listener, &target)
        });
        Self { address, state, accepting: Some(accepting) }
    }

    /// A kubeconfig by which everything goes this way.
    pub(crate) fn kubeconfig(&self, server: &ApiServer, folder: &Path) -> PathBuf {
        let straight = fs::read_to_string(server.kubeconfig()).unwrap();
        let relayed = straight.replace(server.url(), &format!("https://{}", self.address));
        assert_ne!(relayed, straight);
        let path = folder.join("relayed.kubeconfig");
        fs::write(&path, relayed).unwrap();
        path
    }

    /// Ends what is open; from now on whatever connects is closed at once.
    pub(crate) fn cut(&self) {
        self.state.is_cut.store(true, Ordering::SeqCst);
        for stream in self.state.open.lock().unwrap().drain(..) {
            let _closed_before = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets pass again.
    pub(crate) fn mend(&self) {
        self.state.is_cut.store(false, Ordering::SeqCst);
    }

    /// Where it begins.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many bytes have come back so far.
    pub(crate) fn answered(&self) -> usize {
        self.state.answered.load(Ordering::SeqCst)
    }

    /// How many connections there were so far, those that were closed at once included.
    pub(crate) fn tries(&self) -> usize {
        self.state.tries.load(Ordering::SeqCst)
    }
}

impl State {
    fn accept(self: &Arc<Self>, listener: &TcpListener, target: &str) {
        for client in listener.incoming() {
            if self.has_ended.load(Ordering::SeqCst) {
                return;
            }
            self.tries.fetch_add(1, Ordering::SeqCst);
            let mut open = self.open.lock().unwrap();
            let (Ok(client), false) = (client, self.is_cut.load(Ordering::SeqCst)) else { continue };
            // A server that is away closes, too.
            let Ok(server) = TcpStream::connect(target) else { continue };
            let counting = Some(Arc::clone(self));
            for (from, to, counting) in [(&client, &server, None), (&server, &client, counting)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                thread::spawn(move || pass_on(from, to, counting));
            }
            open.extend([client, server]);
        }
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, counting: Option<Arc<State>>) {
    let mut buffer = [0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer)
        && to.write_all(&buffer[..length]).is_ok()
    {
        if let Some(state) = &counting {
            state.answered.fetch_add(length, Ordering::SeqCst);
        }
    }
    let _closed_before = to.shutdown(Shutdown::Both);
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.has_ended.store(true, Ordering::SeqCst);
        self.cut();
        let _wakes_it = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _panicked_before = accepting.join();
        }
    }
}
