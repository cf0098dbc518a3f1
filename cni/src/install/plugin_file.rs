//! The plugin's own file in the runtime's folder of plugins: a copy of this very program.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use super::InstallError;
use super::conflist::PLUGIN;
use super::place::{self, Stamp};

const MODE: u32 = 0o755;

/// The program, and where it belongs.
pub(super) struct PluginFile {
    source: File,
    length: u64,
    pub(super) path: PathBuf,
    /// The file's state when it was last compared.
    seen: Option<Stamp>,
}

impl PluginFile {
    /// Opens the program that is to be `dir`'s plugin.
    pub(super) fn open(source: &Path, dir: &Path) -> Result<Self, InstallError> {
        let failed = |error| InstallError::Io { action: "open", path: source.to_owned(), source: error };
        let file = File::open(source).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        Ok(Self { source: file, length, path: dir.join(PLUGIN), seen: None })
    }

    /// Is the file what it should be? It is read only if it has changed since the last time.
    pub(super) fn stands(&mut self) -> Result<bool, InstallError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| InstallError::Io { action: "read", path, source }
        };
        let metadata = match fs::symlink_metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed(&self.path)(error)),
        };
        let stamp = Stamp::of(&metadata);
        if self.seen == Some(stamp) {
            return Ok(true);
        }
        if !metadata.is_file() || !stamp.has_mode(MODE) || metadata.len() != self.length {
            return Ok(false);
        }
        let is_same = self.is_same_as(&self.path).map_err(failed(&self.path))?;
        self.seen = is_same.then_some(stamp);
        Ok(is_same)
    }

    /// Writes the file anew.
    pub(super) fn put(&self) -> Result<(), InstallError> {
        let mut source = &self.source;
        place::replace(&self.path, MODE, None, |file| {
            source.rewind()?;
            io::copy(&mut source, file).map(|_| ())
        })?;
        Ok(())
    }

    fn is_same_as(&self, path: &Path) -> io::Result<bool> {
        let (mut ours, mut theirs) = (&self.source, File::open(path)?);
        ours.rewind()?;
        let (mut one, mut other) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
        loop {
            let read = ours.read(&mut one)?;
            if read == 0 {
                return Ok(theirs.read(&mut other)? == 0);
            }
            match theirs.read_exact(&mut other[..read]) {
                Ok(()) if one[..read] == other[..read] => {}
                Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
                _ => return Ok(false),
            }
        }
    }
}
