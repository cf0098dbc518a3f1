//! The mesh is taken off a cluster and comes back, and the pods only see it in what goes between the nodes.

use node_proxy::demo::command::until;

use super::rig::{Cluster, NODES, PATIENCE};
use super::traffic::Traffic;
use super::{installation, one_at_a_time};

/// Installs the mesh again, however the test ends: what runs after it needs that.
struct ComesBack(Cluster);

impl Drop for ComesBack {
    fn drop(&mut self) {
        if !self.0.kubectl(&["get", "namespace", "gammarus-system"]).success {
            installation::install(&self.0);
        }
    }
}

/// What of the mesh's rules is in the network namespaces of a node's pods.
fn rules(cluster: &Cluster, node: &str) -> String {
    let look = "for netns in /run/netns/*; do nsenter --net=\"$netns\" nft list tables; done";
    cluster.on(node, &["sh", "-c", look]).said()
}

/// The plugins that the runtime of a node calls.
fn plugins(cluster: &Cluster, node: &str) -> String {
    cluster.on(node, &["sh", "-c", "cat /etc/cni/net.d/*.conflist"]).output()
}

#[test]
fn a_mesh_that_is_taken_off_under_load_leaves_running_pods_and_comes_back_to_them() {
    let _alone = one_at_a_time();
    let traffic = Traffic::new("taken-off");
    let cluster = Cluster::find();
    let lives = traffic.lives();
    let names = |node: &str| (rules(&cluster, node), plugins(&cluster, node));
    for node in NODES {
        let (rules, plugins) = names(node);
        assert!(rules.contains("gammarus") && plugins.contains("gammarus-cni"), "{node}: {rules} {plugins}");
    }
    let load = traffic.begin();
    let comes_back = ComesBack(Cluster::find());
    installation::uninstall(&cluster);
    for node in NODES {
        let (rules, plugins) = names(node);
        assert!(
            !rules.contains("gammarus") && !plugins.contains("gammarus-cni"),
            "{node}: {rules} {plugins}"
        );
    }
    assert_eq!(traffic.marked(), Vec::<String>::new());
    load.end(&traffic);

    // Without a mesh everything goes on, new pods included.
    let load = traffic.begin();
    traffic.namespace.client("newcomer", NODES[0]);
    traffic.namespace.ask("newcomer", &[&format!("http://server-{}/", NODES[1])]);
    let mut expected = lives;
    expected.extend(traffic.lives().into_iter().filter(|(pod, ..)| pod == "newcomer"));
    drop(comes_back);
    traffic.wait_for_marks();
    load.end(&traffic);
    let captured = || NODES.iter().all(|node| rules(&cluster, node).contains("gammarus"));
    assert!(until(PATIENCE, captured));
    let (mut now, mut expected) = (traffic.lives(), expected);
    now.sort_unstable();
    expected.sort_unstable();
    assert_eq!(now, expected);
}
