//! Clients on both nodes that ask a server on the other one without ever trying twice, and what came of it.

use std::io::{self, Write as _};
use std::thread::{self, JoinHandle};

use node_proxy::demo::command::until;
use serde::Deserialize;
use serde_json::{Value, json};

use super::rig::{Cluster, NODES, Namespace, PATIENCE};

/// How often each client asks, in a second.
const RATE: &str = "10";
/// Why a client ends even if nobody tells it to.
const LONGEST: &str = "300";
/// What goes below `spec:` of a pod that answers gRPC on port 50051.
const GRPC_SERVER: &str = "terminationGracePeriodSeconds: 0, containers: [
  {name: server, image: 'grpc-tools:1', command: [/grpc-server, -name, calls],
   readinessProbe: {tcpSocket: {port: 50051}, periodSeconds: 1}}]";

/// The pod that calls by gRPC.
const CALLER: &str = "caller";

/// The pod on a node that asks.
fn asker(node: &str) -> String {
    format!("asker-{node}")
}

/// What a client says at its end.
#[derive(Debug, Deserialize)]
struct Count {
    sent: u64,
    ok: u64,
    connections: u64,
    failures: Option<Vec<Value>>,
}

/// A namespace in the mesh with its servers and clients.
pub(crate) struct Traffic {
    pub(crate) namespace: Namespace,
}

/// Clients that are asking.
pub(crate) struct Load {
    clients: Vec<(String, JoinHandle<Count>)>,
}

impl Traffic {
    /// All of it in the mesh, and answering.
    #[track_caller]
    pub(crate) fn new(purpose: &str) -> Self {
        let namespace = Namespace::enrolled(purpose);
        let script = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "asker" },
            "data": { "asker.py": include_str!("asker.py") },
        });
        namespace.apply(&script.to_string());
        for (node, other) in [(NODES[0], NODES[1]), (NODES[1], NODES[0])] {
            namespace.server(&format!("server-{node}"), node, 1);
            namespace.pod(
                &asker(other),
                &json!({
                    "nodeName": other, "terminationGracePeriodSeconds": 0,
                    "volumes": [{ "name": "app", "configMap": { "name": "asker" } }],
                    "containers": [{ "name": "asker", "image": "python:3", "command": ["sleep", "infinity"],
                                     "volumeMounts": [{ "name": "app", "mountPath": "/app" }] }],
                }),
            );
        }
        let port = "{name: grpc, port: 80, targetPort: 50051}";
        namespace.workload("calls", 1, &format!("nodeName: {}, {GRPC_SERVER}", NODES[1]), port);
        namespace.idle_pod(CALLER, NODES[0], "grpc-tools:1");
        let traffic = Self { namespace };
        traffic.wait_for_marks();
        traffic
    }

    /// The pods that are there for the whole of a test.
    fn pods(&self) -> Vec<String> {
        let list = self.namespace.kubectl(&["get", "pods", "--output", "name"]).output();
        list.lines().map(|line| line.trim_start_matches("pod/").to_owned()).collect()
    }

    /// Each pod's name, uid and restarts.
    #[track_caller]
    pub(crate) fn lives(&self) -> Vec<(String, String, i64)> {
        let life = |pod: String| {
            let now = self.namespace.pod_now(&pod);
            (pod, now.uid, now.restarts)
        };
        self.pods().into_iter().map(life).collect()
    }

    /// Waits until every pod has its mark.
    #[track_caller]
    pub(crate) fn wait_for_marks(&self) {
        self.pods().iter().for_each(|pod| self.namespace.wait_for_mark(pod));
    }

    /// The pods that have a mark.
    pub(crate) fn marked(&self) -> Vec<String> {
        self.pods().into_iter().filter(|pod| self.namespace.pod_now(pod).mark.is_some()).collect()
    }

    /// Begins to ask: new connections and kept ones from both nodes, and calls on one connection.
    #[track_caller]
    pub(crate) fn begin(&self) -> Load {
        let limited = ["timeout", "-s", "TERM", LONGEST];
        let mut clients = Vec::new();
        for (client, server) in [(NODES[0], NODES[1]), (NODES[1], NODES[0])] {
            for way in ["new", "kept"] {
                let host = format!("server-{server}");
                let asks = ["python3", "/app/asker.py", &host, "80", RATE, way];
                clients.push(self.client(&asker(client), &[&limited[..], &asks].concat()));
            }
        }
        let calls = ["/grpc-client", "-target", "calls:80", "-rate", RATE, "paced"];
        clients.push(self.client(CALLER, &[&limited[..], &calls].concat()));
        Load { clients }
    }

    fn client(&self, pod: &str, command: &[&str]) -> (String, JoinHandle<Count>) {
        let exec = ["--namespace", &self.namespace.name, "exec", pod, "--"];
        let arguments: Vec<String> = exec.iter().chain(command).map(|word| (*word).to_owned()).collect();
        let what = format!("{pod}: {}", command.join(" "));
        let said = what.clone();
        let asking = thread::spawn(move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let ended = Cluster::find().run_for(400, ("kubectl", &arguments), "");
            serde_json::from_str(ended.stdout.lines().last().unwrap_or_default())
                .unwrap_or_else(|error| panic!("{said}: {error}: {ended:?}"))
        });
        (what, asking)
    }
}

impl Load {
    /// Ends it. Every single request must have been answered, and prints how many there were.
    #[track_caller]
    pub(crate) fn end(self, traffic: &Traffic) {
        for (pod, program) in
            [(asker(NODES[0]), "python3"), (asker(NODES[1]), "python3"), (CALLER.to_owned(), "grpc-client")]
        {
            traffic.namespace.exec(&pod, &["/usr/bin/busybox", "killall", "-TERM", program]).output();
        }
        let have_ended = || self.clients.iter().all(|(_, asking)| asking.is_finished());
        assert!(until(PATIENCE, have_ended), "the clients go on");
        let mut failed = Vec::new();
        for (what, asking) in self.clients {
            let count = asking.join().unwrap();
            let Count { sent, ok, connections, failures } = &count;
            let line = format!("{what}: {sent} sent, {ok} answered, {connections} connections\n");
            // Not by the macros, whose text nobody sees when the test passes.
            io::stdout().write_all(line.as_bytes()).unwrap();
            if ok != sent || *sent < 50 || failures.as_ref().is_some_and(|failures| !failures.is_empty()) {
                failed.push(format!("{what}: {count:?}"));
            }
        }
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    }
}
