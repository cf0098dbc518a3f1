//! What the controller may make for Gateways, with the rights that it is installed with: a Gateway's own, and nothing by which
//! a pod would reach further than a Gateway's proxy does.

use std::io::Write as _;

use serde_json::{Value, json};

use super::{SYSTEM, installed, wait_until};
use crate::api_server::{ApiServer, Ended};

fn owned_by_a_gateway() -> Value {
    json!([{ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": "front", "uid": "1-2-3", "controller": true }])
}

/// A Deployment as the controller makes one.
fn deployment(namespace: &str) -> Value {
    let token = json!({ "serviceAccountToken": { "path": "token", "audience": "gammarus-ca" } });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "front-gammarus", "namespace": namespace, "ownerReferences": owned_by_a_gateway() },
        "spec": {
            "selector": { "matchLabels": { "a": "b" } },
            "template": {
                "metadata": { "labels": { "a": "b" } },
                "spec": {
                    "serviceAccountName": "front-gammarus", "automountServiceAccountToken": false,
                    "containers": [{ "name": "proxy", "image": "gammarus:0.1.0",
                        "env": [{ "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }] }],
                    "volumes": [{ "name": "token", "projected": { "sources": [token] } },
                                { "name": "trust", "configMap": { "name": "front-gammarus" } },
                                { "name": "state", "emptyDir": {} }],
                },
            },
        },
    })
}

/// Applies an object as the controller does.
fn apply(server: &ApiServer, object: &Value, more: &[&str]) -> Ended {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(object.to_string().as_bytes()).unwrap();
    let controller = server.kubeconfig_of(SYSTEM, "gammarus-controller");
    let path = file.path().to_str().unwrap();
    let flags = [
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=gammarus-controller",
        "--filename",
        path,
    ];
    server.kubectl_as(&controller, &[&flags, more].concat())
}

#[test]
fn the_controller_makes_what_a_gateway_owns_and_nothing_that_reaches_further() {
    let server = installed();
    server.namespace("fronts", &[]);
    let tried = |object: &Value| apply(&server, object, &["--dry-run=server"]);
    let good = deployment("fronts");
    let in_system = deployment(SYSTEM);
    wait_until("the policy gammarus-controller", || !tried(&in_system).success);
    tried(&in_system).assert_refused("nothing in the namespace of the mesh");
    tried(&good).assert_success();

    let pod = "/spec/template/spec";
    for (path, value, saying) in [
        ("/metadata/ownerReferences", json!([]), "only what a Gateway owns"),
        ("/spec/template/spec/serviceAccountName", json!("default"), "the service account of their Gateway"),
        ("/spec/template/spec/automountServiceAccountToken", json!(true), "no token for the API server"),
        (
            "/spec/template/spec/volumes/1",
            json!({"name": "keys", "secret": {"secretName": "keys"}}),
            "no volumes but",
        ),
        (
            "/spec/template/spec/volumes/1",
            json!({"name": "node", "hostPath": {"path": "/"}}),
            "no volumes but",
        ),
        (
            "/spec/template/spec/volumes/0/projected/sources/0",
            json!({"secret": {"name": "keys"}}),
            "no volumes but",
        ),
        (
            "/spec/template/spec/volumes/0/projected/sources/0/serviceAccountToken",
            json!({"path": "token"}),
            "no volumes but",
        ),
        (
            "/spec/template/spec/containers/0/env/0/valueFrom",
            json!({"secretKeyRef": {"name": "keys", "key": "a"}}),
            "read no Secret",
        ),
    ] {
        let mut object = good.clone();
        *object.pointer_mut(path).unwrap() = value;
        tried(&object).assert_refused(saying);
    }
    for (field, value, saying) in [
        ("hostNetwork", json!(true), "namespaces of their own"),
        ("hostPID", json!(true), "namespaces of their own"),
    ] {
        let mut object = good.clone();
        object.pointer_mut(pod).unwrap()[field] = value;
        tried(&object).assert_refused(saying);
    }
    let mut privileged = good;
    privileged.pointer_mut(pod).unwrap()["containers"][0]["securityContext"] = json!({ "privileged": true });
    tried(&privileged).assert_refused("have no privilege");
}

#[test]
fn what_parameters_say_of_pods_is_taken_and_init_containers_are_bounded_like_others() {
    let server = installed();
    server.namespace("shaped", &[]);
    let tried = |object: &Value| apply(&server, object, &["--dry-run=server"]);
    let (good, in_system) = (deployment("shaped"), deployment(SYSTEM));
    wait_until("the policy gammarus-controller", || !tried(&in_system).success);
    let pod = "/spec/template/spec";
    let mut before = good.clone();
    before.pointer_mut(pod).unwrap()["initContainers"] =
        json!([{ "name": "first", "image": "other:1", "securityContext": { "privileged": true } }]);
    tried(&before).assert_refused("have no privilege");
    // What a Gateway's parameters may say of its pods.
    let mut shaped = good;
    let own = shaped.pointer_mut(pod).unwrap();
    own["nodeSelector"] = json!({ "pool": "edge" });
    own["tolerations"] = json!([{ "key": "edge", "operator": "Exists" }]);
    own["containers"][0]["resources"] = json!({ "limits": { "memory": "1Gi" } });
    tried(&shaped).assert_success();
}

#[test]
fn whatever_the_controller_makes_is_a_gateways() {
    let server = installed();
    server.namespace("all", &[]);
    let tried = |object: &Value| apply(&server, object, &["--dry-run=server"]);
    let in_system = deployment(SYSTEM);
    wait_until("the policy gammarus-controller", || !tried(&in_system).success);
    for kind in ["ConfigMap", "ServiceAccount", "Service"] {
        let mut object = json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": "front-gammarus", "namespace": "all" } });
        if kind == "Service" {
            object["spec"] = json!({ "ports": [{ "port": 80 }] });
        }
        tried(&object).assert_refused("only what a Gateway owns");
        object["metadata"]["ownerReferences"] = owned_by_a_gateway();
        tried(&object).assert_success();
    }
}

/// What a Gateway's parameters ask for, as the controller makes it.
fn chosen(namespace: &str) -> [Value; 2] {
    let metadata =
        json!({ "name": "front-gammarus", "namespace": namespace, "ownerReferences": owned_by_a_gateway() });
    let target = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": "front-gammarus" });
    let selector = json!({ "matchLabels": { "gammarus.io/gateway": "front-gammarus" } });
    [
        json!({ "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": metadata,
            "spec": { "scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 3 } }),
        json!({ "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata,
            "spec": { "selector": selector, "minAvailable": 1 } }),
    ]
}

#[test]
fn autoscalers_and_budgets_are_a_gateways_own_and_about_its_own_pods() {
    let server = installed();
    server.namespace("scaled", &[]);
    let tried = |object: &Value| apply(&server, object, &["--dry-run=server"]);
    let in_system = deployment(SYSTEM);
    wait_until("the policy gammarus-controller", || !tried(&in_system).success);
    let controller = server.kubeconfig_of(SYSTEM, "gammarus-controller");
    let [autoscaler, budget] = chosen("scaled");
    for (object, path, value, saying) in [
        (&autoscaler, "/spec/scaleTargetRef/name", json!("others"), "scale the Deployment of their Gateway"),
        (
            &autoscaler,
            "/spec/scaleTargetRef/kind",
            json!("StatefulSet"),
            "scale the Deployment of their Gateway",
        ),
        (&budget, "/spec/selector", json!({}), "about the pods of their Gateway"),
        (
            &budget,
            "/spec/selector/matchLabels",
            json!({ "gammarus.io/gateway": "others" }),
            "about the pods of their Gateway",
        ),
        (&autoscaler, "/metadata/ownerReferences", json!([]), "only what a Gateway owns"),
        (&budget, "/metadata/ownerReferences", json!([]), "only what a Gateway owns"),
    ] {
        let mut other = object.clone();
        *other.pointer_mut(path).unwrap() = value;
        tried(&other).assert_refused(saying);
    }
    for own in [autoscaler, budget] {
        let (kind, mut theirs) = (own["kind"].as_str().unwrap().to_owned(), own.clone());
        theirs["metadata"]["ownerReferences"] = json!([]);
        theirs["metadata"]["name"] = json!("theirs");
        server.apply(&theirs.to_string());
        let delete =
            |name: &str| server.kubectl_as(&controller, &["delete", &kind, name, "--namespace=scaled"]);
        delete("theirs").assert_refused("deletes only what a Gateway owns");
        apply(&server, &own, &[]).assert_success();
        delete("front-gammarus").assert_success();
    }
}

#[test]
fn what_others_have_is_left_to_them_and_what_they_add_stays() {
    let server = installed();
    server.namespace("others", &[]);
    let in_system = deployment(SYSTEM);
    wait_until("the policy gammarus-controller", || {
        !apply(&server, &in_system, &["--dry-run=server"]).success
    });

    // Somebody's own object of that name is not taken over, whatever is written into it.
    let mut theirs = deployment("others");
    theirs["metadata"]["ownerReferences"] = json!([]);
    theirs["metadata"]["name"] = json!("theirs");
    server.apply(&theirs.to_string());
    theirs["metadata"]["ownerReferences"] = owned_by_a_gateway();
    theirs["spec"]["template"]["spec"]["serviceAccountName"] = json!("theirs");
    apply(&server, &theirs, &[]).assert_refused("only what a Gateway owns");

    // A volume that an administrator has added does not keep the controller from the rest.
    let mut own = deployment("others");
    apply(&server, &own, &[]).assert_success();
    let added = json!({ "spec": { "template": { "spec": { "volumes": [{ "name": "added", "secret": { "secretName": "own" } }] } } } });
    let patch =
        ["patch", "deployment", "front-gammarus", "--namespace", "others", "--patch", &added.to_string()];
    server.kubectl(&patch).assert_success();
    own["spec"]["template"]["spec"]["containers"][0]["image"] = json!("gammarus:0.2.0");
    apply(&server, &own, &[]).assert_success();
    let volumes = "jsonpath={.spec.template.spec.volumes[*].name}";
    let get = ["get", "deployment", "front-gammarus", "--namespace", "others", "--output", volumes];
    assert!(server.kubectl(&get).output().contains("added"));
}
