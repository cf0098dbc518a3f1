//! How the mesh leaves a node: what its proxy and the plugin's installer say to each other, and to the plugin.
//!
//! Only the proxy can tell an uninstall from a restart, and only the installer may take the plugin out of the
//! runtime's configuration, which comes first. So the proxy asks ([`request_uninstall`]) and waits until
//! [`is_uninstalled`]; only then it releases its pods. From that moment on the plugin, which a runtime may still call
//! by a configuration it has in memory, lets every pod pass: it must never stand in the way of a node without a mesh.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::file::{remove, write_atomically};
use super::{StateError, VERSION};

/// Written by the proxy.
const REQUEST: &str = "uninstalling";
/// Written by the installer.
const UNINSTALLED: &str = "uninstalled";

/// For how long a request holds: an older one was meant for an installer that is no more.
const REQUEST_HOLDS: Duration = Duration::from_secs(60);

#[derive(Serialize)]
struct Note {
    version: u32,
}

/// The proxy asks the installer beside it to take the plugin off this node.
///
/// To be called after SIGTERM alone, by a proxy that knows that the mesh is being uninstalled; the installer obeys
/// once it has been told to end, too.
///
/// # Errors
/// When it cannot be written.
pub fn request_uninstall(state_dir: &Path) -> Result<(), StateError> {
    write_atomically(state_dir, OsStr::new(REQUEST), &Note { version: VERSION })
}

/// Has a proxy asked, within the last minute? An older request is removed.
///
/// # Errors
/// When the request cannot be looked at, or cannot be removed.
pub fn uninstall_requested(state_dir: &Path) -> Result<bool, StateError> {
    let path = state_dir.join(REQUEST);
    let written = match fs::metadata(&path).and_then(|metadata| metadata.modified()) {
        Ok(written) => written,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(StateError::Io { action: "look at", path, source }),
    };
    // One from the future is of now: clocks step.
    if written.elapsed().is_ok_and(|age| age > REQUEST_HOLDS) {
        remove(&path)?;
        return Ok(false);
    }
    Ok(true)
}

/// The installer has taken the plugin out of the runtime's configuration; answers the request, if there is one.
///
/// # Errors
/// When it cannot be written: then the plugin is as it was, and the proxy keeps waiting.
pub fn mark_uninstalled(state_dir: &Path) -> Result<(), StateError> {
    write_atomically(state_dir, OsStr::new(UNINSTALLED), &Note { version: VERSION })?;
    remove(&state_dir.join(REQUEST))
}

/// The plugin is about to be installed: nothing of an uninstall before holds any more.
///
/// # Errors
/// When something is there and cannot be removed.
pub fn mark_installed(state_dir: &Path) -> Result<(), StateError> {
    [REQUEST, UNINSTALLED].iter().try_for_each(|name| remove(&state_dir.join(name)))
}

/// Is there no mesh on this node any more? What cannot be looked at says no.
#[must_use]
pub fn is_uninstalled(state_dir: &Path) -> bool {
    state_dir.join(UNINSTALLED).exists()
}
