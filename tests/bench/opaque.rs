//! Opaque TCP: the same requests behind a port on which nobody reads along, new connections, and bulk.

use serde_json::Value;

use crate::contender::Entry;
use crate::http1::{Requests, Reuse, SMALL};
use crate::measure::{Figures, Measure};
use crate::work::{Load, Section, Way, Work};

const REQUESTS: Section = Section {
    title: "Opaque, request and response (HTTP/1.1 over it)",
    measures: &[Measure::CpuPerAnswer, Measure::PerSecond, Measure::P50, Measure::P99, Measure::Resident],
};
const CONNECTIONS: Section = Section {
    title: "Opaque, new connections (each with one small request)",
    measures: &[
        Measure::ConnectionsPerCpuSecond,
        Measure::PerSecond,
        Measure::P50,
        Measure::P99,
        Measure::Resident,
    ],
};
const BULK: Section = Section {
    title: "Opaque, bulk (iperf3)",
    measures: &[Measure::MibPerCpuSecond, Measure::MibPerSecond, Measure::Resident],
};

pub(crate) fn works() -> Vec<Work> {
    let requests = |name, connections, in_quick| Work {
        name,
        section: &REQUESTS,
        load: Box::new(Requests {
            entry: Entry::Opaque,
            answer: SMALL,
            connections,
            reuse: Reuse::KeepAlive,
        }),
        in_quick,
    };
    let bulk = |name, direction, streams, in_quick| Work {
        name,
        section: &BULK,
        load: Box::new(Bulk { direction, streams }),
        in_quick,
    };
    let connect = Requests { entry: Entry::Opaque, answer: SMALL, connections: 32, reuse: Reuse::Close };
    vec![
        requests("opaque-1-100b", 1, false),
        requests("opaque-32-100b", 32, true),
        Work { name: "opaque-connect", section: &CONNECTIONS, load: Box::new(connect), in_quick: true },
        bulk("opaque-bulk-down-1", Direction::Down, 1, true),
        bulk("opaque-bulk-down-8", Direction::Down, 8, false),
        bulk("opaque-bulk-up-1", Direction::Up, 1, false),
        bulk("opaque-bulk-up-8", Direction::Up, 8, false),
    ]
}

/// Which end sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// The server.
    Down,
    /// The client.
    Up,
}

/// As many bytes as go through, by iperf3.
#[derive(Clone, Copy, Debug)]
struct Bulk {
    direction: Direction,
    streams: u32,
}

impl Bulk {
    fn argv<'a>(&self, way: &'a Way<'_>, streams: &'a str, limit: [&'a str; 2]) -> Vec<&'a str> {
        let (host, port) = way.address.rsplit_once(':').unwrap_or((way.address, "5201"));
        let mut argv = vec!["iperf3", "-J", "-4", "-c", host, "-p", port, "-P", streams];
        argv.extend(limit);
        if self.direction == Direction::Down {
            argv.push("-R");
        }
        argv
    }
}

impl Load for Bulk {
    fn entry(&self) -> Entry {
        Entry::Bulk
    }

    fn probe(&self, way: &Way<'_>) -> Result<(), String> {
        const LITTLE: f64 = 100_000.0;
        // Down in either case: of what goes up, iperf3 does not wait for the end.
        let down = Self { direction: Direction::Down, ..*self };
        let received = read_received(&way.ask(&down.argv(way, "1", ["-n", &LITTLE.to_string()]))?)?;
        if received >= LITTLE { Ok(()) } else { Err(format!("{received} of {LITTLE} bytes came")) }
    }

    fn run(&self, way: &Way<'_>, seconds: u32) -> Result<Figures, String> {
        let (streams, seconds_text) = (self.streams.to_string(), seconds.to_string());
        let (said, cpu_seconds) = way.load(&self.argv(way, &streams, ["-t", &seconds_text]))?;
        let received = read_received(&said)? / f64::from(1 << 20);
        Ok(Figures::new([
            (Measure::MibPerCpuSecond, received / cpu_seconds),
            (Measure::MibPerSecond, received / f64::from(seconds)),
            way.resident(),
        ]))
    }
}

/// How many bytes arrived, by iperf3's report.
fn read_received(text: &str) -> Result<f64, String> {
    let report: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let received = report["end"]["sum_received"]["bytes"].as_f64();
    received.filter(|bytes| *bytes > 0.0).ok_or_else(|| format!("iperf3 said: {}", report["error"]))
}
