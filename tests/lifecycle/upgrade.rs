//! A new version of the node's part, as `kubectl apply` of a new image brings it: pods of the DaemonSet come before the
//! old ones go, and take everything over from them.

use std::collections::BTreeSet;

use super::chronicle::Chronicle;
use super::rig::Cluster;
use super::traffic::Traffic;
use super::{installation, one_at_a_time};

/// The uids of the DaemonSet's pods.
fn agents(cluster: &Cluster) -> BTreeSet<String> {
    let query = "jsonpath={.items[*].metadata.uid}";
    let selector = "--selector=app.kubernetes.io/name=gammarus-node";
    let uids =
        cluster.kubectl(&["get", "pods", "--namespace", "gammarus-system", selector, "--output", query]);
    uids.output().split_whitespace().map(str::to_owned).collect()
}

#[test]
fn an_upgrade_of_all_nodes_under_load_loses_nothing_and_restarts_no_pod() {
    let _alone = one_at_a_time();
    let traffic = Traffic::new("upgraded");
    let cluster = Cluster::find();
    let (agents_before, lives) = (agents(&cluster), traffic.lives());
    assert_eq!(agents_before.len(), 2, "{agents_before:?}");
    let mut chronicle = Chronicle::default();
    chronicle.follow(&cluster);
    let load = traffic.begin();
    // Twice: the second one takes over from a proxy that has taken over itself.
    for _ in 0..2 {
        cluster
            .kubectl(&["rollout", "restart", "daemonset/gammarus-node", "--namespace", "gammarus-system"])
            .output();
        installation::wait_for(&cluster, "daemonset/gammarus-node");
        chronicle.follow(&cluster);
    }
    load.end(&traffic);
    let agents_now = agents(&cluster);
    assert!(agents_now.is_disjoint(&agents_before), "{agents_now:?}");
    assert_eq!(traffic.lives(), lives);
    traffic.wait_for_marks();
}
