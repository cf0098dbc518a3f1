//! `node-proxy`: parses its arguments, chooses the mode, and says with its exit code how it went.
//!
//! Exit codes: 0 done, 1 the mode failed, 2 the arguments are wrong.

use std::process::ExitCode;

use clap::Parser;
use node_proxy::app;
use node_proxy::config::{Config, RawConfig};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// jemalloc's settings: freed pages go back to the kernel by a thread of its own, so that no data path thread spends
/// its time on that, and a burst of connections does not stay in the node's memory.
#[expect(unsafe_code, reason = "jemalloc finds its settings by the name of a symbol")]
// SAFETY: the name is jemalloc's own, looked up by nothing else, and the value is what jemalloc expects there: a
// pointer to a string that ends in NUL and lives as long as the process.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: &[u8; 60] = b"background_thread:true,dirty_decay_ms:5000,muzzy_decay_ms:0\0";

fn main() -> ExitCode {
    let config = match Config::try_from(RawConfig::parse()) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(2);
        }
    };
    let outcome = match config {
        Config::Check(directory) => app::run_check(&directory),
        Config::Controller(config) => app::run_controller(&config),
        Config::Demo(programme) => app::run_demo(&programme),
        Config::Holder(config) => app::run_holder(&config),
        Config::Ingress(config) => app::run_ingress(*config),
        Config::DemoApp(args) => app::run_demo_app(&args),
        Config::Mesh(config) => app::run_mesh(*config),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("node-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}
