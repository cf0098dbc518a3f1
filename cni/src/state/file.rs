//! Files of the state directory: written beside their place and renamed, each with its version.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

use super::{StateError, VERSION};

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Every record of a directory, in the order of their names, and what is wrong with those that cannot be read.
pub(super) fn list<T: serde::de::DeserializeOwned>(
    dir: &Path,
) -> Result<Vec<Result<T, StateError>>, StateError> {
    let failed = |source| StateError::Io { action: "list", path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension() == Some(OsStr::new("json")) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths.iter().filter_map(|path| read(path)).collect())
}

/// One record; `None` when it is not there, or not any more.
pub(super) fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Option<Result<T, StateError>> {
    match fs::read(path) {
        Ok(text) => Some(parse(path.to_owned(), &text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => Some(Err(StateError::Io { action: "read", path: path.to_owned(), source })),
    }
}

/// Removes a file, which may have gone.
pub(super) fn remove(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StateError::Io { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Makes a directory that nobody but root may enter, unless it is there.
pub(super) fn create(dir: &Path) -> Result<(), StateError> {
    let failed = |source| StateError::Io { action: "create", path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)
}

pub(super) fn parse<T: serde::de::DeserializeOwned>(path: PathBuf, text: &[u8]) -> Result<T, StateError> {
    let version = match serde_json::from_slice::<Versioned>(text) {
        Ok(Versioned { version }) => version,
        Err(source) => return Err(StateError::Malformed { path, source }),
    };
    if version != VERSION {
        return Err(StateError::UnsupportedVersion { path, version });
    }
    serde_json::from_slice(text).map_err(|source| StateError::Malformed { path, source })
}

/// Replaces a file, and has it on the disk when this returns.
pub(super) fn write_atomically<T: Serialize>(
    dir: &Path,
    name: &OsStr,
    content: &T,
) -> Result<(), StateError> {
    let path = dir.join(name);
    let failed = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| StateError::Io { action, path, source }
    };
    let text =
        serde_json::to_vec(content).map_err(|source| StateError::Malformed { path: path.clone(), source })?;
    create(dir)?;
    // Process and count keep two writers apart: their files meet only in the rename.
    static WRITES: AtomicU32 = AtomicU32::new(0);
    let count = WRITES.fetch_add(1, Ordering::Relaxed);
    let mut beside = name.to_owned();
    beside.push(format!(".{}-{count}.new", std::process::id()));
    let beside = dir.join(beside);
    let written = write_and_sync(&beside, &text).and_then(|()| fs::rename(&beside, &path));
    if let Err(error) = written {
        // What is left of the attempt is of no use; that it cannot be removed either changes nothing.
        let _ = fs::remove_file(&beside);
        return Err(failed("write", &path)(error));
    }
    sync(dir)
}

/// Has the names in a directory on the disk when this returns.
pub(super) fn sync(dir: &Path) -> Result<(), StateError> {
    let failed = |source| StateError::Io { action: "sync", path: dir.to_owned(), source };
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
}

fn write_and_sync(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}
