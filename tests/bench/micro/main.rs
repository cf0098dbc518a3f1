//! Micro-benchmarks of what grows with a cluster: taking in changes, and finding a request's rule.
//!
//! `tests/bench/run --micro` starts it, and `tests/bench/run --micro lookup` (or `changes`, `files`) a part of it.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a program of this repository's own")]

mod changes;
mod lookup;
mod meter;
mod tables;
mod world;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let is_asked = |part: &str| asked.is_empty() || asked.iter().any(|word| word == part);
    if is_asked("lookup") {
        lookup::run();
    }
    if is_asked("tables") {
        tables::run();
    }
    if is_asked("changes") {
        changes::run();
    }
    if is_asked("files") {
        changes::run_files();
    }
}
