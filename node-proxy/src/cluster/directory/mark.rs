//! The marks of enrolled pods (design D7) as files: `status/pods/NAMESPACE.NAME.yaml`.
//!
//! A namespace's name has no dot, so the first dot ends it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::super::objects::{Mark, ObjectKey};
use super::super::source::ClusterError;

/// Where status lives below the root.
pub(super) const STATUS: &str = "status";

/// Marks a pod as enrolled: the file appears complete or not at all.
///
/// # Errors
/// If the file cannot be written.
pub fn write_mark(root: &Path, pod: &ObjectKey, mark: &Mark) -> Result<(), ClusterError> {
    let path = mark_path(root, pod);
    let text = serde_saphyr::to_string(mark).map_err(io::Error::other);
    let write = |text: String| {
        let directory = path.parent().unwrap_or(root);
        fs::create_dir_all(directory)?;
        // The process is in the name: the agents of several nodes may share one directory.
        let draft =
            directory.join(format!(".{pod_file}.{id}", pod_file = file_name(pod), id = std::process::id()));
        fs::write(&draft, text)?;
        fs::rename(&draft, &path)
    };
    text.and_then(write).map_err(|source| ClusterError::Mark { path: path.clone(), source })
}

/// Takes the mark of a pod away, if there is one and it names this uid.
///
/// # Errors
/// If the file cannot be read or removed.
pub fn remove_mark(root: &Path, pod: &ObjectKey, uid: &str) -> Result<(), ClusterError> {
    let path = mark_path(root, pod);
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let remove = || match fs::read_to_string(&path) {
        // What cannot be understood is nobody's mark, and in the way of the next one.
        Ok(text) if serde_saphyr::from_str::<Mark>(&text).is_ok_and(|mark| mark.uid != uid) => Ok(()),
        Ok(_) => fs::remove_file(&path),
        Err(error) => Err(error),
    };
    match remove() {
        Err(error) if !gone(&error) => Err(ClusterError::Mark { path, source: error }),
        _ => Ok(()),
    }
}

/// The pod whose mark a file holds; `None` if its name is no pod's.
pub(super) fn marked_pod(file: &Path) -> Option<ObjectKey> {
    let below = file.strip_prefix(STATUS).ok()?.strip_prefix("pods").ok()?;
    let name = below.to_str()?.strip_suffix(".yaml")?;
    let (namespace, name) = name.split_once('.')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains('/'))
        .then(|| ObjectKey::new(namespace, name))
}

fn mark_path(root: &Path, pod: &ObjectKey) -> PathBuf {
    root.join(STATUS).join("pods").join(file_name(pod))
}

fn file_name(pod: &ObjectKey) -> String {
    format!("{}.{}.yaml", pod.namespace, pod.name)
}
