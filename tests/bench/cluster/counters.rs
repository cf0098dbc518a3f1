//! What the API server says that it has done, and what a process has used.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;

use crate::api::Api;

/// Counters of the API server at one moment.
pub(crate) struct Counters {
    /// By name and labels, as the server writes them.
    values: BTreeMap<String, f64>,
}

impl Counters {
    pub(crate) fn read(api: &Api) -> Self {
        let text = api.text("/metrics");
        let wanted = ["apiserver_watch_events_", "apiserver_request_total", "apiserver_longrunning_requests"];
        let lines = text.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name)));
        let values = lines.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self { values: values.collect() }
    }

    /// The sum of a counter over all labels that have each of `parts` in them, since an earlier moment.
    pub(crate) fn since(&self, before: &Self, name: &str, parts: &[&str]) -> f64 {
        self.sum(name, parts) - before.sum(name, parts)
    }

    pub(crate) fn sum(&self, name: &str, parts: &[&str]) -> f64 {
        let is_it = |key: &&String| {
            key.split('{').next() == Some(name) && parts.iter().all(|part| key.contains(part))
        };
        self.values.keys().filter(is_it).map(|key| self.values[key]).sum()
    }
}

/// CPU time of a process.
pub(crate) fn cpu(process: u32) -> Duration {
    let clock: ClockId = clock_getcpuclockid(Pid::from_raw(process.cast_signed())).unwrap();
    clock.now().unwrap().into()
}

/// What a process has in memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) resident: f64,
    /// Of that, what is no file's.
    pub(crate) anonymous: f64,
}

impl Memory {
    pub(crate) fn of(process: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let read = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
        };
        Self { resident: read("VmRSS:"), anonymous: read("RssAnon:") }
    }
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [resident, anonymous] = [self.resident, self.anonymous].map(crate::figures::mib);
        write!(f, "{resident} resident, {anonymous} of them anonymous")
    }
}
