//! The cluster that is up, and namespaces of a test's own in it.

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// Both nodes.
pub(crate) const NODES: [&str; 2] = ["node-a", "node-b"];

/// The cluster whose state is in `$GAMMARUS_CLUSTER`.
pub(crate) struct Cluster {
    state: PathBuf,
}

/// A namespace, until it is dropped.
pub(crate) struct Namespace<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) name: String,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { success: output.status.success(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

impl Ended {
    /// What it printed, without space around it; it has to have succeeded.
    #[track_caller]
    pub(crate) fn output(self) -> String {
        assert!(self.success, "{self:?}");
        self.stdout.trim().to_owned()
    }
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

    /// `kubectl`, with what it is to read.
    pub(crate) fn kubectl_with(&self, args: &[&str], input: &str) -> Ended {
        let mut command = Command::new("bash");
        command.args(["-c", ". \"$0/env\" && exec kubectl \"$@\""]).arg(&self.state).args(args);
        run(command, input)
    }

    /// `kubectl`.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Ended {
        self.kubectl_with(args, "")
    }

    /// A command on a node.
    pub(crate) fn on(&self, node: &str, args: &[&str]) -> Ended {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cluster/on");
        let mut command = Command::new(program);
        command.arg(node).args(args).env("GAMMARUS_CLUSTER", &self.state);
        run(command, "")
    }

    /// A namespace of this name, which no other test may use.
    #[track_caller]
    pub(crate) fn namespace(&self, name: &str) -> Namespace<'_> {
        // One of a run before may be about to go.
        self.kubectl(&["delete", "namespace", name, "--ignore-not-found"]).output();
        self.kubectl(&["create", "namespace", name]).output();
        Namespace { cluster: self, name: name.to_owned() }
    }
}

impl Namespace<'_> {
    /// `kubectl` in this namespace.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Ended {
        self.cluster.kubectl(&[&["--namespace", &self.name], args].concat())
    }

    /// Applies objects from YAML or JSON.
    #[track_caller]
    pub(crate) fn apply(&self, objects: &str) {
        let args = ["--namespace", &self.name, "apply", "--filename", "-"];
        self.cluster.kubectl_with(&args, objects).output();
    }

    /// A pod on a node that does nothing, ready.
    #[track_caller]
    pub(crate) fn idle_pod(&self, name: &str, node: &str) {
        let container =
            json!({ "name": "idle", "image": "curlimages/curl:8.17.0", "command": ["sleep", "infinity"] });
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

    /// A field of an object, by JSON path such as `.status.podIP`.
    #[track_caller]
    pub(crate) fn field(&self, object: &str, path: &str) -> String {
        self.kubectl(&["get", object, "--output", &format!("jsonpath={{{path}}}")]).output()
    }

    /// A command in a pod.
    pub(crate) fn exec(&self, pod: &str, args: &[&str]) -> Ended {
        self.kubectl(&[&["exec", pod, "--"], args].concat())
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        let _said_by_the_next_test =
            self.cluster.kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn run(mut command: Command, input: &str) -> Ended {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

/// An address as it stands in a URL.
pub(crate) fn host_of(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}
