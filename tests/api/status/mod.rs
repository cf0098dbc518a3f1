//! The controller, with exactly the rights that it is installed with: what it writes into statuses, and what it leaves alone.

mod attached;
mod churn;
mod crds;
mod feed;
mod gateways;
mod leaders;
mod others;
mod parameters;
mod policies;
mod provision;
mod said;
mod taint;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use node_proxy::cluster::kubernetes::connect;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api_server::ports::free_ports;
use crate::api_server::stored::Prepared;
use crate::api_server::{ApiServer, Channel};

/// The controller's name in statuses.
const OURS: &str = "gammarus.io/mesh-controller";
/// Where its Lease is.
const SYSTEM: &str = "gammarus-system";
/// Long enough for a busy machine; nothing here is expected to take it.
const PATIENCE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(50);
/// The controller as it is installed: its rights, and a Deployment that nobody here starts.
const RIGHTS: &str = include_str!("../../../manifests/install/controller.yaml");
/// And the right that is somebody's choice.
const CERTIFICATES: &str = include_str!("../../../manifests/install/gateway-certificates.yaml");

/// An API server with somebody who may do everything.
struct Cluster {
    server: ApiServer,
    client: Client,
}

impl Cluster {
    /// With the Gateway API and the controller's rights.
    async fn start() -> Self {
        static SERVERS: Prepared = Prepared::new(|server| {
            install_rights(server);
            server.install_gateway_api(Channel::Experimental);
        });
        Self::of(SERVERS.start()).await
    }

    async fn without_gateway_api() -> Self {
        static SERVERS: Prepared = Prepared::new(install_rights);
        Self::of(SERVERS.start()).await
    }

    async fn of(server: ApiServer) -> Self {
        let client = connect(Some(&server.kubeconfig())).await.unwrap();
        Self { server, client }
    }

    /// A controller that has seen everything, and writes unless another one does.
    async fn controller(&self) -> Controller {
        self.controller_with(&[]).await
    }

    async fn controller_with(&self, flags: &[&str]) -> Controller {
        let kubeconfig = self.server.kubeconfig_of(SYSTEM, "gammarus-controller");
        let controller = Controller::start(&kubeconfig, flags);
        controller.when("is ready", || controller.get("/readyz").is_some_and(|body| body == "ready\n")).await;
        controller
    }

    /// A controller that writes.
    async fn leader(&self) -> Controller {
        let controller = self.controller().await;
        controller.when("leads", || controller.leads()).await;
        controller
    }

    fn api(&self, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let (group, version, plural) = match kind {
            "Lease" => ("coordination.k8s.io", "v1", "leases"),
            "CustomResourceDefinition" => ("apiextensions.k8s.io", "v1", "customresourcedefinitions"),
            "ConfigMap" => ("", "v1", "configmaps"),
            "EndpointSlice" => ("discovery.k8s.io", "v1", "endpointslices"),
            "Deployment" => ("apps", "v1", "deployments"),
            "HorizontalPodAutoscaler" => ("autoscaling", "v2", "horizontalpodautoscalers"),
            "PodDisruptionBudget" => ("policy", "v1", "poddisruptionbudgets"),
            "Namespace" => ("", "v1", "namespaces"),
            "Node" => ("", "v1", "nodes"),
            "Pod" => ("", "v1", "pods"),
            "Secret" => ("", "v1", "secrets"),
            "Service" => ("", "v1", "services"),
            "ServiceAccount" => ("", "v1", "serviceaccounts"),
            "BackendTLSPolicy" => ("gateway.networking.k8s.io", "v1", "backendtlspolicies"),
            "Gateway" => ("gateway.networking.k8s.io", "v1", "gateways"),
            "GatewayClass" => ("gateway.networking.k8s.io", "v1", "gatewayclasses"),
            "GRPCRoute" => ("gateway.networking.k8s.io", "v1", "grpcroutes"),
            "HTTPRoute" => ("gateway.networking.k8s.io", "v1", "httproutes"),
            "ListenerSet" => ("gateway.networking.k8s.io", "v1", "listenersets"),
            "ReferenceGrant" => ("gateway.networking.k8s.io", "v1beta1", "referencegrants"),
            "TCPRoute" => ("gateway.networking.k8s.io", "v1", "tcproutes"),
            "TLSRoute" => ("gateway.networking.k8s.io", "v1", "tlsroutes"),
            "UDPRoute" => ("gateway.networking.k8s.io", "v1", "udproutes"),
            "XMesh" => ("gateway.networking.x-k8s.io", "v1alpha1", "xmeshes"),
            other => panic!("no test knows where the API server has a {other}"),
        };
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        let resource = ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version,
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        };
        if namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), namespace, &resource)
        }
    }

    /// Applies objects, which are in the namespace `shop` unless they name one or have none.
    async fn apply(&self, yaml: &str) {
        let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
        for mut object in documents.into_iter().filter(|document| !document.is_null()) {
            let kind = object["kind"].as_str().unwrap().to_owned();
            let is_global = matches!(
                &*kind,
                "GatewayClass" | "Namespace" | "Node" | "XMesh" | "CustomResourceDefinition"
            );
            if !is_global && object["metadata"]["namespace"].is_null() {
                object["metadata"]["namespace"] = json!("shop");
            }
            let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
            let (namespace, name) = (text("namespace"), text("name"));
            let api = self.api(&kind, &namespace);
            object["apiVersion"] = json!(api_version_of(&api));
            let params = PatchParams::apply("a-user").force();
            api.patch(&name, &params, &Patch::Apply(&object))
                .await
                .unwrap_or_else(|error| panic!("{object}: {error}"));
        }
    }

    async fn delete(&self, kind: &str, name: &str) {
        let namespace = if kind == "GatewayClass" { "" } else { "shop" };
        self.api(kind, namespace).delete(name, &DeleteParams::default()).await.unwrap();
    }

    async fn get(&self, kind: &str, namespace: &str, name: &str) -> Value {
        serde_json::to_value(self.api(kind, namespace).get(name).await.unwrap()).unwrap()
    }

    /// Writes a status as another controller would, whatever it was.
    async fn write_status(&self, kind: &str, name: &str, status: &Value) -> Value {
        let namespace = if matches!(kind, "GatewayClass" | "XMesh") { "" } else { "shop" };
        let patch = json!({ "status": status });
        let params = PatchParams::default();
        let written =
            self.api(kind, namespace).patch_status(name, &params, &Patch::Merge(&patch)).await.unwrap();
        serde_json::to_value(written).unwrap()
    }

    /// An object, once it is as it should be.
    #[track_caller]
    fn when<'a>(
        &'a self,
        (kind, namespace, name): (&'a str, &'a str, &'a str),
        what: &'a str,
        is: impl Fn(&Value) -> bool + 'a,
    ) -> impl Future<Output = Value> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let api = self.api(kind, namespace);
            let begun = Instant::now();
            loop {
                let found =
                    api.get_opt(name).await.unwrap().map(|found| serde_json::to_value(found).unwrap());
                match found {
                    Some(found) if is(&found) => return found,
                    found => assert!(
                        begun.elapsed() < PATIENCE,
                        "{caller}: {kind} {namespace}/{name} is not {what}: {:#}",
                        found.unwrap_or_default()["status"]
                    ),
                }
                tokio::time::sleep(TICK).await;
            }
        }
    }

    /// Waits until a route of `shop` says this of a parent: `TYPE=STATUS REASON; ...`, sorted, or nothing.
    #[track_caller]
    fn says<'a>(
        &'a self,
        (kind, name): (&'a str, &'a str),
        parent: &'a str,
        what: &'a str,
    ) -> impl Future<Output = Value> + 'a {
        self.when((kind, "shop", name), what, move |route| {
            said_of(route, parent) == what && is_current(route)
        })
    }
}

/// The controller's rights, and the namespaces that tests use.
fn install_rights(server: &ApiServer) {
    for namespace in [SYSTEM, "shop", "checkout"] {
        server.namespace(namespace, &[]);
    }
    server.service_account(SYSTEM, "gammarus-controller");
    server.apply(RIGHTS);
    server.apply(CERTIFICATES);
}

fn api_version_of(api: &Api<DynamicObject>) -> String {
    let path = api.resource_url();
    let rest = path.strip_prefix("/apis/").or_else(|| path.strip_prefix("/api/")).unwrap();
    let mut parts = rest.split('/');
    let first = parts.next().unwrap();
    if path.starts_with("/apis/") { format!("{first}/{}", parts.next().unwrap()) } else { first.to_owned() }
}

/// The entries of a route's status that are ours.
fn own_entries(route: &Value) -> Vec<&Value> {
    let entries = route["status"]["parents"].as_array().map(Vec::as_slice).unwrap_or_default();
    entries.iter().filter(|entry| entry["controllerName"] == OURS).collect()
}

fn conditions(entry: &Value) -> &[Value] {
    entry["conditions"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// What a route says of a parent under our name: `TYPE=STATUS REASON; ...`, sorted.
fn said_of(route: &Value, parent: &str) -> String {
    let own = own_entries(route);
    let of_parent = own.iter().filter(|entry| entry["parentRef"]["name"] == parent);
    let mut said: Vec<String> = of_parent.flat_map(|entry| conditions(entry)).map(describe).collect();
    said.sort();
    said.join("; ")
}

fn describe(condition: &Value) -> String {
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    format!("{}={} {}", text("type"), text("status"), text("reason"))
}

/// Whether all that is ours is of the route's last generation.
fn is_current(route: &Value) -> bool {
    let generation = &route["metadata"]["generation"];
    own_entries(route)
        .iter()
        .flat_map(|entry| conditions(entry))
        .filter(|condition| !condition["type"].as_str().unwrap_or_default().contains('/'))
        .all(|condition| condition["observedGeneration"] == *generation)
}

/// A controller's process.
struct Controller {
    process: Child,
    admin: u16,
    dir: TempDir,
}

impl Controller {
    fn start(kubeconfig: &Path, flags: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let [admin, health] = free_ports();
        let log = File::create(dir.path().join("log")).unwrap();
        // It ends with the thread of its test.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_node-proxy"), "controller"]);
        command.arg("--kubeconfig").arg(kubeconfig).args(["--namespace", SYSTEM]);
        command.args(["--log-level", "info,node_proxy::controller=debug"]).args(flags);
        command.arg("--admin-listen").arg(format!("127.0.0.1:{admin}"));
        command.arg("--health-listen").arg(format!("127.0.0.1:{health}"));
        let process = command.stdin(Stdio::null()).stderr(log).spawn().unwrap();
        Self { process, admin, dir }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// What its admin server answers, if it answers 200.
    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    }

    /// The value of a metric, by its name and labels as they are written; 0 when it is not there.
    fn metric(&self, series: &str) -> f64 {
        let text = self.get("/metrics").unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// What it has in memory, as the kernel says it.
    fn memory(&self) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default().to_owned()
    }

    fn leads(&self) -> bool {
        self.metric("gammarus_controller_leading") == 1.0
    }

    #[track_caller]
    fn when<'a>(&'a self, what: &'a str, is: impl Fn() -> bool + 'a) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let begun = Instant::now();
            while !is() {
                assert!(begun.elapsed() < PATIENCE, "{caller}: the controller never {what}:\n{}", self.log());
                tokio::time::sleep(TICK).await;
            }
        }
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Has it end in order, and waits for that.
    async fn terminate(mut self) -> (ExitStatus, String) {
        self.signal("-TERM");
        let begun = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return (status, self.log());
            }
            assert!(begun.elapsed() < PATIENCE, "the controller does not end:\n{}", self.log());
            tokio::time::sleep(TICK).await;
        }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _has_ended_before = self.process.kill();
        let _its_status = self.process.wait();
        if std::thread::panicking() {
            eprintln!("the controller's log:\n{}", self.log());
        }
    }
}
