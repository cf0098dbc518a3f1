//! Which files of a directory tree have changed, by inotify.
//!
//! Only finished writes count (`IN_CLOSE_WRITE`, renames, links): a file that an editor is in the middle
//! of writing is not looked at. This never reads a file.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::unix::AsyncFd;

use super::super::source::ClusterError;

/// What has to be looked at again. Paths are relative to the root.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Touched {
    /// Files that were written, moved or removed.
    pub(super) files: BTreeSet<PathBuf>,
    /// Directories below which anything may have come or gone; the empty path is the whole tree.
    pub(super) trees: BTreeSet<PathBuf>,
    /// The root itself has gone.
    pub(super) root_gone: bool,
}

impl Touched {
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.trees.is_empty() && !self.root_gone
    }
}

/// `Inotify`, as tokio wants it.
#[derive(Debug)]
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[expect(unsafe_code, reason = "tokio's safe constructor is deprecated: it trusts every AsRawFd")]
fn register(inotify: Inotify) -> io::Result<AsyncFd<Descriptor>> {
    // SAFETY: `Inotify` owns its descriptor, keeps it open until it is dropped and never exchanges it; the
    // `Descriptor` moves into the `AsyncFd`, of which only shared references are taken.
    unsafe { AsyncFd::register(Descriptor(inotify)) }.map_err(|error| error.into_parts().1)
}

/// The watches on a tree of directories.
#[derive(Debug)]
pub(super) struct Watch {
    root: PathBuf,
    inotify: AsyncFd<Descriptor>,
    directories: HashMap<WatchDescriptor, PathBuf>,
}

impl Watch {
    /// Begins to watch `root` and every directory below it.
    pub(super) fn open(root: &Path) -> Result<Self, ClusterError> {
        let failed = |source: io::Error| ClusterError::Watch { path: root.to_owned(), source };
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(|errno| failed(errno.into()))?;
        let inotify = register(inotify).map_err(failed)?;
        let mut watch = Self { root: root.to_owned(), inotify, directories: HashMap::new() };
        watch.watch_tree(Path::new(""))?;
        Ok(watch)
    }

    /// Waits until something has been touched.
    pub(super) async fn next(&mut self) -> Result<Touched, ClusterError> {
        loop {
            let mut ready = self.inotify.readable().await.map_err(|source| self.failed(source))?;
            ready.clear_ready();
            drop(ready);
            let touched = self.drain()?;
            if !touched.is_empty() {
                return Ok(touched);
            }
        }
    }

    /// Everything that has been touched up to now, without waiting.
    pub(super) fn drain(&mut self) -> Result<Touched, ClusterError> {
        let mut touched = Touched::default();
        loop {
            match self.inotify.get_ref().0.read_events() {
                Ok(events) => {
                    for event in events {
                        self.take(&event, &mut touched)?;
                    }
                }
                Err(Errno::EAGAIN) => return Ok(touched),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.failed(errno.into())),
            }
        }
    }

    /// Watches a directory and all below it; what vanishes meanwhile is passed over. Only the root's own
    /// watch is indispensable: for want of another, what is known must not go.
    pub(super) fn watch_tree(&mut self, tree: &Path) -> Result<(), ClusterError> {
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        for directory in list_tree(&self.root, tree).directories {
            let path = self.root.join(&directory);
            match self.inotify.get_ref().0.add_watch(&path, flags) {
                Ok(descriptor) => drop(self.directories.insert(descriptor, directory)),
                Err(Errno::ENOENT | Errno::ENOTDIR) if !directory.as_os_str().is_empty() => {}
                Err(errno) if directory.as_os_str().is_empty() => {
                    return Err(ClusterError::Watch { path, source: errno.into() });
                }
                Err(errno) => tracing::error!(
                    directory = %path.display(),
                    %errno,
                    "a directory cannot be watched: changes in it are not seen (see fs.inotify.max_user_watches)"
                ),
            }
        }
        Ok(())
    }

    fn take(&mut self, event: &InotifyEvent, touched: &mut Touched) -> Result<(), ClusterError> {
        let mask = event.mask;
        if mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            touched.trees.insert(PathBuf::new());
            return self.watch_tree(Path::new(""));
        }
        let Some(directory) = self.directories.get(&event.wd).cloned() else { return Ok(()) };
        let Some(name) = &event.name else {
            if mask.contains(AddWatchFlags::IN_IGNORED) {
                self.directories.remove(&event.wd);
            }
            let gone = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
            touched.root_gone |= directory.as_os_str().is_empty() && mask.intersects(gone);
            return Ok(());
        };
        let path = directory.join(name);
        if name.as_os_str() == "..data" {
            // A mounted ConfigMap changes by exchanging this link; the files are links through it.
            touched.trees.insert(directory);
        } else if mask.contains(AddWatchFlags::IN_ISDIR) {
            if is_hidden(name) {
                return Ok(());
            }
            if mask.intersects(AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_DELETE) {
                self.forget_tree(&path);
            } else if mask.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO) {
                self.watch_tree(&path)?;
            } else {
                return Ok(());
            }
            touched.trees.insert(path);
        } else if is_manifest(&path) && (!mask.contains(AddWatchFlags::IN_CREATE) || self.is_link(&path)) {
            touched.files.insert(path);
        }
        Ok(())
    }

    /// A directory that was moved away keeps its watch, under a path that is not its own any more.
    fn forget_tree(&mut self, tree: &Path) {
        let inotify = &self.inotify.get_ref().0;
        self.directories.retain(|descriptor, path| {
            let below = path.starts_with(tree);
            if below && let Err(errno) = inotify.rm_watch(*descriptor) {
                tracing::trace!(%errno, path = %path.display(), "the watch has gone with its directory");
            }
            !below
        });
    }

    /// A link is complete when it is created; any other new file is closed after writing.
    fn is_link(&self, path: &Path) -> bool {
        fs::symlink_metadata(self.root.join(path))
            .is_ok_and(|metadata| metadata.file_type().is_symlink() || metadata.nlink() > 1)
    }

    fn failed(&self, source: io::Error) -> ClusterError {
        ClusterError::Watch { path: self.root.clone(), source }
    }
}

/// What a tree holds, as paths relative to the root.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The directories, the tree itself first.
    pub(super) directories: Vec<PathBuf>,
    /// The manifests.
    pub(super) files: BTreeSet<PathBuf>,
}

/// Lists a tree; what vanishes meanwhile or cannot be read is passed over.
pub(super) fn list_tree(root: &Path, tree: &Path) -> Listing {
    let mut listing = Listing { directories: vec![tree.to_owned()], files: BTreeSet::new() };
    let mut next = 0;
    while let Some(directory) = listing.directories.get(next).cloned() {
        next += 1;
        let entries = match fs::read_dir(root.join(&directory)) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::debug!(directory = %directory.display(), %error, "cannot list");
                continue;
            }
        };
        for entry in entries.flatten() {
            let path = directory.join(entry.file_name());
            if is_hidden(&entry.file_name()) {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                listing.directories.push(path);
            } else if is_manifest(&path) {
                listing.files.insert(path);
            }
        }
    }
    listing
}

/// Whether a path is a manifest's: editors' temporary and backup files are not.
fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str);
    matches!(extension, Some("yaml" | "yml" | "json")) && !path.file_name().is_some_and(is_hidden)
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || name.as_encoded_bytes().starts_with(b"#")
}
