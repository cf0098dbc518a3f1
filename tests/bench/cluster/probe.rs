//! A client in a pod that asks again and again, on one connection, and says when an answer is another one.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use node_proxy::pod::netns::NetnsFd;

/// The field of an answer that says which one it is.
pub(crate) const FIELD: &str = "x-edit";
/// Between two requests: half of it is how late a change is seen in the middle.
const PACE: Duration = Duration::from_micros(500);

/// The client, until it is dropped.
pub(crate) struct Probe {
    /// What was in the field, since when.
    pub(crate) seen: Receiver<(Instant, String)>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    has_ended: AtomicBool,
    answers: AtomicU64,
    not_good: AtomicU64,
}

impl Probe {
    /// Asks `address` from within a pod.
    pub(crate) fn start(netns: &Path, address: &str) -> Self {
        let (tell, seen) = channel();
        let counts = Arc::<Counts>::default();
        let (netns, address, counted) = (netns.to_owned(), address.to_owned(), Arc::clone(&counts));
        thread::spawn(move || {
            let connect = || NetnsFd::open(&netns).unwrap().run(|| TcpStream::connect(&address)).unwrap();
            let mut stream = BufReader::new(connect());
            let mut last = None;
            while !counted.has_ended.load(Ordering::SeqCst) {
                let Some((is_good, value)) = ask(&mut stream) else {
                    counted.not_good.fetch_add(1, Ordering::Relaxed);
                    stream = BufReader::new(connect());
                    continue;
                };
                counted.answers.fetch_add(1, Ordering::Relaxed);
                counted.not_good.fetch_add(u64::from(!is_good), Ordering::Relaxed);
                if value.is_some() && value != last {
                    let _nobody_listens = tell.send((Instant::now(), value.clone().unwrap_or_default()));
                    last = value;
                }
                thread::sleep(PACE);
            }
        });
        Self { seen, counts }
    }

    /// Ends it.
    pub(crate) fn stop(&self) {
        self.counts.has_ended.store(true, Ordering::SeqCst);
    }

    /// How many answers there were, and how many requests had none that was good.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.counts.answers.load(Ordering::Relaxed), self.counts.not_good.load(Ordering::Relaxed))
    }
}

/// Whether the answer is 200, and the field. `None` if the connection ends.
fn ask(stream: &mut BufReader<TcpStream>) -> Option<(bool, Option<String>)> {
    stream.get_mut().write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").ok()?;
    let mut line = || {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|length| *length > 0)?;
        Some(line.trim_end().to_ascii_lowercase())
    };
    let is_good = line()?.starts_with("http/1.1 200 ");
    let (mut length, mut value) = (0, None);
    loop {
        let field = line()?;
        let Some((name, text)) = field.split_once(": ") else { break };
        match name {
            "content-length" => length = text.parse().ok()?,
            FIELD => value = Some(text.to_owned()),
            _ => {}
        }
    }
    std::io::Read::read_exact(stream, &mut vec![0; length]).ok()?;
    Some((is_good, value))
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop();
    }
}
