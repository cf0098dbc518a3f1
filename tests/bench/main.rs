//! The benchmark: the mesh beside hand-made meshes of other proxies, in one run on one machine.
//!
//! Every contender stands in the same world of two nodes, with a client's pod on one and a server's on the other. In
//! each round every contender does the same work, one after the other, so that what the machine does besides hits
//! all alike; what counts is the ratio of medians. CPU is read from `/proc` around each round.
//!
//! `tests/bench/run` installs what it needs and starts it. It writes `target/bench/table.md` and `table.json`.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a program of this repository's own")]

mod contender;
mod envoy;
mod haproxy;
mod nginx;
mod pki;
mod stage;
mod table;
mod work;

use std::path::PathBuf;

use clap::Parser;

use stage::Stage;
use table::Table;
use work::WORKS;

/// Ours beside others.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds; each has every contender once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of load in each round and work, for each contender.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Two short rounds of the smaller works: shows that everything runs, and nothing else.
    #[arg(long)]
    quick: bool,
    /// Only works whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Where the tables go. From the root of the repository: cargo runs this somewhere else.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench"))]
    out: PathBuf,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    let (rounds, seconds) = if arguments.quick { (2, 2) } else { (arguments.rounds, arguments.seconds) };
    let stage = Stage::set();
    let mut table = Table::new(stage.describe(rounds, seconds));
    for work in WORKS {
        let is_asked_for = arguments.only.as_ref().is_none_or(|only| work.name.contains(only.as_str()));
        // A debug build may need longer for its handshakes than a short round lasts.
        let is_short_enough = !arguments.quick || work.connections <= 32;
        if !is_asked_for || !is_short_enough {
            continue;
        }
        for round in 1..=rounds {
            for contender in &stage.contenders {
                let outcome = stage.measure(contender, work, seconds);
                match &outcome {
                    Ok(figures) => println!("{} {round}/{rounds} {}: {figures}", work.name, contender.name),
                    Err(why) => {
                        println!("{} {round}/{rounds} {}: not counted: {why}", work.name, contender.name)
                    }
                }
                table.add(work, contender, outcome);
            }
        }
    }
    let markdown = table.write(&arguments.out).unwrap();
    println!("\n{markdown}");
    // A run in which ours could not do a work shows nothing.
    assert!(table.has_ours_everywhere(), "a work of ours has no round that counts");
}
