//! The node that a proxy works for, which need not be what the proxy itself sees.
//!
//! A proxy in a pod has a network and a root of its own. The node's root is mounted below a folder then, and the node's
//! network is that of the first process there: from it the kubelet calls the pods, and from it a pod must be reached.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use gammarus_cni::state::Record;

use super::netns::NetnsFd;
use super::node_socket::is_socket_of_this_node;

/// The network namespace of the node's first process, below its root.
const NETWORK: &str = "proc/1/ns/net";
/// Where that process is.
const FIRST_PROCESS: &str = "proc/1";
/// A folder with two names: the first is a link to the second on every node, and on none that has only a root of its own.
const RUN: [&str; 2] = ["/var/run", "/run"];

/// A node whose network cannot be worked in.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Its network namespace cannot be opened.
    #[error("cannot open the network namespace of the host, {}; it takes CAP_SYS_PTRACE", path.display())]
    Open {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Its network namespace cannot be entered.
    #[error("cannot enter the network namespace of the host, {}; it takes CAP_SYS_ADMIN", path.display())]
    Enter {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A node: its root, and its network where that is not the proxy's own.
#[derive(Debug)]
pub struct Host {
    root: PathBuf,
    network: Option<NetnsFd>,
}

impl Host {
    /// The node whose root is at `root`. At `/`, or without processes below it, the proxy's own network is the node's.
    ///
    /// # Errors
    /// When the node's network is there and cannot be entered.
    pub fn open(root: &Path) -> Result<Self, HostError> {
        let (path, root) = (root.join(NETWORK), root.to_owned());
        let has_processes = !is_missing(&fs::symlink_metadata(root.join(FIRST_PROCESS)));
        if root == Path::new("/") || !has_processes {
            return Ok(Self { root, network: None });
        }
        let network = match NetnsFd::open(&path) {
            Ok(network) => network,
            Err(source) => return Err(HostError::Open { path, source }),
        };
        match network.run(|| Ok(())) {
            Ok(()) => Ok(Self { root, network: Some(network) }),
            Err(source) => Err(HostError::Enter { path, source }),
        }
    }

    /// Where the node's root is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Runs `work` with the calling thread in the node's network, as [`NetnsFd::run`] does.
    ///
    /// # Errors
    /// When the network cannot be entered, and what `work` returns.
    pub fn run<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match &self.network {
            Some(network) => network.run(work),
            None => work(),
        }
    }

    /// Whether a process of the node has opened exactly this connection.
    ///
    /// # Errors
    /// When the kernel does not answer; strict mode refuses then.
    pub fn has_opened(&self, client: SocketAddr, destination: SocketAddr) -> io::Result<bool> {
        self.run(|| is_socket_of_this_node(client, destination))
    }

    /// Opens a record's namespace, at the runtime's path for it or where the node's root has that; `None` if it is not
    /// there any more.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn open_recorded(&self, record: &Record) -> io::Result<Option<NetnsFd>> {
        for path in self.places(&record.attachment.netns) {
            let netns = match NetnsFd::open(&path) {
                missing if is_missing(&missing) => continue,
                opened => opened?,
            };
            // What is no namespace has taken the place of one: `ip netns` leaves an empty file for a moment.
            match netns.id() {
                Ok(cookie) if cookie.0 == record.cookie => return Ok(Some(netns)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Opens the namespace at a path of the runtime's.
    ///
    /// # Errors
    /// `NotFound` when it is at none of the places where it may be seen from here, and what else keeps it from being
    /// opened.
    pub fn open_netns(&self, path: &Path) -> io::Result<NetnsFd> {
        let mut outcome = Err(io::ErrorKind::NotFound.into());
        for place in self.places(path) {
            outcome = NetnsFd::open(&place);
            if !is_missing(&outcome) {
                break;
            }
        }
        outcome
    }

    /// Where a path of the runtime's may be: as it is, by the other name of its folder, and below the node's root.
    fn places(&self, path: &Path) -> Vec<PathBuf> {
        let mut places = names(path);
        if self.root != Path::new("/") {
            places.extend(places_below(&self.root, path));
        }
        places
    }
}

/// Where a path of the runtime's may be below a root.
pub(super) fn places_below(root: &Path, path: &Path) -> Vec<PathBuf> {
    names(path).iter().map(|name| root.join(name.strip_prefix("/").unwrap_or(name))).collect()
}

/// A path, and the same by the other name of its folder.
fn names(path: &Path) -> Vec<PathBuf> {
    let renamed = |(from, to): (&str, &str)| Some(Path::new(to).join(path.strip_prefix(from).ok()?));
    let other = [(RUN[0], RUN[1]), (RUN[1], RUN[0])].into_iter().find_map(renamed);
    [path.to_owned()].into_iter().chain(other).collect()
}

fn is_missing<T>(outcome: &io::Result<T>) -> bool {
    matches!(outcome, Err(error) if error.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtimes_path_is_looked_for_by_both_names_of_its_folder_and_below_the_root() {
        let host = |root: &str| Host { root: root.into(), network: None };
        for (root, path, expected) in [
            ("/", "/run/netns/x", &["/run/netns/x", "/var/run/netns/x"][..]),
            ("/", "/proc/7/ns/net", &["/proc/7/ns/net"]),
            (
                "/host",
                "/var/run/netns/x",
                &["/var/run/netns/x", "/run/netns/x", "/host/var/run/netns/x", "/host/run/netns/x"],
            ),
        ] {
            let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
            assert_eq!(host(root).places(Path::new(path)), expected, "{path} at {root}");
        }
    }
}
