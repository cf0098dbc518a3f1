//! The stage of every load: a client on each of two nodes, the pods of Service `web`, which come and go, and those of
//! Service `steady`, which stay.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::Signal;
use node_proxy::demo::command::until;
use node_proxy::demo::world::{World, WorldBuilder};
use serde_json::{Value, json};

use crate::counts::{Kind, PATIENCE};
use crate::grpc_programs::grpc_tool;
use crate::load::Load;
use crate::services::{Rules, of_family, write_rules};
use crate::source::Source;

/// The clients, each with its node.
pub(crate) const CLIENTS: [(&str, &str); 2] = [("client-a", "node-a"), ("client-b", "node-b")];
/// Ports of the Services, each with that of the pods.
const PORTS: [(&str, u16, u16); 4] =
    [("http", 80, 8080), ("grpc", 50051, 50051), ("tcp-echo", 9000, 9000), ("echo", 9001, 9000)];

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Whether the pods join the mesh as they start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mesh {
    On,
    Off,
}

/// How an endpoint of `web` is at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Ready,
    Terminating,
}

/// The world with all that is on it.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) world: World,
    endpoints: BTreeMap<String, Condition>,
    barriers: u32,
    _alone: MutexGuard<'static, ()>,
}

impl Stage {
    /// A stage on which everything answers.
    #[track_caller]
    pub(crate) fn set(mesh: Mesh) -> Self {
        Self::set_in(World::builder(), mesh)
    }

    /// A stage in a world of one's own making.
    #[track_caller]
    pub(crate) fn set_in(builder: WorldBuilder, mesh: Mesh) -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let world = builder.start().unwrap();
        let mut stage = Self { world, endpoints: BTreeMap::new(), barriers: 0, _alone: alone };
        for (_, node) in CLIENTS {
            stage.world.node(node).unwrap();
        }
        stage.label(mesh);
        for service in ["web", "steady", "v1", "v2"] {
            stage.apply(&service_of(service));
        }
        for (client, node) in CLIENTS {
            stage.world.pod(client).namespace("shop").service_account(client).on(node).start().unwrap();
        }
        for (number, (_, node)) in CLIENTS.into_iter().enumerate() {
            stage.start_server(&format!("steady-{number}"), "steady", node);
            stage.start_web(&format!("web-{number}"), node);
        }
        stage.settle();
        stage
    }

    /// Labels the namespace of all of these pods.
    #[track_caller]
    pub(crate) fn label(&mut self, mesh: Mesh) {
        let labels = [("gammarus.io/mesh", "enabled")];
        self.world.namespace("shop", if mesh == Mesh::On { &labels } else { &[] }).unwrap();
    }

    #[track_caller]
    pub(crate) fn apply(&mut self, yaml: &str) {
        self.world.apply_in("shop", "the stage's YAML", yaml).unwrap();
    }

    /// Starts a pod, waits until it listens, and makes it an endpoint of `web`.
    #[track_caller]
    pub(crate) fn start_web(&mut self, pod: &str, node: &str) {
        self.start_server(pod, "web", node);
        self.endpoints.insert(pod.to_owned(), Condition::Ready);
        self.write_endpoints();
    }

    /// Marks a pod of `web` as terminating, and its endpoint with it.
    #[track_caller]
    pub(crate) fn begin_to_end_web(&mut self, pod: &str) {
        self.world.begin_deletion(pod).unwrap();
        self.endpoints.insert(pod.to_owned(), Condition::Terminating);
        self.write_endpoints();
    }

    /// Takes an endpoint away; its pod goes on running.
    #[track_caller]
    pub(crate) fn forget_web(&mut self, pod: &str) {
        self.endpoints.remove(pod);
        self.write_endpoints();
    }

    /// Kills a pod's application, with nothing said of it to anybody.
    #[track_caller]
    pub(crate) fn kill_server(&mut self, pod: &str) {
        self.world.application(pod).unwrap().stop(Signal::SIGKILL, PATIENCE).unwrap();
    }

    #[track_caller]
    fn start_server(&mut self, name: &str, service: &str, node: &str) {
        let (server, version) = (grpc_tool("grpc-server"), if node == CLIENTS[0].1 { "v1" } else { "v2" });
        let pod = self.world.pod(name).namespace("shop").service_account(service).on(node);
        let pod = pod.labels(&[("app", service), ("version", version)]);
        pod.program(&[&server, "-name", name]).start().unwrap();
        let log = || self.world.running_pod(name).unwrap().app.as_ref().unwrap().log();
        assert!(until(PATIENCE, || log().contains("listening")), "{name} does not listen: {}", log());
    }

    /// What an endpoint controller and a kube-proxy do.
    #[track_caller]
    fn write_endpoints(&mut self) {
        for (family, first) in [("IPv4", true), ("IPv6", false)] {
            let endpoints = self.endpoints.iter().map(|(name, condition)| {
                let pod = self.world.running_pod(name).unwrap();
                let address = pod.addresses.iter().find(|address| address.is_ipv4() == first).unwrap();
                let is_ready = *condition == Condition::Ready;
                json!({
                    "addresses": [address], "nodeName": pod.node,
                    "conditions": { "ready": is_ready, "serving": true, "terminating": !is_ready },
                    "targetRef": { "kind": "Pod", "name": name, "namespace": "shop", "uid": pod.uid },
                })
            });
            let ports = PORTS.iter().map(|(name, _, target)| json!({ "name": name, "port": target }));
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("web-{}", family.to_lowercase()),
                    "labels": { "kubernetes.io/service-name": "web" },
                },
                "addressType": family,
                "endpoints": endpoints.collect::<Vec<_>>(), "ports": ports.collect::<Vec<_>>(),
            });
            // JSON is YAML.
            self.apply(&slice.to_string());
        }
        let rules = self.rules();
        for (_, node) in CLIENTS {
            write_rules(&self.world, node, &rules);
        }
    }

    /// Where the Services lead those who are in no mesh.
    #[track_caller]
    fn rules(&self) -> Rules {
        let mut rules = Rules::new();
        let ready = self.endpoints.iter().filter(|(_, condition)| **condition == Condition::Ready);
        let web: Vec<_> = ready.map(|(name, _)| name.clone()).collect();
        let steady = (0..CLIENTS.len()).map(|number| format!("steady-{number}"));
        let steady: Vec<_> = steady.filter(|name| self.world.running_pod(name).is_ok()).collect();
        for (service, pods) in [("web", web), ("steady", steady)] {
            for address in addresses_of(service) {
                for (_, port, target) in PORTS {
                    let endpoints = pods.iter().filter_map(|pod| {
                        let own = &self.world.running_pod(pod).unwrap().addresses;
                        Some(SocketAddr::new(of_family(own, address)?, target))
                    });
                    rules.insert(SocketAddr::new(address, port), endpoints.collect());
                }
            }
        }
        rules
    }

    /// Waits until everything that was written before has been taken in by both proxies: files are read in order, so
    /// once a new namespace is known, all that came before it is, too.
    #[track_caller]
    pub(crate) fn taken_in(&mut self) {
        self.barriers += 1;
        let name = format!("barrier-{}", self.barriers);
        self.world.namespace(&name, &[]).unwrap();
        for (_, node) in CLIENTS {
            let seen = || self.world.admin(node, "/snapshot").is_ok_and(|dump| dump.contains(&name));
            assert!(until(PATIENCE, seen), "{name} was not taken in by {node}");
        }
    }

    /// Both proxies go by the whole of a route.
    #[track_caller]
    pub(crate) fn check_accepted(&self, route: &str) {
        for (_, node) in CLIENTS {
            let status: Value = serde_json::from_str(&self.world.admin(node, "/status").unwrap()).unwrap();
            assert_eq!(status["problems"], json!([]), "{node}");
            let routes = status["routes"]["routes"].as_array().unwrap();
            let found = routes.iter().find(|known| known["route"] == route);
            let conditions =
                &found.unwrap_or_else(|| panic!("no {route}: {status:#}"))["parents"][0]["conditions"];
            let state: Vec<_> =
                conditions.as_array().unwrap().iter().map(|one| (&one["type"], &one["status"])).collect();
            let (yes, kinds) = (json!("True"), [json!("Accepted"), json!("ResolvedRefs")]);
            assert_eq!(state, [(&kinds[0], &yes), (&kinds[1], &yes)], "{route} on {node}: {conditions:#}");
        }
    }

    /// Waits until both clients are answered by each pod of both Services, on every port.
    #[track_caller]
    fn settle(&mut self) {
        self.taken_in();
        for (client, _) in CLIENTS {
            for pod in ["web-0", "web-1", "steady-0", "steady-1"] {
                let service = pod.split('-').next().unwrap();
                let url = format!("http://{service}/load/settle");
                let curl = ["curl", "-s", "--max-time", "5", &url];
                let answers = || self.world.exec(client, &curl).unwrap().stdout.starts_with(pod);
                assert!(until(PATIENCE, answers), "{pod} does not answer {client}");
            }
        }
    }
}

impl Kind {
    /// Those of clients of a mesh, which speak plain text to it.
    pub(crate) const ALL: [Self; 4] = [Self::Http, Self::Grpc, Self::Held, Self::Fresh];
}

impl Load {
    /// All kinds from both clients.
    #[track_caller]
    pub(crate) fn start(stage: &Stage) -> Self {
        Self::start_with(stage, &Kind::ALL)
    }

    /// Some kinds from both clients.
    #[track_caller]
    pub(crate) fn start_with(stage: &Stage, kinds: &[Kind]) -> Self {
        Self::begin(kinds, CLIENTS.map(|(pod, _)| Source::new(&stage.world, pod)).into())
    }
}

/// A Service over the pods of that name, or of that version; its addresses are given here, to be known to
/// [`addresses_of`].
fn service_of(name: &str) -> String {
    let selector =
        if name.starts_with('v') { format!("version: {name}, app: web") } else { format!("app: {name}") };
    let ports =
        PORTS.map(|(port, number, target)| format!("{{name: {port}, port: {number}, targetPort: {target}}}"));
    let [v4, v6] = addresses_of(name);
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{selector: {{{selector}}},\n\
         clusterIP: {v4}, clusterIPs: [{v4}, '{v6}'], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: PreferDualStack,\n\
         ports: [{}]}}}}\n",
        ports.join(", ")
    )
}

/// The addresses of a Service of this stage.
fn addresses_of(service: &str) -> [IpAddr; 2] {
    let host = match service {
        "web" => 101,
        "steady" => 102,
        "v1" => 103,
        _ => 104,
    };
    [IpAddr::from([10, 96, 0, host]), IpAddr::from([0xfd67, 0x6d72, 0x96, 0, 0, 0, 0, u16::from(host)])]
}
