//! The mark of a pod: who may write it, and what else its writer may change. Each is tried with the tokens that agents
//! really have, bound to their pods.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::{SYSTEM, installed, wait_until};
use crate::api_server::{ApiServer, Ended, TokenFor};

const REFUSED: &str = "only gammarus-node on the pod's own node";
const MARK: &str = "gammarus.io/enrolled";

/// Two nodes with an agent each, and pods on the first one.
struct Stage {
    server: Arc<ApiServer>,
    namespace: &'static str,
    /// Kubeconfigs of the two agents.
    agents: [PathBuf; 2],
}

impl Stage {
    #[track_caller]
    fn new(namespace: &'static str) -> Self {
        let server = installed();
        // kubectl reads what it is to patch; agents and kubelets do not.
        server.apply(
            "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: reads-status},
               rules: [{apiGroups: [''], resources: [pods/status], verbs: [get]}]}",
        );
        server.apply(
            "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: reads-status},
               roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reads-status},
               subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'system:authenticated'}]}",
        );
        server.namespace(namespace, &[]);
        server.service_account(namespace, "default");
        let agents = ["a", "b"].map(|end| {
            let (node, agent) = (format!("{namespace}-{end}"), format!("agent-{namespace}-{end}"));
            server.node(&node);
            server.pod(SYSTEM, &agent, "gammarus-node", &node);
            let request =
                TokenFor { namespace: SYSTEM, service_account: "gammarus-node", ..TokenFor::default() };
            let token = server.token(TokenFor { pod: Some(&agent), ..request });
            server.kubeconfig_with(&agent, &token)
        });
        let stage = Self { server, namespace, agents };
        stage.pod("web");
        // Policies hold once the API server has read them.
        let is_enforced = || {
            let forged = json!({ "metadata": { "annotations": { MARK: "{}" } } });
            !stage.patch_as_admin("web", &forged, &["--dry-run=server"]).success
        };
        wait_until("the policy gammarus-mark", is_enforced);
        let is_enforced = || {
            let label = json!({ "metadata": { "labels": { "a": "b" } } });
            !stage.patch_status(&stage.agents[0], "web", &label, &["--dry-run=server"]).success
        };
        wait_until("the policy gammarus-node", is_enforced);
        stage
    }

    /// A pod on the first node.
    #[track_caller]
    fn pod(&self, name: &str) {
        self.server.pod(self.namespace, name, "default", &format!("{}-a", self.namespace));
    }

    fn patch_as_admin(&self, pod: &str, patch: &Value, more: &[&str]) -> Ended {
        self.patch(&self.server.kubeconfig(), pod, patch, more)
    }

    fn patch_status(&self, who: &Path, pod: &str, patch: &Value, more: &[&str]) -> Ended {
        self.patch(who, pod, patch, &[&["--subresource=status"], more].concat())
    }

    fn patch(&self, who: &Path, pod: &str, patch: &Value, more: &[&str]) -> Ended {
        let patch = patch.to_string();
        let arguments =
            ["patch", "pod", pod, "--namespace", self.namespace, "--type=merge", "--patch", &patch];
        self.server.kubectl_as(who, &[&arguments, more].concat())
    }

    #[track_caller]
    fn mark(&self, who: &Path, pod: &str, mark: &Value) -> Ended {
        self.patch_status(who, pod, &json!({ "metadata": { "annotations": { MARK: mark } } }), &[])
    }

    #[track_caller]
    fn read(&self, pod: &str) -> Value {
        let get = ["get", "pod", pod, "--namespace", self.namespace, "--output", "json"];
        serde_json::from_str(&self.server.kubectl(&get).output()).unwrap()
    }

    #[track_caller]
    fn find_mark(&self, pod: &str) -> Option<String> {
        self.read(pod)["metadata"]["annotations"][MARK].as_str().map(str::to_owned)
    }

    /// A user who may change pods and their status, as kubectl arguments.
    #[track_caller]
    fn writer(&self, name: &str) -> String {
        let namespace = self.namespace;
        self.server.apply(&format!(
            "{{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {{name: {name}, namespace: {namespace}}},
               rules: [{{apiGroups: [''], resources: [pods, pods/status, pods/binding, bindings, pods/resize],
                         verbs: [get, list, create, update, patch]}}]}}"
        ));
        self.server.apply(&format!(
            "{{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding,
               metadata: {{name: {name}, namespace: {namespace}}},
               roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {name}}},
               subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: {name}}}]}}"
        ));
        format!("--as={name}")
    }

    /// Creates an object at a path of the API.
    fn create_at(&self, path: &str, object: &Value, more: &[&str]) -> Ended {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), object.to_string()).unwrap();
        let arguments = ["create", "--raw", path, "-f", file.path().to_str().unwrap()];
        self.server.kubectl(&[&arguments, more].concat())
    }
}

#[test]
fn the_agent_of_a_pods_node_writes_changes_and_removes_its_mark_and_nobody_else_does() {
    let stage = Stage::new("marks-agents");
    let [own, foreign] = &stage.agents;
    let uid = stage.read("web")["metadata"]["uid"].clone();
    let mark = |address: &str| json!(json!({ "uid": uid, "addresses": [address] }).to_string());

    stage.mark(foreign, "web", &mark("10.0.0.1")).assert_refused(REFUSED);
    assert_eq!(stage.find_mark("web"), None);
    stage.mark(own, "web", &mark("10.0.0.1")).output();
    assert_eq!(stage.find_mark("web").as_deref(), mark("10.0.0.1").as_str());
    stage.mark(own, "web", &mark("10.0.0.2")).output();
    stage.mark(foreign, "web", &mark("10.0.0.3")).assert_refused(REFUSED);
    stage.mark(foreign, "web", &Value::Null).assert_refused(REFUSED);
    assert_eq!(stage.find_mark("web").as_deref(), mark("10.0.0.2").as_str());
    stage.mark(own, "web", &Value::Null).output();
    assert_eq!(stage.find_mark("web"), None);

    // One that is on no node yet is nobody's.
    let waiting = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "waiting", "namespace": stage.namespace },
        "spec": { "containers": [{ "name": "app", "image": "none" }] } });
    stage.server.apply(&waiting.to_string());
    stage.mark(own, "waiting", &mark("10.0.0.1")).assert_refused(REFUSED);
}

#[test]
fn a_token_that_is_bound_to_no_pod_writes_no_mark() {
    let stage = Stage::new("marks-tokens");
    let forged = json!("{\"uid\":\"x\",\"addresses\":[]}");
    let unbound = stage.server.kubeconfig_of(SYSTEM, "gammarus-node");
    stage.mark(&unbound, "web", &forged).assert_refused(REFUSED);
    // Bound to the very node, as whoever may make tokens can ask for.
    let node = format!("{}-a", stage.namespace);
    let bound = ["create", "token", "gammarus-node", "--namespace", SYSTEM, "--bound-object-kind", "Node"];
    let token = stage.server.kubectl(&[&bound[..], &["--bound-object-name", &node]].concat()).output();
    let bound = stage.server.kubeconfig_with("marks-tokens-node", token.trim());
    stage.mark(&bound, "web", &forged).assert_refused(REFUSED);
    // Another service account on that node.
    stage.pod("own-token");
    let request = TokenFor { namespace: stage.namespace, service_account: "default", ..TokenFor::default() };
    let other = stage.server.token(TokenFor { pod: Some("own-token"), ..request });
    let other = stage.server.kubeconfig_with("marks-tokens-other", &other);
    stage.mark(&other, "web", &forged).assert_refused("cannot patch resource \"pods/status\"");
    assert_eq!(stage.find_mark("web"), None);
}

#[test]
fn whoever_may_change_pods_can_neither_forge_nor_remove_a_mark() {
    let stage = Stage::new("marks-users");
    let eve = stage.writer("eve-of-marks");
    let eve = eve.as_str();
    let annotate = |mark: &Value| json!({ "metadata": { "annotations": { MARK: mark } } });
    let forged = annotate(&json!("{\"uid\":\"x\",\"addresses\":[]}"));
    let empty = annotate(&json!(""));
    for more in [&[eve][..], &[eve, "--subresource=status"], &[]] {
        stage.patch_as_admin("web", &forged, more).assert_refused(REFUSED);
    }
    // What says nothing is no mark, and may come and go.
    stage.patch_as_admin("web", &empty, &[eve]).output();
    stage.patch_as_admin("web", &annotate(&Value::Null), &[eve]).output();

    stage.mark(&stage.agents[0], "web", &json!("{\"uid\":\"y\",\"addresses\":[]}")).output();
    for patch in [&forged, &empty, &annotate(&Value::Null), &json!({ "metadata": { "annotations": null } })] {
        for more in [&[eve][..], &[eve, "--subresource=status"], &[]] {
            stage.patch_as_admin("web", patch, more).assert_refused(REFUSED);
        }
    }
    // Everything else goes on as ever, with the mark in place.
    let other = json!({ "metadata": { "annotations": { "note": "read" }, "labels": { "tier": "web" } } });
    stage.patch_as_admin("web", &other, &[eve]).output();
    let status = json!({ "status": { "message": "seen" } });
    stage.patch_as_admin("web", &status, &[eve, "--subresource=status"]).output();
    let resized = json!({ "metadata": { "annotations": { MARK: "{}" } },
        "spec": { "containers": [{ "name": "app", "image": "none", "resources": { "requests": { "cpu": "1m" } } }] } });
    let _refused_or_without_effect = stage.patch_as_admin("web", &resized, &[eve, "--subresource=resize"]);
    let pod = stage.read("web");
    assert_eq!(pod["metadata"]["annotations"][MARK], "{\"uid\":\"y\",\"addresses\":[]}");
    assert_eq!(
        (&pod["metadata"]["annotations"]["note"], &pod["status"]["message"]),
        (&json!("read"), &json!("seen"))
    );
}

#[test]
fn a_kubelet_keeps_a_mark_and_cannot_make_one() {
    let stage = Stage::new("marks-kubelets");
    let node = format!("--as=system:node:{}-a", stage.namespace);
    let kubelet =
        [&node, "--as-group=system:nodes", "--as-group=system:authenticated", "--subresource=status"];
    let running =
        |message: &str| json!({ "status": { "phase": "Running", "message": message, "podIP": "10.0.0.9" } });
    stage.patch_as_admin("web", &running("one"), &kubelet).output();
    stage.mark(&stage.agents[0], "web", &json!("{\"uid\":\"y\"}")).output();
    stage.patch_as_admin("web", &running("two"), &kubelet).output();
    for mark in [json!("{\"uid\":\"z\"}"), Value::Null] {
        let mut patch = running("three");
        patch["metadata"] = json!({ "annotations": { MARK: mark } });
        stage.patch_as_admin("web", &patch, &kubelet).assert_refused(REFUSED);
    }
    let pod = stage.read("web");
    assert_eq!(pod["metadata"]["annotations"][MARK], "{\"uid\":\"y\"}");
    assert_eq!(pod["status"]["message"], "two");
}

#[test]
fn who_places_a_pod_cannot_mark_it() {
    let stage = Stage::new("marks-bindings");
    let eve = stage.writer("eve-of-bindings");
    let namespace = stage.namespace;
    let node = format!("{namespace}-a");
    for (name, path) in [
        ("first", format!("/api/v1/namespaces/{namespace}/pods/first/binding")),
        ("second", format!("/api/v1/namespaces/{namespace}/bindings")),
    ] {
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": namespace },
            "spec": { "containers": [{ "name": "app", "image": "none" }] } });
        stage.server.apply(&pod.to_string());
        let mut binding = json!({ "apiVersion": "v1", "kind": "Binding", "metadata": { "name": name },
            "target": { "apiVersion": "v1", "kind": "Node", "name": node } });
        binding["metadata"]["annotations"] = json!({ MARK: "{}", "note": "kept" });
        stage.create_at(&path, &binding, &[&eve]).assert_refused(REFUSED);
        // The control: other annotations of a binding do become its pod's.
        binding["metadata"]["annotations"] = json!({ "note": "kept" });
        stage.create_at(&path, &binding, &[&eve]).output();
        let pod = stage.read(name);
        assert_eq!(pod["spec"]["nodeName"], json!(node), "{pod}");
        assert_eq!(pod["metadata"]["annotations"]["note"], "kept", "{pod}");
        assert!(pod["metadata"]["annotations"][MARK].is_null(), "{pod}");
    }
}

#[test]
fn a_pod_that_is_created_with_a_mark_has_one_that_is_not_its_own() {
    let stage = Stage::new("marks-created");
    let uid = "00000000-0000-4000-8000-000000000000";
    let pod = json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "copied", "namespace": stage.namespace, "uid": uid,
                      "annotations": { MARK: json!({ "uid": uid, "addresses": ["10.0.0.9"] }).to_string() } },
        "spec": { "nodeName": format!("{}-a", stage.namespace), "containers": [{ "name": "app", "image": "none" }] } });
    let path = format!("/api/v1/namespaces/{}/pods", stage.namespace);
    stage.create_at(&path, &pod, &[]).output();
    let pod = stage.read("copied");
    assert_ne!(pod["metadata"]["uid"], json!(uid), "the API server makes uids by itself");
    // The agent puts its own in that place.
    stage.mark(&stage.agents[0], "copied", &json!("{\"uid\":\"y\"}")).output();
    assert_eq!(stage.find_mark("copied").as_deref(), Some("{\"uid\":\"y\"}"));
}

#[test]
fn an_agent_changes_nothing_of_a_pod_but_its_mark() {
    let stage = Stage::new("marks-only");
    let agent = &stage.agents[0];
    let setup =
        json!({ "metadata": { "annotations": { "note": "mine" }, "finalizers": ["example.org/kept"] } });
    stage.patch_as_admin("web", &setup, &[]).output();
    let before = stage.read("web");
    for (patch, said) in [
        (json!({ "status": { "phase": "Failed" } }), "spec or status"),
        (json!({ "status": { "podIP": "10.0.0.66", "podIPs": [{ "ip": "10.0.0.66" }] } }), "spec or status"),
        (json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } }), "spec or status"),
        (json!({ "metadata": { "labels": { "app": "other" } } }), "labels, finalizers or owners"),
        (json!({ "metadata": { "labels": null } }), "labels, finalizers or owners"),
        (json!({ "metadata": { "finalizers": null } }), "labels, finalizers or owners"),
        (json!({ "metadata": { "annotations": { "note": "yours" } } }), "an annotation other than"),
        (json!({ "metadata": { "annotations": { "note": null } } }), "an annotation other than"),
        (json!({ "metadata": { "annotations": { "more": "x" } } }), "an annotation other than"),
        (json!({ "metadata": { "annotations": { MARK: "{}", "more": "x" } } }), "an annotation other than"),
        (
            json!({ "metadata": { "annotations": { MARK: "{}" } }, "status": { "reason": "x" } }),
            "spec or status",
        ),
    ] {
        stage.patch_status(agent, "web", &patch, &[]).assert_refused(said);
    }
    // The API server itself drops these from a change of the status.
    let owner = json!({ "metadata": { "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u" }] },
        "spec": { "activeDeadlineSeconds": 1 } });
    stage.patch_status(agent, "web", &owner, &[]).output();
    stage
        .patch(agent, "web", &json!({ "metadata": { "labels": { "a": "b" } } }), &[])
        .assert_refused("cannot patch resource \"pods\"");
    let after = stage.read("web");
    for part in [
        "/metadata/labels",
        "/metadata/annotations",
        "/metadata/finalizers",
        "/metadata/ownerReferences",
        "/spec",
        "/status",
    ] {
        assert_eq!(before.pointer(part), after.pointer(part), "{part}");
    }
    // A pod with a thousand annotations is within what the policy may cost.
    let many: Value =
        (0..1000).map(|at| (format!("example.org/note-{at}"), json!("x".repeat(100)))).collect();
    stage.patch_as_admin("web", &json!({ "metadata": { "annotations": many } }), &[]).output();
    stage.mark(agent, "web", &json!("{\"uid\":\"y\"}")).output();
    assert_eq!(stage.find_mark("web").as_deref(), Some("{\"uid\":\"y\"}"));
}
