//! A node whose pods a runtime makes: `cnitool` with the reference plugins, and ours at the end of the chain or not.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use node_proxy::demo::world::World;
use node_proxy::pod::netns::NetnsFd;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::Asked;
use crate::cnitool::{NETWORK, cnitool, identify};
use crate::installed::Installed;
use crate::process::program;
use crate::relay::Relay;

/// The node.
pub(crate) const NODE: &str = "node-a";
/// Its pods' addresses.
const PODS: [&str; 2] = ["10.244.16.0/20", "fd67:6d72:244:1::/64"];
/// Where the proxy finds the API server, in the network between the nodes.
const WAY: &str = "0.0.0.0:6443";
/// Which plugins are in the chain, and what addresses they give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct List {
    /// Whether ours comes after the reference ones.
    pub(crate) is_meshed: bool,
    /// Whether pods have both families, or IPv4 alone.
    pub(crate) is_dual: bool,
}

impl List {
    /// The folder that the list is in.
    const fn folder(self) -> &'static str {
        match (self.is_meshed, self.is_dual) {
            (false, false) => "bare-4.d",
            (false, true) => "bare.d",
            (true, false) => "meshed-4.d",
            (true, true) => "meshed.d",
        }
    }
}

/// A pod to be, or one that is there.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    pub(crate) namespace: &'static str,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) netns: PathBuf,
}

/// The node.
pub(crate) struct Chain {
    pub(crate) installed: Installed,
    pub(crate) world: World,
    pub(crate) relay: Relay,
    folder: TempDir,
}

impl Chain {
    /// An API server with the mesh on it, the node with its proxy, and two namespaces: `shop` is in the mesh, `outside`
    /// is not.
    pub(crate) fn start() -> Self {
        let installed = Installed::start();
        let folder = TempDir::new().unwrap();
        let kubeconfig = folder.path().join("node.kubeconfig");
        let told = format!("--kubeconfig={}", kubeconfig.display());
        let mut world = World::builder().proxy_arguments(&[&told]).start().unwrap();
        let fabric = format!("{}fabric", world.prefix());
        let listener = NetnsFd::open(&Path::new("/run/netns").join(&fabric)).unwrap();
        let listener = listener.run(|| TcpListener::bind(WAY)).unwrap();
        let relay = installed.relay_from(listener);
        let shown =
            checked(Command::new("ip").args(["-n", &fabric, "-j", "-4", "addr", "show", "dev", "lo"]));
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let addresses = shown[0]["addr_info"].as_array().unwrap().iter();
        let address = addresses.filter_map(|one| one["local"].as_str()).find(|one| *one != "127.0.0.1");
        let way = format!("{}:{}", address.unwrap(), relay.address().port()).parse().unwrap();
        installed.node(NODE, &["192.0.2.1".to_owned()], &PODS);
        fs::copy(installed.agent(NODE, way), &kubeconfig).unwrap();
        installed.namespace("shop", &[("gammarus.io/mesh", "enabled")]);
        installed.namespace("outside", &[]);
        // For the CA, which has its objects from files here.
        world.namespace("shop", &[("gammarus.io/mesh", "enabled")]).unwrap();
        world.node(NODE).unwrap();
        let chain = Self { installed, world, relay, folder };
        for (is_meshed, is_dual) in [(false, false), (false, true), (true, false), (true, true)] {
            chain.write_list(List { is_meshed, is_dual });
        }
        chain
    }

    fn write_list(&self, list: List) {
        let families = if list.is_dual { &PODS[..] } else { &PODS[..1] };
        let ranges: Vec<_> = families.iter().map(|subnet| [json!({ "subnet": subnet })]).collect();
        let routes: Vec<_> =
            ["0.0.0.0/0", "::/0"][..families.len()].iter().map(|to| json!({ "dst": to })).collect();
        let mut plugins = vec![json!({ "type": "ptp", "ipam": {
            "type": "host-local", "dataDir": self.folder("ipam"), "ranges": ranges,
            "routes": routes,
        } })];
        if list.is_meshed {
            plugins.push(self.own_plugin());
        }
        let network = json!({ "cniVersion": "1.0.0", "name": NETWORK, "plugins": plugins });
        fs::write(self.folder(list.folder()).join("10.conflist"), network.to_string()).unwrap();
    }

    fn own_plugin(&self) -> Value {
        let node = self.world.running_node(NODE).unwrap();
        let (socket, state_dir) = (node.socket(), node.plugin_state());
        json!({ "type": "gammarus-cni", "socket": socket, "stateDir": state_dir, "timeoutSeconds": 10 })
    }

    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// Makes a pod's namespace, without a network, and its Pod.
    pub(crate) fn sandbox(&mut self, namespace: &'static str, name: &str) -> Sandbox {
        let netns = format!("{}{name}", self.world.prefix());
        checked(Command::new("ip").args(["netns", "add", &netns]));
        checked(Command::new("ip").args(["-n", &netns, "link", "set", "lo", "up"]));
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": namespace, "labels": { "app": name } },
            "spec": { "nodeName": NODE, "containers": [{ "name": "app", "image": "none" }] },
        });
        let made = Asked::create(format!("/api/v1/namespaces/{namespace}/pods"), pod.clone());
        let made = self.installed.api.send(made);
        pod["metadata"]["uid"] = made["metadata"]["uid"].clone();
        pod["spec"]["serviceAccountName"] = json!("default");
        self.world.apply(&pod.to_string()).unwrap();
        let uid = made["metadata"]["uid"].as_str().unwrap().to_owned();
        Sandbox { namespace, name: name.to_owned(), uid, netns: Path::new("/run/netns").join(netns) }
    }

    /// Plugs a pod in, on the node. How long that took, and what came of it.
    pub(crate) fn add(&self, sandbox: &Sandbox, list: List) -> (Duration, Value) {
        let netns = &self.world.running_node(NODE).unwrap().netns;
        let [tool, reference] = ["CNITOOL", "CNI_REFERENCE_PLUGINS"].map(|name| {
            env::var(name).unwrap_or_else(|_| panic!("${name} is not set: see tests/prepare.sh"))
        });
        let own = program("gammarus-cni");
        let tool = (OsStr::new(&tool), "add");
        let mut command = cnitool(netns, tool, &sandbox.netns, &self.folder("cache"));
        command
            .env("CNI_PATH", format!("{reference}:{}", own.parent().unwrap().display()))
            .env("NETCONFPATH", self.folder(list.folder()))
            .env("CNI_ARGS", arguments(sandbox));
        let begun = Instant::now();
        let output = checked(&mut command);
        (begun.elapsed(), serde_json::from_str(&output).unwrap())
    }

    /// Calls our plugin alone, with what those before it have left.
    pub(crate) fn add_last(&self, sandbox: &Sandbox, result: &Value) -> Duration {
        let mut configuration = self.own_plugin();
        configuration["cniVersion"] = json!("1.0.0");
        configuration["name"] = json!(NETWORK);
        configuration["prevResult"] = result.clone();
        let mut command = Command::new(program("gammarus-cni"));
        command
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", format!("cnitool-{}", sandbox.uid))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_NETNS", &sandbox.netns)
            .env("CNI_PATH", "/nowhere")
            .env("CNI_ARGS", arguments(sandbox));
        let begun = Instant::now();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(configuration.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let took = begun.elapsed();
        assert!(output.status.success(), "{output:?}");
        took
    }

    /// The pod runs, with the addresses of a result: what its kubelet says then. Gives the first address.
    pub(crate) fn run(&self, sandbox: &Sandbox, result: &Value) -> String {
        let plain = |ip: &Value| ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
        let addresses: Vec<String> = result["ips"].as_array().unwrap().iter().map(plain).collect();
        let ips: Vec<Value> = addresses.iter().map(|address| json!({ "ip": address })).collect();
        let status = json!({ "status": {
            "phase": "Running", "podIP": addresses[0], "podIPs": ips,
            "conditions": [{ "type": "Ready", "status": "True" }],
        } });
        let Sandbox { namespace, name, .. } = sandbox;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/status");
        self.installed.api.send(Asked::patch(path, status));
        addresses[0].clone()
    }
}

fn arguments(sandbox: &Sandbox) -> String {
    identify(sandbox.namespace, &sandbox.name, &sandbox.uid)
}

/// What a program writes, which has to succeed.
fn checked(command: &mut Command) -> String {
    let output: Output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
