//! Objects from a directory of YAML, watched.
//!
//! Every `*.yaml`, `*.yml` and `*.json` below the root is read; documents are judged one by one. What is
//! broken keeps its last good version; what has gone from every file goes. `status/` holds what agents
//! write ([`write_mark`]) and no objects. Links to files are followed, wherever the file lies, and links to
//! directories are not; of a link to a link, the first and the file itself are watched, what is between is not.
//! An object without `creationTimestamp` has none: it ranks by its namespace and name. Files are small and read
//! where the writer runs, never on the data path.

mod files;
mod mark;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;

use super::report::{Report, Severity};
use super::schema::Schemas;
use super::source::{ClusterError, ObjectSource, Update};
use files::Files;
use watch::{Touched, Watch, list_tree};

pub use mark::{remove_mark, write_mark};

/// How long the directory must be quiet before it is read: an editor's save is several events.
const QUIET: Duration = Duration::from_millis(3);

/// After how many quiet times a directory that is never quiet is read all the same.
const PATIENCE: usize = 10;

/// How often a root that has gone is looked for.
const RETRY: Duration = Duration::from_secs(1);

/// A watched directory of YAML.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    files: Files,
    watch: Watch,
    /// What has been touched and not been read yet; survives a dropped `next`.
    pending: Touched,
    /// The root has gone, and that has been told.
    lost: bool,
}

impl Directory {
    /// Begins to watch a directory. Nothing is read before the first [`ObjectSource::next`].
    ///
    /// # Errors
    /// If it is not there or cannot be watched.
    pub fn open(root: &Path) -> Result<Self, ClusterError> {
        let root =
            root.canonicalize().map_err(|source| ClusterError::Read { path: root.to_owned(), source })?;
        let watch = Watch::open(&root)?;
        let trees = BTreeSet::from([PathBuf::new()]);
        let pending = Touched { trees, ..Touched::default() };
        let schemas = Schemas::default();
        // Hardly a directory is without, and the first one is not to take effect later than those that follow.
        schemas.prepare("HTTPRoute");
        Ok(Self { files: Files::new(&root, schemas), root, watch, pending, lost: false })
    }

    async fn wait(&mut self) -> Result<(), ClusterError> {
        while self.pending.is_empty() {
            let touched = self.watch.next().await?;
            self.add(touched);
        }
        for _ in 0..PATIENCE {
            sleep(QUIET).await;
            let touched = self.watch.drain()?;
            if touched.is_empty() {
                break;
            }
            self.add(touched);
        }
        Ok(())
    }

    fn add(&mut self, touched: Touched) {
        self.pending.files.extend(touched.files);
        self.pending.trees.extend(touched.trees);
        self.pending.root_gone |= touched.root_gone;
    }

    /// Keeps everything known until the root is back, and then looks at all of it again.
    async fn wait_for_root(&mut self) -> Result<(), ClusterError> {
        loop {
            sleep(RETRY).await;
            match Watch::open(&self.root) {
                Ok(watch) => {
                    self.watch = watch;
                    self.pending = Touched { trees: BTreeSet::from([PathBuf::new()]), ..Touched::default() };
                    self.lost = false;
                    return Ok(());
                }
                Err(error) => {
                    tracing::debug!(root = %self.root.display(), %error, "the directory is not back")
                }
            }
        }
    }

    fn read(&mut self) -> Update {
        let touched = std::mem::take(&mut self.pending);
        let mut maybe = BTreeSet::new();
        for tree in &touched.trees {
            maybe.extend(list_tree(&self.root, tree));
            maybe.extend(self.files.below(tree));
        }
        self.watch.follow(touched.files.iter().chain(&maybe));
        let changes = self.files.refresh(touched.files, maybe);
        Update { changes, reports: self.files.reports() }
    }
}

impl ObjectSource for Directory {
    async fn next(&mut self) -> Result<Update, ClusterError> {
        if self.lost {
            self.wait_for_root().await?;
        }
        self.wait().await?;
        if self.pending.root_gone {
            self.lost = true;
            let report = Report {
                file: Some(PathBuf::from(".")),
                object: None,
                field: None,
                severity: Severity::Error,
                message: "the directory has gone: what was last read stays".to_owned(),
            };
            let mut reports = self.files.reports();
            reports.insert(0, report);
            return Ok(Update { changes: Vec::new(), reports });
        }
        Ok(self.read())
    }
}
