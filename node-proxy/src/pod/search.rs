//! The network namespaces of this machine, and which of them is a pod's that nobody has told of.
//!
//! They are found in the runtime's cache of CNI results, by their names, and by the processes in them; each is entered
//! once, and known by the addresses that it holds. Below a folder, where a container has its host's root. Everything
//! here blocks.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use gammarus_cni::{Attachment, AttachmentId, ContainerId, IfName};
use nix::ifaddrs::getifaddrs;
use serde::Deserialize;

use super::facts::AwaitedPod;
use super::host::places_below;
use super::netns::{NetnsCookie, NetnsFd};
use super::registry::key_of;
use crate::cluster::objects::ObjectKey;

/// Where libcni keeps what its plugins have answered.
const RESULTS: &str = "var/lib/cni/results";
/// Where namespaces have names.
const NAMES: [&str; 2] = ["run/netns", "var/run/netns"];
const PROCESSES: &str = "proc";
/// The network of a pod whose own one is not known: no runtime asks for it.
const NO_NETWORK: &str = "unknown";

/// Why no namespace is taken for a pod's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// More than one holds an address of the pod.
    #[error("several network namespaces hold addresses of the pod: {namespaces}")]
    Ambiguous {
        /// Their paths.
        namespaces: String,
    },
    /// One holds addresses of the pod, and is not as the pod is.
    #[error("the network namespace {} holds addresses of the pod, but not exactly these: it has {addresses}", netns.display())]
    Differs {
        /// Its path.
        netns: PathBuf,
        /// What it holds.
        addresses: String,
    },
    /// None holds an address of the pod.
    #[error("no ADD has told of the pod, and no network namespace that can be found holds its addresses")]
    NotFound,
    /// The runtime says that the namespace is another pod's.
    #[error("the network namespace {} holds the addresses of the pod, and the runtime made it for pod {owner}", netns.display())]
    OfAnother {
        /// Its path.
        netns: PathBuf,
        /// Whose it is.
        owner: ObjectKey,
    },
    /// Another pod has the same address.
    #[error("pod {other} runs on this node, too, and has an address of this one")]
    Shared {
        /// The other one.
        other: ObjectKey,
    },
}

impl SearchError {
    /// The label of `gammarus_pods_unenrolled`.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Ambiguous { .. } => "namespace_ambiguous",
            Self::Differs { .. } => "namespace_differs",
            Self::NotFound => "namespace_not_found",
            Self::OfAnother { .. } => "namespace_of_another",
            Self::Shared { .. } => "address_shared",
        }
    }
}

/// A network namespace that was found.
#[derive(Clone, Debug)]
pub(super) struct Namespace {
    /// Where it is found again.
    path: PathBuf,
    pub(super) cookie: NetnsCookie,
    /// All but those of the loopback and link-local ones.
    addresses: Vec<IpAddr>,
    /// What the runtime knows of it, if it has written that down.
    known_as: Option<KnownAs>,
}

/// What a runtime has written down of an attachment.
#[derive(Clone, Debug)]
struct KnownAs {
    id: AttachmentId,
    network: String,
    pod: Option<ObjectKey>,
}

/// A file of libcni's cache, as far as it is of use.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CachedResult {
    container_id: ContainerId,
    if_name: IfName,
    #[serde(default)]
    network_name: String,
    netns: Option<PathBuf>,
    #[serde(default)]
    cni_args: Vec<(String, String)>,
    #[serde(default)]
    result: CachedInterfaces,
}

#[derive(Default, Deserialize)]
struct CachedInterfaces {
    #[serde(default)]
    interfaces: Vec<CachedInterface>,
}

#[derive(Deserialize)]
struct CachedInterface {
    sandbox: Option<PathBuf>,
}

impl CachedResult {
    /// Where the namespace is, as the runtime sees it.
    fn netns(&self) -> Option<&Path> {
        let mut sandboxes =
            self.result.interfaces.iter().filter_map(|interface| interface.sandbox.as_deref());
        self.netns.as_deref().or_else(|| sandboxes.find(|sandbox| !sandbox.as_os_str().is_empty()))
    }

    fn known_as(self) -> KnownAs {
        let argument = |wanted: &str| {
            self.cni_args.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
        };
        let pod = argument("K8S_POD_NAMESPACE").zip(argument("K8S_POD_NAME"));
        let pod = pod.map(|(namespace, name)| ObjectKey::new(namespace, name));
        let id = AttachmentId { container_id: self.container_id, ifname: self.if_name };
        KnownAs { id, network: self.network_name, pod }
    }
}

/// Every network namespace that can be found below `root`, each once: neither the process' own nor the host's.
pub(super) fn namespaces(root: &Path) -> Vec<Namespace> {
    let identity = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let own = [PathBuf::from("/proc/self/ns/net"), root.join(PROCESSES).join("1/ns/net")];
    let mut seen: HashSet<_> = own.iter().filter_map(|path| identity(path)).collect();
    let mut found = Vec::new();
    for (path, known_as) in places(root) {
        if identity(&path).is_none_or(|identity| !seen.insert(identity)) {
            continue;
        }
        match look_into(&path) {
            Ok((cookie, addresses)) => found.push(Namespace { path, cookie, addresses, known_as }),
            Err(error) => tracing::debug!(path = %path.display(), %error, "no network namespace to search"),
        }
    }
    found
}

/// Where namespaces may be: first where most is known of them, last where they go with a process.
fn places(root: &Path) -> impl Iterator<Item = (PathBuf, Option<KnownAs>)> {
    let cached = list(&root.join(RESULTS)).into_iter().filter_map(|path| {
        // Whatever else lies there is not for us to judge.
        let result: CachedResult = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        let places = places_below(root, result.netns()?);
        let there = places.iter().find(|place| place.exists()).or_else(|| places.first())?;
        Some((there.clone(), Some(result.known_as())))
    });
    let named = NAMES.iter().flat_map(|names| list(&root.join(names)));
    let of_processes = processes(&root.join(PROCESSES));
    cached.collect::<Vec<_>>().into_iter().chain(named.chain(of_processes).map(|path| (path, None)))
}

/// The files of a folder, in order; none where it is not there.
fn list(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The namespaces of all processes, the oldest processes first: they likely stay.
fn processes(folder: &Path) -> Vec<PathBuf> {
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let mut numbers: Vec<u32> = list(folder).iter().filter_map(number).collect();
    numbers.sort_unstable();
    numbers.into_iter().map(|number| folder.join(number.to_string()).join("ns/net")).collect()
}

fn look_into(path: &Path) -> io::Result<(NetnsCookie, Vec<IpAddr>)> {
    // Opening anything else might wait, such as for the other end of a pipe.
    if !fs::metadata(path)?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let netns = NetnsFd::open(path)?;
    let cookie = netns.id()?;
    let addresses = netns.run(|| {
        let storages = getifaddrs()?.filter_map(|interface| interface.address);
        let addresses = storages.filter_map(|storage| {
            let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        });
        Ok(addresses.filter(is_of_a_pod).collect())
    })?;
    Ok((cookie, addresses))
}

/// Whether an address may be one that a pod is known by.
fn is_of_a_pod(address: &IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !address.is_loopback() && !is_link_local
}

/// The namespace of a pod: the only one that holds any of its addresses, and it holds exactly these.
pub(super) fn find<'a>(pod: &AwaitedPod, among: &'a [Namespace]) -> Result<&'a Namespace, SearchError> {
    if let Some(other) = &pod.rival {
        return Err(SearchError::Shared { other: other.clone() });
    }
    let holds =
        |namespace: &&Namespace| namespace.addresses.iter().any(|address| pod.addresses.contains(address));
    let holders: Vec<&Namespace> = among.iter().filter(holds).collect();
    let namespace = match holders.as_slice() {
        [] => return Err(SearchError::NotFound),
        [only] => *only,
        several => {
            let namespaces = listed(several.iter().map(|namespace| namespace.path.display()));
            return Err(SearchError::Ambiguous { namespaces });
        }
    };
    let owner = namespace.known_as.as_ref().and_then(|known_as| known_as.pod.as_ref());
    if let Some(owner) = owner.filter(|owner| **owner != key_of(&pod.name)) {
        return Err(SearchError::OfAnother { netns: namespace.path.clone(), owner: owner.clone() });
    }
    let set = |addresses: &[IpAddr]| addresses.iter().copied().collect::<HashSet<IpAddr>>();
    if set(&namespace.addresses) != set(&pod.addresses) {
        let addresses = listed(namespace.addresses.iter());
        return Err(SearchError::Differs { netns: namespace.path.clone(), addresses });
    }
    Ok(namespace)
}

fn listed(items: impl Iterator<Item: std::fmt::Display>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

impl Namespace {
    /// What ADD would have told of a pod here. Where the runtime's own id is not known, it is one that no DEL names, and
    /// the pod goes with its Pod and its namespace.
    ///
    /// # Errors
    /// When the pod's uid makes no id.
    pub(super) fn attachment(&self, pod: &AwaitedPod) -> Result<Attachment, gammarus_cni::NameError> {
        let (id, network) = match &self.known_as {
            Some(KnownAs { id, network, .. }) => (id.clone(), network.clone()),
            None => {
                let container_id = format!("found-{}", pod.name.uid().unwrap_or_default()).try_into()?;
                (AttachmentId { container_id, ifname: "eth0".to_owned().try_into()? }, NO_NETWORK.to_owned())
            }
        };
        let netns = self.path.clone();
        Ok(Attachment { id, network, netns, pod: pod.name.clone(), addresses: pod.addresses.clone() })
    }
}

#[cfg(test)]
mod tests {
    use gammarus_cni::PodName;

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn namespace(path: &str, held: &[&str]) -> Namespace {
        Namespace { path: path.into(), cookie: NetnsCookie(1), addresses: addresses(held), known_as: None }
    }

    fn pod(held: &[&str]) -> AwaitedPod {
        let name = PodName::new("shop".to_owned(), "web".to_owned(), Some("u-1".to_owned())).unwrap();
        AwaitedPod { name, addresses: addresses(held), rival: None }
    }

    /// Which namespace is taken, or why none is.
    #[track_caller]
    fn check(wanted: &[&str], among: &[Namespace], expected: &str) {
        let got = match find(&pod(wanted), among) {
            Ok(namespace) => namespace.path.display().to_string(),
            Err(error) => error.reason().to_owned(),
        };
        assert_eq!(got, expected, "{wanted:?} among {among:?}");
    }

    #[test]
    fn a_namespace_is_taken_only_if_it_alone_holds_exactly_the_pods_addresses() {
        let own = || namespace("own", &["10.0.0.5", "fd00::5"]);
        let other = || namespace("other", &["10.0.0.6", "fd00::6"]);
        check(&["fd00::5", "10.0.0.5"], &[other(), own()], "own");
        check(&["10.0.0.5"], &[own()], "namespace_differs");
        check(&["10.0.0.5", "fd00::5", "10.0.0.9"], &[own()], "namespace_differs");
        check(&["10.0.0.7"], &[own(), other()], "namespace_not_found");
        check(&["10.0.0.5", "fd00::5"], &[own(), own()], "namespace_ambiguous");
        check(&["10.0.0.5", "fd00::5"], &[own(), namespace("half", &["10.0.0.5"])], "namespace_ambiguous");
        let known_as = KnownAs {
            id: own().attachment(&pod(&[])).unwrap().id,
            network: "podnet".to_owned(),
            pod: Some(ObjectKey::new("shop", "another")),
        };
        let of_another = Namespace { known_as: Some(known_as), ..own() };
        check(&["10.0.0.5", "fd00::5"], &[of_another], "namespace_of_another");
        let shared = AwaitedPod { rival: Some(ObjectKey::new("shop", "x")), ..pod(&["10.0.0.5", "fd00::5"]) };
        assert_eq!(find(&shared, &[own()]).unwrap_err().reason(), "address_shared");
    }

    #[test]
    fn addresses_that_every_namespace_has_are_none_of_a_pods() {
        for (address, counts) in [
            ("127.0.0.1", false),
            ("::1", false),
            ("fe80::1", false),
            ("169.254.1.1", false),
            ("10.0.0.1", true),
        ] {
            assert_eq!(is_of_a_pod(&address.parse().unwrap()), counts, "{address}");
        }
    }

    #[test]
    fn a_result_of_the_runtime_says_what_it_is_of() {
        let root = tempfile::tempdir().unwrap();
        let results = root.path().join(RESULTS);
        fs::create_dir_all(&results).unwrap();
        fs::write(results.join("broken"), "{").unwrap();
        for (file, place) in [
            ("a", r#""netns":"/run/netns/x""#),
            ("b", r#""result":{"interfaces":[{"name":"h"},{"sandbox":"/run/netns/x"}]}"#),
            ("c", r#""netns":"/var/run/netns/x""#),
        ] {
            let text = format!(
                r#"{{"kind":"cniCacheV1","containerId":"c-{file}","ifName":"eth0","networkName":"podnet","config":"e30=",
                "cniArgs":[["IgnoreUnknown","1"],["K8S_POD_NAMESPACE","shop"],["K8S_POD_NAME","web"]],{place}}}"#
            );
            fs::write(results.join(file), text).unwrap();
        }
        // A folder by only one of its two names, as where a container has it mounted.
        fs::create_dir_all(root.path().join("run/netns")).unwrap();
        fs::write(root.path().join("run/netns/x"), "").unwrap();
        let mut read: Vec<_> = places(root.path()).collect();
        read.retain(|(_, known_as)| known_as.is_some());
        assert_eq!(read.len(), 3);
        for ((path, known_as), container) in read.into_iter().zip(["c-a", "c-b", "c-c"]) {
            let known_as = known_as.unwrap();
            assert_eq!(path, root.path().join("run/netns/x"));
            assert_eq!(
                (known_as.id.to_string(), &*known_as.network),
                (format!("{container}/eth0"), "podnet")
            );
            assert_eq!(known_as.pod, Some(ObjectKey::new("shop", "web")));
        }
    }
}
