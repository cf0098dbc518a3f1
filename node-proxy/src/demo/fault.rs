//! What can go wrong while a world is built or a story is played on it.

use std::io;
use std::path::PathBuf;

/// Why the demo could not go on.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A program ended with a failure: what it was and what it said.
    #[error("`{command}` failed ({outcome}): {said}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status, in words.
        outcome: String,
        /// Its output, trimmed.
        said: String,
    },
    /// A file could not be read, written or removed.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The world is being taken down.
    #[error("interrupted")]
    Interrupted,
    /// Something did not happen within its deadline.
    #[error("{what} did not happen within {seconds} s{log}")]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// The end of the log of the process at fault, on lines of its own.
        log: String,
    },
    /// A program that the world needs is not there.
    #[error("{program} is missing: {advice}")]
    Missing {
        /// Which program.
        program: String,
        /// How to get it.
        advice: &'static str,
    },
    /// An object that cannot be applied.
    #[error("{origin}: {problem}")]
    Object {
        /// The file or the object.
        origin: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Namespaces need root.
    #[error("network namespaces need root: run it with sudo")]
    Privilege,
    /// A program could not be started.
    #[error("cannot start {program}: {source}")]
    Start {
        /// Which program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A node or pod that nobody has made.
    #[error("there is no {kind} named {name} in this world")]
    Unknown {
        /// `node` or `pod`.
        kind: &'static str,
        /// The name that was asked for.
        name: String,
    },
}

impl DemoError {
    /// Makes a closure that names the file an I/O error is about.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
