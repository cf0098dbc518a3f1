//! The mesh beside a real API server: what a pod's start costs, how soon a change of a route counts, what proxy and
//! controller hold, and what they cost the API server.
//!
//! `tests/bench/run --cluster` installs what it needs and starts it. It prints the table and writes it to
//! `target/bench/cluster.md`.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a program of this repository's own")]

mod adds;
mod api;
#[path = "../../cluster/api_server.rs"]
mod api_server;
mod chain;
#[path = "../../cni/cnitool.rs"]
mod cnitool;
mod counters;
#[path = "../../api/door.rs"]
mod door;
mod fakes;
mod figures;
mod installed;
mod load;
mod probe;
mod process;
mod relay;
mod routes;

use std::path::PathBuf;

use clap::Parser;

use figures::Report;

/// The mesh beside a real API server.
#[derive(Debug, Parser)]
struct Arguments {
    /// A look at whether everything runs, with few of everything.
    #[arg(long)]
    quick: bool,
    /// Only these parts, of `adds`, `routes`, `pods`; once for each.
    #[arg(long)]
    only: Vec<String>,
    /// Where the table goes.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench"))]
    out: PathBuf,
    /// What cargo calls every benchmark with.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    let is_asked = |part: &str| arguments.only.is_empty() || arguments.only.iter().any(|word| word == part);
    let mut report = Report::new(arguments.out.join("cluster.md"), arguments.quick);
    // Each part is on an API server of its own.
    if is_asked("adds") {
        adds::run(arguments.quick, &mut report);
    }
    if is_asked("routes") {
        routes::run(arguments.quick, &mut report);
    }
    if is_asked("pods") {
        load::run(arguments.quick, &mut report);
    }
}
