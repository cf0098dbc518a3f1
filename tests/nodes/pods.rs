//! What a node gives its pods, and to whom its kubelet answers.

use std::collections::BTreeSet;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::rig::{Cluster, NODES, Namespace, run};

#[test]
fn a_pod_sees_network_namespaces_that_come_after_it() {
    let namespace = Namespace::new("mounts");
    let spec = json!({
        "nodeName": NODES[0], "terminationGracePeriodSeconds": 0,
        "containers": [{
            "name": "watcher", "image": "busybox:1.37", "command": ["sleep", "infinity"],
            "volumeMounts": [{ "name": "netns", "mountPath": "/run/netns", "mountPropagation": "HostToContainer" }],
        }],
        "volumes": [{ "name": "netns", "hostPath": { "path": "/run/netns" } }],
    });
    namespace.pod("watcher", &spec);
    // A name that is not mounted upon is an empty file; a namespace has an inode of another filesystem. Those of other
    // pods may go meanwhile.
    let seen = || -> BTreeSet<String> {
        let mounts = namespace.exec("watcher", &["grep", "nsfs", "/proc/self/mountinfo"]).output();
        mounts.lines().filter_map(|line| Some(line.split(' ').nth(4)?.to_owned())).collect()
    };
    let before = seen();
    namespace.client("later", NODES[0]);
    let after = seen();
    assert!(!after.is_subset(&before), "{before:?} and, after a pod more, {after:?}");
    namespace.kubectl(&["delete", "pod", "later", "--now"]).output();
}

#[test]
fn a_projected_token_names_the_pod_and_its_node() {
    let namespace = Namespace::new("tokens");
    let node = NODES[1];
    let projected = json!({ "serviceAccountToken": { "audience": "gammarus-ca", "path": "token" } });
    let spec = json!({
        "nodeName": node, "terminationGracePeriodSeconds": 0,
        "containers": [{
            "name": "agent", "image": "busybox:1.37", "command": ["sleep", "infinity"],
            "volumeMounts": [{ "name": "token", "mountPath": "/token" }],
        }],
        "volumes": [{ "name": "token", "projected": { "sources": [projected] } }],
    });
    namespace.pod("agent", &spec);
    let token = namespace.exec("agent", &["cat", "/token/token"]).output();
    let review = |audience: &str| {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": { "token": token, "audiences": [audience] },
        });
        let args = ["create", "--output", "json", "--filename", "-"];
        let answer = namespace.cluster.run("kubectl", &args, &review.to_string()).output();
        serde_json::from_str::<Value>(&answer).unwrap()["status"].take()
    };
    let status = review("gammarus-ca");
    let extra = &status["user"]["extra"];
    assert_eq!(extra["authentication.kubernetes.io/node-name"], json!([node]), "{status}");
    assert_eq!(extra["authentication.kubernetes.io/pod-name"], json!(["agent"]), "{status}");
    assert_ne!(review("somebody-else")["authenticated"], json!(true));
}

#[test]
fn a_kubelet_proves_itself_and_answers_nobody_unknown() {
    let cluster = Cluster::find();
    let nodes =
        cluster.kubectl(&["get", "nodes", "--output", "jsonpath={.items[*].status.addresses[0].address}"]);
    for address in nodes.output().split_whitespace() {
        let url = format!("https://{address}:10250/pods");
        let ask = |authority: &str| {
            let mut curl = Command::new("curl");
            curl.args([
                "-sS",
                "--max-time",
                "5",
                "--write-out",
                "%{http_code}",
                "--output",
                "/dev/null",
                "--cacert",
            ]);
            curl.arg(cluster.file(authority)).arg(&url);
            run(curl, "")
        };
        assert_eq!(ask("pki/cluster.crt").output(), "401");
        let foreign = ask("pki/etcd.crt");
        assert!(!foreign.success && foreign.stderr.contains("certificate"), "{foreign:?}");
    }
}

#[test]
fn a_job_ends_and_a_node_is_a_machine_of_its_own() {
    let namespace = Namespace::new("jobs");
    namespace.apply(
        "{apiVersion: batch/v1, kind: Job, metadata: {name: once},
          spec: {template: {spec: {restartPolicy: Never,
            initContainers: [{name: before, image: 'busybox:1.37', command: ['true']}],
            containers: [{name: once, image: 'busybox:1.37', command: [echo, done]}]}}}}",
    );
    namespace.wait("Complete", "job/once");
    assert_eq!(namespace.kubectl(&["logs", "job/once"]).output(), "done");
    for node in NODES {
        assert_eq!(namespace.cluster.on(node, &["hostname"]).output(), node);
        // Neither sees the other's pods.
        namespace.client(node, node);
        let uid = namespace.field(&format!("pod/{node}"), ".metadata.uid");
        let sees = |node: &str| {
            let cgroups = namespace.cluster.on(node, &["sh", "-c", "cat /proc/[0-9]*/cgroup"]);
            cgroups.stdout.contains(&uid)
        };
        let other = NODES.into_iter().find(|other| *other != node).unwrap();
        let begun = Instant::now();
        while !sees(node) {
            assert!(begun.elapsed() < Duration::from_secs(10), "{node} does not see its pod");
            thread::sleep(Duration::from_millis(100));
        }
        assert!(!sees(other), "{other} sees a pod of {node}");
    }
}
