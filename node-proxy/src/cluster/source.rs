//! The seam between what the cluster says and where it is read from.

use std::future::Future;
use std::path::PathBuf;

use super::objects::Change;
use super::report::Report;

/// What a source has to say at one moment.
#[derive(Debug, Default)]
pub struct Update {
    /// Changes, in the order they are to be applied. The first update holds everything there is.
    pub changes: Vec<Change>,
    /// Every problem there is now, not only new ones, sorted.
    pub reports: Vec<Report>,
}

/// Where objects come from: the API server, or a directory of YAML.
///
/// A source keeps what it last knew to be good and tells only of differences. Its first update comes
/// when everything has been read once.
pub trait ObjectSource: Send {
    /// Waits for the next update. Dropping the future loses nothing.
    ///
    /// # Errors
    /// If nothing more can come: what can pass by itself is waited for.
    fn next(&mut self) -> impl Future<Output = Result<Update, ClusterError>> + Send;
}

/// Why there is no word of the cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A client of the API server could not be made.
    #[error(transparent)]
    Connect(#[from] gammarus_ca::cluster::ConnectError),
    /// The mark of a pod could not be written or removed.
    #[error("the mark {path} cannot be changed")]
    Mark {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A directory could not be read.
    #[error("the directory {path} cannot be read")]
    Read {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A watch of the API server ended for good, which only a fault of the program makes it do.
    #[error("a watch of the API server has ended")]
    WatchEnded,
    /// A directory could not be watched; many watches may ask for a higher `fs.inotify.max_user_watches`.
    #[error(
        "the directory {path} cannot be watched (see fs.inotify.max_user_watches and max_user_instances)"
    )]
    Watch {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}
