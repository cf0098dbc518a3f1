//! The nodes and pods of a world, before anybody stands between them, and the servers in the pods.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use node_proxy::demo::command::Process;
use node_proxy::demo::world::World;

use crate::nginx;
use crate::pki::Pki;

/// Where the servers answer that are behind every contender: HTTP/1.1, the same again, HTTP/2, and iperf3.
pub(crate) const BACKEND_PORT: u16 = 8090;
pub(crate) const OTHER_PORT: u16 = 8092;
pub(crate) const HTTP2_PORT: u16 = 8091;
pub(crate) const BULK_PORT: u16 = 5201;

/// Whether proxies write a line for every request, or connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logs {
    On,
    Off,
}

/// The pods of the contenders, which are in no mesh.
pub(crate) const PEER_CLIENT: &str = "peer-client";
pub(crate) const PEER_SERVER: &str = "peer-server";
/// Those of a contender that redirects what its pods do.
pub(crate) const CAPTURED_CLIENT: &str = "captured-client";
pub(crate) const CAPTURED_SERVER: &str = "captured-server";
/// All pods, with their namespaces and nodes; the last word is whether servers run in it.
const PODS: [(&str, &str, &str, bool); 7] = [
    ("client", "bench", "node-a", false),
    ("flooder", "bench", "node-a", false),
    ("server", "bench", "node-b", true),
    (PEER_CLIENT, "outside", "node-a", false),
    (PEER_SERVER, "outside", "node-b", true),
    (CAPTURED_CLIENT, "outside", "node-a", false),
    (CAPTURED_SERVER, "outside", "node-b", true),
];

const OBJECTS: &str = "
{apiVersion: v1, kind: Service, metadata: {name: server}, spec: {selector: {app: server}, ports: [
  {name: http, port: 80, targetPort: 8090}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: other}, spec: {selector: {app: server}, ports: [
  {name: http, port: 80, targetPort: 8092}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: http2}, spec: {selector: {app: server}, ports: [
  {name: h2c, port: 80, targetPort: 8091, appProtocol: kubernetes.io/h2c}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: calls}, spec: {selector: {app: server}, ports: [
  {name: grpc, port: 80, targetPort: 8091, appProtocol: kubernetes.io/h2c}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: opaque}, spec: {selector: {app: server}, ports: [
  {name: tcp-requests, port: 9000, targetPort: 8090, appProtocol: tcp},
  {name: tcp-bulk, port: 5201, targetPort: 5201, appProtocol: tcp}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: server}
spec:
  parentRefs: [{group: '', kind: Service, name: server}]
  rules:
    - matches: [{headers: [{name: version, value: new}]}]
      backendRefs: [{name: server, port: 80}]
    - backendRefs: [{name: server, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: http2}
spec:
  parentRefs: [{group: '', kind: Service, name: http2}]
  rules:
    - matches: [{headers: [{name: version, value: new}]}]
      backendRefs: [{name: http2, port: 80}]
    - backendRefs: [{name: http2, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: calls}
spec:
  parentRefs: [{group: '', kind: Service, name: calls}]
  rules:
    - matches: [{headers: [{name: version, value: new}]}]
      backendRefs: [{name: calls, port: 80}]
    - backendRefs: [{name: calls, port: 80}]
";

/// What every contender finds.
#[derive(Debug)]
pub(crate) struct Bare {
    pub(crate) world: World,
    pub(crate) pki: Pki,
    pub(crate) logs: Logs,
    dir: PathBuf,
}

impl Bare {
    /// Makes the world, its pods and objects, and starts the servers, which are returned.
    pub(crate) fn make(logs: Logs) -> (Self, Vec<Process>) {
        let builder = World::builder();
        let builder = if logs == Logs::Off { builder.without_access_log() } else { builder };
        let mut world = builder.start().unwrap();
        world.node("node-a").unwrap();
        world.node("node-b").unwrap();
        world.namespace("bench", &[("gammarus.io/mesh", "enabled"), ("gammarus.io/mtls", "strict")]).unwrap();
        world.namespace("outside", &[]).unwrap();
        for (pod, namespace, node, _) in PODS {
            let pod =
                world.pod(pod).namespace(namespace).service_account(pod).on(node).labels(&[("app", pod)]);
            pod.program(&["sleep", "infinity"]).start().unwrap();
        }
        world.apply_in("bench", "the benchmark's objects", OBJECTS).unwrap();
        let dir = world.dir().join("bench");
        let pki = Pki::make(&dir);
        let bare = Self { world, pki, logs, dir };
        let mut servers = Vec::new();
        for (pod, ..) in PODS.iter().filter(|(.., serves)| *serves) {
            servers.push(nginx::start_backend(&bare, pod));
            let iperf = ["iperf3", "-s", "-p", &BULK_PORT.to_string()];
            servers.push(bare.world.spawn(pod, "iperf3", &iperf).unwrap());
        }
        (bare, servers)
    }

    /// A file of the contenders' own.
    pub(crate) fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// Writes such a file.
    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        fs::write(self.dir.join(name), text).unwrap();
        self.file(name)
    }

    /// The first address of a pod, which is of IPv4.
    pub(crate) fn address_of(&self, pod: &str) -> IpAddr {
        self.world.running_pod(pod).unwrap().addresses[0]
    }

    /// Where the contenders' server side is, over the network between the nodes.
    pub(crate) fn server_address(&self) -> IpAddr {
        self.address_of(PEER_SERVER)
    }

    /// The first line of what a program says of itself.
    pub(crate) fn version(&self, argv: &[&str]) -> String {
        let done = self.world.exec(PEER_CLIENT, argv).unwrap();
        let said = done.stdout + &done.stderr;
        let line = said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        line.rsplit("version: ").next().unwrap_or_default().to_owned()
    }
}

/// This program, to be run inside a pod.
pub(crate) fn own_program() -> String {
    std::env::current_exe().unwrap().display().to_string()
}
