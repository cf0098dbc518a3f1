//! What lies on the node's disk for the hours in which the node's proxy does not answer.
//!
//! The proxy writes [`NamespaceStates`]; the plugin reads it when the proxy is dead, and writes down the pods of
//! namespaces it knows nothing about ([`write_unseen`]), which the proxy enrols first when it is back. Every
//! file is written beside its place and renamed, so that a reader, or a power cut, meets the old one or the new.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

use crate::attachment::{Attachment, AttachmentId};

/// The version of the files that this release writes, and the only one there has been.
pub const VERSION: u32 = 1;

const NAMESPACES: &str = "namespaces.json";
const UNSEEN: &str = "unseen";

/// Why a file of the state directory could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file's text is not what it should be.
    #[error("{} is not understood", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A later release wrote the file.
    #[error("{} has version {version}, only {VERSION} is understood", path.display())]
    UnsupportedVersion {
        /// Which file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

/// What is known of one namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamespaceState {
    /// Its pods belong to the mesh.
    Enrolled,
    /// Its pods do not.
    NotEnrolled,
    /// The proxy had not seen the namespace when it last wrote.
    Unknown,
}

/// Every namespace the node's proxy has seen, with its state: `namespaces.json` in the state directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceStates {
    version: u32,
    /// Those whose pods belong to the mesh.
    pub enrolled: BTreeSet<String>,
    /// Those whose pods do not.
    pub not_enrolled: BTreeSet<String>,
}

impl Default for NamespaceStates {
    fn default() -> Self {
        Self { version: VERSION, enrolled: BTreeSet::new(), not_enrolled: BTreeSet::new() }
    }
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl NamespaceStates {
    /// Reads the file; before it was ever written, no namespace is known.
    ///
    /// # Errors
    /// When it is there and cannot be used.
    pub fn read(state_dir: &Path) -> Result<Self, StateError> {
        let path = state_dir.join(NAMESPACES);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(StateError::Io { action: "read", path, source }),
        };
        parse(path, &text)
    }

    /// Replaces the file, and has it on the disk when this returns.
    ///
    /// # Errors
    /// When it cannot be written; the old file is then still there.
    pub fn write(&self, state_dir: &Path) -> Result<(), StateError> {
        write_atomically(state_dir, OsStr::new(NAMESPACES), self)
    }

    /// What is known of a namespace. One that stands in both lists is enrolled: no plain text by mistake.
    #[must_use]
    pub fn find(&self, namespace: &str) -> NamespaceState {
        if self.enrolled.contains(namespace) {
            NamespaceState::Enrolled
        } else if self.not_enrolled.contains(namespace) {
            NamespaceState::NotEnrolled
        } else {
            NamespaceState::Unknown
        }
    }
}

/// One record of a pod that started while nobody could say whether it is to be enrolled.
#[derive(Debug, Serialize, Deserialize)]
struct Unseen {
    version: u32,
    attachment: Attachment,
}

/// Writes down a pod that started unseen, for the proxy to enrol first when it is back.
///
/// # Errors
/// When it cannot be written.
pub fn write_unseen(state_dir: &Path, attachment: &Attachment) -> Result<(), StateError> {
    let record = Unseen { version: VERSION, attachment: attachment.clone() };
    write_atomically(&state_dir.join(UNSEEN), unseen_name(&attachment.id).as_ref(), &record)
}

/// The pods that started unseen, and what is wrong with records that cannot be read.
///
/// The proxy lists them once its socket is bound (a plugin that has written one tries the socket again, so that
/// none falls between the two), and in its regular comparison, and calls [`forget_unseen`] for each when its pod is
/// enrolled or known not to be. A record whose pod has gone is left behind only by a lost DEL.
///
/// # Errors
/// When the directory is there and cannot be listed.
pub fn list_unseen(state_dir: &Path) -> Result<Vec<Result<Attachment, StateError>>, StateError> {
    let dir = state_dir.join(UNSEEN);
    let failed = |source| StateError::Io { action: "list", path: dir.clone(), source };
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension() == Some(OsStr::new("json")) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths.into_iter().filter_map(read_unseen).collect())
}

/// Removes the record of a pod, if there is one and it is of this attachment.
///
/// # Errors
/// When it is there and cannot be read or removed.
pub fn forget_unseen(state_dir: &Path, id: &AttachmentId) -> Result<(), StateError> {
    let path = state_dir.join(UNSEEN).join(unseen_name(id));
    match read_unseen(path.clone()) {
        Some(Ok(found)) if found.id != *id => return Ok(()),
        None => return Ok(()),
        // A record that nobody can read is of no use to anybody: it goes with its container.
        Some(Ok(_) | Err(_)) => {}
    }
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StateError::Io { action: "remove", path, source })
        }
        _ => Ok(()),
    }
}

/// One record; `None` when it has just been removed by somebody else.
fn read_unseen(path: PathBuf) -> Option<Result<Attachment, StateError>> {
    match fs::read(&path) {
        Ok(text) => Some(parse(path, &text).map(|record: Unseen| record.attachment)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => Some(Err(StateError::Io { action: "read", path, source })),
    }
}

/// One record per sandbox: a pod is enrolled once, whatever the number of its interfaces.
fn unseen_name(id: &AttachmentId) -> String {
    format!("{}.json", id.container_id)
}

fn parse<T: serde::de::DeserializeOwned>(path: PathBuf, text: &[u8]) -> Result<T, StateError> {
    let version = match serde_json::from_slice::<Versioned>(text) {
        Ok(Versioned { version }) => version,
        Err(source) => return Err(StateError::Malformed { path, source }),
    };
    if version != VERSION {
        return Err(StateError::UnsupportedVersion { path, version });
    }
    serde_json::from_slice(text).map_err(|source| StateError::Malformed { path, source })
}

fn write_atomically<T: Serialize>(dir: &Path, name: &OsStr, content: &T) -> Result<(), StateError> {
    let path = dir.join(name);
    let failed = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| StateError::Io { action, path, source }
    };
    let text =
        serde_json::to_vec(content).map_err(|source| StateError::Malformed { path: path.clone(), source })?;
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("create", dir))?;
    // Process and count keep two writers apart: their files meet only in the rename.
    static WRITES: AtomicU32 = AtomicU32::new(0);
    let count = WRITES.fetch_add(1, Ordering::Relaxed);
    let mut beside = name.to_owned();
    beside.push(format!(".{}-{count}.new", std::process::id()));
    let beside = dir.join(beside);
    let written = write_and_sync(&beside, &text).and_then(|()| fs::rename(&beside, &path));
    if let Err(error) = written {
        // What is left of the attempt is of no use; that it cannot be removed either changes nothing.
        let _ = fs::remove_file(&beside);
        return Err(failed("write", &path)(error));
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", dir))
}

fn write_and_sync(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{NamespaceState, NamespaceStates, StateError, forget_unseen, list_unseen, write_unseen};
    use crate::attachment::Attachment;

    fn attachment(container: &str, ifname: &str) -> Attachment {
        serde_json::from_value(serde_json::json!({
            "id": {"containerId": container, "ifname": ifname}, "network": "podnet",
            "netns": "/run/netns/x", "pod": {"namespace": "shop", "name": "web-0", "uid": "u-1"},
            "addresses": ["10.0.0.2", "fd00::2"],
        }))
        .unwrap()
    }

    fn listed(dir: &Path) -> Vec<Attachment> {
        list_unseen(dir).unwrap().into_iter().map(Result::unwrap).collect()
    }

    #[track_caller]
    fn check(text: &str, namespace: &str, expected: NamespaceState) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("namespaces.json"), text).unwrap();
        assert_eq!(NamespaceStates::read(dir.path()).unwrap().find(namespace), expected, "{text}");
    }

    #[test]
    fn a_namespace_is_what_the_file_says_of_it() {
        let text =
            r#"{"version":1,"enrolled":["shop","both"],"notEnrolled":["kube-system","both"],"later":1}"#;
        check(text, "shop", NamespaceState::Enrolled);
        check(text, "kube-system", NamespaceState::NotEnrolled);
        check(text, "other", NamespaceState::Unknown);
        check(text, "both", NamespaceState::Enrolled);
    }

    #[test]
    fn a_file_that_was_never_written_knows_no_namespace() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(NamespaceStates::read(dir.path()).unwrap(), NamespaceStates::default());
        assert_eq!(NamespaceStates::read(&dir.path().join("none")).unwrap(), NamespaceStates::default());
    }

    #[test]
    fn what_was_written_is_read_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut states = NamespaceStates::default();
        states.enrolled.insert("shop".to_owned());
        states.not_enrolled.insert("kube-system".to_owned());
        states.write(dir.path()).unwrap();
        states.write(dir.path()).unwrap();
        assert_eq!(NamespaceStates::read(dir.path()).unwrap(), states);
        let text = fs::read_to_string(dir.path().join("namespaces.json")).unwrap();
        assert_eq!(text, r#"{"version":1,"enrolled":["shop"],"notEnrolled":["kube-system"]}"#);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_of_another_version_or_without_sense_is_an_error_that_names_it() {
        for (text, later) in [("", false), ("{}", false), ("[1]", false), (r#"{"version":2,"x":1}"#, true)] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("namespaces.json"), text).unwrap();
            let error = NamespaceStates::read(dir.path()).unwrap_err();
            assert_eq!(matches!(error, StateError::UnsupportedVersion { .. }), later, "{text}: {error}");
            assert!(error.to_string().contains("namespaces.json"), "{error}");
        }
    }

    #[test]
    fn a_pod_written_down_is_listed_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        assert!(listed(dir.path()).is_empty());
        let (first, second) = (attachment("c1", "eth0"), attachment("c2", "eth0"));
        for pod in [&first, &second, &first] {
            write_unseen(dir.path(), pod).unwrap();
        }
        assert!(dir.path().join("unseen/c1.json").exists());
        assert_eq!(listed(dir.path()), [first.clone(), second.clone()]);
        forget_unseen(dir.path(), &first.id).unwrap();
        forget_unseen(dir.path(), &first.id).unwrap();
        assert_eq!(listed(dir.path()), [second]);
    }

    #[test]
    fn another_interface_of_the_same_sandbox_does_not_take_its_record_away() {
        let dir = tempfile::tempdir().unwrap();
        write_unseen(dir.path(), &attachment("c1", "eth0")).unwrap();
        forget_unseen(dir.path(), &attachment("c1", "net1").id).unwrap();
        assert_eq!(listed(dir.path()).len(), 1);
    }

    #[test]
    fn a_broken_record_hides_no_other_and_goes_with_its_container() {
        let dir = tempfile::tempdir().unwrap();
        write_unseen(dir.path(), &attachment("c2", "eth0")).unwrap();
        fs::write(dir.path().join("unseen/c1.json"), "{").unwrap();
        fs::write(dir.path().join("unseen/c3.json.77.new"), "{").unwrap();
        let records = list_unseen(dir.path()).unwrap();
        assert_eq!(records.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true]);
        forget_unseen(dir.path(), &attachment("c1", "eth0").id).unwrap();
        assert_eq!(list_unseen(dir.path()).unwrap().len(), 1);
    }
}
