//! ztunnel, from a path to a program that was built elsewhere with its `testing` feature: plain connections through a
//! tunnel that it keeps between two nodes.

use std::path::Path;

use node_proxy::demo::command::Process;
use serde_json::{Value, json};

use crate::bare::{BACKEND_PORT, BULK_PORT, Bare, CAPTURED_CLIENT, CAPTURED_SERVER, Logs};
use crate::contender::{Contender, Entry};

/// The mark of its own connections, which are not redirected.
const OWN_MARK: &str = "1337";
/// Where it takes what is redirected.
const OUTBOUND_PORT: u16 = 15001;

/// A pair, one in each pod: certificates of a CA that it makes itself, and the two pods known from a file.
pub(crate) fn contend(bare: &Bare, program: &Path) -> Contender {
    let program = program.display().to_string();
    let server = bare.address_of(CAPTURED_SERVER);
    let known = bare.write("ztunnel.yaml", known(bare).to_string());
    let running = [(CAPTURED_SERVER, "node-b"), (CAPTURED_CLIENT, "node-a")].map(|(pod, node)| {
        let level = if bare.logs == Logs::On { "info" } else { "warn" };
        let environment = [
            "FAKE_CA=true".to_owned(),
            "XDS_ADDRESS=".to_owned(),
            format!("LOCAL_XDS_PATH={known}"),
            "PROXY_MODE=dedicated".to_owned(),
            format!("PROXY_WORKLOAD_INFO=outside/{pod}/{pod}"),
            format!("NODE_NAME={node}"),
            format!("INSTANCE_IP={}", bare.address_of(pod)),
            format!("PACKET_MARK={OWN_MARK}"),
            "ZTUNNEL_WORKER_THREADS=1".to_owned(),
            "ENABLE_ORIG_SRC=false".to_owned(),
            format!("RUST_LOG={level}"),
        ];
        let argv: Vec<&str> = ["env"].into_iter().chain(environment.iter().map(String::as_str)).collect();
        bare.world.spawn(pod, "ztunnel", &[argv, vec![&program, "proxy"]].concat()).unwrap()
    });
    let rules = bare.write(
        "ztunnel.nft",
        format!(
            "table ip ztunnel {{ chain output {{ type nat hook output priority -100;\n\
             meta mark {OWN_MARK} return\n\
             ip daddr {server} tcp dport {{ {BACKEND_PORT}, {BULK_PORT} }} redirect to :{OUTBOUND_PORT}\n}}\n}}\n"
        ),
    );
    let applied = bare.world.exec(CAPTURED_CLIENT, &["nft", "-f", &rules]).and_then(|done| done.checked());
    applied.unwrap();
    // It says much of itself, its commit first.
    let version = bare.version(&[&program, "version"]);
    let ports = [(Entry::Http1, BACKEND_PORT), (Entry::Opaque, BACKEND_PORT), (Entry::Bulk, BULK_PORT)];
    Contender {
        name: "ztunnel",
        version: version.split(',').next().unwrap_or_default().to_owned(),
        client: CAPTURED_CLIENT,
        flooder: CAPTURED_CLIENT,
        entries: ports.map(|(entry, port)| (entry, format!("{server}:{port}"))).into(),
        processes: running.iter().rev().map(Process::id).collect(),
        _running: running.into(),
    }
}

/// What it would learn from a control plane: the two pods.
fn known(bare: &Bare) -> Value {
    let workload = |pod: &str, node: &str| {
        json!({
            "uid": format!("cluster1//v1/Pod/outside/{pod}"), "name": pod, "namespace": "outside",
            "serviceAccount": pod, "workloadIps": [bare.address_of(pod)], "protocol": "HBONE", "node": node,
            "network": "", "services": {},
        })
    };
    let workloads = [workload(CAPTURED_CLIENT, "node-a"), workload(CAPTURED_SERVER, "node-b")];
    json!({"workloads": workloads, "policies": [], "services": []})
}
