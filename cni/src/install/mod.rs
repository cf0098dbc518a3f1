//! `gammarus-cni install`: puts the plugin on a node, and keeps it there.
//!
//! ```text
//! flags ► runtime: which folders ► plugin_file: our program among the plugins ► network: our entry in the chain
//!                                      ▲                                            ▲
//!                                      └────────── watch: whatever changes ─────────┘
//! ```
//!
//! It has no right but to write these two folders, and asks nobody: an API server that is away changes nothing. Its end
//! takes nothing back, since a node whose installer is restarted must not start pods outside the mesh; only an
//! uninstall does ([`gammarus_cni::state::request_uninstall`]).
//!
//! # Invariants
//! 1. A runtime that reads at any moment finds a configuration with which pods start: files are replaced whole, the
//!    plugin is there before its entry, and no entry goes where the runtime would not find the plugin.
//! 2. One installer writes at a time, the holder of the lock on the folder of configuration; in an update the next
//!    one takes over when that has ended, so that two releases never fight.
//! 3. A configuration of somebody else's is not made, mended or removed.

mod conflist;
mod flags;
mod health;
mod keep;
mod network;
mod pace;
mod place;
mod plugin_file;
mod runtime;
mod watch;

use std::ffi::OsString;
use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use gammarus_cni::state::{self, StateError};

use flags::{Flags, Task};
use health::Health;
use keep::Keeper;
use network::ConfDir;
use watch::{Watch, Woken};

/// How often the state directory is looked at while the proxy may ask for an uninstall.
const BETWEEN_QUESTIONS: Duration = Duration::from_millis(100);

/// Why an installer cannot do its work, for the moment or at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallError {
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// A runtime's configuration is not what it should be.
    #[error("the runtime's configuration {} is not understood: {reason}", path.display())]
    Runtime { path: PathBuf, reason: String },
    /// A folder is not where the runtime's configuration, or a flag, says.
    #[error("there is no folder {} here, which is the node's by {said_by}: mount it, or see {flag}", path.display())]
    Missing { path: PathBuf, said_by: String, flag: &'static str },
    /// The folder was removed from the node, and what is mounted here is not it any more.
    #[error("{} has been removed from the node: ending, to be started with the one that is there now", path.display())]
    Gone { path: PathBuf },
    /// The one who would undo an uninstall is there.
    #[error("an installer looks after {}: remove the DaemonSet first, it then uninstalls by itself", path.display())]
    Held { path: PathBuf },
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// A socket, a signal, a thread: something that always works did not.
    #[error("cannot {action}")]
    Start { action: &'static str, source: io::Error },
}

/// Does what the arguments after the program's name ask for.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let (task, flags) = match flags::parse(arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            log("ERROR", error);
            return ExitCode::from(2);
        }
    };
    let done = match task {
        Task::Install => install(flags),
        Task::Uninstall => uninstall(&flags),
        Task::Help => print(flags::HELP),
        Task::Version => print(concat!("gammarus-cni ", env!("CARGO_PKG_VERSION"), "\n")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log("ERROR", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

fn print(text: &str) -> Result<(), InstallError> {
    let written = io::stdout().write_all(text.as_bytes());
    written.map_err(|source| InstallError::Start { action: "write to standard output", source })
}

/// Installs, looks after what is installed until it is told to end, and then waits for a word of an uninstall.
fn install(flags: Flags) -> Result<(), InstallError> {
    let failed = |action| move |source| InstallError::Start { action, source };
    let watch = Watch::start().map_err(failed("watch for changes"))?;
    let (health, address) =
        Health::serve(flags.health_listen).map_err(failed("listen on --health-listen"))?;
    log("INFO", format!("gammarus-cni {} answers /readyz on {address}", env!("CARGO_PKG_VERSION")));
    let (state_dir, patience) = (flags.state_dir.clone(), flags.uninstall_wait);
    let mut keeper = Keeper::new(flags, health);
    let mut end = None;
    loop {
        let mut rest = keeper.look_around(&watch)?;
        if let Some(end) = end {
            if keeper.is_leading() && is_requested(&state_dir) {
                return keeper.take_off();
            }
            let left = Instant::saturating_duration_since(&end, Instant::now());
            if left.is_zero() || !keeper.is_leading() {
                log("INFO", "ending; the plugin stays installed");
                return Ok(());
            }
            rest = rest.min(left).min(BETWEEN_QUESTIONS);
        }
        if watch.wait(rest).map_err(failed("wait for changes"))? == Woken::ToldToEnd {
            log("INFO", "told to end: is it an uninstall?");
            end = end.or_else(|| Instant::now().checked_add(patience));
        }
    }
}

fn is_requested(state_dir: &Path) -> bool {
    state::uninstall_requested(state_dir).unwrap_or_else(|error| {
        log("WARN", with_causes(&error));
        false
    })
}

/// Takes the plugin off a node that no installer looks after.
fn uninstall(flags: &Flags) -> Result<(), InstallError> {
    let directories = runtime::find(flags)?;
    log("INFO", &directories);
    let conf_dir = ConfDir { dir: directories.conf_dir, default_network: directories.default_network };
    let Some(_lock) = lock(&conf_dir.dir)? else {
        return Err(InstallError::Held { path: conf_dir.dir });
    };
    take_off(&conf_dir, &flags.state_dir)
}

/// The configuration first, so that nothing new comes to the plugin; then the word that lets every pod pass which
/// comes to it nevertheless.
fn take_off(conf_dir: &ConfDir, state_dir: &Path) -> Result<(), InstallError> {
    for path in conf_dir.take_out()? {
        log("INFO", format!("the entry was taken out of {}", path.display()));
    }
    state::mark_uninstalled(state_dir)?;
    log("INFO", "uninstalled; the plugin's file stays, and lets every pod pass");
    Ok(())
}

/// The lock of a folder, as long as the file that is returned is open; `None` while another process has it.
fn lock(dir: &Path) -> Result<Option<File>, InstallError> {
    let failed = |source| InstallError::Io { action: "lock", path: dir.to_owned(), source };
    let file = File::open(dir).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// A line on standard error; that nobody takes it must not end an installer.
fn log(level: &str, text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "level={level} {text}");
}

/// An error and its causes, outermost first.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
