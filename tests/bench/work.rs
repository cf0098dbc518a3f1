//! What is asked of every contender, round by round.

use crate::bare::Bare;
use crate::contender::{Contender, Entry};
use crate::measure::{Figures, Measure};
use crate::stage::LOAD_CORE;
use crate::{http1, http2, neighbour, opaque, open_loop};

/// Works that are shown in one table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) title: &'static str,
    /// Its columns; the first is what counts, and is shown with its spread and its ratio to ours.
    pub(crate) measures: &'static [Measure],
}

/// One kind of load.
pub(crate) trait Load {
    /// What a contender has to carry to take part.
    fn entry(&self) -> Entry;

    /// Whether it is done without logs, too.
    fn has_round_without_logs(&self) -> bool {
        true
    }

    /// Whether the contender does the work at all: the right answer to one request.
    ///
    /// # Errors
    /// What was wrong.
    fn probe(&self, way: &Way<'_>) -> Result<(), String>;

    /// One round.
    ///
    /// # Errors
    /// Why it does not count.
    fn run(&self, way: &Way<'_>, seconds: u32) -> Result<Figures, String>;
}

/// A load with its name.
pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) section: &'static Section,
    pub(crate) load: Box<dyn Load>,
    /// Whether the quick form has it: one work of each kind.
    pub(crate) in_quick: bool,
}

/// All works of the rounds.
pub(crate) fn works() -> Vec<Work> {
    [http1::works(), open_loop::works(), http2::works(), opaque::works(), neighbour::works()]
        .into_iter()
        .flatten()
        .collect()
}

/// One contender, asked for one thing.
#[derive(Debug)]
pub(crate) struct Way<'s> {
    pub(crate) bare: &'s Bare,
    pub(crate) contender: &'s Contender,
    /// HOST:PORT.
    pub(crate) address: &'s str,
}

impl Way<'_> {
    /// What a program in the client's pod writes.
    ///
    /// # Errors
    /// When it fails.
    pub(crate) fn ask(&self, argv: &[&str]) -> Result<String, String> {
        let done = self.bare.world.exec(self.contender.client, argv).and_then(|done| done.checked());
        done.map(|done| done.stdout).map_err(|error| error.to_string())
    }

    /// The same on the core of loads, and the CPU seconds that the contender spent meanwhile.
    ///
    /// # Errors
    /// When it fails.
    pub(crate) fn load(&self, argv: &[&str]) -> Result<(String, f64), String> {
        let pinned: Vec<&str> =
            ["taskset", "-c", LOAD_CORE].into_iter().chain(argv.iter().copied()).collect();
        let before = self.contender.cpu_seconds();
        let said = self.ask(&pinned)?;
        Ok((said, self.contender.cpu_seconds() - before))
    }

    /// A second of the load that is not counted, so that pools between proxies are there. A round of one second
    /// shows nothing, and needs none.
    ///
    /// # Errors
    /// When the load fails.
    pub(crate) fn warm_up<T>(
        &self,
        seconds: u32,
        load: impl FnOnce(u32) -> Result<T, String>,
    ) -> Result<(), String> {
        if seconds > 1 { load(1).map(drop) } else { Ok(()) }
    }

    /// Memory of both ends now, in MiB.
    pub(crate) fn resident(&self) -> (Measure, f64) {
        // The sum of no floats is -0.0, which a table would show.
        (Measure::Resident, self.contender.resident_mib().into_iter().sum::<f64>() + 0.0)
    }
}
