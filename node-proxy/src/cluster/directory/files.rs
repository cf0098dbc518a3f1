//! What each file of the directory last said, and what follows for objects.
//!
//! One object may stand in several files: the first by path in which it was ever good counts. Where it is good
//! in none, what it was before stays for as long as a file holds it. Reading happens here, waiting never.

use std::borrow::Borrow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::document::{Content, Outcome, read_mark, read_objects};
use super::super::objects::{Change, Object, ObjectId};
use super::super::relation::Relation;
use super::super::report::{Report, Severity};
use super::super::schema::Schemas;
use super::mark::{STATUS, marked_pod};

/// Everything known of the directory's files.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    schemas: Schemas,
    files: BTreeMap<FilePath, Known>,
    /// Which files hold an object, by path order.
    owners: Relation<ObjectId, FilePath>,
    /// The objects that several files hold.
    contested: BTreeSet<ObjectId>,
    /// The files that there is something to say about.
    reported: BTreeSet<FilePath>,
    /// What the writer has been told.
    told: BTreeMap<ObjectId, Object>,
}

/// A file's path from the root, shared by all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FilePath(Arc<Path>);

/// What one file last said.
#[derive(Debug, Default)]
struct Known {
    stamp: Option<Stamp>,
    /// Its objects, in order, as they last were good here; `None` for one that never was.
    objects: Box<[(ObjectId, Option<Object>)]>,
    reports: Vec<Report>,
}

/// What tells one content of a file from the next without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    device: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Files {
    pub(super) fn new(root: &Path, schemas: Schemas) -> Self {
        Self {
            root: root.to_owned(),
            schemas,
            files: BTreeMap::new(),
            owners: Relation::default(),
            contested: BTreeSet::new(),
            reported: BTreeSet::new(),
            told: BTreeMap::new(),
        }
    }

    /// The known files below a directory.
    pub(super) fn below(&self, tree: &Path) -> Vec<PathBuf> {
        self.files
            .keys()
            .map(|file| &*file.0)
            .filter(|file| file.starts_with(tree))
            .map(Path::to_owned)
            .collect()
    }

    /// Reads the files `written`, and those of `maybe` that look different, and says what follows.
    ///
    /// Files that have gone are dropped last: an object that moved takes its last good version along.
    pub(super) fn refresh(
        &mut self,
        written: BTreeSet<PathBuf>,
        mut maybe: BTreeSet<PathBuf>,
    ) -> Vec<Change> {
        maybe.retain(|path| !written.contains(path) && !self.is_as_read(path));
        let mut touched = BTreeSet::new();
        let mut gone = Vec::new();
        for path in written.into_iter().chain(maybe) {
            if path.starts_with(STATUS) && marked_pod(&path).is_none() {
                continue;
            }
            match self.read(&path) {
                Ok(read) => self.replace(&path, read, &mut touched),
                Err(error) if is_gone(&error) => gone.push(path),
                Err(error) => {
                    let path = FilePath::new(&path);
                    let known = self.files.entry(path.clone()).or_default();
                    known.stamp = None;
                    known.reports = vec![file_report(&path.0, format!("cannot be read: {error}"))];
                    self.reported.insert(path);
                }
            }
        }
        for path in gone.iter().map(|path| FilePath::new(path)) {
            self.reported.remove(&path);
            let Some(known) = self.files.remove(&path) else { continue };
            for (id, _) in known.objects {
                self.owners.remove(id.clone(), path.clone());
                touched.insert(id);
            }
        }
        self.owners.settle();
        touched.into_iter().filter_map(|id| self.tell(id)).collect()
    }

    /// Every problem there is now, sorted. Costs what there are of them, however many files are fine.
    pub(super) fn reports(&self) -> Vec<Report> {
        let known = self.reported.iter().filter_map(|path| self.files.get(path));
        let mut reports: Vec<Report> = known.flat_map(|known| known.reports.clone()).collect();
        for id in &self.contested {
            let counting = self.find_counting(id).map(|(file, _)| file);
            let Some(counting) = counting.or_else(|| self.owners.of(id).next()) else { continue };
            reports.extend(self.owners.of(id).filter(|file| *file != counting).map(|file| Report {
                object: Some(id.to_string()),
                ..file_report(&file.0, format!("is in {}, too, which counts", counting.0.display()))
            }));
        }
        reports.sort();
        reports
    }

    /// Whether a file seems to be what was last read. Two writes within a tick of the clock look alike,
    /// which is why a file that is known to have been written is not asked this.
    fn is_as_read(&self, path: &Path) -> bool {
        let stamp = fs::metadata(self.root.join(path)).ok().map(|metadata| Stamp::new(&metadata));
        self.files.get(path).is_some_and(|known| known.stamp.is_some() && known.stamp == stamp)
    }

    fn read(&self, path: &Path) -> io::Result<(Stamp, Content)> {
        let full = self.root.join(path);
        let stamp = Stamp::new(&fs::metadata(&full)?);
        let text = fs::read_to_string(&full)?;
        let content = match marked_pod(path) {
            Some(pod) => read_mark(path, pod, &text),
            None => read_objects(&self.schemas, path, &text),
        };
        Ok((stamp, content))
    }

    fn replace(&mut self, path: &Path, (stamp, content): (Stamp, Content), touched: &mut BTreeSet<ObjectId>) {
        let old = self.files.remove(path).unwrap_or_default();
        let path = FilePath::new(path);
        let (mut objects, mut reports) = (BTreeMap::new(), content.reports);
        let mut all_readable = true;
        for outcome in content.outcomes {
            let (id, object) = match outcome {
                Outcome::Good(id, object) => (id, Some(*object)),
                Outcome::Broken(id) => {
                    let last = old.find(&id).cloned();
                    (id, last)
                }
                Outcome::Unreadable => {
                    all_readable = false;
                    continue;
                }
            };
            match objects.entry(id) {
                Entry::Occupied(first) => reports.push(Report {
                    object: Some(first.key().to_string()),
                    ..file_report(&path.0, "is there twice in this file: the first counts".to_owned())
                }),
                Entry::Vacant(entry) => {
                    entry.insert(object);
                }
            }
        }
        if !all_readable {
            // Any of the file's objects may be in the part that cannot be read.
            for (id, object) in &old.objects {
                objects.entry(id.clone()).or_insert_with(|| object.clone());
            }
        }
        for (id, _) in old.objects {
            if !objects.contains_key(&id) {
                self.owners.remove(id.clone(), path.clone());
            }
            touched.insert(id);
        }
        for id in objects.keys() {
            self.owners.insert(id.clone(), path.clone());
            touched.insert(id.clone());
        }
        if reports.is_empty() {
            self.reported.remove(&path);
        } else {
            self.reported.insert(path.clone());
        }
        let known = Known { stamp: Some(stamp), objects: objects.into_iter().collect(), reports };
        self.files.insert(path, known);
    }

    /// An object in the file that counts; `None` where it was never good in any.
    fn find_counting(&self, id: &ObjectId) -> Option<(&FilePath, &Object)> {
        self.owners.of(id).find_map(|file| Some((file, self.files.get(file)?.find(id)?)))
    }

    /// What the writer has to be told about an object, if anything is new.
    fn tell(&mut self, id: ObjectId) -> Option<Change> {
        match self.owners.of(&id).count() {
            0 => {
                self.contested.remove(&id);
                return self.told.remove(&id).map(|_| Change::Deleted(id));
            }
            1 => self.contested.remove(&id),
            _ => self.contested.insert(id.clone()),
        };
        // Broken where it has moved to, it is still what it was.
        let (_, object) = self.find_counting(&id)?;
        if self.told.get(&id) == Some(object) {
            return None;
        }
        let object = object.clone();
        self.told.insert(id.clone(), object.clone());
        Some(Change::Applied(id.key, object))
    }
}

impl Known {
    /// An object as it last was good here.
    fn find(&self, id: &ObjectId) -> Option<&Object> {
        let place = self.objects.binary_search_by(|(known, _)| known.cmp(id)).ok()?;
        self.objects[place].1.as_ref()
    }
}

impl FilePath {
    fn new(path: &Path) -> Self {
        Self(path.into())
    }
}

/// The least path, where a lookup starts.
impl Default for FilePath {
    fn default() -> Self {
        Self::new(Path::new(""))
    }
}

impl Borrow<Path> for FilePath {
    fn borrow(&self) -> &Path {
        &self.0
    }
}

impl Stamp {
    fn new(metadata: &fs::Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            device: metadata.dev(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

fn file_report(file: &Path, message: String) -> Report {
    Report { file: Some(file.to_owned()), object: None, field: None, severity: Severity::Error, message }
}

/// Gone, or a directory by now.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
    )
}
