//! A world in which `cnitool` makes the pods: the node's network list on disk, and calls of it.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use node_proxy::demo::command::until;
use node_proxy::demo::world::World;
use serde_json::{Value, json};

use super::cnitool::{NETWORK, cnitool, identify};
use super::ended::{self, Ended};

/// The node that the pods are made on.
pub(crate) const NODE: &str = "node-a";
/// How long something may take on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// A node with the network `podnet`.
pub(crate) struct Bench {
    pub(crate) world: World,
    cnitool: PathBuf,
    plugins: String,
}

/// A pod that `cnitool` plugs in.
#[derive(Clone)]
pub(crate) struct Sandbox {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) netns: String,
    uid: String,
}

/// Whether our plugin is in the node's list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum InList {
    Yes,
    NotYet,
}

impl Bench {
    /// A network list of `version`; the namespace `shop` is enrolled, with a pod and Service `web` on another node, and
    /// `outside` is not.
    #[track_caller]
    pub(crate) fn set(version: &str) -> Self {
        let tool =
            |name| env::var_os(name).unwrap_or_else(|| panic!("${name} is not set: run tests/run cni"));
        let (cnitool, reference) =
            (PathBuf::from(tool("CNITOOL")), PathBuf::from(tool("CNI_REFERENCE_PLUGINS")));
        for program in [cnitool.clone(), reference.join("ptp"), reference.join("host-local")] {
            assert!(program.is_file(), "{} is not there: run tests/run cni", program.display());
        }
        // Every view of this bench is as fast as a file that is written, and so are pods that are taken in late.
        let mut world = World::builder().proxy_arguments(&["--lag-seconds=1"]).start().unwrap();
        world.node(NODE).unwrap();
        world.node("node-b").unwrap();
        world.namespace("shop", &[("gammarus.io/mesh", "enabled")]).unwrap();
        world.namespace("outside", &[]).unwrap();
        let service = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, \
                       ports: [{name: http, port: 80, targetPort: 8080}]}}";
        world.apply_in("shop", "the service", service).unwrap();
        let web = world.pod("web").namespace("shop").labels(&[("app", "web")]).on("node-b");
        web.app("web").unwrap().start().unwrap();
        let own = env::current_exe().unwrap();
        let beside = own.ancestors().nth(2).unwrap().to_owned();
        assert!(
            beside.join("gammarus-cni").is_file(),
            "build the whole workspace with `cargo build --workspace`"
        );
        let plugins = format!("{}:{}", reference.display(), beside.display());
        let bench = Self { world, cnitool, plugins };
        bench.write_list(version, InList::Yes);
        bench
    }

    /// Writes the node's list of plugins, with ours at its end or without.
    pub(crate) fn write_list(&self, version: &str, ours: InList) {
        let node = self.world.running_node(NODE).unwrap();
        let ranges = [
            [json!({ "subnet": "10.244.1.0/24", "rangeStart": "10.244.1.100" })],
            [json!({ "subnet": "fd67:6d72:244:1::/64", "rangeStart": "fd67:6d72:244:1::100" })],
        ];
        let mut plugins = vec![json!({ "type": "ptp", "ipam": {
            "type": "host-local", "dataDir": self.dir("ipam"), "ranges": ranges,
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
        } })];
        if ours == InList::Yes {
            let (socket, state_dir) = (node.socket(), node.plugin_state());
            plugins.push(json!({
                "type": "gammarus-cni", "socket": socket, "stateDir": state_dir, "timeoutSeconds": 10,
            }));
        }
        let list = json!({ "cniVersion": version, "name": NETWORK, "plugins": plugins });
        fs::write(self.dir("net.d").join(format!("{NETWORK}.conflist")), list.to_string()).unwrap();
    }

    /// Shows the node its runtime's cache, and a pod's namespace by its name, as a host has them.
    pub(crate) fn show_host(&self, sandbox: &Sandbox) {
        let root = self.world.running_node(NODE).unwrap().host_root();
        fs::create_dir_all(root.join("var/lib")).unwrap();
        symlink(self.dir("cache"), root.join("var/lib/cni")).unwrap();
        let named = Path::new("run/netns").join(&sandbox.netns);
        symlink(Path::new("/").join(&named), root.join(named)).unwrap();
    }

    /// A folder of this test.
    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.world.dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// Makes a pod's network namespace, without a network, and its Pod object.
    #[track_caller]
    pub(crate) fn sandbox(&mut self, namespace: &str, name: &str) -> Sandbox {
        let sandbox = self.unseen_sandbox(namespace, name);
        self.write_pod(&sandbox, &[]);
        sandbox
    }

    /// Makes a pod's network namespace; no node has seen its Pod.
    #[track_caller]
    pub(crate) fn unseen_sandbox(&self, namespace: &str, name: &str) -> Sandbox {
        let netns = format!("{}{name}", self.world.prefix());
        run(&["ip", "netns", "add", &netns]).assert_success();
        run(&["ip", "-n", &netns, "link", "set", "lo", "up"]).assert_success();
        let uid = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim().to_owned();
        Sandbox { namespace: namespace.to_owned(), name: name.to_owned(), netns, uid }
    }

    /// Writes a pod's object, as it is with these addresses.
    pub(crate) fn write_pod(&mut self, sandbox: &Sandbox, addresses: &[String]) {
        let ips: Vec<Value> = addresses.iter().map(|address| json!({ "ip": address })).collect();
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": sandbox.name, "namespace": sandbox.namespace, "uid": sandbox.uid },
            "spec": { "nodeName": NODE, "containers": [{ "name": "app", "image": "none" }] },
            "status": { "phase": "Running", "podIP": addresses.first(), "podIPs": ips,
                        "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        self.world.apply(&object.to_string()).unwrap();
    }

    /// `cnitool COMMAND podnet NAMESPACE`, on the node.
    pub(crate) fn cnitool(&self, command: &str, sandbox: &Sandbox) -> Ended {
        let node = &self.world.running_node(NODE).unwrap().netns;
        let netns = Path::new("/run/netns").join(&sandbox.netns);
        let Sandbox { namespace, name, uid, .. } = sandbox;
        let mut call = cnitool(node, (self.cnitool.as_os_str(), command), &netns, &self.dir("cache"));
        call.env("CNI_PATH", &self.plugins)
            .env("NETCONFPATH", self.dir("net.d"))
            .env("CNI_ARGS", identify(namespace, name, uid));
        ended::run(call, "")
    }

    /// Adds a pod, which must succeed, and gives it its addresses; returns them.
    #[track_caller]
    pub(crate) fn add(&mut self, sandbox: &Sandbox) -> Vec<String> {
        let result = self.cnitool("add", sandbox).output();
        let result: Value = serde_json::from_str(&result).unwrap();
        let address = |ip: &Value| ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
        let addresses: Vec<String> = result["ips"].as_array().unwrap().iter().map(address).collect();
        assert_eq!(addresses.len(), 2, "the result of the plugins before is handed on: {result}");
        self.write_pod(sandbox, &addresses);
        addresses
    }

    /// The tables of nftables in a pod, one a line.
    #[track_caller]
    pub(crate) fn tables(&self, sandbox: &Sandbox) -> String {
        run(&["ip", "netns", "exec", &sandbox.netns, "nft", "list", "tables"]).output()
    }

    /// The mark that tells other nodes to use the mesh's hop to a pod.
    pub(crate) fn is_marked(&self, sandbox: &Sandbox) -> bool {
        let name = format!("{}.{}.yaml", sandbox.namespace, sandbox.name);
        let mark = self.world.objects_dir().join("status/pods").join(name);
        fs::read_to_string(mark).is_ok_and(|text| text.contains(&sandbox.uid))
    }

    /// A request from a pod through the mesh: it is answered, and written down with the pod and a proven identity.
    #[track_caller]
    pub(crate) fn check_meshed(&self, sandbox: &Sandbox) {
        let path = format!("/from-{}-{}", sandbox.name, sandbox.uid);
        let answered = || self.ask(sandbox, &path).starts_with("web: GET");
        assert!(until(PATIENCE, answered), "{}", self.ask(sandbox, &path));
        let (path, workload) = (format!("path={path} "), format!("src.workload={} ", sandbox.name));
        let is_it = |line: &str| [&path, &workload, "mtls=yes"].iter().all(|text| line.contains(*text));
        let log = || self.world.access_log(NODE).unwrap();
        // One that ran before it was taken in speaks plain text itself until other nodes may know of it.
        assert!(until(PATIENCE, || answered() && log().lines().any(is_it)), "{}", log());
    }

    /// What `curl` gets of `web` in a pod.
    pub(crate) fn ask(&self, sandbox: &Sandbox, path: &str) -> String {
        let service = self.world.objects_dir().join("service.shop.web.yaml");
        let text = fs::read_to_string(service).unwrap();
        let address = text.lines().find_map(|line| line.trim().strip_prefix("clusterIP: ")).unwrap();
        let url = format!("http://{}{path}", address.trim_matches(['"', '\'']));
        let ended = run(&["ip", "netns", "exec", &sandbox.netns, "curl", "-sS", "--max-time", "3", &url]);
        ended.said()
    }
}

#[track_caller]
pub(crate) fn run(argv: &[&str]) -> Ended {
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]);
    ended::run(command, "")
}
