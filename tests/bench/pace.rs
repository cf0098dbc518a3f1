//! A client in an open loop: it asks at fixed times, whether it has been answered or not.
//!
//! Run inside a pod as `mesh pace ...`. Connections take turns, so that requests are spread evenly. A request whose
//! connection still waits for an answer at its time is late, and its latency counts from that time; otherwise it
//! counts from when it was sent, as that the client woke late is nobody's fault.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::h2load::percentile;

/// What to ask, and how often.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PaceArgs {
    /// HOST:PORT.
    #[arg(long)]
    pub(crate) address: String,
    #[arg(long)]
    pub(crate) path: String,
    /// Requests per second, of all connections together.
    #[arg(long)]
    pub(crate) per_second: u32,
    #[arg(long)]
    pub(crate) connections: u32,
    #[arg(long)]
    pub(crate) seconds: u32,
}

/// What it prints, its latencies in microseconds.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
pub(crate) struct Said {
    pub(crate) answers: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
}

/// Asks until the time is over and prints one line of JSON.
///
/// # Errors
/// When a connection fails or an answer is not 200.
pub(crate) fn run(args: &PaceArgs) -> Result<(), String> {
    let begin = Instant::now() + Duration::from_millis(100);
    let turns: Vec<_> = (0..args.connections)
        .map(|turn| {
            let args = args.clone();
            thread::spawn(move || take_turns(&args, turn, begin))
        })
        .collect();
    let mut latencies = Vec::new();
    for turn in turns {
        latencies.extend(turn.join().map_err(|_| "a connection's thread has panicked")??);
    }
    latencies.sort_by(f64::total_cmp);
    let at = |share| percentile(&latencies, share);
    let said =
        json!({"answers": latencies.len(), "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999)});
    println!("{said}");
    Ok(())
}

/// The latencies of one connection's requests.
fn take_turns(args: &PaceArgs, turn: u32, begin: Instant) -> Result<Vec<f64>, String> {
    let mut connection = Asking::open(&args.address, &args.path)?;
    let interval = Duration::from_secs(1) / args.per_second;
    let mut latencies = Vec::new();
    for index in (turn..args.per_second * args.seconds).step_by(args.connections as usize) {
        let due = begin + interval * index;
        let now = Instant::now();
        let since = if now < due {
            thread::sleep(due - now);
            Instant::now()
        } else {
            due
        };
        connection.ask()?;
        latencies.push(since.elapsed().as_secs_f64() * 1e6);
    }
    Ok(latencies)
}

/// A connection that is asked the same again and again.
pub(crate) struct Asking {
    stream: TcpStream,
    request: String,
    buffer: Vec<u8>,
}

impl Asking {
    /// Connects.
    ///
    /// # Errors
    /// When that fails.
    pub(crate) fn open(address: &str, path: &str) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{address}: {error}");
        let place = address.to_socket_addrs().map_err(failed)?.find(std::net::SocketAddr::is_ipv4);
        let stream = TcpStream::connect(place.ok_or("no IPv4 address")?).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(failed)?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nversion: new\r\n\r\n");
        Ok(Self { stream, request, buffer: vec![0; 16 * 1024] })
    }

    /// One request, up to the last byte of its answer.
    ///
    /// # Errors
    /// When the answer is not a 200 with a length.
    pub(crate) fn ask(&mut self) -> Result<(), String> {
        self.stream.write_all(self.request.as_bytes()).map_err(|error| error.to_string())?;
        let (mut seen, mut whole) = (0, None);
        while whole.is_none_or(|whole| seen < whole) {
            match self.stream.read(&mut self.buffer[seen..]) {
                Ok(0) => return Err("an answer broke off".to_owned()),
                Ok(count) => seen += count,
                Err(error) => return Err(error.to_string()),
            }
            if whole.is_none() {
                whole = whole_length(&self.buffer[..seen])?;
            }
        }
        Ok(())
    }
}

/// How long an answer is, as soon as its head is there.
fn whole_length(start: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = start.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&start[..end]).to_ascii_lowercase();
    if !head.starts_with("http/1.1 200 ") {
        return Err(head);
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length = length.and_then(|length| length.trim().parse::<usize>().ok());
    length.map(|length| Some(end + 4 + length)).ok_or(head)
}
