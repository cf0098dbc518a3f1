//! Who takes part: where its client asks, and whose CPU and memory count.

use std::time::Duration;

use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;
use node_proxy::demo::command::Process;

/// The version of HTTP between the two proxies of a pair.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HopVersion {
    Http1,
    Http2,
}

impl HopVersion {
    /// Its name in TLS (RFC 7301).
    pub(crate) const fn alpn(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
        }
    }
}

/// What a contender is asked to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// HTTP/1.1, routed by a header.
    Http1,
    /// HTTP/2 in plain text by prior knowledge, routed by a header.
    Http2,
    /// gRPC in plain text, routed by a header.
    Grpc,
    /// The HTTP/1.1 server behind a port on which nobody reads along.
    Opaque,
    /// The server of iperf3 behind such a port.
    Bulk,
}

/// One way from a client's pod to a server's.
#[derive(Debug)]
pub(crate) struct Contender {
    /// Its name in the table.
    pub(crate) name: &'static str,
    /// Its version, as it says itself.
    pub(crate) version: String,
    /// The pod whose client asks.
    pub(crate) client: &'static str,
    /// The pod that floods through the same proxies when it is asked to.
    pub(crate) flooder: &'static str,
    /// What it carries, and the HOST:PORT where its client asks for that.
    pub(crate) entries: Vec<(Entry, String)>,
    /// Both ends of the pair, the client's first. The limit has none.
    pub(crate) processes: Vec<u32>,
    /// Held as long as it takes part.
    pub(crate) _running: Vec<Process>,
}

impl Contender {
    /// The mesh's own name in the table.
    pub(crate) const OURS: &str = "gammarus";

    /// Where it takes one kind of work, if it does.
    pub(crate) fn address(&self, entry: Entry) -> Option<&str> {
        self.entries.iter().find(|(own, _)| *own == entry).map(|(_, address)| address.as_str())
    }

    /// CPU seconds of its processes so far, user and system, with those of threads that have ended.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.processes.iter().map(|process| cpu_seconds(*process)).sum()
    }

    /// Resident memory of each of its processes, in MiB.
    pub(crate) fn resident_mib(&self) -> Vec<f64> {
        self.processes.iter().map(|process| resident_mib(*process)).collect()
    }
}

/// The same time as in `/proc/PID/stat` in nanoseconds: at a thousand requests per second a tick of that is much.
/// A process that is gone has none.
fn cpu_seconds(process: u32) -> f64 {
    let clock: Result<ClockId, _> = clock_getcpuclockid(Pid::from_raw(process.cast_signed()));
    let now = clock.and_then(ClockId::now);
    now.map_or(f64::NAN, |now| Duration::from(now).as_secs_f64())
}

/// `VmRSS` of a process; one that is gone has none.
pub(crate) fn resident_mib(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<f64>().map_or(f64::NAN, |kib| kib / 1024.0)
}
