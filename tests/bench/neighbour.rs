//! The innocent neighbour: the same even requests without and with a flood through the same proxies.

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
        let url = format!("http://{}{}", way.address, SMALL.0);
        let duration = format!("{}s", seconds + 2 * MARGIN);
        let argv = [
            "taskset",
            "-c",
            LOAD_CORE,
            "nice",
            "-n",
            "19",
            "wrk",
            "-t1",
            "-c256",
            "-d",
            &duration,
            "--latency",
            &url,
        ];
        let flooder = way.contender.flooder;
        let failed = |error: node_proxy::demo::fault::DemoError| error.to_string();
        let mut flood = way.bare.world.spawn(flooder, "flood", &argv).map_err(failed)?;
        std::thread::sleep(std::time::Duration::from_secs(MARGIN.into()));
        let before = flood.log().len();
        let flooded = INNOCENT.go(way, seconds);
        let patience = std::time::Duration::from_secs(20);
        let _ended = node_proxy::demo::command::until(patience, || !flood.is_running());
        // Its log holds what earlier rounds have said, too.
        let log = flood.log();
        let start = log.rfind("Running ").unwrap_or(before);
        let (flooded, _) = flooded?;
        // What becomes of the flood's own requests is not the matter.
        let flood = wrk::read(&log[start..])?;
        Ok(Figures::new([
            (Measure::TimesAlone, flooded.p99_us / alone.p99_us),
            (Measure::AloneP99, alone.p99_us),
            (Measure::FloodedP99, flooded.p99_us),
            (Measure::FloodPerSecond, flood.per_second),
        ]))
    }
}
