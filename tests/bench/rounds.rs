//! The works of all contenders, interleaved in rounds, with logs and without.

use crate::bare::Logs;
use crate::contender::Contender;
use crate::peers::Peers;
use crate::plan::Plan;
use crate::stage::Stage;
use crate::table::Table;
use crate::work::{Work, works};

/// In each round every contender does the same work, one after the other, so that what the machine does besides
/// hits all alike. Those without logs are other processes in a world of their own, and take turns with the rest.
pub(crate) fn run(plan: &Plan, peers: &Peers, table: &mut Table) {
    let works = works();
    let is_asked_for = |work: &&Work| plan.has(work.name) && (work.in_quick || !plan.is_quick);
    let works: Vec<&Work> = works.iter().filter(is_asked_for).collect();
    if works.is_empty() {
        return;
    }
    let stages = [Logs::On, Logs::Off].map(|logs| Stage::set(logs, peers));
    for stage in &stages {
        stage.settle(&works);
    }
    table.describe(stages[0].describe());
    for work in works {
        for _ in 0..plan.rounds {
            one_round(plan, &stages, work, table);
        }
        for absent in peers.absent().iter().filter(|absent| absent.entries.contains(&work.load.entry())) {
            table.add_absent((work.section, work.name), absent.name, absent.reason);
        }
    }
}

fn one_round(plan: &Plan, stages: &[Stage; 2], work: &Work, table: &mut Table) {
    let [with_logs, without_logs] = stages;
    for (contender, same) in with_logs.contenders.iter().zip(&without_logs.contenders) {
        for (stage, contender) in [(with_logs, contender), (without_logs, same)] {
            // To see whether it runs, one contender without logs is enough.
            let is_left_out = plan.is_quick && contender.name != Contender::OURS;
            if stage.bare.logs == Logs::Off && (is_left_out || !work.load.has_round_without_logs()) {
                continue;
            }
            if let Some(outcome) = stage.measure(contender, work.load.as_ref(), plan.seconds) {
                table.add((work.section, work.name), (contender.name, stage.bare.logs), outcome);
            }
        }
    }
}
