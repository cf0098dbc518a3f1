//! The pods of a world, started as a kubelet and a container runtime start them.
//!
//! The Pod object comes first, without an address. The runtime makes the namespace and calls the plugin
//! with the addresses it has given; only then are they written to the Pod's status, and the application
//! starts. The plugin is called for every pod: which ones join is for the mesh to know.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use super::address::{Block, Family};
use super::command::{self, Process};
use super::fault::DemoError;
use super::objects::{Applied, fresh_uid, now};
use super::world::{World, binary};

/// The first pod's host number: lower ones are the node's.
const FIRST_POD: u8 = 10;
/// The port on which a pod's application listens.
pub const APP_PORT: u16 = 8080;

/// A pod that runs.
#[derive(Debug)]
pub struct WorldPod {
    /// The Pod's namespace.
    pub namespace: String,
    /// The name of its node.
    pub node: String,
    /// The name of its network namespace.
    pub netns: String,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// `metadata.uid`.
    pub uid: String,
    /// Its application, if it was given one.
    pub app: Option<Process>,
    object: Value,
    mac: String,
}

/// A pod to be.
#[derive(Debug)]
pub struct PodBuilder<'w> {
    world: &'w mut World,
    name: String,
    namespace: String,
    service_account: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    node: Option<String>,
    host: Option<u8>,
    program: Option<Vec<String>>,
    plugin: Plugin,
}

/// Whether the plugin is in the chain when a pod starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plugin {
    Called,
    NotYetThere,
}

impl<'w> PodBuilder<'w> {
    pub(crate) fn new(world: &'w mut World, name: &str) -> Self {
        Self {
            world,
            name: name.to_owned(),
            namespace: "default".to_owned(),
            service_account: "default".to_owned(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            node: None,
            host: None,
            program: None,
            plugin: Plugin::Called,
        }
    }

    /// The Pod's namespace, `default` unless set.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// The Pod's service account, `default` unless set.
    #[must_use]
    pub fn service_account(mut self, name: &str) -> Self {
        name.clone_into(&mut self.service_account);
        self
    }

    /// Adds labels.
    #[must_use]
    pub fn labels(mut self, labels: &[(&str, &str)]) -> Self {
        self.labels.extend(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        self
    }

    /// Adds an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// The node it runs on; the first by name unless set.
    #[must_use]
    pub fn on(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }

    /// Gives it this host number of its node's addresses, which must be free; the next one unless set.
    #[must_use]
    pub const fn at(mut self, host: u8) -> Self {
        self.host = Some(host);
        self
    }

    /// Runs the demo's application, which answers as `answers`, on [`APP_PORT`] of both families.
    ///
    /// # Errors
    /// When the binary is not there.
    pub fn app(self, answers: &str) -> Result<Self, DemoError> {
        let binary = binary("node-proxy")?.display().to_string();
        let listen = format!("[::]:{APP_PORT}");
        Ok(self.program(&[&binary, "demo-app", "--name", answers, "--listen", &listen]))
    }

    /// Runs this program as the pod's application.
    #[must_use]
    pub fn program(mut self, argv: &[&str]) -> Self {
        self.program = Some(argv.iter().map(|arg| (*arg).to_owned()).collect());
        self
    }

    /// Starts it as before the plugin was installed: the mesh is not told of it.
    #[must_use]
    pub const fn before_plugin(mut self) -> Self {
        self.plugin = Plugin::NotYetThere;
        self
    }

    /// Starts it and returns once its application listens.
    ///
    /// # Errors
    /// When the node is unknown, the plugin refuses, or the application does not come up.
    pub fn start(self) -> Result<(), DemoError> {
        let first = self.world.nodes.keys().next().cloned();
        let node = self.node.clone().or(first).unwrap_or_default();
        self.world.running_node(&node)?;
        if self.world.pods.contains_key(&self.name) {
            let problem = "exists already".to_owned();
            return Err(DemoError::Object { origin: format!("pod {}", self.name), problem });
        }
        let uid = fresh_uid()?;
        let object = self.object(&node, &uid);
        self.world.objects.write(&self.name, object.clone(), "default")?;

        let (netns, addresses, mac) = plug(self.world, &self.name, (&node, self.host))?;
        self.world.write_hosts(&netns, &self.namespace)?;
        let namespace = self.namespace;
        let pod = WorldPod { namespace, node, netns, addresses, uid, app: None, object, mac };
        self.world.pods.insert(self.name.clone(), pod);
        if self.plugin == Plugin::Called {
            self.world.call_plugin("ADD", &self.name)?;
        }
        if let Some(program) = self.program {
            start_app(self.world, &self.name, &program)?;
        }
        write_status(self.world, &self.name)
    }

    fn object(&self, node: &str, uid: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": self.name, "namespace": self.namespace, "uid": uid,
                "labels": self.labels, "annotations": self.annotations,
            },
            "spec": {
                "nodeName": node, "serviceAccountName": self.service_account,
                "containers": [{
                    "name": "app", "image": "demo",
                    "ports": [{ "name": "http", "containerPort": APP_PORT }],
                }],
            },
            "status": { "phase": "Pending" },
        })
    }
}

impl World {
    /// Calls the plugin for a pod as its runtime would: `ADD`, `DEL` or `CHECK`. Without a mesh there is
    /// no plugin in the chain.
    ///
    /// # Errors
    /// What the plugin answers, and when it cannot be started.
    pub fn call_plugin(&self, verb: &str, name: &str) -> Result<(), DemoError> {
        if !self.has_mesh() {
            return Ok(());
        }
        let pod = self.running_pod(name)?;
        let node = self.running_node(&pod.node)?;
        let program = binary("gammarus-cni")?;
        let failed = |source| DemoError::Start { program: format!("the plugin for {name}"), source };
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={name};K8S_POD_UID={}",
            pod.namespace, pod.uid
        );
        let mut child = command::within(&node.netns, &[&program])
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &pod.uid)
            .env("CNI_NETNS", format!("/run/netns/{}", pod.netns))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", arguments)
            .env("CNI_PATH", program.parent().unwrap_or_else(|| Path::new("/")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(self.plugin_config(name)?.to_string().as_bytes()).map_err(failed)?;
        }
        let output = child.wait_with_output().map_err(failed)?;
        command::Finished::new(format!("CNI_COMMAND={verb} gammarus-cni for pod {name}"), &output)
            .checked()
            .map(drop)
    }

    /// What the runtime gives the plugin on its standard input for this pod.
    ///
    /// # Errors
    /// When there is no such pod.
    pub fn plugin_config(&self, name: &str) -> Result<Value, DemoError> {
        let pod = self.running_pod(name)?;
        let node = self.running_node(&pod.node)?;
        let ips = pod.addresses.iter().zip(self.families.each()).map(|(address, family)| {
            let gateway = Block::Pods(node.number).address(*family, 1);
            json!({
                "address": format!("{address}/{}", family.host_length()),
                "gateway": gateway, "interface": 0,
            })
        });
        Ok(json!({
            "cniVersion": "1.1.0", "name": "gammarus-demo", "type": "gammarus-cni",
            "socket": node.socket(), "stateDir": node.plugin_state(),
            "prevResult": {
                "cniVersion": "1.1.0",
                "interfaces": [{ "name": "eth0", "mac": pod.mac, "sandbox": format!("/run/netns/{}", pod.netns) }],
                "ips": ips.collect::<Vec<_>>(), "routes": [], "dns": {},
            },
        }))
    }

    /// Marks a pod as one that is being deleted, as the API server does: it goes on running, and is ready, until
    /// [`World::remove_pod`].
    ///
    /// # Errors
    /// When there is no such pod, or its file cannot be written.
    pub fn begin_deletion(&mut self, name: &str) -> Result<(), DemoError> {
        let now = now()?;
        let unknown = || DemoError::Unknown { kind: "pod", name: name.to_owned() };
        let pod = self.pods.get_mut(name).ok_or_else(unknown)?;
        pod.object["metadata"]["deletionTimestamp"] = json!(now);
        write_status(self, name)
    }

    /// Sets a label of a running pod.
    ///
    /// # Errors
    /// When there is no such pod, or its file cannot be written.
    pub fn label_pod(&mut self, name: &str, label: &str, value: &str) -> Result<(), DemoError> {
        let unknown = || DemoError::Unknown { kind: "pod", name: name.to_owned() };
        let pod = self.pods.get_mut(name).ok_or_else(unknown)?;
        pod.object["metadata"]["labels"][label] = json!(value);
        write_status(self, name)
    }

    /// Ends a pod as a kubelet does: its application, the plugin's `DEL`, the namespace, the object.
    ///
    /// # Errors
    /// When a step fails.
    pub fn remove_pod(&mut self, name: &str) -> Result<(), DemoError> {
        self.running_pod(name)?;
        if let Some(pod) = self.pods.get_mut(name) {
            pod.app = None;
        }
        self.call_plugin("DEL", name)?;
        let Some(pod) = self.pods.remove(name) else { return Ok(()) };
        command::ip(&format!("netns delete {}", pod.netns))?;
        let named = self.running_node(&pod.node)?.host_root().join("run/netns").join(name);
        fs::remove_file(&named).map_err(DemoError::file(named))?;
        let etc = Path::new("/etc/netns").join(&pod.netns);
        fs::remove_dir_all(&etc).map_err(DemoError::file(etc))?;
        let key = Applied { kind: "Pod".to_owned(), namespace: pod.namespace, name: name.to_owned() };
        self.objects.delete(&key)
    }
}

/// The host number of a node's pod after so many: first up to the last that a block of IPv4 has, then the few below
/// the first; none when all are taken.
fn host_number(pods: u8) -> Option<u8> {
    const LAST: u8 = 254;
    let first = LAST - FIRST_POD + 1;
    match pods.checked_sub(first) {
        None => Some(FIRST_POD + pods),
        // Host 1 is the node.
        Some(more) => Some(2 + more).filter(|host| *host < FIRST_POD),
    }
}

/// Makes the pod's namespace and its link to the node; returns its name, addresses and MAC address.
fn plug(
    world: &mut World,
    name: &str,
    (node, host): (&str, Option<u8>),
) -> Result<(String, Vec<IpAddr>, String), DemoError> {
    let families = world.families.each();
    let unknown = || DemoError::Unknown { kind: "node", name: node.to_owned() };
    let full = || DemoError::Object { origin: format!("pod {name}"), problem: format!("{node} is full") };
    let place = world.nodes.get_mut(node).ok_or_else(unknown)?;
    let (number, host) = (place.number, host.or_else(|| host_number(place.pods)).ok_or_else(full)?);
    place.pods += 1;
    let place_of_names = place.host_root().join("run/netns");
    // Counted: the link of a pod that had the address before goes a moment after it.
    let (outside, veth) = (place.netns.clone(), format!("pod{}", place.pods));
    let inside = world.make_netns(name)?;
    command::ip(&format!("-n {inside} link add eth0 type veth peer name {veth} netns {outside}"))?;
    command::ip(&format!("-n {inside} link set eth0 up"))?;
    command::ip(&format!("-n {outside} link set {veth} up"))?;
    let mut addresses = Vec::new();
    for family in families {
        let (flag, length) = (family.flag(), family.host_length());
        let (address, gateway) =
            (Block::Pods(number).address(*family, host), Block::Pods(number).address(*family, 1));
        let (nodad, on_veth) = match family {
            Family::V4 => ("", String::new()),
            // IPv6 neighbours are found only on the interface that has the address.
            Family::V6 => ("nodad", format!("-n {outside} addr add {gateway}/128 dev {veth} nodad")),
        };
        for line in [
            format!("-n {inside} addr add {address}/{length} dev eth0 {nodad}"),
            format!("-n {inside} {flag} route add {gateway} dev eth0"),
            format!("-n {inside} {flag} route add default via {gateway} dev eth0"),
            format!("-n {outside} {flag} route replace {address} dev {veth}"),
            on_veth,
        ] {
            if !line.is_empty() {
                command::ip(&line)?;
            }
        }
        addresses.push(address);
    }
    let named = place_of_names.join(name);
    symlink(Path::new("/run/netns").join(&inside), &named).map_err(DemoError::file(named))?;
    let mac = command::exec(&inside, &["cat", "/sys/class/net/eth0/address"])?.checked()?;
    Ok((inside, addresses, mac.stdout.trim().to_owned()))
}

fn start_app(world: &mut World, name: &str, program: &[String]) -> Result<(), DemoError> {
    let pod = world.running_pod(name)?;
    let mut command = command::within(&pod.netns, program);
    command.env("POD_NAME", name).env("NODE_NAME", &pod.node);
    let mut app = Process::start(
        &format!("the application of {name}"),
        command,
        &world.dir().join(format!("{name}.app.log")),
    )?;
    if program.get(1).is_some_and(|word| word == "demo-app") {
        let log = app.log_path().to_owned();
        let listens = || fs::read_to_string(&log).is_ok_and(|text| text.contains("listening"));
        app.wait_until("listening", Duration::from_secs(20), listens)?;
    }
    if let Some(pod) = world.pods.get_mut(name) {
        pod.app = Some(app);
    }
    Ok(())
}

/// The pod runs and is ready: its addresses become known.
fn write_status(world: &mut World, name: &str) -> Result<(), DemoError> {
    let pod = world.running_pod(name)?;
    let mut object = pod.object.clone();
    object["status"] = json!({
        "phase": "Running",
        "podIP": pod.addresses.first(),
        "podIPs": pod.addresses.iter().map(|address| json!({ "ip": address })).collect::<Vec<_>>(),
        "conditions": [{ "type": "Ready", "status": "True" }],
    });
    world.objects.write(name, object, "default").map(drop)
}
