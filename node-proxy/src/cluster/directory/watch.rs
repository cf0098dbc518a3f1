//! Which files of a directory tree have changed, by inotify; links to files count as the files do.
//!
//! Only finished writes count (`IN_CLOSE_WRITE`, renames, links): a file that an editor is in the middle
//! of writing is not looked at. This never reads a file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
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

/// How many links in a row are followed, as by the kernel (path_resolution(7)).
const LONGEST_CHAIN: usize = 40;

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
    /// Link of the tree → the watch on its file's directory, and the file, which may be still to come.
    links: BTreeMap<PathBuf, (WatchDescriptor, PathBuf)>,
}

impl Watch {
    /// Begins to watch `root` and every directory below it.
    pub(super) fn open(root: &Path) -> Result<Self, ClusterError> {
        let failed = |source: io::Error| ClusterError::Watch { path: root.to_owned(), source };
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(|errno| failed(errno.into()))?;
        let inotify = register(inotify).map_err(failed)?;
        let mut watch =
            Self { root: root.to_owned(), inotify, directories: HashMap::new(), links: BTreeMap::new() };
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
        let mut unwatched = vec![tree.to_owned()];
        while let Some(directory) = unwatched.pop() {
            let path = self.root.join(&directory);
            match self.add_watch(&path) {
                Ok(descriptor) => drop(self.directories.insert(descriptor, directory.clone())),
                Err(errno) if directory.as_os_str().is_empty() => {
                    return Err(ClusterError::Watch { path, source: errno.into() });
                }
                Err(errno) => report_unwatched(&path, errno),
            }
            // Only now: of what is made from here on the watch tells.
            let below = list(&self.root, &directory);
            unwatched.extend(below.filter_map(|(path, is_directory)| is_directory.then_some(path)));
        }
        Ok(())
    }

    /// Watches the files that these lead to, where they are links. To be called before they are read.
    pub(super) fn follow<'a>(&mut self, files: impl Iterator<Item = &'a PathBuf>) {
        for file in files {
            let old = self.links.remove(file);
            if let Some(target) = find_target(&self.root.join(file)) {
                let directory = target.parent().unwrap_or(&self.root);
                match self.add_watch(directory) {
                    Ok(descriptor) => drop(self.links.insert(file.clone(), (descriptor, target))),
                    Err(errno) => report_unwatched(directory, errno),
                }
            }
            if let Some((descriptor, _)) = old {
                self.drop_if_idle(descriptor);
            }
        }
    }

    /// Ends a watch that neither a link nor the tree needs.
    fn drop_if_idle(&self, descriptor: WatchDescriptor) {
        let is_needed = self.directories.contains_key(&descriptor)
            || self.links.values().any(|(other, _)| *other == descriptor);
        if !is_needed && let Err(errno) = self.inotify.get_ref().0.rm_watch(descriptor) {
            tracing::trace!(%errno, "the watch has gone with its directory");
        }
    }

    fn add_watch(&self, directory: &Path) -> Result<WatchDescriptor, Errno> {
        // The same for all: a directory that is watched again takes the new flags.
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        self.inotify.get_ref().0.add_watch(directory, flags)
    }

    /// A file that links lead to counts as each of them; its directory that goes or moves away, as all.
    fn touch_links(&self, event: &InotifyEvent, touched: &mut Touched) {
        let name = event.name.as_deref();
        let there = self.links.iter().filter(|(_, (descriptor, _))| *descriptor == event.wd);
        for (link, (_, target)) in there {
            if (name.is_none() || name == target.file_name()) && is_finished(event.mask, target) {
                touched.files.insert(link.clone());
            }
        }
    }

    fn take(&mut self, event: &InotifyEvent, touched: &mut Touched) -> Result<(), ClusterError> {
        let mask = event.mask;
        if mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            touched.trees.insert(PathBuf::new());
            return self.watch_tree(Path::new(""));
        }
        self.touch_links(event, touched);
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
        } else if is_manifest(&path) && is_finished(mask, &self.root.join(&path)) {
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

    fn failed(&self, source: io::Error) -> ClusterError {
        ClusterError::Watch { path: self.root.clone(), source }
    }
}

/// Whether nothing more will come of what an event is about. A link is complete when it is created; any other
/// new file is closed after writing.
fn is_finished(mask: AddWatchFlags, file: &Path) -> bool {
    !mask.contains(AddWatchFlags::IN_CREATE)
        || fs::symlink_metadata(file)
            .is_ok_and(|metadata| metadata.file_type().is_symlink() || metadata.nlink() > 1)
}

/// What vanishes meanwhile needs no watch.
fn report_unwatched(directory: &Path, errno: Errno) {
    if !matches!(errno, Errno::ENOENT | Errno::ENOTDIR) {
        tracing::error!(
            directory = %directory.display(),
            %errno,
            "a directory cannot be watched: changes in it are not seen (see fs.inotify.max_user_watches)"
        );
    }
}

/// The file that a link leads to, in its canonical directory; `None` for what is no link.
fn find_target(link: &Path) -> Option<PathBuf> {
    let mut target = link.to_owned();
    for _ in 0..LONGEST_CHAIN {
        let Ok(next) = fs::read_link(&target) else { break };
        target = target.parent()?.join(next);
    }
    if target == link {
        return None;
    }
    Some(target.parent()?.canonicalize().ok()?.join(target.file_name()?))
}

/// The manifests of a tree, as paths relative to the root; what vanishes meanwhile or cannot be read is passed over.
pub(super) fn list_tree(root: &Path, tree: &Path) -> BTreeSet<PathBuf> {
    let (mut directories, mut files) = (vec![tree.to_owned()], BTreeSet::new());
    while let Some(directory) = directories.pop() {
        for (path, is_directory) in list(root, &directory) {
            if is_directory {
                directories.push(path);
            } else if is_manifest(&path) {
                files.insert(path);
            }
        }
    }
    files
}

/// What lies in one directory and is not hidden, as paths relative to the root; with each, whether it is a directory.
fn list(root: &Path, directory: &Path) -> impl Iterator<Item = (PathBuf, bool)> {
    let entries = fs::read_dir(root.join(directory))
        .inspect_err(|error| tracing::debug!(directory = %directory.display(), %error, "cannot list"));
    let shown = entries.into_iter().flatten().flatten().filter(|entry| !is_hidden(&entry.file_name()));
    shown.map(|entry| (directory.join(entry.file_name()), entry.file_type().is_ok_and(|kind| kind.is_dir())))
}

/// Whether a path is a manifest's: editors' temporary and backup files are not.
fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str);
    matches!(extension, Some("yaml" | "yml" | "json")) && !path.file_name().is_some_and(is_hidden)
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || name.as_encoded_bytes().starts_with(b"#")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_leads_to_its_file_over_other_links_whether_it_is_there_or_not() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("far/deep")).unwrap();
        fs::write(root.join("far/file"), "").unwrap();
        for (link, to, target) in [
            ("plain", "far/file", Some("far/file")),
            ("chain", "plain", Some("far/file")),
            ("missing", "far/missing", Some("far/missing")),
            ("directory", "far/deep", Some("far/deep")),
            ("through", "directory/../file", Some("far/file")),
            ("nowhere", "gone/file", None),
            ("circle", "circle", None),
        ] {
            symlink(to, root.join(link)).unwrap();
            assert_eq!(find_target(&root.join(link)), target.map(|target| root.join(target)), "{link}");
        }
        assert_eq!(find_target(&root.join("far/file")), None);
        assert_eq!(find_target(&root.join("not there")), None);
    }

    #[tokio::test]
    async fn directories_that_are_made_while_others_are_being_watched_are_watched_too() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().to_owned();
        let mut watch = Watch::open(&root).unwrap();
        let directories: Vec<PathBuf> = (0..500)
            .flat_map(|tree| ["", "/a", "/a/b"].map(|below| format!("{tree}{below}").into()))
            .collect();
        let making = std::thread::spawn({
            let (root, directories) = (root.clone(), directories.clone());
            move || {
                for (turn, directory) in directories.iter().enumerate() {
                    fs::create_dir(root.join(directory)).unwrap();
                    // Now a little earlier, now a little later than the watch.
                    (0..turn % 100).for_each(|_| std::thread::yield_now());
                }
            }
        });
        while !making.is_finished() {
            watch.drain().unwrap();
        }
        making.join().unwrap();
        watch.drain().unwrap();
        let files: BTreeSet<PathBuf> =
            directories.iter().map(|directory| directory.join("late.yaml")).collect();
        for file in &files {
            fs::write(root.join(file), "").unwrap();
        }
        assert_eq!(watch.drain().unwrap().files, files);
    }

    #[tokio::test]
    async fn a_directory_elsewhere_is_watched_for_as_long_as_a_link_leads_there() {
        let (temp, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut watch = Watch::open(temp.path()).unwrap();
        let links = ["a.yaml", "b.yaml", "c.yaml"].map(PathBuf::from);
        for link in &links[..2] {
            symlink(elsewhere.path().join(link), temp.path().join(link)).unwrap();
        }
        symlink("file", temp.path().join("c.yaml")).unwrap();
        watch.follow(links.iter());
        for (link, watches) in links.iter().zip([2, 1, 1]) {
            fs::remove_file(temp.path().join(link)).unwrap();
            watch.follow(links.iter());
            assert_eq!(count_watches(&watch), watches, "without {}", link.display());
        }
    }

    /// What the kernel watches.
    fn count_watches(watch: &Watch) -> usize {
        let described = fs::read_to_string(format!("/proc/self/fdinfo/{}", watch.inotify.as_raw_fd()));
        described.unwrap().matches("inotify wd:").count()
    }
}
