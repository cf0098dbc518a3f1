//! What each file of the directory last said, and what follows for objects.
//!
//! One object may stand in several files: the first by path in which it was ever good counts. Where it is good
//! in none, what it was before stays for as long as a file holds it. Reading happens here, waiting never.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::document::{Content, Outcome, read_mark, read_objects};
use super::super::objects::{Change, Object, ObjectId};
use super::super::report::{Report, Severity};
use super::super::schema::Schemas;
use super::mark::{STATUS, marked_pod};

/// Everything known of the directory's files.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    schemas: Schemas,
    files: BTreeMap<PathBuf, Known>,
    /// Which files hold an object, by path order.
    owners: BTreeMap<ObjectId, BTreeSet<PathBuf>>,
    /// What the writer has been told.
    told: BTreeMap<ObjectId, Object>,
}

/// What one file last said.
#[derive(Debug, Default)]
struct Known {
    stamp: Option<Stamp>,
    /// Its objects as they last were good here; `None` for one that never was.
    objects: BTreeMap<ObjectId, Option<Object>>,
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
            owners: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    /// The known files below a directory.
    pub(super) fn below(&self, tree: &Path) -> Vec<PathBuf> {
        self.files.keys().filter(|file| file.starts_with(tree)).cloned().collect()
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
                    let known = self.files.entry(path.clone()).or_default();
                    known.stamp = None;
                    known.reports = vec![file_report(&path, format!("cannot be read: {error}"))];
                }
            }
        }
        for path in gone {
            let Some(known) = self.files.remove(&path) else { continue };
            for id in known.objects.into_keys() {
                self.disown(&id, &path);
                touched.insert(id);
            }
        }
        touched.into_iter().filter_map(|id| self.tell(id)).collect()
    }

    /// Every problem there is now, sorted.
    pub(super) fn reports(&self) -> Vec<Report> {
        let mut reports: Vec<Report> = self.files.values().flat_map(|known| known.reports.clone()).collect();
        for (id, files) in &self.owners {
            let counting = self.find_counting(id, files).map(|(file, _)| file);
            let Some(counting) = counting.or_else(|| files.first().map(PathBuf::as_path)) else { continue };
            reports.extend(files.iter().filter(|file| *file != counting).map(|file| Report {
                object: Some(id.to_string()),
                ..file_report(file, format!("is in {}, too, which counts", counting.display()))
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
        let mut new = Known { stamp: Some(stamp), objects: BTreeMap::new(), reports: content.reports };
        let mut all_readable = true;
        for outcome in content.outcomes {
            let (id, object) = match outcome {
                Outcome::Good(id, object) => (id, Some(*object)),
                Outcome::Broken(id) => {
                    let last = old.objects.get(&id).cloned().flatten();
                    (id, last)
                }
                Outcome::Unreadable => {
                    all_readable = false;
                    continue;
                }
            };
            match new.objects.entry(id) {
                Entry::Occupied(first) => new.reports.push(Report {
                    object: Some(first.key().to_string()),
                    ..file_report(path, "is there twice in this file: the first counts".to_owned())
                }),
                Entry::Vacant(entry) => {
                    entry.insert(object);
                }
            }
        }
        if !all_readable {
            // Any of the file's objects may be in the part that cannot be read.
            for (id, object) in &old.objects {
                new.objects.entry(id.clone()).or_insert_with(|| object.clone());
            }
        }
        for id in old.objects.into_keys() {
            if !new.objects.contains_key(&id) {
                self.disown(&id, path);
            }
            touched.insert(id);
        }
        for id in new.objects.keys() {
            self.owners.entry(id.clone()).or_default().insert(path.to_owned());
            touched.insert(id.clone());
        }
        self.files.insert(path.to_owned(), new);
    }

    fn disown(&mut self, id: &ObjectId, path: &Path) {
        if let Some(files) = self.owners.get_mut(id) {
            files.remove(path);
            if files.is_empty() {
                self.owners.remove(id);
            }
        }
    }

    /// An object in the file that counts; `None` where it was never good in any.
    fn find_counting(&self, id: &ObjectId, files: &BTreeSet<PathBuf>) -> Option<(&Path, &Object)> {
        files.iter().find_map(|file| {
            let (file, known) = self.files.get_key_value(file)?;
            Some((file.as_path(), known.objects.get(id)?.as_ref()?))
        })
    }

    /// What the writer has to be told about an object, if anything is new.
    fn tell(&mut self, id: ObjectId) -> Option<Change> {
        let Some(files) = self.owners.get(&id) else {
            return self.told.remove(&id).map(|_| Change::Deleted(id));
        };
        // Broken where it has moved to, it is still what it was.
        let (_, object) = self.find_counting(&id, files)?;
        if self.told.get(&id) == Some(object) {
            return None;
        }
        let object = object.clone();
        self.told.insert(id.clone(), object.clone());
        Some(Change::Applied(id.key, object))
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
    Report { file: file.to_owned(), object: None, field: None, severity: Severity::Error, message }
}

/// Gone, or a directory by now.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
    )
}
