//! What the installer tells a kubelet and a scraper: `/readyz`, `/livez` and `/metrics` over plain HTTP.
//!
//! A node is ready for the mesh while a runtime that starts a pod would call the plugin.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;

/// An installer that has not looked around for so long hangs.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long a caller may take; there is one at a time.
const PATIENCE: Duration = Duration::from_secs(1);
/// More than a kubelet's request.
const LARGEST_REQUEST: u64 = 16 * 1024;

/// What was put back, each with its count in the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repair {
    /// The entry in the network's configuration.
    Entry,
    /// The plugin's file.
    Plugin,
}

#[derive(Debug)]
struct State {
    ready: bool,
    why: String,
    looked: Instant,
    repairs: [u64; 2],
}

/// Told by the installer, asked by whoever calls.
#[derive(Debug, Clone)]
pub(super) struct Health(Arc<Mutex<State>>);

impl Health {
    /// Listens, and answers on a thread of its own; says where.
    pub(super) fn serve(address: SocketAddr) -> io::Result<(Self, SocketAddr)> {
        let listener = listen(address)?;
        let address = listener.local_addr()?;
        let state =
            State { ready: false, why: "starting".to_owned(), looked: Instant::now(), repairs: [0; 2] };
        let health = Self(Arc::new(Mutex::new(state)));
        let served = health.clone();
        thread::Builder::new().name("health".to_owned()).spawn(move || {
            for stream in listener.incoming() {
                // One that breaks off is the caller's loss; the pause is for descriptors that have run out.
                if stream.and_then(|stream| served.answer(&stream)).is_err() {
                    thread::sleep(Duration::from_millis(10));
                }
            }
        })?;
        Ok((health, address))
    }

    /// The installer has looked around.
    pub(super) fn tell(&self, ready: bool, why: &str) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.ready = ready;
        state.why.clear();
        state.why.push_str(why);
        state.looked = Instant::now();
    }

    /// Something was put back.
    pub(super) fn count(&self, repair: Repair) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).repairs[repair as usize] += 1;
    }

    fn answer(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut request = BufReader::new(stream.take(LARGEST_REQUEST));
        let (mut first, mut line) = (String::new(), String::new());
        request.read_line(&mut first)?;
        // To the end of the head: an answer to what was not read would be reset.
        while request.read_line(&mut line)? > 2 {
            line.clear();
        }
        let (status, body) = self.respond(first.split(' ').nth(1).unwrap_or_default());
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes())
    }

    fn respond(&self, path: &str) -> (&'static str, String) {
        const GOOD: &str = "200 OK";
        const BAD: &str = "503 Service Unavailable";
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hangs = state.looked.elapsed() > LONGEST_PAUSE;
        match path {
            "/readyz" => (if state.ready && !hangs { GOOD } else { BAD }, format!("{}\n", state.why)),
            "/livez" if hangs => (BAD, "the installer hangs\n".to_owned()),
            "/livez" => (GOOD, "ok\n".to_owned()),
            "/metrics" => (GOOD, metrics(&state)),
            _ => ("404 Not Found", "there are /readyz, /livez and /metrics\n".to_owned()),
        }
    }
}

fn metrics(state: &State) -> String {
    let mut text = format!(
        "# HELP gammarus_cni_ready Whether the runtime of this node would call the plugin.\n\
         # TYPE gammarus_cni_ready gauge\ngammarus_cni_ready {}\n\
         # HELP gammarus_cni_repairs_total What was put back after somebody else had taken it away.\n\
         # TYPE gammarus_cni_repairs_total counter\n",
        u8::from(state.ready)
    );
    for (what, count) in ["entry", "plugin"].iter().zip(state.repairs) {
        // A String takes all that is written.
        let _ = writeln!(text, "gammarus_cni_repairs_total{{what=\"{what}\"}} {count}");
    }
    text
}

/// Both families on `[::]`; IPv4 alone where the kernel has no IPv6.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address) {
        Err(error)
            if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32)
                && address.ip() == Ipv6Addr::UNSPECIFIED =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
        }
        other => other,
    }
}
