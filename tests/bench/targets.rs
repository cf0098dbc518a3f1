//! The targets, computed from one run's medians.
//!
//! A target that names a contender which did not run is open, unless those that ran have missed it already.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::contender::Contender;
use crate::measure::Measure;
use crate::table::Table;

/// What became of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Met,
    Missed,
    /// Something that it compares with did not run.
    Open,
}

impl Verdict {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed => "missed",
            Self::Open => "open (not run)",
        }
    }
}

/// One target and what this run says about it.
struct Target {
    work: &'static str,
    demand: String,
    figure: String,
    verdict: Verdict,
}

/// What ours is held against: so many times what a contender has.
type Bound = (&'static str, f64);

/// Which way is better.
#[derive(Clone, Copy, Debug)]
enum Better {
    Less,
    More,
}

/// The target that ours is, by `measure`, within every bound.
fn against(
    table: &Table,
    work: &'static str,
    (measure, better): (Measure, Better),
    demand: &str,
    bounds: &[(&'static str, Bound)],
) -> Target {
    let mut target = Target {
        work,
        demand: format!("{}: {demand}", measure.title()),
        figure: String::new(),
        verdict: Verdict::Open,
    };
    let Some(ours) = table.median(work, Contender::OURS, measure) else { return target };
    write!(target.figure, "{}", measure.show(ours)).unwrap();
    target.verdict = if bounds.is_empty() { Verdict::Open } else { Verdict::Met };
    for (their_work, (contender, factor)) in bounds {
        let Some(theirs) = table.median(their_work, contender, measure) else {
            write!(target.figure, "; {contender} not run").unwrap();
            if target.verdict == Verdict::Met {
                target.verdict = Verdict::Open;
            }
            continue;
        };
        let bound = theirs * factor;
        write!(target.figure, "; {contender} allows {}", measure.show(bound)).unwrap();
        let is_within = match better {
            Better::Less => ours <= bound,
            Better::More => ours >= bound,
        };
        if !is_within {
            target.verdict = Verdict::Missed;
        }
    }
    target
}

/// The target that ours is no worse than each of the others at the same work.
fn best(table: &Table, work: &'static str, way: (Measure, Better), demand: &str) -> Target {
    let bounds: Vec<_> = table.others(work).into_iter().map(|other| (work, (other, 1.0))).collect();
    against(table, work, way, demand, &bounds)
}

/// The target that a figure of ours is at most so much.
fn at_most(table: &Table, work: &'static str, measure: Measure, most: f64) -> Target {
    let demand = format!("{}: at most {}", measure.title(), measure.show(most));
    match table.median(work, Contender::OURS, measure) {
        Some(ours) => {
            let verdict = if ours <= most { Verdict::Met } else { Verdict::Missed };
            Target { work, demand, figure: measure.show(ours), verdict }
        }
        None => Target { work, demand, figure: String::new(), verdict: Verdict::Open },
    }
}

/// The targets that need no contenders and no namespaces.
const MICRO: [(&str, &str); 2] = [
    ("route lookup", "1,000 rules against 10: at most 1.5 times the time"),
    ("one route changed among 10,000", "at most 1.5 times what it takes among 100; under 30 ms"),
];

fn targets(table: &Table) -> Vec<Target> {
    let cpu = (Measure::CpuPerAnswer, Better::Less);
    let routed = "http1-32-100b";
    let mut all = vec![
        best(table, routed, cpu, "less than every contender"),
        against(table, routed, cpu, "the nginx pair / 1.8", &[(routed, ("nginx", 1.0 / 1.8))]),
        against(table, routed, cpu, "the Envoy pair (HTTP/2 hop) / 3", &[(routed, ("envoy-h2", 1.0 / 3.0))]),
        against(table, routed, cpu, "below the HAProxy pair (HTTP/2 hop)", &[(routed, ("haproxy-h2", 1.0))]),
        against(table, routed, cpu, "no more than the ztunnel pair", &[(routed, ("ztunnel", 1.0))]),
        best(table, "http1-1-100b", (Measure::P50, Better::Less), "no worse than the best contender"),
        best(table, routed, (Measure::P99, Better::Less), "no worse than the best contender"),
        best(
            table,
            "http1-1000-per-second",
            (Measure::P99, Better::Less),
            "no worse than the best contender",
        ),
    ];
    all.push(against(
        table,
        "opaque-32-100b",
        cpu,
        "the ztunnel pair / 1.4",
        &[("opaque-32-100b", ("ztunnel", 1.0 / 1.4))],
    ));
    for work in ["opaque-bulk-down-1", "opaque-bulk-down-8", "opaque-bulk-up-1", "opaque-bulk-up-8"] {
        let bounds = [(work, ("ztunnel", 1.3)), (work, ("haproxy-tcp", 1.3))];
        let way = (Measure::MibPerCpuSecond, Better::More);
        all.push(against(table, work, way, "1.3 times the ztunnel and the HAProxy pair", &bounds));
    }
    let connect = "opaque-connect";
    let way = (Measure::ConnectionsPerCpuSecond, Better::More);
    let bounds = [(connect, ("haproxy-tcp", 1.0))];
    all.push(against(table, connect, way, "no worse than the HAProxy pair", &bounds));
    all.push(against(table, connect, way, "half of the ztunnel pair", &[(connect, ("ztunnel", 0.5))]));
    for work in ["http2-1x100", "http2-10x100", "grpc-1x100", "grpc-10x100"] {
        all.push(best(table, work, cpu, "less than every contender"));
    }
    all.extend([
        at_most(table, "route-changes", Measure::NotGood, 0.0),
        at_most(table, "memory-0-pods", Measure::OneResident, 15.0),
        at_most(table, "memory-250-pods", Measure::PodKib, 50.0),
        at_most(table, "idle-http", Measure::ClientKib, 10.0),
        at_most(table, "memory-10000-routes", Measure::OneResident, 150.0),
        at_most(table, "neighbour", Measure::TimesAlone, 1.2),
    ]);
    all.extend(MICRO.map(|(work, demand)| Target {
        work,
        demand: demand.to_owned(),
        figure: "the micro-benchmarks say".to_owned(),
        verdict: Verdict::Open,
    }));
    all
}

/// A section of the Markdown table.
pub(crate) fn as_markdown(table: &Table) -> String {
    let mut text =
        "\n## Targets\n\n| work | target | ours, and what others allow | |\n|---|---|---|---|\n".to_owned();
    for Target { work, demand, figure, verdict } in targets(table) {
        writeln!(text, "| {work} | {demand} | {figure} | {} |", verdict.as_str()).unwrap();
    }
    text
}

pub(crate) fn as_json(table: &Table) -> Value {
    let each = targets(table).into_iter().map(|target| {
        let Target { work, demand, figure, verdict } = target;
        json!({"work": work, "target": demand, "figure": figure, "verdict": verdict.as_str()})
    });
    each.collect()
}
