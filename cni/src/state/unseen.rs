//! Pods that started while nobody could say whether they are to be enrolled.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::file::{list, read, remove, write_atomically};
use super::{StateError, VERSION};
use crate::attachment::{Attachment, AttachmentId};

const UNSEEN: &str = "unseen";

/// One record of a pod that started while nobody could say whether it is to be enrolled.
#[derive(Debug, Serialize, Deserialize)]
struct Unseen {
    version: u32,
    attachment: Attachment,
}

/// Writes down a pod that started unseen, for the proxy to enrol first when it is back.
///
/// # Errors
/// When it cannot be written.
pub fn write_unseen(state_dir: &Path, attachment: &Attachment) -> Result<(), StateError> {
    let record = Unseen { version: VERSION, attachment: attachment.clone() };
    write_atomically(&state_dir.join(UNSEEN), unseen_name(&attachment.id).as_ref(), &record)
}

/// The pods that started unseen, and what is wrong with records that cannot be read.
///
/// The proxy lists them once its socket is bound (a plugin that has written one tries the socket again, so that
/// none falls between the two), and in its regular comparison, and calls [`forget_unseen`] for each when its pod is
/// enrolled or known not to be. A record whose pod has gone is left behind only by a lost DEL.
///
/// # Errors
/// When the directory is there and cannot be listed.
pub fn list_unseen(state_dir: &Path) -> Result<Vec<Result<Attachment, StateError>>, StateError> {
    let records: Vec<Result<Unseen, StateError>> = list(&state_dir.join(UNSEEN))?;
    Ok(records.into_iter().map(|record| record.map(|record| record.attachment)).collect())
}

/// Removes the record of a pod, if there is one and it is of this attachment.
///
/// # Errors
/// When it is there and cannot be read or removed.
pub fn forget_unseen(state_dir: &Path, id: &AttachmentId) -> Result<(), StateError> {
    let path = state_dir.join(UNSEEN).join(unseen_name(id));
    match read::<Unseen>(&path) {
        Some(Ok(found)) if found.attachment.id != *id => return Ok(()),
        None => return Ok(()),
        // A record that nobody can read is of no use to anybody: it goes with its container.
        Some(Ok(_) | Err(_)) => {}
    }
    remove(&path)
}

/// One record per sandbox: a pod is enrolled once, whatever the number of its interfaces.
fn unseen_name(id: &AttachmentId) -> String {
    format!("{}.json", id.container_id)
}
