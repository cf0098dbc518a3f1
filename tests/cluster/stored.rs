//! What an API server had stored once it was prepared: kept in memory, for others to begin with. To begin so takes half of
//! the processor time of installing the Gateway API's types again, and less for whatever else every test of a kind asks for.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{ApiServer, Channel, STORE};

static STANDARD: Prepared = Prepared::new(|server| server.install_gateway_api(Channel::Standard));
static EXPERIMENTAL: Prepared = Prepared::new(|server| server.install_gateway_api(Channel::Experimental));

impl ApiServer {
    /// Starts one with the types of the Gateway API.
    #[track_caller]
    pub(crate) fn with_gateway_api(channel: Channel) -> Self {
        match channel {
            Channel::Standard => STANDARD.start(),
            Channel::Experimental => EXPERIMENTAL.start(),
        }
    }
}

/// What is done to a server that nothing was done to yet, and what its store has then.
pub(crate) struct Prepared {
    prepare: fn(&ApiServer),
    stored: Mutex<Option<Vec<StoredFile>>>,
}

/// A file of the store, which the store makes much longer than what is in it.
struct StoredFile {
    /// Within the store's folder.
    path: PathBuf,
    /// Without the zeros at its end.
    bytes: Vec<u8>,
    length: u64,
}

impl Prepared {
    /// Every server of these was prepared by this, which leaves nothing but objects.
    pub(crate) const fn new(prepare: fn(&ApiServer)) -> Self {
        Self { prepare, stored: Mutex::new(None) }
    }

    /// Starts a server of its own for a test. The first one is prepared; the others have what that one had stored.
    #[track_caller]
    pub(crate) fn start(&self) -> ApiServer {
        // Who comes meanwhile waits for the first one.
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = &*stored {
            // Written while nobody else asks: the start itself is what takes its time.
            let dir = tempfile::TempDir::new().unwrap();
            write(files, &dir.path().join(STORE));
            drop(stored);
            return ApiServer::start_in(dir, &[]);
        }
        let server = ApiServer::start();
        (self.prepare)(&server);
        *stored = Some(server.while_the_store_rests(read));
        server
    }
}

/// All files below a folder.
fn read(folder: &Path) -> Vec<StoredFile> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(within) = folders.pop() {
        for entry in fs::read_dir(folder.join(&within)).unwrap() {
            let entry = entry.unwrap();
            let path = within.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
                continue;
            }
            let mut bytes = fs::read(entry.path()).unwrap();
            let length = bytes.len() as u64;
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            bytes.truncate(used);
            bytes.shrink_to_fit();
            files.push(StoredFile { path, bytes, length });
        }
    }
    files
}

/// Makes the files again below a folder.
fn write(files: &[StoredFile], folder: &Path) {
    for StoredFile { path, bytes, length } in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = File::create(path).unwrap();
        file.write_all(bytes).unwrap();
        file.set_len(*length).unwrap();
    }
}
