//! Objects of a directory, read once and judged.

use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context as _;

use crate::check::check;
use crate::cluster::directory::Directory;
use crate::cluster::objects::{Changed, Objects};
use crate::cluster::source::ObjectSource as _;

/// Says what a mesh and its Gateways would not do of what the objects of a directory ask for.
///
/// # Errors
/// If the directory cannot be read, or anything is wrong with the objects.
pub fn run_check(directory: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let update = runtime.block_on(async { Directory::open(directory)?.next().await });
    let update = update.context("the objects cannot be read")?;
    let (mut objects, mut changed, count) = (Objects::default(), Changed::default(), update.changes.len());
    for change in update.changes {
        objects.apply(change, &mut changed);
    }
    let findings = check(&objects, &update.reports);
    let (errors, remarks) = (findings.errors.len(), findings.remarks.len());
    io::stdout().write_all(findings.to_string().as_bytes())?;
    let sum = format!("{count} objects, {errors} errors, {remarks} remarks\n");
    io::stdout().write_all(sum.as_bytes())?;
    anyhow::ensure!(errors == 0, "{errors} of what is asked for would not be done");
    Ok(())
}
