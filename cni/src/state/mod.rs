//! What lies on the node's disk for the hours in which the node's proxy does not answer.
//!
//! The proxy writes [`NamespaceStates`]; the plugin reads it when the proxy is dead, and writes down the pods that it
//! lets start then ([`write_unseen`]), which the proxy looks at first when it is back. The proxy writes a [`Record`] of
//! every pod that ADD has passed, by which it finds the pod again; a DEL that no proxy hears leaves that record where
//! the proxy sees it ([`note_withdrawal`]). An uninstall is agreed on here, too ([`request_uninstall`]). Every file is written beside its place and renamed, so that a reader, or a
//! power cut, meets the old one or the new.

mod file;
mod namespaces;
mod records;
#[cfg(test)]
mod tests;
mod uninstall;
mod unseen;

use std::io;
use std::path::PathBuf;

pub use namespaces::{NamespaceState, NamespaceStates};
pub use records::{Record, forget_record, list_records, list_withdrawn, note_withdrawal, write_record};
pub use uninstall::{
    is_uninstalled, mark_installed, mark_uninstalled, request_uninstall, uninstall_requested,
};
pub use unseen::{forget_unseen, list_unseen, write_unseen};

/// The version of the files that this release writes, and the only one there has been.
pub const VERSION: u32 = 1;

/// Why a file of the state directory could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file's text is not what it should be.
    #[error("{} is not understood", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A later release wrote the file.
    #[error("{} has version {version}, only {VERSION} is understood", path.display())]
    UnsupportedVersion {
        /// Which file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}
