//! What the installer tells a kubelet and a scraper: `/readyz`, `/livez` and `/metrics` over plain HTTP.
//!
//! A node is ready for the mesh while a runtime that starts a pod would call the plugin.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;

/// An installer that has not looked around for so long hangs.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long a caller may take for its request.
const PATIENCE: Duration = Duration::from_secs(1);
/// More than a kubelet's request.
const LARGEST_REQUEST: usize = 16 * 1024;
/// As many are answered at once; those beyond find the connection closed.
const MOST_CALLERS: usize = 32;

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
        let callers = Arc::new(AtomicUsize::new(0));
        let accept = move || listener.incoming().for_each(|stream| served.take(stream, &callers));
        thread::Builder::new().name("health".to_owned()).spawn(accept)?;
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

    /// Answers a caller on a thread of its own: one that is slow is nobody else's loss.
    fn take(&self, stream: io::Result<TcpStream>, callers: &Arc<AtomicUsize>) {
        let Ok(stream) = stream else {
            // Descriptors may have run out.
            return thread::sleep(Duration::from_millis(10));
        };
        if callers.load(Ordering::Relaxed) >= MOST_CALLERS {
            return;
        }
        callers.fetch_add(1, Ordering::Relaxed);
        let (health, left) = (self.clone(), Arc::clone(callers));
        let caller = thread::Builder::new().name("caller".to_owned()).spawn(move || {
            // One that breaks off is the caller's loss.
            let _ = health.answer(stream);
            left.fetch_sub(1, Ordering::Relaxed);
        });
        if caller.is_err() {
            callers.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn answer(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_write_timeout(Some(PATIENCE))?;
        let head = read_head(&mut stream)?;
        let (status, body) = self.respond(head.split(' ').nth(1).unwrap_or_default());
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

/// A request to the end of its head: an answer to what was not read would be reset.
fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let (start, mut head, mut part) = (Instant::now(), Vec::new(), [0; 1024]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let left = PATIENCE.saturating_sub(start.elapsed());
        if left.is_zero() || head.len() > LARGEST_REQUEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => head.extend_from_slice(&part[..count]),
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
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
