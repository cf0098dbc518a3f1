//! Where the node's container runtime looks for network configuration and plugins: what its own configuration says.
//!
//! Distributions move both folders, and a plugin in a folder that the runtime does not search fails every pod of the
//! node. Paths in these files are the node's; here they lie below the folder that its root is mounted at.

mod containerd;
mod crio;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::InstallError;
use super::flags::Flags;

const DEFAULT_CONF_DIR: &str = "/etc/cni/net.d";
const DEFAULT_BIN_DIR: &str = "/opt/cni/bin";

/// Distributions that bring a containerd of their own: where its configuration is, it is what runs the pods.
const OWN_CONTAINERD: [&str; 4] = [
    "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
    "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
    "/var/snap/microk8s/current/args/containerd.toml",
    "/etc/k0s/containerd.toml",
];
const CONTAINERD: &str = "/etc/containerd/config.toml";

/// Where the runtime looks, as paths of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directories {
    /// The folder of network configuration.
    pub(super) conf_dir: PathBuf,
    /// The folders of plugins, in the order in which they are searched.
    pub(super) bin_dirs: Vec<PathBuf>,
    /// The network that pods are in by default, where the runtime goes by its name and not by the first file.
    pub(super) default_network: Option<String>,
    /// Who says so.
    pub(super) said_by: String,
}

impl fmt::Display for Directories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dirs: Vec<_> = self.bin_dirs.iter().map(|dir| dir.display().to_string()).collect();
        write!(f, "networks are in {}, plugins in {}", self.conf_dir.display(), dirs.join(", "))?;
        if let Some(name) = &self.default_network {
            write!(f, ", the pods' network is {name}")?;
        }
        write!(f, ", by {}", self.said_by)
    }
}

/// What a runtime's configuration says; paths are the node's.
#[derive(Debug, Default)]
struct Said {
    conf_dir: Option<String>,
    bin_dirs: Vec<String>,
    default_network: Option<String>,
}

/// The node's files, wherever its root is mounted.
#[derive(Debug, Clone, Copy)]
struct Host<'a> {
    root: &'a Path,
}

impl Host<'_> {
    /// A path of the node as a path of this process.
    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path)).components().collect()
    }

    /// A TOML file; `None` when it is not there.
    fn read(&self, path: &Path) -> Result<Option<toml::Table>, InstallError> {
        let path = self.path(path);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(InstallError::Io { action: "read", path, source }),
        };
        match text.parse() {
            Ok(table) => Ok(Some(table)),
            Err(error) => {
                let error: toml::de::Error = error;
                let place = error.to_string().lines().next().unwrap_or_default().to_owned();
                Err(InstallError::Runtime { path, reason: format!("{place}: {}", error.message()) })
            }
        }
    }

    /// The node's files that a pattern with the wildcards `*` and `?` names, in the order of their names.
    fn matching(&self, pattern: &Path) -> Vec<PathBuf> {
        let mut found = vec![PathBuf::from("/")];
        for part in pattern.strip_prefix("/").unwrap_or(pattern) {
            let part = part.to_string_lossy();
            if !part.contains(['*', '?']) {
                found.iter_mut().for_each(|path| path.push(part.as_ref()));
                continue;
            }
            let mut next = Vec::new();
            for dir in &found {
                let entries = fs::read_dir(self.path(dir)).into_iter().flatten().flatten();
                let names = entries.map(|entry| entry.file_name());
                let fits = |name: &std::ffi::OsString| is_match(part.as_bytes(), name.as_encoded_bytes());
                next.extend(names.filter(fits).map(|name| dir.join(name)));
            }
            next.sort();
            found = next;
        }
        found.retain(|path| self.path(path).is_file());
        found
    }
}

/// A shell's wildcards, but for classes; a leading dot is matched by a dot alone.
fn is_match(pattern: &[u8], name: &[u8]) -> bool {
    fn rest(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', after)), None) => rest(after, name),
            (Some((b'*', after)), Some((_, left))) => rest(after, name) || rest(pattern, left),
            (Some((b'?', after)), Some((_, left))) => rest(after, left),
            (Some((wanted, after)), Some((given, left))) => wanted == given && rest(after, left),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }
    let is_hidden = name.starts_with(b".") && !pattern.starts_with(b".");
    !is_hidden && rest(pattern, name)
}

/// Finds the folders: what the flags say, what the runtime's configuration says, the defaults of CNI.
///
/// CRI-O is asked before a plain containerd, which is also there where something else runs the pods.
pub(super) fn find(flags: &Flags) -> Result<Directories, InstallError> {
    let host = Host { root: &flags.host_root };
    let mut said_by = "the defaults of CNI".to_owned();
    let mut said = Said::default();
    if flags.conf_dir.is_none() || flags.bin_dirs.is_empty() {
        for file in OWN_CONTAINERD.into_iter().chain([crio::FILE, CONTAINERD]) {
            let found = if file == crio::FILE { crio::read(host)? } else { containerd::read(host, file)? };
            if let Some(found) = found {
                (said, said_by) = (found, host.path(file).display().to_string());
                break;
            }
        }
    } else {
        said_by = "--conf-dir and --bin-dir".to_owned();
    }
    let own_conf_dir = flags.conf_dir.as_ref().map(|dir| host.path(dir));
    let conf_dir =
        own_conf_dir.unwrap_or_else(|| host.path(said.conf_dir.as_deref().unwrap_or(DEFAULT_CONF_DIR)));
    let mut bin_dirs: Vec<_> = flags.bin_dirs.iter().map(|dir| host.path(dir)).collect();
    if bin_dirs.is_empty() {
        bin_dirs = said.bin_dirs.iter().map(|dir| host.path(dir)).collect();
    }
    if bin_dirs.is_empty() {
        bin_dirs.push(host.path(DEFAULT_BIN_DIR));
    }
    Ok(Directories { conf_dir, bin_dirs, default_network: said.default_network, said_by })
}
