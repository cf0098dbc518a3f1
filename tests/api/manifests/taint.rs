//! The start-up taint: the controller takes it off a node, and can do nothing else to nodes.

use serde_json::{Value, json};

use super::{SYSTEM, helm, wait_until};
use crate::api_server::{ApiServer, Channel};

/// `kubectl` reads what it patches, and the controller has no need to.
const READER: &str = "
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: reads-nodes},
  rules: [{apiGroups: [''], resources: [nodes], verbs: [get]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: reads-nodes},
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reads-nodes},
  subjects: [{kind: ServiceAccount, name: gammarus-controller, namespace: gammarus-system}]}
";

#[test]
fn the_controller_removes_one_taint_and_changes_nothing_else_of_a_node() {
    let server = ApiServer::with_gateway_api(Channel::Experimental);
    let template =
        ["template", "gammarus", "chart", "--namespace", SYSTEM, "--set=startupTaint.enabled=true"];
    server.namespace(SYSTEM, &[]);
    server.apply(&helm(&template).output());
    server.apply(READER);
    let taint = |key: &str| json!({ "key": key, "effect": "NoSchedule" });
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "new", "labels": { "zone": "x" } },
        "spec": { "taints": [taint("gammarus.io/not-ready"), taint("example.org/gpu")], "providerID": "one" } });
    server.apply(&node.to_string());
    let controller = server.kubeconfig_of(SYSTEM, "gammarus-controller");
    let patch = |patch: Value, more: &[&str]| {
        let patch = patch.to_string();
        server.kubectl_as(
            &controller,
            &[&["patch", "node", "new", "--type=merge", "--patch", &patch], more].concat(),
        )
    };
    let cordon = json!({ "spec": { "unschedulable": true } });
    wait_until("the policy gammarus-startup-taint", || !patch(cordon.clone(), &["--dry-run=server"]).success);
    for (change, said) in [
        (cordon, "anything of a node but its taint"),
        (json!({ "metadata": { "labels": { "zone": "y" } } }), "anything of a node but its taint"),
        (json!({ "metadata": { "annotations": { "a": "b" } } }), "anything of a node but its taint"),
        (json!({ "spec": { "taints": null } }), "only remove the taint"),
        (json!({ "spec": { "taints": [taint("gammarus.io/not-ready")] } }), "only remove the taint"),
        (
            json!({ "spec": { "taints": [taint("example.org/gpu"), taint("other")] } }),
            "only remove the taint",
        ),
    ] {
        patch(change, &[]).assert_refused(said);
    }
    let taints = || -> Vec<Value> {
        let node = server.kubectl(&["get", "node", "new", "--output", "json"]).output();
        serde_json::from_str::<Value>(&node).unwrap()["spec"]["taints"].as_array().unwrap().clone()
    };
    let is_ours = |taint: &Value| taint["key"] == "gammarus.io/not-ready";
    let mut left = taints();
    assert!(left.iter().any(is_ours), "{left:?}");
    left.retain(|taint| !is_ours(taint));
    patch(json!({ "spec": { "taints": left } }), &[]).output();
    assert_eq!(taints(), left);
}
