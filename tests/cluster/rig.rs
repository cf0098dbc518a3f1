//! The cluster of `tests/cluster/up`, for the tests on it: commands on its nodes and in its pods, and namespaces of a
//! test's own.

#![allow(dead_code, reason = "every test that has this among its modules uses a part of it")]

use std::env;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

#[path = "ended.rs"]
mod ended;

pub(crate) use ended::{Ended, run};

/// Both nodes.
pub(crate) const NODES: [&str; 2] = ["node-a", "node-b"];
/// How long anything may take on a machine that builds and runs a whole cluster.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// The cluster whose state is in `$GAMMARUS_CLUSTER`.
pub(crate) struct Cluster {
    state: PathBuf,
}

/// A namespace, until it is dropped.
pub(crate) struct Namespace {
    pub(crate) cluster: Cluster,
    pub(crate) name: String,
}

impl Cluster {
    /// The one that is up.
    #[track_caller]
    pub(crate) fn find() -> Self {
        let state = env::var_os("GAMMARUS_CLUSTER")
            .map_or_else(|| PathBuf::from("/run/gammarus-cluster"), PathBuf::from);
        assert!(
            state.join("env").is_file(),
            "there is no cluster in {}: tests/cluster/up makes one",
            state.display()
        );
        Self { state }
    }

    /// A file of its state, such as `pki/cluster.crt`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    /// A program of this machine, with what one who uses the cluster has in the environment, and what it is to read.
    #[track_caller]
    pub(crate) fn run(&self, program: &str, args: &[&str], input: &str) -> Ended {
        self.run_for(120, (program, args), input)
    }

    /// The same with a program that may take so many seconds.
    #[track_caller]
    pub(crate) fn run_for(&self, seconds: u32, (program, args): (&str, &[&str]), input: &str) -> Ended {
        let mut command = Command::new("bash");
        command
            .args(["-c", ". \"$0/env\" && exec timeout \"$@\""])
            .arg(&self.state)
            .arg(seconds.to_string())
            .arg(program)
            .args(args);
        run(command, input)
    }

    /// `kubectl`.
    #[track_caller]
    pub(crate) fn kubectl(&self, args: &[&str]) -> Ended {
        self.run("kubectl", args, "")
    }

    /// A command on a node.
    #[track_caller]
    pub(crate) fn on(&self, node: &str, args: &[&str]) -> Ended {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cluster/on");
        let mut command = Command::new(program);
        command.arg(node).args(args).env("GAMMARUS_CLUSTER", &self.state);
        run(command, "")
    }
}

impl Namespace {
    /// A new namespace; its name says what for.
    #[track_caller]
    pub(crate) fn new(purpose: &str) -> Self {
        Self::labelled(purpose, &[])
    }

    /// A new namespace with labels.
    #[track_caller]
    pub(crate) fn labelled(purpose: &str, labels: &[(&str, &str)]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{purpose}-{}-{number}", process::id());
        let namespace = Self { cluster: Cluster::find(), name };
        let labels: Value = labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let metadata = json!({ "name": namespace.name, "labels": labels });
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata });
        namespace.apply(&object.to_string());
        namespace
    }

    /// Changes a label of the namespace itself: `name=value`, or `name-` to take it away.
    #[track_caller]
    pub(crate) fn label(&self, change: &str) {
        self.cluster.kubectl(&["label", "--overwrite", "namespace", &self.name, change]).output();
    }

    /// `kubectl` in this namespace.
    #[track_caller]
    pub(crate) fn kubectl(&self, args: &[&str]) -> Ended {
        self.cluster.kubectl(&[&["--namespace", &self.name], args].concat())
    }

    /// Applies objects from YAML or JSON.
    #[track_caller]
    pub(crate) fn apply(&self, objects: &str) {
        let args = ["--namespace", &self.name, "apply", "--filename", "-"];
        let applied = self.cluster.run("kubectl", &args, objects);
        assert!(applied.success, "{}\n{objects}", applied.stderr);
    }

    /// A pod on a node to ask from by curl, ready; it does nothing by itself.
    #[track_caller]
    pub(crate) fn client(&self, name: &str, node: &str) {
        self.idle_pod(name, node, "curlimages/curl:8.17.0");
    }

    /// A pod on a node with the programs of an image, ready; it does nothing by itself.
    #[track_caller]
    pub(crate) fn idle_pod(&self, name: &str, node: &str, image: &str) {
        let container = json!({ "name": "idle", "image": image, "command": ["sleep", "infinity"] });
        let spec = json!({ "nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container] });
        self.pod(name, &spec);
    }

    /// A pod with this spec, ready.
    #[track_caller]
    pub(crate) fn pod(&self, name: &str, spec: &Value) {
        let metadata = json!({ "name": name, "labels": { "app": name } });
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec });
        self.apply(&pod.to_string());
        self.wait("Ready", &format!("pod/{name}"));
    }

    /// Waits for a condition.
    #[track_caller]
    pub(crate) fn wait(&self, condition: &str, object: &str) {
        self.kubectl(&["wait", &format!("--for=condition={condition}"), object, "--timeout=90s"]).output();
    }

    /// Waits until all pods of a workload, such as `statefulset/web`, are there and ready.
    #[track_caller]
    pub(crate) fn wait_for_rollout(&self, workload: &str) {
        self.kubectl(&["rollout", "status", "--timeout=90s", workload]).output();
    }

    /// An object as it is, by `kind/name`.
    #[track_caller]
    pub(crate) fn get(&self, object: &str) -> Value {
        serde_json::from_str(&self.kubectl(&["get", object, "--output", "json"]).output()).unwrap()
    }

    /// A field of an object, by JSON path such as `.status.podIP`.
    #[track_caller]
    pub(crate) fn field(&self, object: &str, path: &str) -> String {
        self.kubectl(&["get", object, "--output", &format!("jsonpath={{{path}}}")]).output()
    }

    /// A command in a pod.
    #[track_caller]
    pub(crate) fn exec(&self, pod: &str, args: &[&str]) -> Ended {
        self.kubectl(&[&["exec", pod, "--"], args].concat())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let delete = ["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found"];
        let _nothing_more_to_do = self.cluster.kubectl(&delete);
    }
}

/// An address as it stands in a URL.
pub(crate) fn host_of(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}
