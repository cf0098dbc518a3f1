//! The start-up taint: only with its flag, only where the node's own proxy is ready, and only that taint.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::{Cluster, SYSTEM};

/// What the controller may do besides, where the taint is used.
const RIGHTS: &str = include_str!("taint-rights.yaml");

#[tokio::test]
async fn a_node_takes_pods_when_its_proxy_is_ready() {
    let cluster = Cluster::start().await;
    cluster.server.apply(RIGHTS);
    cluster.server.service_account(SYSTEM, "gammarus-node");
    let taint = |key: &str| json!({ "key": key, "effect": "NoSchedule" });
    for node in ["a", "b"] {
        let taints = json!([taint("gammarus.io/not-ready"), taint("example.com/other")]);
        let object = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node }, "spec": { "taints": taints } });
        cluster.server.apply(&object.to_string());
    }
    let ready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
    let pods = cluster.api("Pod", SYSTEM);
    for (name, owner, node) in
        [("proxy-a", "gammarus-node", "a"), ("proxy-b", "gammarus-node", "b"), ("other-b", "another", "b")]
    {
        let owner = json!({ "apiVersion": "apps/v1", "kind": "DaemonSet", "name": owner, "uid": "1", "controller": true });
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": SYSTEM, "ownerReferences": [owner] },
            "spec": { "nodeName": node, "serviceAccountName": "gammarus-node",
                      "containers": [{ "name": "proxy", "image": "none" }] },
        });
        cluster.server.apply(&pod.to_string());
    }
    pods.patch_status("other-b", &PatchParams::default(), &Patch::Merge(&ready)).await.unwrap();
    let taints = |node: &Value| -> Vec<String> {
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let keys = taints.iter().map(|taint| taint["key"].as_str().unwrap().to_owned());
        // The server has nodes born with a taint of its own.
        keys.filter(|key| !key.starts_with("node.kubernetes.io/")).collect()
    };

    // Without the flag nothing becomes of it, although the proxy is ready.
    let without = cluster.leader().await;
    pods.patch_status("proxy-a", &PatchParams::default(), &Patch::Merge(&ready)).await.unwrap();
    cluster.apply("kind: HTTPRoute\nmetadata: {name: a}\nspec: {parentRefs: [{group: \"\", kind: Service, name: web}]}\n").await;
    let refused = "Accepted=False NoMatchingParent; ResolvedRefs=True ResolvedRefs";
    cluster.says(("HTTPRoute", "a"), "web", refused).await;
    assert_eq!(taints(&cluster.get("Node", "", "a").await).len(), 2);
    without.terminate().await;

    let controller = cluster.controller_with(&["--startup-taint"]).await;
    controller.when("leads", || controller.leads()).await;
    cluster.when(("Node", "", "a"), "without our taint", |node| taints(node) == ["example.com/other"]).await;
    assert_eq!(taints(&cluster.get("Node", "", "b").await).len(), 2, "another DaemonSet's pod is no proxy");
    pods.patch_status("proxy-b", &PatchParams::default(), &Patch::Merge(&ready)).await.unwrap();
    cluster.when(("Node", "", "b"), "without our taint", |node| taints(node) == ["example.com/other"]).await;

    // It is never put back.
    let unready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } });
    pods.patch_status("proxy-b", &PatchParams::default(), &Patch::Merge(&unready)).await.unwrap();
    cluster.apply("kind: Service\nmetadata: {name: web}\nspec: {ports: [{name: http, port: 80}]}\n").await;
    cluster.says(("HTTPRoute", "a"), "web", "Accepted=True Accepted; ResolvedRefs=True ResolvedRefs").await;
    assert_eq!(taints(&cluster.get("Node", "", "b").await), ["example.com/other"]);
}
