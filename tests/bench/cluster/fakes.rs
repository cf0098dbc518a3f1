//! Nodes and pods that are not there: kwok plays their kubelets, and the API server cannot tell.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::Asked;
use crate::installed::Installed;
use crate::process::PATIENCE;

/// Pods of one workload, and endpoints of its Service.
const REPLICAS: usize = 10;
/// Workloads of one namespace.
const WORKLOADS: usize = 25;

/// A cluster of them, until it is dropped.
pub(crate) struct Fakes {
    kwok: Child,
    _folder: TempDir,
    nodes: usize,
    /// How many pods there were ever.
    made: usize,
    /// The pods that are there, oldest first.
    pods: Vec<Fake>,
}

/// A pod.
#[derive(Clone, Debug)]
struct Fake {
    workload: usize,
    name: String,
    uid: String,
    node: String,
    address: String,
}

fn node(number: usize) -> String {
    format!("fake-{number}")
}

impl Fakes {
    /// So many nodes with so many pods, which run and are marked, and are the endpoints of Services.
    pub(crate) fn start(installed: &Installed, nodes: usize, pods: usize) -> Self {
        // Their marks are written by one program for all nodes, which the policy lets nobody do.
        let binding = ["delete", "validatingadmissionpolicybinding", "gammarus-mark"];
        installed.server.kubectl(&binding).output();
        let folder = TempDir::new().unwrap();
        let prepared =
            |name| env::var(name).unwrap_or_else(|_| panic!("${name} is not set: see tests/prepare.sh"));
        let log = File::create(folder.path().join("log")).unwrap();
        let kwok = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", &prepared("KWOK"), "--manage-all-nodes"])
            .arg(format!("--kubeconfig={}", installed.server.kubeconfig().display()))
            .arg(format!("--config={}", prepared("KWOK_STAGES")))
            .args(["--node-lease-duration-seconds=40", "--cidr=10.250.0.1/16"])
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        for number in 0..nodes {
            installed.node(
                &node(number),
                &[format!("192.168.{}.{}", number / 200, number % 200 + 1)],
                &[&format!("10.{}.{}.0/24", 128 + number / 250, number % 250)],
            );
        }
        let workloads = pods.div_ceil(REPLICAS);
        for number in 0..workloads.div_ceil(WORKLOADS) {
            installed.namespace(&format!("team-{number}"), &[("gammarus.io/mesh", "enabled")]);
        }
        let mut fakes = Self { kwok, _folder: folder, nodes, made: 0, pods: Vec::new() };
        let services = (0..workloads).map(|workload| {
            let path = format!("/api/v1/namespaces/{}/services", namespace(workload));
            Asked::create(path, service(workload))
        });
        installed.api.send_all(services);
        fakes.add(installed, &(0..pods).map(|number| number / REPLICAS).collect::<Vec<_>>());
        let slices = (0..workloads).map(|workload| {
            let path = format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", namespace(workload));
            Asked::create(path, fakes.slice(workload))
        });
        installed.api.send_all(slices.collect::<Vec<_>>());
        fakes
    }

    /// Makes a pod of each of these workloads, and marks it once it runs.
    fn add(&mut self, installed: &Installed, workloads: &[usize]) {
        let first = self.made;
        self.made += workloads.len();
        let created = workloads.iter().enumerate().map(|(at, workload)| {
            let path = format!("/api/v1/namespaces/{}/pods", namespace(*workload));
            Asked::create(path, pod(*workload, first + at, &node((first + at) % self.nodes)))
        });
        let created = installed.api.send_all(created.collect::<Vec<_>>());
        let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap().to_owned();
        let mut waiting: BTreeMap<String, usize> =
            created.iter().map(name).zip(workloads.iter().copied()).collect();
        let begun = Instant::now();
        while !waiting.is_empty() {
            // Not to ask for thousands at once again and again.
            thread::sleep(Duration::from_millis(20).max(Duration::from_millis(1) * waiting.len() as u32));
            let running = Self::take_running(installed, &mut waiting);
            let is_waiting = || begun.elapsed() < PATIENCE;
            // The policy may hold for a moment after its binding has gone.
            while running.first().is_some_and(|pod| !installed.api.is_taken(mark(pod))) {
                assert!(is_waiting(), "marks are refused");
                thread::sleep(Duration::from_millis(200));
            }
            installed.api.send_all(running.iter().skip(1).map(mark));
            self.pods.extend(running);
            assert!(is_waiting(), "{} pods do not run", waiting.len());
        }
    }

    /// Takes those of the pods that run from the ones that are waited for: their names, with their workloads.
    fn take_running(installed: &Installed, waiting: &mut BTreeMap<String, usize>) -> Vec<Fake> {
        let pods = |workload: usize| format!("/api/v1/namespaces/{}/pods", namespace(workload));
        let paths: BTreeSet<String> = match waiting.first_key_value() {
            Some((name, workload)) if waiting.len() == 1 => [format!("{}/{name}", pods(*workload))].into(),
            _ => waiting.values().map(|workload| pods(*workload)).collect(),
        };
        let answers = installed.api.send_all(paths.into_iter().map(Asked::get));
        let found = answers.iter().flat_map(|answer| match answer["items"].as_array() {
            Some(items) => items.as_slice(),
            None => std::slice::from_ref(answer),
        });
        let running = found.filter_map(|pod| {
            let text = |path: &str| pod.pointer(path).and_then(Value::as_str).map(str::to_owned);
            let name = text("/metadata/name")?;
            let workload = *waiting.get(&name)?;
            let [uid, node, address] = ["/metadata/uid", "/spec/nodeName", "/status/podIP"].map(text);
            Some(Fake { workload, name, uid: uid?, node: node?, address: address? })
        });
        let running: Vec<Fake> = running.collect();
        for pod in &running {
            waiting.remove(&pod.name);
        }
        running
    }

    /// Replaces the oldest pod by another one of its workload, as a rollout does: the new one runs and is an endpoint
    /// before the old one goes.
    pub(crate) fn replace_one(&mut self, installed: &Installed) {
        let old = self.pods.remove(0);
        self.add(installed, &[old.workload]);
        let Fake { workload, name, .. } = &old;
        let namespace = namespace(*workload);
        let slice = json!({ "endpoints": self.slice(*workload)["endpoints"] });
        let path =
            format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/app-{workload}-1");
        installed.api.send(Asked::patch(path, slice));
        installed.api.send(Asked::delete(format!("/api/v1/namespaces/{namespace}/pods/{name}"), json!({})));
    }

    fn slice(&self, workload: usize) -> Value {
        let own = self.pods.iter().filter(|pod| pod.workload == workload);
        let endpoints = own.map(|pod| {
            let target =
                json!({ "kind": "Pod", "namespace": namespace(workload), "name": pod.name, "uid": pod.uid });
            json!({ "addresses": [pod.address], "nodeName": pod.node, "targetRef": target,
                    "conditions": { "ready": true, "serving": true, "terminating": false } })
        });
        let endpoints: Vec<Value> = endpoints.collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "name": format!("app-{workload}-1"), "labels": {
                "kubernetes.io/service-name": format!("app-{workload}"),
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            } },
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }], "endpoints": endpoints,
        })
    }
}

impl Drop for Fakes {
    fn drop(&mut self) {
        let _has_ended_before = self.kwok.kill();
        let _its_status = self.kwok.wait();
    }
}

fn namespace(workload: usize) -> String {
    format!("team-{}", workload / WORKLOADS)
}

fn mark(pod: &Fake) -> Asked {
    let mark = json!({ "uid": pod.uid, "addresses": [pod.address] }).to_string();
    let path = format!("/api/v1/namespaces/{}/pods/{}/status", namespace(pod.workload), pod.name);
    Asked::patch(path, json!({ "metadata": { "annotations": { "gammarus.io/enrolled": mark } } }))
}

fn service(workload: usize) -> Value {
    let name = format!("app-{workload}");
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "labels": { "app": name } },
        "spec": { "selector": { "app": name }, "ports": [{ "name": "http", "port": 80, "targetPort": "http" }] },
    })
}

/// A pod as a Deployment makes it, with what people usually ask for.
fn pod(workload: usize, number: usize, node: &str) -> Value {
    let name = format!("app-{workload}");
    let probe = |path| json!({ "httpGet": { "path": path, "port": "http" }, "periodSeconds": 10 });
    let env: Vec<Value> = ["LOG_LEVEL", "DATABASE_HOST", "CACHE_HOST", "FEATURES", "REGION"]
        .iter()
        .map(|variable| json!({ "name": variable, "value": format!("{name}-value-of-{variable}") }))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("{name}-7d9f8c6b5-{number:05}"),
            "labels": { "app": name, "app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "shop",
                        "pod-template-hash": "7d9f8c6b5", "version": "v1" },
            "annotations": { "prometheus.io/scrape": "true", "prometheus.io/port": "9090" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{name}-7d9f8c6b5"),
                "uid": "5b3c1a9e-0000-4000-8000-000000000000", "controller": true, "blockOwnerDeletion": true }],
        },
        "spec": {
            "nodeName": node,
            "containers": [{
                "name": "app", "image": format!("registry.example.com/team/{name}:1.2.3"), "env": env,
                "ports": [{ "name": "http", "containerPort": 8080 }, { "name": "metrics", "containerPort": 9090 }],
                "readinessProbe": probe("/ready"), "livenessProbe": probe("/live"),
                "resources": { "requests": { "cpu": "100m", "memory": "128Mi" }, "limits": { "memory": "256Mi" } },
            }],
        },
    })
}
