//! The node's folder of network configuration: which file a runtime takes, and our entry in it.
//!
//! Runtimes take the first file by name. A list (`*.conflist`) gets the entry. A single plugin (`*.conf`, `*.json`)
//! stays as it is: beside it comes a list made of it, under a name just before its own, which has to follow it
//! as long as it is there. There is never a configuration that nobody else has made.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::InstallError;
use super::conflist::{Conflist, Single, Unfit};
use super::place::{self, Stamp, list, name_of};

/// What ends the name of a list that was made of a single plugin's configuration: `10-net.conf` is read as
/// `10-net-gammarus.conflist`, and `-` comes before `.` in the order of names.
const MADE: &str = "-gammarus.conflist";
/// The endings of single plugins' files.
const SINGLE: [&str; 2] = [".conf", ".json"];
const LIST: &str = ".conflist";
/// More than any configuration.
const LARGEST: u64 = 16 * 1024 * 1024;

/// The folder, and which of its networks is the pods'.
pub(super) struct ConfDir {
    pub(super) dir: PathBuf,
    /// By name, where the runtime goes by that; else the first one's.
    pub(super) default_network: Option<String>,
}

/// A file as it was read.
struct Configuration {
    path: PathBuf,
    text: String,
    stamp: Stamp,
    mode: u32,
}

/// What there is to do, or not.
#[derive(Debug)]
pub(super) enum Plan {
    /// No runtime could start a pod here yet.
    NoNetwork,
    /// The pods' network cannot take our entry, and why.
    Refused(String),
    /// The entry is where it should be.
    Stands(PathBuf),
    /// A file is to be written.
    Change(Change),
}

/// A file to be written, and what it is judged by.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) path: PathBuf,
    /// The plugins of others in it.
    pub(super) kinds: Vec<String>,
    text: String,
    mode: u32,
    /// The file's state when it was read; `None` for one that is made.
    seen: Option<Stamp>,
}

/// A plan, and what was wrong with files on the way to it.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) plan: Plan,
    pub(super) broken: Vec<String>,
}

impl ConfDir {
    /// Looks at the folder; changes nothing.
    pub(super) fn survey(&self, entry: &str) -> Result<Survey, InstallError> {
        let mut broken = Vec::new();
        let paths = list(&self.dir)?;
        for path in paths.iter().filter(|path| is_configuration(path)) {
            let judged = match Configuration::read(path) {
                Ok(None) => continue,
                Ok(Some(configuration)) => self.judge(&configuration, entry),
                Err(error) => Err(Unfit::Broken(format!("cannot be read: {error}"))),
            };
            match judged {
                Ok(Some(plan)) => return Ok(Survey { plan, broken }),
                Ok(None) => {}
                Err(Unfit::Broken(reason)) => broken.push(format!("{} {reason}", path.display())),
                Err(Unfit::Unchainable(reason)) => {
                    let plan = Plan::Refused(format!("{} {reason}", path.display()));
                    return Ok(Survey { plan, broken });
                }
            }
        }
        Ok(Survey { plan: Plan::NoNetwork, broken })
    }

    /// What is to be done with a file; `None` if it is another network's.
    fn judge(&self, file: &Configuration, entry: &str) -> Result<Option<Plan>, Unfit> {
        let is_other = |name: &str| self.default_network.as_deref().is_some_and(|default| default != name);
        if name_of(&file.path).ends_with(LIST) {
            let list = Conflist::read(&file.text)?;
            if is_other(list.name()) {
                return Ok(None);
            }
            let kinds = list.others().map(ToOwned::to_owned).collect();
            return Ok(Some(match list.with_entry(entry)? {
                None => Plan::Stands(file.path.clone()),
                Some(text) => {
                    let (path, mode, seen) = (file.path.clone(), file.mode, Some(file.stamp));
                    Plan::Change(Change { path, kinds, text, mode, seen })
                }
            }));
        }
        let single = Single::read(&file.text)?;
        if is_other(&single.name) {
            return Ok(None);
        }
        let Some(path) = made_from(&file.path) else { return Ok(None) };
        let text = single.as_list(entry)?;
        let stands = Configuration::read(&path).is_ok_and(|made| made.is_some_and(|made| made.text == text));
        Ok(Some(if stands {
            Plan::Stands(path)
        } else {
            Plan::Change(Change { path, kinds: vec![single.kind], text, mode: file.mode, seen: None })
        }))
    }

    /// The file in which a runtime finds an entry of ours, whoever wrote it and whatever it says.
    pub(super) fn chained(&self) -> Result<Option<PathBuf>, InstallError> {
        for path in list(&self.dir)?.iter().filter(|path| is_configuration(path)) {
            let Ok(Some(file)) = Configuration::read(path) else { continue };
            let named = |name: &str| self.default_network.as_deref().is_none_or(|default| default == name);
            if name_of(path).ends_with(LIST) {
                match Conflist::read(&file.text) {
                    Ok(list) if named(list.name()) => return Ok(list.is_chained().then(|| path.clone())),
                    _ => continue,
                }
            }
            match Single::read(&file.text) {
                Ok(single) if named(&single.name) => return Ok(made_from(path).filter(|made| made.exists())),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Removes lists that were made of files which have gone, or cannot be chained any more; says which.
    pub(super) fn remove_orphans(&self) -> Result<Vec<PathBuf>, InstallError> {
        let mut removed = Vec::new();
        for path in list(&self.dir)? {
            let Some(stem) = name_of(&path).strip_suffix(MADE) else { continue };
            let is_made_of =
                |ending: &str| match Configuration::read(&self.dir.join(format!("{stem}{ending}"))) {
                    Ok(Some(source)) => {
                        Single::read(&source.text).map_or(true, |single| single.chainable.is_ok())
                    }
                    Ok(None) => false,
                    Err(_) => true,
                };
            if !SINGLE.iter().any(|ending| is_made_of(ending)) {
                place::remove(&path)?;
                removed.push(path);
            }
        }
        Ok(removed)
    }

    /// Takes our entry out of every file; says out of which.
    pub(super) fn take_out(&self) -> Result<Vec<PathBuf>, InstallError> {
        let mut changed = Vec::new();
        for path in list(&self.dir)? {
            let name = name_of(&path);
            if name.ends_with(MADE) {
                place::remove(&path)?;
                changed.push(path);
            } else if name.ends_with(LIST) && take_out_of(&path)? {
                changed.push(path);
            }
        }
        Ok(changed)
    }
}

/// Takes our entry out of a list, which somebody else may be writing at the same time.
fn take_out_of(path: &Path) -> Result<bool, InstallError> {
    loop {
        let failed = |source| InstallError::Io { action: "read", path: path.to_owned(), source };
        let Some(file) = Configuration::read(path).map_err(failed)? else { return Ok(false) };
        // What is no list of plugins has no entry of ours.
        let Ok(list) = Conflist::read(&file.text) else { return Ok(false) };
        let Some(text) = list.without_entry() else { return Ok(false) };
        let change = Change {
            path: path.to_owned(),
            kinds: Vec::new(),
            text,
            mode: file.mode,
            seen: Some(file.stamp),
        };
        if change.write()? {
            return Ok(true);
        }
    }
}

impl Change {
    /// Writes the file, unless somebody else has meanwhile; says whether it did.
    pub(super) fn write(&self) -> Result<bool, InstallError> {
        place::replace(&self.path, self.mode, self.seen, |file| file.write_all(self.text.as_bytes()))
    }
}

impl Configuration {
    /// Reads a file; `None` when it has gone or is no file.
    fn read(path: &Path) -> io::Result<Option<Self>> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let mut text = String::new();
        Read::take(&mut file, LARGEST).read_to_string(&mut text)?;
        let (stamp, mode) = (Stamp::of(&metadata), metadata.mode() & 0o777);
        Ok(Some(Self { path: path.to_owned(), text, stamp, mode }))
    }
}

/// Is it a file of somebody else's that a runtime would read?
fn is_configuration(path: &Path) -> bool {
    let name = name_of(path);
    !name.ends_with(MADE) && (name.ends_with(LIST) || SINGLE.iter().any(|ending| name.ends_with(ending)))
}

/// Where the list is that is made of a single plugin's configuration.
fn made_from(path: &Path) -> Option<PathBuf> {
    let stem = SINGLE.iter().find_map(|ending| name_of(path).strip_suffix(ending))?;
    Some(path.with_file_name(format!("{stem}{MADE}")))
}
