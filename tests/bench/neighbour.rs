//! The innocent neighbour: the same even requests without and with a flood through the same proxies.

use std::thread;
use std::time::Duration;

use node_proxy::demo::command::{Process, until};
use node_proxy::demo::fault::DemoError;

use crate::contender::Entry;
use crate::http1::{SMALL, probe};
use crate::measure::{Figures, Measure};
use crate::open_loop::Paced;
use crate::stage::LOAD_CORE;
use crate::work::{Load, Section, Way, Work};
use crate::wrk;

const SECTION: Section = Section {
    title: "An innocent pod beside one that floods (200 requests per second beside 256 connections)",
    measures: &[Measure::TimesAlone, Measure::AloneP99, Measure::FloodedP99, Measure::FloodPerSecond],
};
const INNOCENT: Paced = Paced { per_second: 200, connections: 8 };
/// How long the flood runs before and after the innocent's requests, in seconds.
const MARGIN: u32 = 1;

pub(crate) fn works() -> Vec<Work> {
    vec![Work { name: "neighbour", section: &SECTION, load: Box::new(Neighbour), in_quick: true }]
}

/// The innocent's requests alone, then beside the flood.
///
/// The client of the innocent and the servers go first on the core of loads, so that what is seen is the proxies'.
#[derive(Clone, Copy, Debug)]
struct Neighbour;

impl Load for Neighbour {
    fn entry(&self) -> Entry {
        Entry::Http1
    }

    fn has_round_without_logs(&self) -> bool {
        false
    }

    fn probe(&self, way: &Way<'_>) -> Result<(), String> {
        probe(way, SMALL)
    }

    fn run(&self, way: &Way<'_>, seconds: u32) -> Result<Figures, String> {
        let (alone, _) = INNOCENT.go(way, seconds)?;
        let mut flood = flood(way, seconds + 2 * MARGIN).map_err(|error| error.to_string())?;
        thread::sleep(Duration::from_secs(MARGIN.into()));
        let flooded = INNOCENT.go(way, seconds);
        let _shown_by_its_log = until(Duration::from_secs(20), || !flood.is_running());
        let (flooded, _) = flooded?;
        // Its log begins with what earlier rounds have said. What becomes of its own requests is not the matter.
        let log = flood.log();
        let flood = wrk::read(log.rsplit("Running ").next().unwrap_or_default())?;
        Ok(Figures::new([
            (Measure::TimesAlone, flooded.p99_us / alone.p99_us),
            (Measure::AloneP99, alone.p99_us),
            (Measure::FloodedP99, flooded.p99_us),
            (Measure::FloodPerSecond, flood.per_second),
        ]))
    }
}

/// Starts it in the flooder's pod, behind everything else on the core of loads.
fn flood(way: &Way<'_>, seconds: u32) -> Result<Process, DemoError> {
    let url = format!("http://{}{}", way.address, SMALL.0);
    let duration = format!("{seconds}s");
    let pinned = ["taskset", "-c", LOAD_CORE, "nice", "-n", "19"];
    let load = ["wrk", "-t1", "-c256", "-d", &duration, "--latency", &url];
    way.bare.world.spawn(way.contender.flooder, "flood", &[&pinned[..], &load].concat())
}
