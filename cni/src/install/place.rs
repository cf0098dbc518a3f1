//! Files that a runtime may read at any moment: written beside their place, on the disk, and renamed.
//!
//! Whoever reads, and whatever ends this process or the machine, meets the old file or the new one. What such an end
//! leaves behind has a name that no runtime takes, and goes with the next start ([`sweep`]). Only the one installer
//! that has the node's lock writes, so that one name is enough.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::InstallError;

const BESIDE: &str = ".gammarus-new";

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    file: (u64, u64),
    length: u64,
    modified: (i64, i64),
    mode: u32,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            mode: metadata.mode(),
        }
    }

    /// Has the file exactly these permissions?
    pub(super) const fn has_mode(&self, mode: u32) -> bool {
        self.mode & 0o7777 == mode
    }
}

/// Replaces a file by what `write` makes, if it is still what it was when `seen` was taken (`None`: not there, or
/// whatever it is). Says whether it did.
pub(super) fn replace(
    path: &Path,
    mode: u32,
    seen: Option<Stamp>,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<bool, InstallError> {
    let failed = |source| InstallError::Io { action: "write", path: path.to_owned(), source };
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    };
    let beside = dir.join(format!(".{}{BESIDE}", name.display()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside)?;
        write(&mut file)?;
        // Whatever the umask, or a file that was left behind, says.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        if seen.is_some() && fs::metadata(path).ok().map(|now| Stamp::of(&now)) != seen {
            return fs::remove_file(&beside).map(|()| false);
        }
        fs::rename(&beside, path)?;
        File::open(dir)?.sync_all().map(|()| true)
    })();
    written.map_err(|error| {
        // Of no use; if it cannot be removed either, the next start tries again.
        let _ = fs::remove_file(&beside);
        failed(error)
    })
}

/// Removes a file, which may have gone, for good.
pub(super) fn remove(path: &Path) -> Result<(), InstallError> {
    let removed = match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.and_then(|()| File::open(path.parent().unwrap_or(path))?.sync_all()),
    };
    removed.map_err(|source| InstallError::Io { action: "remove", path: path.to_owned(), source })
}

/// Removes what an installer that was killed has left half written.
pub(super) fn sweep(dir: &Path) -> Result<(), InstallError> {
    list(dir)?.iter().filter(|path| name_of(path).ends_with(BESIDE)).try_for_each(|path| remove(path))
}

/// The paths in a folder, in the order of their names.
pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>, InstallError> {
    let failed = |source| InstallError::Io { action: "list", path: dir.to_owned(), source };
    let entries = fs::read_dir(dir).map_err(failed)?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    paths.sort();
    Ok(paths)
}

/// A file's name; what is not UTF-8 is none that concerns us.
pub(super) fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}
