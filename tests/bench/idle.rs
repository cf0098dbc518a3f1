//! What an idle connection costs in memory, after one request each, in processes that have done nothing before.

use std::thread;
use std::time::Duration;

use node_proxy::demo::fault::DemoError;

use crate::bare::{Logs, own_program};
use crate::contender::{Contender, Entry};
use crate::hold::HOLDING;
use crate::measure::{Figures, Measure};
use crate::peers::Peers;
use crate::plan::Plan;
use crate::stage::Stage;
use crate::table::Table;
use crate::work::Section;

const SECTION: Section = Section {
    title: "Memory of idle connections",
    measures: &[Measure::ClientKib, Measure::ServerKib, Measure::Connections, Measure::Resident],
};
/// Connections of each kind: of ours, and of the others, which need two descriptors for one of HTTP.
const KINDS: [(&str, Entry, [u32; 2]); 2] =
    [("idle-http", Entry::Http1, [10_000, 9_000]), ("idle-opaque", Entry::Opaque, [5_000, 4_900])];
/// So many in the quick form.
const FEW: u32 = 200;
/// How long all connections may take to be made.
const PATIENCE: Duration = Duration::from_secs(300);

/// Each kind on a stage of its own: memory that one kind has given back would hide what the next one takes.
pub(crate) fn run(plan: &Plan, peers: &Peers, table: &mut Table) {
    for (work, entry, counts) in KINDS {
        if !plan.has(work) {
            continue;
        }
        let stage = Stage::set(Logs::On, peers);
        table.describe(stage.describe());
        // They have just been started: no request says when they are ready, as it would be the first to cost memory.
        thread::sleep(Duration::from_secs(2));
        for contender in stage.contenders.iter().filter(|contender| !contender.processes.is_empty()) {
            let Some(address) = contender.address(entry) else { continue };
            let [ours, theirs] = counts;
            let count = if contender.name == Contender::OURS { ours } else { theirs };
            let count = if plan.is_quick { FEW } else { count };
            let outcome = measure(&stage, contender, address, count);
            table.add((&SECTION, work), (contender.name, Logs::On), outcome);
        }
    }
}

fn measure(stage: &Stage, contender: &Contender, address: &str, count: u32) -> Result<Figures, String> {
    let before = contender.resident_mib();
    let (own, connections) = (own_program(), count.to_string());
    let argv = [&own, "hold", "--address", address, "--connections", &connections];
    let failed = |error: DemoError| error.to_string();
    let name = format!("hold-{}", contender.name);
    let mut holder = stage.bare.world.spawn(contender.client, &name, &argv).map_err(failed)?;
    let log = holder.log_path().to_owned();
    let holds = || std::fs::read_to_string(&log).is_ok_and(|text| text.contains(HOLDING));
    holder.wait_until("all connections", PATIENCE, holds).map_err(failed)?;
    thread::sleep(Duration::from_secs(1));
    let after = contender.resident_mib();
    let each = |side: usize| (after[side] - before[side]) * 1024.0 / f64::from(count);
    Ok(Figures::new([
        (Measure::ClientKib, each(0)),
        (Measure::ServerKib, each(1)),
        (Measure::Connections, f64::from(count)),
        (Measure::Resident, after.iter().sum()),
    ]))
}
