//! HTTP/1.1 in an open loop: so many requests per second, whatever the answers do.

use crate::bare::own_program;
use crate::contender::Entry;
use crate::http1::{SMALL, probe};
use crate::measure::{Figures, Measure};
use crate::pace::Said;
use crate::work::{Load, Section, Way, Work};

const SECTION: Section = Section {
    title: "HTTP/1.1, open loop",
    measures: &[Measure::CpuPerAnswer, Measure::P50, Measure::P99, Measure::P999, Measure::Resident],
};

pub(crate) fn works() -> Vec<Work> {
    let load = Box::new(Paced { per_second: 1000, connections: 32 });
    vec![Work { name: "http1-1000-per-second", section: &SECTION, load, in_quick: true }]
}

/// Requests at fixed times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paced {
    pub(crate) per_second: u32,
    pub(crate) connections: u32,
}

impl Paced {
    /// One round, with the CPU seconds that the contender spent.
    ///
    /// # Errors
    /// When an answer was not good.
    pub(crate) fn go(&self, way: &Way<'_>, seconds: u32) -> Result<(Said, f64), String> {
        let numbers = [self.per_second, self.connections, seconds].map(|number| number.to_string());
        let [per_second, connections, seconds] = &numbers;
        let own = own_program();
        // Ahead of what floods, on the same core.
        let program = ["nice", "-n", "-10", &own, "pace", "--address", way.address, "--path", SMALL.0];
        let pace = ["--per-second", per_second, "--connections", connections, "--seconds", seconds];
        let argv = [&program[..], &pace].concat();
        let (said, cpu_seconds) = way.load(&argv)?;
        let said = serde_json::from_str(&said).map_err(|error| format!("{error}: {said}"))?;
        Ok((said, cpu_seconds))
    }
}

impl Load for Paced {
    fn entry(&self) -> Entry {
        Entry::Http1
    }

    fn probe(&self, way: &Way<'_>) -> Result<(), String> {
        probe(way, SMALL)
    }

    fn run(&self, way: &Way<'_>, seconds: u32) -> Result<Figures, String> {
        let (said, cpu_seconds) = self.go(way, seconds)?;
        Ok(Figures::new([
            (Measure::CpuPerAnswer, cpu_seconds * 1e6 / said.answers),
            (Measure::P50, said.p50_us),
            (Measure::P99, said.p99_us),
            (Measure::P999, said.p999_us),
            way.resident(),
        ]))
    }
}
