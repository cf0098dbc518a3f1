//! A client that holds idle connections. Run inside a pod as `mesh hold ...`.

use std::thread;
use std::time::Duration;

use crate::http1::SMALL;
use crate::pace::Asking;

/// What it says once all connections are there.
pub(crate) const HOLDING: &str = "holding";

/// How many connections to where.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct HoldArgs {
    /// HOST:PORT.
    #[arg(long)]
    pub(crate) address: String,
    #[arg(long)]
    pub(crate) connections: u32,
}

/// Opens connections one after the other, asks once on each, and holds them until it is ended.
///
/// # Errors
/// When one fails.
pub(crate) fn run(args: &HoldArgs) -> Result<(), String> {
    let mut held = Vec::new();
    for index in 0..args.connections {
        let failed = |error| format!("connection {index} of {}: {error}", args.connections);
        let mut connection = Asking::open(&args.address, SMALL.0).map_err(failed)?;
        connection.ask().map_err(failed)?;
        held.push(connection);
    }
    println!("{HOLDING} {}", held.len());
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}
