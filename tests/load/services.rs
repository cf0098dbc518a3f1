//! The part of a kube-proxy: on each node, a connection to a Service's address goes to one of its pods.
//!
//! Pods of the mesh never get there, as their proxy has taken the connection before. Pods that are in no mesh need it,
//! so that one load can be put on both.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::net::{IpAddr, SocketAddr};

use node_proxy::demo::world::World;

/// A Service's addresses and port, with where they lead.
pub(crate) type Rules = BTreeMap<SocketAddr, Vec<SocketAddr>>;

/// Puts the rules in place of those that are there, on one node.
#[track_caller]
pub(crate) fn write_rules(world: &World, node: &str, rules: &Rules) {
    let mut script =
        "table inet services\ndelete table inet services\ntable inet services {\n  chain prerouting {\n    \
                      type nat hook prerouting priority dstnat;\n"
            .to_owned();
    for (service, endpoints) in rules.iter().filter(|(_, endpoints)| !endpoints.is_empty()) {
        let family = if service.is_ipv4() { "ip" } else { "ip6" };
        let choices: Vec<_> = endpoints
            .iter()
            .enumerate()
            .map(|(number, endpoint)| format!("{number} : {} . {}", endpoint.ip(), endpoint.port()))
            .collect();
        let (count, map) = (choices.len(), choices.join(", "));
        let (address, port) = (service.ip(), service.port());
        let _ = writeln!(
            script,
            "    {family} daddr {address} tcp dport {port} dnat {family} to numgen inc mod {count} map {{ {map} }}"
        );
    }
    script.push_str("  }\n}\n");
    let file = world.dir().join(format!("{node}.services.nft"));
    fs::write(&file, script).unwrap();
    world.exec_on_node(node, &["nft", "-f", &file.display().to_string()]).unwrap().checked().unwrap();
}

/// Which of a pod's addresses has the family of `like`.
pub(crate) fn of_family(addresses: &[IpAddr], like: IpAddr) -> Option<IpAddr> {
    addresses.iter().copied().find(|address| address.is_ipv4() == like.is_ipv4())
}
