//! The benchmark: the mesh beside hand-made meshes of other proxies, in one run on one machine.
//!
//! Every contender stands in the same world of two nodes, with a client's pod on one and a server's on the other. In
//! each round every contender does the same work, one after the other, so that what the machine does besides hits
//! all alike; what counts is the ratio of medians. CPU is read from each process's clock around each round.
//!
//! `tests/bench/run` installs what it needs and starts it. It writes `target/bench/table.md` and `table.json`.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a program of this repository's own")]

mod bare;
mod changes;
mod contender;
mod envoy;
mod h2load;
mod haproxy;
mod hold;
mod http1;
mod http2;
mod idle;
mod measure;
mod neighbour;
mod nginx;
mod opaque;
mod open_loop;
mod pace;
mod peers;
mod pki;
mod plan;
mod pods;
mod rounds;
mod stage;
mod table;
mod targets;
mod work;
mod wrk;
mod ztunnel;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use peers::Peers;
use plan::Plan;
use table::Table;

/// Ours beside others.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds; each has every contender once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of load in each round and work, for each contender.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// One short round of one work of each kind: shows that everything runs, and nothing else.
    #[arg(long)]
    quick: bool,
    /// Only works whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// A contender that was built elsewhere, as NAME=PATH; once for each of ztunnel, linkerd2-proxy, agentgateway.
    #[arg(long = "peer", value_parser = peers::parse)]
    peers: Vec<(String, PathBuf)>,
    /// Where the tables go.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench"))]
    out: PathBuf,
    #[command(subcommand)]
    client: Option<Client>,
}

/// What this program does inside a pod.
#[derive(Debug, Subcommand)]
enum Client {
    #[command(hide = true)]
    Pace(pace::PaceArgs),
    #[command(hide = true)]
    Hold(hold::HoldArgs),
}

fn main() {
    let arguments = Arguments::parse();
    match &arguments.client {
        Some(Client::Pace(args)) => pace::run(args).unwrap(),
        Some(Client::Hold(args)) => hold::run(args).unwrap(),
        None => compare(&arguments),
    }
}

fn compare(arguments: &Arguments) {
    let (rounds, seconds) = if arguments.quick { (1, 1) } else { (arguments.rounds, arguments.seconds) };
    let plan = Plan { rounds, seconds, is_quick: arguments.quick, only: arguments.only.clone() };
    let peers = Peers::new(&arguments.peers);
    let mut table = Table::default();
    table.describe([format!("{rounds} rounds of {seconds} s each, every contender in every round")]);
    if plan.is_quick {
        table.describe(["the quick form, on a debug build: no figure counts".to_owned()]);
    }
    // What is there is written after each part: a run may be ended in the middle.
    let save = |table: &Table| table.write(&arguments.out).unwrap();
    rounds::run(&plan, &peers, &mut table);
    save(&table);
    changes::run(&plan, &mut table);
    idle::run(&plan, &peers, &mut table);
    save(&table);
    pods::run(&plan, &mut table);
    println!("\n{}", save(&table));
    // A run in which ours could not do a work shows nothing.
    let undone = table.works_ours_could_not_do();
    assert!(undone.is_empty(), "works of ours without a round that counts: {undone:?}");
}
