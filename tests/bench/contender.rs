//! Who takes part: where its client asks, and whose CPU counts.

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

/// One way from a client's pod to a server's.
#[derive(Debug)]
pub(crate) struct Contender {
    /// Its name in the table.
    pub(crate) name: &'static str,
    /// Its version, as it says itself.
    pub(crate) version: String,
    /// The pod whose client asks.
    pub(crate) client: &'static str,
    /// Where it asks, without a path.
    pub(crate) origin: String,
    /// The processes whose CPU counts: both ends of the pair.
    pub(crate) processes: Vec<u32>,
    /// Held as long as it takes part.
    pub(crate) _running: Vec<Process>,
}

impl Contender {
    /// CPU seconds of its processes so far, user and system.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.processes.iter().map(|process| cpu_seconds(*process)).sum()
    }

    /// Resident memory of its processes, in MiB.
    pub(crate) fn resident_mib(&self) -> f64 {
        // The sum of no floats is -0.0, which a table would show.
        self.processes.iter().map(|process| resident_kib(*process) / 1024.0).sum::<f64>() + 0.0
    }
}

/// proc_pid_stat(5): fields 14 and 15, in clock ticks; the second field is in brackets and may hold anything.
fn cpu_seconds(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: f64 = [11, 12].iter().map(|index| fields[*index].parse::<f64>().unwrap()).sum();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).unwrap().unwrap();
    ticks / f64::from(i32::try_from(per_second).unwrap())
}

fn resident_kib(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
