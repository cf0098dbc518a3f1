//! Pods that ADD has passed, enrolled or not: how a proxy that has just started finds them again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::file::{create, list, remove, sync, write_atomically};
use super::{StateError, VERSION};
use crate::attachment::{Attachment, AttachmentId};

/// Of pods that are there.
const RECORDS: &str = "attachments";
/// Of pods whose DEL no proxy has heard.
const WITHDRAWN: &str = "withdrawn";

/// One attachment of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// What ADD was told: ids, names, addresses, and where the runtime keeps the namespace.
    pub attachment: Attachment,
    /// `SO_NETNS_COOKIE` of the namespace: another one at the same path is another pod's.
    pub cookie: u64,
    /// The Pod's `metadata.uid`, which its mark names; not always the one that the runtime knows.
    pub uid: String,
}

impl Record {
    /// A record in the version of this release.
    #[must_use]
    pub const fn new(attachment: Attachment, cookie: u64, uid: String) -> Self {
        Self { version: VERSION, attachment, cookie, uid }
    }
}

/// Writes a pod down, or replaces what was written of the same attachment.
///
/// # Errors
/// When it cannot be written.
pub fn write_record(state_dir: &Path, record: &Record) -> Result<(), StateError> {
    write_atomically(&state_dir.join(RECORDS), name(&record.attachment.id).as_ref(), record)
}

/// The pods that were written down, and what is wrong with records that cannot be read.
///
/// # Errors
/// When the directory is there and cannot be listed.
pub fn list_records(state_dir: &Path) -> Result<Vec<Result<Record, StateError>>, StateError> {
    list(&state_dir.join(RECORDS))
}

/// The pods whose DEL no proxy has heard.
///
/// # Errors
/// When the directory is there and cannot be listed.
pub fn list_withdrawn(state_dir: &Path) -> Result<Vec<Result<Record, StateError>>, StateError> {
    list(&state_dir.join(WITHDRAWN))
}

/// Puts a pod's record, if there is one, among those whose DEL no proxy has heard.
///
/// # Errors
/// When it is there and cannot be moved.
pub fn note_withdrawal(state_dir: &Path, id: &AttachmentId) -> Result<(), StateError> {
    let (from, to) = (path_of(state_dir, RECORDS, id), path_of(state_dir, WITHDRAWN, id));
    if !from.exists() {
        return Ok(());
    }
    let into = state_dir.join(WITHDRAWN);
    create(&into)?;
    match fs::rename(&from, &to) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StateError::Io { action: "move", path: from, source })
        }
        _ => sync(&into),
    }
}

/// Removes all that is written of an attachment; there may be nothing.
///
/// # Errors
/// When something is there and cannot be removed.
pub fn forget_record(state_dir: &Path, id: &AttachmentId) -> Result<(), StateError> {
    [RECORDS, WITHDRAWN].iter().try_for_each(|folder| remove(&path_of(state_dir, folder, id)))
}

fn path_of(state_dir: &Path, folder: &str, id: &AttachmentId) -> PathBuf {
    state_dir.join(folder).join(name(id))
}

/// No container id has an `@`, and no interface name a slash.
fn name(id: &AttachmentId) -> String {
    format!("{}@{}.json", id.container_id, id.ifname)
}
