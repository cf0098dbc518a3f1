//! What `kubectl` does to an installed mesh, as README says.

use super::rig::Cluster;

/// Waits until all pods of a workload are there and ready.
#[track_caller]
pub(crate) fn wait_for(cluster: &Cluster, workload: &str) {
    let place = ["--namespace", "gammarus-system", "--timeout=240s"];
    let arguments = [&["rollout", "status", workload], &place[..]].concat();
    cluster.run_for(260, ("kubectl", &arguments), "").output();
}

/// Takes the mesh off, by the commands of README.
#[track_caller]
pub(crate) fn uninstall(cluster: &Cluster) {
    let from_the_nodes =
        ["delete", "daemonset", "gammarus-node", "--namespace", "gammarus-system", "--cascade=foreground"];
    cluster.kubectl(&from_the_nodes).output();
    cluster.kubectl(&["delete", "-k", &place("manifests"), "--ignore-not-found"]).output();
}

/// Installs it, by the command of README, and waits until it is there.
#[track_caller]
pub(crate) fn install(cluster: &Cluster) {
    cluster.kubectl(&["apply", "-k", &place("manifests")]).output();
    for workload in ["deployment/gammarus-ca", "deployment/gammarus-controller", "daemonset/gammarus-node"] {
        wait_for(cluster, workload);
    }
}

fn place(folder: &str) -> String {
    format!("{}/../{folder}", env!("CARGO_MANIFEST_DIR"))
}
