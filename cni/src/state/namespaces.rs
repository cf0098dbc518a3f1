//! Which namespaces belong to the mesh: what the plugin goes by while no proxy answers.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::file::{parse, write_atomically};
use super::{StateError, VERSION};

const NAMESPACES: &str = "namespaces.json";

/// What is known of one namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamespaceState {
    /// Its pods belong to the mesh.
    Enrolled,
    /// Its pods do not.
    NotEnrolled,
    /// The proxy had not seen the namespace when it last wrote.
    Unknown,
}

/// Every namespace the node's proxy has seen, with its state: `namespaces.json` in the state directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceStates {
    version: u32,
    /// Those whose pods belong to the mesh.
    pub enrolled: BTreeSet<String>,
    /// Those whose pods do not.
    pub not_enrolled: BTreeSet<String>,
}

impl Default for NamespaceStates {
    fn default() -> Self {
        Self { version: VERSION, enrolled: BTreeSet::new(), not_enrolled: BTreeSet::new() }
    }
}

impl NamespaceStates {
    /// Reads the file; before it was ever written, no namespace is known.
    ///
    /// # Errors
    /// When it is there and cannot be used.
    pub fn read(state_dir: &Path) -> Result<Self, StateError> {
        let path = state_dir.join(NAMESPACES);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(StateError::Io { action: "read", path, source }),
        };
        parse(path, &text)
    }

    /// Replaces the file, and has it on the disk when this returns.
    ///
    /// # Errors
    /// When it cannot be written; the old file is then still there.
    pub fn write(&self, state_dir: &Path) -> Result<(), StateError> {
        write_atomically(state_dir, OsStr::new(NAMESPACES), self)
    }

    /// What is known of a namespace. One that stands in both lists is enrolled: no plain text by mistake.
    #[must_use]
    pub fn find(&self, namespace: &str) -> NamespaceState {
        if self.enrolled.contains(namespace) {
            NamespaceState::Enrolled
        } else if self.not_enrolled.contains(namespace) {
            NamespaceState::NotEnrolled
        } else {
            NamespaceState::Unknown
        }
    }
}
