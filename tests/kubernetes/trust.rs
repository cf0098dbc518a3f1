//! What the installed mesh refuses: to sign for whom it is not the agent of, and to let anybody but the agent of a pod's
//! node write the pod's mark. Each is tried with the tokens that there are, beside one that is taken.

use std::process::Command;

use gammarus_ca::{CaClient, ClientError, SpiffeId, WorkloadKey};
use serde_json::{Value, json};

use super::rig::{Cluster, Ended, NODES, Namespace, run};

const SYSTEM: &str = "gammarus-system";
const MARK: &str = "gammarus.io/enrolled";
const REFUSED: &str = "only gammarus-node on the pod's own node";

/// The agent of a node.
struct Agent {
    node: &'static str,
    pod: String,
    uid: String,
}

impl Agent {
    /// The one that runs now.
    #[track_caller]
    fn of(cluster: &Cluster, node: &'static str) -> Self {
        let (app, place) = ("app.kubernetes.io/name=gammarus-node", format!("spec.nodeName={node}"));
        let get = ["get", "pods", "--namespace", SYSTEM, "--output", "json"];
        let list = cluster.kubectl(&[&get[..], &["--selector", app, "--field-selector", &place]].concat());
        let list: Value = serde_json::from_str(&list.output()).unwrap();
        let metadata = &list["items"][0]["metadata"];
        let text = |field: &str| metadata[field].as_str().unwrap().to_owned();
        Self { node, pod: text("name"), uid: text("uid") }
    }

    /// A token of its own, from where its kubelet has put it: of the volume whose name begins so.
    #[track_caller]
    fn mounted(&self, cluster: &Cluster, volume: &str) -> String {
        let volumes = format!("/var/lib/kubelet/pods/{}/volumes/kubernetes.io~projected", self.uid);
        cluster.on(self.node, &["sh", "-c", &format!("cat {volumes}/{volume}*/token")]).output()
    }
}

/// A token of service account `gammarus-node`, with what more is asked for.
#[track_caller]
fn token(cluster: &Cluster, more: &[&str]) -> String {
    cluster.kubectl(&[&["create", "token", "gammarus-node", "--namespace", SYSTEM], more].concat()).output()
}

/// What binds a token to a pod.
fn bound_to<'a>(pod: &'a str, uid: &'a str) -> [&'a str; 6] {
    ["--bound-object-kind", "Pod", "--bound-object-name", pod, "--bound-object-uid", uid]
}

/// The installed CA, as a node proxy asks it.
struct Ca {
    address: String,
    folder: tempfile::TempDir,
}

impl Ca {
    #[track_caller]
    fn find(cluster: &Cluster) -> Self {
        let of = |object: &[&str], path: &str| {
            let path = format!("jsonpath={{{path}}}");
            cluster.kubectl(&[&["get", "--namespace", SYSTEM, "--output", &path], object].concat()).output()
        };
        let pods = ["pods", "--selector", "app.kubernetes.io/name=gammarus-ca"];
        // This machine has routes to the pods of both nodes.
        let address = format!("{}:8443", of(&pods, ".items[0].status.podIP"));
        let folder = tempfile::tempdir().unwrap();
        let roots = of(&["configmap/gammarus-trust-bundle"], r".data.ca\.crt");
        std::fs::write(folder.path().join("ca.crt"), roots).unwrap();
        Self { address, folder }
    }

    /// Asks for a leaf.
    async fn sign(&self, token: &str, identity: &SpiffeId) -> Result<(), ClientError> {
        let (roots, file) = (self.folder.path().join("ca.crt"), self.folder.path().join("token"));
        std::fs::write(&file, token).unwrap();
        let client =
            CaClient::new(self.address.clone(), "gammarus-ca.gammarus-system.svc", roots, file).unwrap();
        let csr = WorkloadKey::generate().unwrap().csr(identity).unwrap();
        client.sign(identity, csr).await.map(drop)
    }

    async fn assert_refused(&self, token: &str, identity: &SpiffeId, expected: u16, reason: &str) {
        match self.sign(token, identity).await {
            Err(ClientError::Refused { status, message })
                if status.as_u16() == expected && message.contains(reason) => {}
            other => panic!("{expected} {reason}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn the_ca_signs_for_the_agent_of_a_running_pods_own_node_alone() {
    let namespace = Namespace::new("signed");
    namespace.client("client", NODES[0]);
    let cluster = &namespace.cluster;
    let identity = |account: &str| -> SpiffeId {
        format!("spiffe://cluster.local/ns/{}/sa/{account}", namespace.name).parse().unwrap()
    };
    let (ca, here) = (Ca::find(cluster), identity("default"));
    let [own, other] = NODES.map(|node| Agent::of(cluster, node));
    let own_token = own.mounted(cluster, "token");
    ca.sign(&own_token, &here).await.unwrap();
    let nobody = "has no running pod of service account";
    ca.assert_refused(&other.mounted(cluster, "token"), &here, 403, nobody).await;
    ca.assert_refused(&own_token, &identity("nobody"), 403, nobody).await;
    // The token with which the very same agent talks to the API server, and one that is for somebody else.
    ca.assert_refused(&own.mounted(cluster, "kube-api-access"), &here, 401, "audience").await;
    let bound = bound_to(&own.pod, &own.uid);
    let elsewhere = token(cluster, &[&["--audience", "vault"], &bound[..]].concat());
    ca.assert_refused(&elsewhere, &here, 401, "audience").await;
    // One that was asked for, and not mounted, is as good; but not without a pod.
    let ours = ["--audience", "gammarus-ca"];
    ca.sign(&token(cluster, &[&ours, &bound[..]].concat()), &here).await.unwrap();
    ca.assert_refused(&token(cluster, &ours), &here, 403, "not bound to a pod").await;
    // A workload's own, on that node.
    let account = ["create", "token", "default", "--audience", "gammarus-ca"];
    let uid = namespace.pod_now("client").uid;
    let workload = namespace.kubectl(&[&account[..], &bound_to("client", &uid)].concat()).output();
    ca.assert_refused(&workload, &here, 403, "only node proxies").await;
    // An agent that was there, and is not any more.
    let gone = token_of_an_agent_that_has_gone(&namespace);
    ca.assert_refused(&gone, &here, 401, "is not taken for the audience `gammarus-ca`").await;
}

/// The token of a pod as those of the DaemonSet are, which has been removed.
#[track_caller]
fn token_of_an_agent_that_has_gone(namespace: &Namespace) -> String {
    let (cluster, name) = (&namespace.cluster, namespace.name.as_str());
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": SYSTEM },
        "spec": { "nodeName": NODES[0], "serviceAccountName": "gammarus-node", "terminationGracePeriodSeconds": 0,
                  "containers": [{ "name": "idle", "image": "busybox:1.37", "command": ["sleep", "infinity"] }] },
    });
    let create = ["create", "--filename", "-", "--output", "jsonpath={.metadata.uid}"];
    let uid = cluster.run("kubectl", &create, &pod.to_string()).output();
    let gone = token(cluster, &[&["--audience", "gammarus-ca"], &bound_to(name, &uid)[..]].concat());
    cluster.kubectl(&["delete", "pod", name, "--namespace", SYSTEM, "--now"]).output();
    gone
}

/// A request to the API server with a token: `POST`, `PATCH` or `DELETE` of a path below the pod `client`.
#[track_caller]
fn ask(namespace: &Namespace, token: &str, method: &str, below: &str, body: &Value) -> Ended {
    let cluster = &namespace.cluster;
    let server = cluster.kubectl(&["config", "view", "--output", "jsonpath={.clusters[0].cluster.server}"]);
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "20", "--fail-with-body", "-X", method, "--data", &body.to_string()]);
    curl.args(["-H", &format!("authorization: Bearer {token}"), "-H", &format!("content-type: {kind}")]);
    curl.arg("--cacert").arg(cluster.file("pki/cluster.crt"));
    curl.arg(format!("{}/api/v1/namespaces/{}/pods/client{below}", server.output(), namespace.name));
    run(curl, "")
}

/// An enrolled pod on the first node, with its mark.
#[track_caller]
fn marked(purpose: &str) -> (Namespace, String) {
    let namespace = Namespace::enrolled(purpose);
    namespace.client("client", NODES[0]);
    namespace.wait_for_mark("client");
    let mark = mark(&namespace);
    (namespace, mark)
}

fn mark(namespace: &Namespace) -> String {
    let pod = namespace.get("pod/client");
    pod["metadata"]["annotations"][MARK].as_str().unwrap_or_default().to_owned()
}

fn annotate(mark: &Value) -> Value {
    json!({ "metadata": { "annotations": { MARK: mark } } })
}

#[test]
fn nobody_but_the_agent_of_its_node_can_write_or_forge_a_pods_mark() {
    let (namespace, before) = marked("forged");
    let cluster = &namespace.cluster;
    let uid = namespace.pod_now("client").uid;
    let forged = annotate(&json!(json!({ "uid": uid, "addresses": ["10.244.1.250"] }).to_string()));
    let removed = annotate(&Value::Null);
    let [own, other] = NODES.map(|node| Agent::of(cluster, node));
    let foreign = other.mounted(cluster, "kube-api-access");
    let unbound = token(cluster, &[]);
    for patch in [&forged, &removed] {
        for token in [&foreign, &unbound] {
            ask(&namespace, token, "PATCH", "/status", patch).assert_failure(&["403", REFUSED]);
        }
        // Who may do everything.
        let text = patch.to_string();
        let administrator = ["patch", "pod", "client", "--type=merge", "--patch", &text];
        namespace.kubectl(&administrator).assert_refused(REFUSED);
        let status = [&administrator[..], &["--subresource=status"]].concat();
        namespace.kubectl(&status).assert_refused(REFUSED);
        // The pod itself, by its service account.
        let workload = namespace.kubectl(&["create", "token", "default"]).output();
        ask(&namespace, &workload, "PATCH", "/status", patch)
            .assert_failure(&["403", "cannot patch resource \\\"pods/status\\\""]);
    }
    assert_eq!(mark(&namespace), before);
    // The control: with the token of its own node's agent all of that is done.
    let agent = own.mounted(cluster, "kube-api-access");
    for patch in [&forged, &removed, &annotate(&json!(before))] {
        ask(&namespace, &agent, "PATCH", "/status", patch).assert_success();
        let expected = patch["metadata"]["annotations"][MARK].as_str().unwrap_or_default();
        assert_eq!(mark(&namespace), expected);
    }
}

#[test]
fn an_agent_can_change_nothing_else_of_a_pod() {
    let (namespace, _) = marked("unchanged");
    let agent = Agent::of(&namespace.cluster, NODES[0]).mounted(&namespace.cluster, "kube-api-access");
    namespace.kubectl(&["annotate", "pod", "client", "note=mine"]).assert_success();
    // The control: this token does write.
    ask(&namespace, &agent, "PATCH", "/status?dryRun=All", &annotate(&json!("{}"))).assert_success();
    let parts = |pod: Value| {
        let names = ["/metadata/labels", "/metadata/annotations", "/metadata/finalizers", "/spec"];
        names.map(|part| pod.pointer(part).cloned())
    };
    let before = parts(namespace.get("pod/client"));
    for (patch, said) in [
        (json!({ "metadata": { "labels": { "app": "other" } } }), "labels, finalizers or owners"),
        (json!({ "metadata": { "finalizers": ["example.org/kept"] } }), "labels, finalizers or owners"),
        (json!({ "metadata": { "annotations": { "note": "yours" } } }), "an annotation other than"),
        (json!({ "metadata": { "annotations": { MARK: "{}", "more": "x" } } }), "an annotation other than"),
        (json!({ "status": { "phase": "Failed" } }), "spec or status"),
        (json!({ "status": { "podIP": "10.0.0.66", "podIPs": [{ "ip": "10.0.0.66" }] } }), "spec or status"),
    ] {
        ask(&namespace, &agent, "PATCH", "/status", &patch).assert_failure(&["403", said]);
    }
    let eviction = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": "client" } });
    for (method, below, body, verb) in [
        ("PATCH", "", json!({ "metadata": { "labels": { "app": "other" } } }), "cannot patch resource"),
        ("DELETE", "", json!({}), "cannot delete resource"),
        ("POST", "/eviction", eviction, "cannot create resource"),
    ] {
        ask(&namespace, &agent, method, below, &body).assert_failure(&["403", verb]);
    }
    assert_eq!(parts(namespace.get("pod/client")), before);
}
