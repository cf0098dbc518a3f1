//! `cnitool` on a node: what a runtime does to plug a pod in.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// The network that pods are plugged into.
pub(crate) const NETWORK: &str = "podnet";
/// Where the library keeps its results, with no switch for another place: each call sees a folder of its own there.
const IN_PRIVATE: &str =
    "mount -t tmpfs none /var/lib && mkdir /var/lib/cni && mount --bind \"$0\" /var/lib/cni && exec \"$@\"";

/// `cnitool COMMAND podnet NAMESPACE` by the tool at a path, on the node with this network namespace, with results in the
/// folder `cache`. Where plugins and lists are, and whose namespace it is, is for the caller to say.
pub(crate) fn cnitool(node: &str, (tool, command): (&OsStr, &str), netns: &Path, cache: &Path) -> Command {
    let mut call = Command::new("ip");
    call.args(["netns", "exec", node, "unshare", "-m", "--propagation", "private", "sh", "-c", IN_PRIVATE])
        .arg(cache)
        .args([tool, command.as_ref(), NETWORK.as_ref()])
        .arg(netns);
    call
}

/// What a runtime says of a pod in `CNI_ARGS`.
pub(crate) fn identify(namespace: &str, name: &str, uid: &str) -> String {
    format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}")
}
