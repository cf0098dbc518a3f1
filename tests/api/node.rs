//! A node's proxy beside a real API server: pods in real network namespaces join as the plugin tells of them, are marked and
//! told of where everybody sees it, and leave when the mesh is uninstalled. There is no kubelet: the test makes the
//! pods' objects, and speaks for the plugin.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gammarus_cni::state::{list_records, mark_uninstalled, uninstall_requested};
use gammarus_cni::{Attachment, Command as Ask, Outcome, Request, call};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::api_server::ApiServer;
use crate::api_server::ports::free_ports;

const NODE: &str = "node-a";
const PATIENCE: Duration = Duration::from_secs(60);
/// What the agent of a node may do.
const RIGHTS: &str =
    "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: node}, rules: [
  {apiGroups: [''], resources: [pods, namespaces, nodes, services], verbs: [get, list, watch]},
  {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]},
  {apiGroups: [gateway.networking.k8s.io], resources: ['*'], verbs: [get, list, watch]},
  {apiGroups: [''], resources: [pods/status], verbs: [patch]},
  {apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch]},
  {apiGroups: [apps], resources: [daemonsets], verbs: [get, list, watch]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: node},
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: node},
  subjects: [{kind: ServiceAccount, name: node, namespace: default}]}
---
{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: gammarus-node, namespace: default}, spec: {
  selector: {matchLabels: {app: node}}, template: {metadata: {labels: {app: node}},
  spec: {containers: [{name: proxy, image: none}]}}}}";

#[track_caller]
fn run(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("`{}` is needed for this test: {error}", words[0]));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{line}` failed (root is needed): {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A pod's network namespace with a cable to this machine; both go in the end.
struct Sandbox {
    netns: String,
    cable: String,
    address: String,
}

impl Sandbox {
    #[track_caller]
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = std::process::id();
        let (netns, cable) = (format!("gapi{id}-{number}"), format!("ga{id}x{number}"));
        let sandbox = Self { netns, cable, address: format!("10.78.{number}.2") };
        let Self { netns, cable, address } = &sandbox;
        run(&format!("ip netns add {netns}"));
        run(&format!("ip link add {cable} type veth peer name eth0 netns {netns}"));
        run(&format!("ip addr add 10.78.{number}.1/24 dev {cable}"));
        run(&format!("ip link set {cable} up"));
        for arguments in [
            "link set lo up".to_owned(),
            format!("addr add {address}/24 dev eth0"),
            "link set eth0 up".to_owned(),
            format!("route add default via 10.78.{number}.1"),
        ] {
            run(&format!("ip -n {netns} {arguments}"));
        }
        sandbox
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.netns)
    }

    #[track_caller]
    fn rules(&self) -> String {
        run(&format!("ip netns exec {} nft list ruleset", self.netns))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Nothing more can be done where this fails, and a panic here would hide the test's own.
        let _ = Command::new("ip").args(["netns", "del", &self.netns]).output();
        let _ = Command::new("ip").args(["link", "del", &self.cable]).output();
    }
}

/// A proxy of the node, with its folder; ended with the test.
struct Node {
    server: ApiServer,
    dir: tempfile::TempDir,
    proxy: Option<Child>,
    /// Where the proxy says how it is.
    admin: String,
}

impl Node {
    #[track_caller]
    fn start() -> Self {
        let (server, dir) = (ApiServer::start(), tempfile::tempdir().unwrap());
        server.service_account("default", "node");
        server.apply(RIGHTS);
        server.node(NODE);
        fs::write(dir.path().join("token"), "none").unwrap();
        let mut node = Self { server, dir, proxy: None, admin: String::new() };
        node.start_proxy();
        node
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    #[track_caller]
    fn start_proxy(&mut self) {
        let [admin, health] = free_ports().map(|port: u16| SocketAddr::from(([127, 0, 0, 1], port)));
        let log = fs::File::options().create(true).append(true).open(self.file("log")).unwrap();
        let flag = |name: &str, path: PathBuf| format!("--{name}={}", path.display());
        let proxy = Command::new(env!("CARGO_BIN_EXE_node-proxy"))
            .args(["mesh", "--node", NODE, "--workers=1", "--access-log=off", "--ca-address=127.0.0.1:1"])
            .args(["--inspection-seconds=2", "--lag-seconds=1", "--release-seconds=1"])
            .args([flag("kubeconfig", self.server.kubeconfig_of("default", "node"))])
            .args([flag("socket", self.file("enrol.sock")), flag("state-dir", self.file("state"))])
            .args([flag("ca-bundle", self.server.authority()), flag("token-file", self.file("token"))])
            .args([format!("--admin-listen={admin}"), format!("--health-listen={health}")])
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        self.proxy = Some(proxy);
        self.admin = format!("http://{admin}");
        let url = format!("http://{health}/readyz");
        let ask = || Command::new("curl").args(["-sf", "--max-time", "1", &url]).output().unwrap();
        wait_until("the proxy is not ready", || {
            assert!(self.is_running(), "the proxy has ended: {}", self.log());
            ask().status.success()
        });
    }

    fn is_running(&mut self) -> bool {
        self.proxy.as_mut().is_some_and(|proxy| proxy.try_wait().unwrap().is_none())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    /// Tells the proxy to stop, as the kubelet does, and answers it as the plugin's installer does.
    #[track_caller]
    fn stop_proxy(&mut self) {
        let mut proxy = self.proxy.take().expect("a proxy");
        kill(Pid::from_raw(proxy.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let state = self.file("state");
        wait_until("the proxy does not end", || {
            if uninstall_requested(&state).unwrap() {
                mark_uninstalled(&state).unwrap();
            }
            proxy.try_wait().unwrap().is_some()
        });
    }

    /// Makes a pod of a namespace, and gives its ADD at once.
    #[track_caller]
    fn add(&self, (namespace, name): (&str, &str), sandbox: &Sandbox) -> Outcome {
        self.server.pod(namespace, name, "app", NODE);
        let uid = self.pod(namespace, name)["uid"].take();
        self.plug_in((namespace, name, uid.as_str().unwrap()), sandbox)
    }

    /// Gives the ADD of a pod, as the plugin would.
    #[track_caller]
    fn plug_in(&self, (namespace, name, uid): (&str, &str, &str), sandbox: &Sandbox) -> Outcome {
        let attachment: Attachment = serde_json::from_value(json!({
            "id": { "containerId": sandbox.netns, "ifname": "eth0" },
            "network": "podnet",
            "netns": sandbox.path(),
            "pod": { "namespace": namespace, "name": name, "uid": uid },
            "addresses": [sandbox.address],
        }))
        .unwrap();
        let netns = fs::File::open(sandbox.path()).unwrap();
        let request = Request::new(Ask::Enrol(attachment));
        call(&self.file("enrol.sock"), &request, Some(netns.as_fd()), PATIENCE).unwrap().outcome
    }

    /// Waits until the proxy has seen all pods that there are: the last is one that it names.
    #[track_caller]
    fn wait_for_view(&self, namespace: &str) {
        let host = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "host", "namespace": namespace },
            "spec": { "nodeName": NODE, "serviceAccountName": "app", "hostNetwork": true,
                      "containers": [{ "name": "app", "image": "none" }] },
        });
        self.server.apply(&host.to_string());
        let status = format!("{}/status", self.admin);
        let ask = || Command::new("curl").args(["-s", "--max-time", "1", &status]).output().unwrap();
        let name = format!("\"{namespace}/host\"");
        wait_until("it is not named", || String::from_utf8_lossy(&ask().stdout).contains(&name));
        wait_until("it is not told of", || self.news(namespace).contains("HostNetworkIgnored"));
    }

    /// The metadata of a pod.
    #[track_caller]
    fn pod(&self, namespace: &str, name: &str) -> Value {
        let args = ["get", "pod", name, "--namespace", namespace, "--output", "json"];
        let mut pod: Value = serde_json::from_str(&self.server.kubectl(&args).output()).unwrap();
        pod["metadata"].take()
    }

    #[track_caller]
    fn mark(&self, namespace: &str, name: &str) -> Value {
        self.pod(namespace, name)["annotations"]["gammarus.io/enrolled"].take()
    }

    /// The reasons of a namespace's Events.
    #[track_caller]
    fn news(&self, namespace: &str) -> String {
        let args =
            ["get", "events.events.k8s.io", "--namespace", namespace, "--output=jsonpath={.items[*].reason}"];
        self.server.kubectl(&args).output()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut proxy) = self.proxy.take() {
            let _ = proxy.kill();
            let _ = proxy.wait();
        }
        if thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

#[test]
fn pods_join_by_the_api_server_alone_and_leave_when_the_mesh_is_uninstalled_and_not_before() {
    let mut node = Node::start();
    let (meshed, plain) = (Sandbox::new(), Sandbox::new());
    for (namespace, labels) in [("shop", &[("gammarus.io/mesh", "enabled")][..]), ("outside", &[])] {
        node.server.namespace(namespace, labels);
        node.server.service_account(namespace, "app");
    }
    assert_eq!(node.add(("shop", "web"), &meshed), Outcome::Enrolled);
    let mark: Value = serde_json::from_str(node.mark("shop", "web").as_str().expect("a mark")).unwrap();
    assert_eq!(mark["uid"], node.pod("shop", "web")["uid"]);
    assert_eq!(mark["addresses"], json!([meshed.address]));
    wait_until("it is not told of", || node.news("shop") == "Enrolled");
    assert_eq!(node.add(("outside", "plain"), &plain), Outcome::NotEnrolled);
    assert_eq!((plain.rules(), node.mark("outside", "plain")), (String::new(), Value::Null));

    // An update, or a node that ends: all stays as it is, for the next proxy.
    node.stop_proxy();
    assert!(meshed.rules().contains("redirect to :15006"));
    assert!(node.mark("shop", "web").is_string());
    node.start_proxy();
    let records = || list_records(&node.file("state")).unwrap().len();
    assert_eq!(records(), 2);

    node.server.kubectl(&["delete", "daemonset", "gammarus-node"]).output();
    node.stop_proxy();
    let log = node.log();
    assert!(log.contains("the mesh is being uninstalled") && log.contains("all pods are released"), "{log}");
    assert_eq!(meshed.rules(), "");
    assert_eq!(node.mark("shop", "web"), Value::Null);
    assert_eq!(list_records(&node.file("state")).unwrap().len(), 0);
}

#[test]
fn a_pod_of_a_namespace_that_was_labelled_a_moment_before_never_starts_outside() {
    let node = Node::start();
    for number in 0..10 {
        let (namespace, sandbox) = (format!("new-{number}"), Sandbox::new());
        node.server.namespace(&namespace, &[]);
        node.server.service_account(&namespace, "app");
        // The view has seen it without its label, or not at all.
        if number % 2 == 0 {
            thread::sleep(Duration::from_millis(200));
        }
        node.server.kubectl(&["label", "namespace", &namespace, "gammarus.io/mesh=enabled"]).output();
        assert_eq!(node.add((&namespace, "web"), &sandbox), Outcome::Enrolled, "{namespace}");
        assert!(node.mark(&namespace, "web").is_string());
    }
}

#[test]
fn while_the_api_server_is_away_pods_of_the_mesh_join_without_their_mark_and_others_start() {
    let node = Node::start();
    let (meshed, plain) = (Sandbox::new(), Sandbox::new());
    for (namespace, labels) in [("shop", &[("gammarus.io/mesh", "enabled")][..]), ("outside", &[])] {
        node.server.namespace(namespace, labels);
        node.server.service_account(namespace, "app");
    }
    for (namespace, name) in [("shop", "late"), ("outside", "plain")] {
        node.server.pod(namespace, name, "app", NODE);
    }
    let uid = node.pod("shop", "late")["uid"].as_str().unwrap().to_owned();
    node.wait_for_view("shop");
    node.server.set_answering(false);
    let begun = Instant::now();
    assert_eq!(node.plug_in(("shop", "late", &uid), &meshed), Outcome::Enrolled);
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "the plugin does not wait longer: {:?}",
        begun.elapsed()
    );
    assert!(meshed.rules().contains("redirect to :15006"));
    // Nobody can say anything of this one but that its namespace is not of the mesh.
    assert_eq!(node.plug_in(("outside", "unseen", "unseen"), &plain), Outcome::NotEnrolled);
    assert_eq!(plain.rules(), "");
    node.server.set_answering(true);
    wait_until("the mark does not come", || node.mark("shop", "late").is_string());
}
