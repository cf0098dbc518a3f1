//! What our plugin adds to the start of a pod: the same chain without it and with it, by turns.

use crate::chain::{Chain, List, Sandbox};
use crate::figures::{Report, Times, milliseconds};

/// What is done in each turn, each with a pod of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    /// The chain without our plugin, as the control; and then our plugin by itself, as the chain would call it.
    Apart,
    /// The chain with our plugin, for a pod of the mesh.
    Enrolled,
    /// The same for a pod that is not of the mesh.
    Outside,
}

const TURNS: [Turn; 3] = [Turn::Apart, Turn::Enrolled, Turn::Outside];

/// How long each kind of turn took.
#[derive(Default)]
struct Outcome {
    bare: Times,
    alone: Times,
    enrolled: Times,
    outside: Times,
    /// Of `alone`, the first fifth of the turns and the last.
    early: Times,
    late: Times,
}

pub(crate) fn run(is_quick: bool, report: &mut Report) {
    let mut chain = Chain::start();
    let counts = if is_quick { [3, 0] } else { [120, 15] };
    for (is_dual, count) in [false, true].into_iter().zip(counts) {
        if count == 0 {
            continue;
        }
        let outcome = take_turns(&mut chain, is_dual, count);
        let families = if is_dual { "IPv4 and IPv6" } else { "IPv4" };
        report.section(&format!("A pod's start: CNI ADD, pods with {families}"));
        outcome.say(report);
    }
}

fn take_turns(chain: &mut Chain, is_dual: bool, count: usize) -> Outcome {
    let mut pods: Vec<(Turn, Sandbox)> = Vec::new();
    for number in 0..count {
        for turn in TURNS {
            let namespace = if turn == Turn::Outside { "outside" } else { "shop" };
            let name = format!("{turn:?}-{}-{number}", if is_dual { 46 } else { 4 }).to_lowercase();
            pods.push((turn, chain.sandbox(namespace, &name)));
        }
    }
    let mut outcome = Outcome::default();
    for (index, (turn, pod)) in pods.iter().enumerate() {
        let (took, result) = chain.add(pod, List { is_meshed: *turn != Turn::Apart, is_dual });
        match turn {
            Turn::Apart => {
                outcome.bare.push(took);
                let took = chain.add_last(pod, &result);
                outcome.alone.push(took);
                if index < pods.len() / 5 {
                    outcome.early.push(took);
                } else if index >= pods.len() * 4 / 5 {
                    outcome.late.push(took);
                }
            }
            Turn::Enrolled => outcome.enrolled.push(took),
            Turn::Outside => outcome.outside.push(took),
        }
        chain.run(pod, &result);
    }
    outcome
}

impl Outcome {
    fn say(&self, report: &mut Report) {
        report.line("the chain without our plugin (control)", &self.bare);
        report.line("with it, a pod of the mesh", &self.enrolled);
        report.line("with it, a pod that is not", &self.outside);
        report.line("our plugin by itself, a pod of the mesh", &self.alone);
        report.line("of these, the first fifth of the pods", &self.early);
        report.line("of these, the last fifth", &self.late);
        for (what, times) in [("the mesh", &self.enrolled), ("others", &self.outside)] {
            let [middle, late] = [50, 99].map(|percent| {
                let [with, without] =
                    [times, &self.bare].map(|times| milliseconds(times.percentile(percent)));
                format!("{:.1} ms ({:.2} times the control)", with - without, with / without)
            });
            report.line(&format!("added for pods of {what}"), format!("p50 {middle}, p99 {late}"));
        }
    }
}
