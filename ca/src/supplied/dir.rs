//! A supplied signer in a directory, as a Secret is mounted: its files have to be there, and may change one by one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{CHAIN, KEY, ROOTS, SignerSource, SignerText, SuppliedError};
use crate::signer::SignerFiles;

/// The directory.
#[derive(Clone, Debug)]
pub struct SignerDir(PathBuf);

impl SignerDir {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }
}

impl SignerSource for SignerDir {
    fn files(&self) -> SignerFiles {
        let file = |name| self.0.join(name);
        SignerFiles { key: file(KEY), chain: file(CHAIN), roots: file(ROOTS) }
    }

    fn is_whole(&self) -> bool {
        false
    }

    fn read(&self) -> Result<Option<SignerText>, SuppliedError> {
        let files = self.files();
        let roots = match read(&files.roots) {
            Err(SuppliedError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                String::new()
            }
            text => text?,
        };
        Ok(Some(SignerText { key: read(&files.key)?, chain: read(&files.chain)?, roots }))
    }
}

fn read(path: &Path) -> Result<String, SuppliedError> {
    fs::read_to_string(path).map_err(|source| SuppliedError::Io { path: path.to_owned(), source })
}
