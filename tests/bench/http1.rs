//! HTTP/1.1 in a closed loop: each connection asks again as soon as it is answered.

use crate::contender::Entry;
use crate::measure::{Figures, Measure};
use crate::work::{Load, Section, Way, Work};
use crate::wrk;

const SECTION: Section = Section {
    title: "HTTP/1.1, closed loop",
    measures: &[Measure::CpuPerAnswer, Measure::PerSecond, Measure::P50, Measure::P99, Measure::Resident],
};

/// How requests share connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// As many requests on one as come.
    KeepAlive,
    /// One request on each.
    Close,
}

/// Requests by wrk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Requests {
    pub(crate) entry: Entry,
    /// The path that is asked for, and how many bytes it answers.
    pub(crate) answer: (&'static str, usize),
    pub(crate) connections: u32,
    pub(crate) reuse: Reuse,
}

/// The paths of the server, with the bytes that they answer.
pub(crate) const SMALL: (&str, usize) = ("/100", 100);
const LARGE: (&str, usize) = ("/10k", 10_240);

pub(crate) fn works() -> Vec<Work> {
    let keeping = [
        ("http1-1-100b", SMALL, 1),
        ("http1-32-100b", SMALL, 32),
        ("http1-256-100b", SMALL, 256),
        ("http1-1-10kib", LARGE, 1),
        ("http1-32-10kib", LARGE, 32),
        ("http1-256-10kib", LARGE, 256),
    ];
    let keeping = keeping.map(|(name, answer, connections)| (name, answer, connections, Reuse::KeepAlive));
    let closing = ("http1-32-100b-close", SMALL, 32, Reuse::Close);
    let all = keeping.into_iter().chain([closing]);
    let work = |(name, answer, connections, reuse)| Work {
        name,
        section: &SECTION,
        load: Box::new(Requests { entry: Entry::Http1, answer, connections, reuse }),
        in_quick: matches!(name, "http1-32-100b" | "http1-32-100b-close"),
    };
    all.map(work).collect()
}

impl Load for Requests {
    fn entry(&self) -> Entry {
        self.entry
    }

    fn probe(&self, way: &Way<'_>) -> Result<(), String> {
        probe(way, self.answer)
    }

    fn run(&self, way: &Way<'_>, seconds: u32) -> Result<Figures, String> {
        let url = format!("http://{}{}", way.address, self.answer.0);
        let connections = self.connections.to_string();
        let load = |seconds: u32| {
            let duration = format!("{seconds}s");
            let mut argv = vec!["wrk", "-t1", "-c", &connections, "-d", &duration];
            argv.extend(["--latency", "-H", "version: new"]);
            if self.reuse == Reuse::Close {
                argv.extend(["-H", "Connection: close"]);
            }
            argv.push(&url);
            way.load(&argv)
        };
        way.warm_up(seconds, load)?;
        let (said, cpu_seconds) = load(seconds)?;
        let said = wrk::read_good(&said)?;
        let mut figures = vec![
            (Measure::CpuPerAnswer, cpu_seconds * 1e6 / said.answers),
            (Measure::PerSecond, said.per_second),
            (Measure::P50, said.p50_us),
            (Measure::P99, said.p99_us),
            way.resident(),
        ];
        if self.reuse == Reuse::Close {
            figures.push((Measure::ConnectionsPerCpuSecond, said.answers / cpu_seconds));
        }
        Ok(Figures::new(figures))
    }
}

/// Asks once for a path that answers so many bytes.
///
/// # Errors
/// What was answered instead.
pub(crate) fn probe(way: &Way<'_>, (path, bytes): (&str, usize)) -> Result<(), String> {
    let url = format!("http://{}{path}", way.address);
    let form = "%{http_code} %{size_download}";
    let answer =
        way.ask(&["curl", "-s", "-o", "/dev/null", "-m", "5", "-w", form, "-H", "version: new", &url])?;
    let expected = format!("200 {bytes}");
    if answer == expected { Ok(()) } else { Err(format!("{url}: {answer:?} is not {expected:?}")) }
}
