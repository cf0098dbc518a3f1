//! A world: nodes and pods as network namespaces of one machine, and the mesh's real processes in them.
//!
//! ```text
//!   pod ── node ── fabric ── node ── pod        each line a veth pair, every address routed
//! ```
//!
//! The demo plays on it and the tests of the mesh are built on it. It stands in for what a cluster has
//! and the mesh does not: the network, the kubelet, the API server's files and cluster DNS. It never
//! does anything that is the mesh's to do.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::address::{Block, Families, Family};
use super::capture::Capture;
use super::command::{self, Finished, Process};
use super::fault::DemoError;
use super::node::{self, WorldNode};
use super::objects::{Applied, ObjectFolder};
use super::pod::{PodBuilder, WorldPod};
use super::teardown::{self, Claim};

/// The namespace of the network between the nodes.
const FABRIC: &str = "fabric";

/// How long a killed CA may take to be gone.
const CA_GRACE: Duration = Duration::from_secs(5);

/// What a world will be like.
#[derive(Clone, Debug)]
pub struct WorldBuilder {
    families: Families,
    mesh: MeshMode,
    log_level: String,
    access_log: AccessLog,
    proxy_arguments: Vec<String>,
    holders: Holders,
    ca_arguments: Vec<String>,
    ca_environment: Vec<(String, String)>,
}

/// Whether the proxies write their access logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessLog {
    File,
    Off,
}

/// Whether each node has a holder beside its proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holders {
    Each,
    Without,
}

/// Whether the mesh's processes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MeshMode {
    Running,
    Without,
}

impl WorldBuilder {
    /// Which address families pods and Services have.
    #[must_use]
    pub const fn families(mut self, families: Families) -> Self {
        self.families = families;
        self
    }

    /// No CA, no proxies, no plugin: the bare network.
    #[must_use]
    pub const fn without_mesh(mut self) -> Self {
        self.mesh = MeshMode::Without;
        self
    }

    /// The log level of all proxies, `info` unless set.
    #[must_use]
    pub fn log_level(mut self, level: &str) -> Self {
        level.clone_into(&mut self.log_level);
        self
    }

    /// No access log of any proxy.
    #[must_use]
    pub const fn without_access_log(mut self) -> Self {
        self.access_log = AccessLog::Off;
        self
    }

    /// More arguments for every `node-proxy mesh`.
    #[must_use]
    pub fn proxy_arguments(mut self, arguments: &[&str]) -> Self {
        self.proxy_arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// More arguments for the CA.
    #[must_use]
    pub fn ca_arguments(mut self, arguments: &[&str]) -> Self {
        self.ca_arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Sets a variable of the CA's environment.
    #[must_use]
    pub fn ca_environment(mut self, name: &str, value: &str) -> Self {
        self.ca_environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A holder on each node, which its proxy takes everything over from.
    #[must_use]
    pub const fn with_holders(mut self) -> Self {
        self.holders = Holders::Each;
        self
    }

    /// Makes the fabric and, with a mesh, starts the CA.
    ///
    /// # Errors
    /// Without root or a program that is needed, and when the CA does not come up.
    pub fn start(self) -> Result<World, DemoError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(DemoError::Privilege);
        }
        require("ip", "install the Debian package iproute2")?;
        require("curl", "install the Debian package curl")?;
        let claim = Claim::take()?;
        let objects = ObjectFolder::create(&claim.dir.join("objects"), self.families)?;
        let mut world = World {
            claim,
            families: self.families,
            log_level: self.log_level,
            access_log: self.access_log,
            proxy_arguments: self.proxy_arguments,
            holders: self.holders,
            ca_arguments: self.ca_arguments,
            ca_environment: self.ca_environment,
            objects,
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            ca: None,
        };
        world.make_netns(FABRIC)?;
        world.forward(FABRIC)?;
        let fabric = world.netns(FABRIC);
        for family in self.families.each() {
            let address = Block::Fabric.address(*family, 1);
            command::ip(&format!("-n {fabric} addr add {address}/{} dev lo", family.host_length()))?;
        }
        if self.mesh == MeshMode::Running {
            world.ca = Some(node::start_ca(&world)?);
        }
        Ok(world)
    }
}

/// Nodes, pods and the processes of the mesh. Dropping it takes everything down.
#[derive(Debug)]
pub struct World {
    // Processes are stopped first, then the claim removes what is left.
    pub(crate) pods: BTreeMap<String, WorldPod>,
    pub(crate) nodes: BTreeMap<String, WorldNode>,
    pub(crate) ca: Option<Process>,
    pub(crate) objects: ObjectFolder,
    pub(crate) families: Families,
    pub(crate) log_level: String,
    pub(crate) access_log: AccessLog,
    pub(crate) proxy_arguments: Vec<String>,
    pub(crate) holders: Holders,
    pub(crate) ca_arguments: Vec<String>,
    pub(crate) ca_environment: Vec<(String, String)>,
    claim: Arc<Claim>,
}

impl World {
    /// A dual-stack world with a mesh, unless the builder is told otherwise.
    #[must_use]
    pub fn builder() -> WorldBuilder {
        WorldBuilder {
            families: Families::Dual,
            mesh: MeshMode::Running,
            log_level: "info".to_owned(),
            access_log: AccessLog::File,
            proxy_arguments: Vec::new(),
            holders: Holders::Without,
            ca_arguments: Vec::new(),
            ca_environment: Vec::new(),
        }
    }

    /// Adds a node and, with a mesh, its proxy; returns once that is ready.
    ///
    /// # Errors
    /// When a step fails; with the end of the proxy's log when it does not become ready.
    pub fn node(&mut self, name: &str) -> Result<(), DemoError> {
        self.node_that_reads(name, self.objects_dir().to_owned())
    }

    /// Adds a node whose proxy reads its objects from another folder, which the caller fills.
    ///
    /// # Errors
    /// As [`World::node`].
    pub fn node_that_reads(&mut self, name: &str, objects: PathBuf) -> Result<(), DemoError> {
        node::add(self, name, objects)
    }

    /// Writes a Namespace with these labels.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn namespace(&mut self, name: &str, labels: &[(&str, &str)]) -> Result<(), DemoError> {
        let labels = labels.iter().copied().collect::<BTreeMap<_, _>>();
        let object = serde_json::json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels },
        });
        self.objects.write(&format!("Namespace {name}"), object, "").map(drop)
    }

    /// Begins a pod; its name is unique in the world.
    pub fn pod(&mut self, name: &str) -> PodBuilder<'_> {
        PodBuilder::new(self, name)
    }

    /// Applies every document of `yaml`, in namespace `default` unless it says otherwise.
    ///
    /// # Errors
    /// When it is not YAML, or an object has no kind or name.
    pub fn apply(&mut self, yaml: &str) -> Result<Vec<Applied>, DemoError> {
        self.apply_in("default", "applied YAML", yaml)
    }

    /// Applies every document of `yaml`, as `kubectl -n NAMESPACE apply` does; errors name `origin`.
    ///
    /// # Errors
    /// When it is not YAML, or an object has no kind or name.
    pub fn apply_in(&mut self, namespace: &str, origin: &str, yaml: &str) -> Result<Vec<Applied>, DemoError> {
        let applied = self.objects.apply(origin, yaml, namespace)?;
        self.refresh_hosts()?;
        Ok(applied)
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// When its file cannot be removed.
    pub fn delete(&mut self, object: &Applied) -> Result<(), DemoError> {
        self.objects.delete(object)?;
        self.refresh_hosts()
    }

    /// Runs a command in a pod and waits for it.
    ///
    /// # Errors
    /// When there is no such pod or the command cannot be started; how it ended is in [`Finished`].
    pub fn exec(&self, pod: &str, argv: &[&str]) -> Result<Finished, DemoError> {
        command::exec(&self.running_pod(pod)?.netns, argv)
    }

    /// Runs a command in a node's namespace and waits for it.
    ///
    /// # Errors
    /// As [`World::exec`].
    pub fn exec_on_node(&self, node: &str, argv: &[&str]) -> Result<Finished, DemoError> {
        command::exec(&self.running_node(node)?.netns, argv)
    }

    /// Starts a command in a pod that stays until the returned process is stopped or dropped.
    ///
    /// # Errors
    /// When there is no such pod or the command cannot be started.
    pub fn spawn(&self, pod: &str, name: &str, argv: &[&str]) -> Result<Process, DemoError> {
        let netns = &self.running_pod(pod)?.netns;
        Process::start(name, command::within(netns, argv), &self.dir().join(format!("{pod}.{name}.log")))
    }

    /// Starts to record what passes between the nodes.
    ///
    /// # Errors
    /// When tcpdump is missing or does not start.
    pub fn capture(&self) -> Result<Capture, DemoError> {
        require("tcpdump", "install the Debian package tcpdump")?;
        Capture::start(&self.netns(FABRIC), self.dir())
    }

    /// What a node's proxy answers to `GET http://127.0.0.1:15000PATH`.
    ///
    /// # Errors
    /// When there is no such node, or the answer is not a success.
    pub fn admin(&self, node: &str, path: &str) -> Result<String, DemoError> {
        let url = format!("http://{}{path}", node::ADMIN);
        self.exec_on_node(node, &["curl", "-sS", "--fail", "--max-time", "5", &url])?
            .checked()
            .map(|answer| answer.stdout)
    }

    /// What a node's proxy has written to its access log.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn access_log(&self, node: &str) -> Result<String, DemoError> {
        let path = self.running_node(node)?.dir.join("access.log");
        Ok(fs::read_to_string(path).unwrap_or_default())
    }

    /// The process of a node's proxy.
    ///
    /// # Errors
    /// When there is no such node, or this world has no mesh.
    pub fn proxy(&mut self, node: &str) -> Result<&mut Process, DemoError> {
        let unknown = || DemoError::Unknown { kind: "node proxy", name: node.to_owned() };
        self.nodes.get_mut(node).and_then(|node| node.proxy.as_mut()).ok_or_else(unknown)
    }

    /// The process of a pod's application.
    ///
    /// # Errors
    /// When there is no such pod, or it has no application.
    pub fn application(&mut self, pod: &str) -> Result<&mut Process, DemoError> {
        let unknown = || DemoError::Unknown { kind: "application", name: pod.to_owned() };
        self.pods.get_mut(pod).and_then(|pod| pod.app.as_mut()).ok_or_else(unknown)
    }

    /// Kills the CA; nothing of it is lost but the process.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn stop_ca(&mut self) -> Result<(), DemoError> {
        match self.ca.as_mut() {
            Some(ca) => ca.stop(Signal::SIGKILL, CA_GRACE).map(drop),
            None => Ok(()),
        }
    }

    /// Starts the CA again on the same root.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_ca(&mut self) -> Result<(), DemoError> {
        self.ca = Some(node::start_ca(self)?);
        Ok(())
    }

    /// Starts a node's proxy again after it has ended, and waits until it is ready.
    ///
    /// # Errors
    /// As [`World::node`].
    pub fn restart_proxy(&mut self, node: &str) -> Result<(), DemoError> {
        node::restart_proxy(self, node)
    }

    /// A node.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn running_node(&self, name: &str) -> Result<&WorldNode, DemoError> {
        self.nodes.get(name).ok_or_else(|| DemoError::Unknown { kind: "node", name: name.to_owned() })
    }

    /// A pod.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn running_pod(&self, name: &str) -> Result<&WorldPod, DemoError> {
        self.pods.get(name).ok_or_else(|| DemoError::Unknown { kind: "pod", name: name.to_owned() })
    }

    /// The folder with everything that this world writes.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.claim.dir
    }

    /// The folder of objects that the proxies watch.
    #[must_use]
    pub fn objects_dir(&self) -> &Path {
        self.objects.dir()
    }

    /// The prefix of the names of all namespaces of this world.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.claim.prefix
    }

    /// Whether the mesh's processes run.
    pub(crate) const fn has_mesh(&self) -> bool {
        self.ca.is_some()
    }

    pub(crate) fn netns(&self, name: &str) -> String {
        format!("{}{name}", self.claim.prefix)
    }

    /// Makes a namespace with its loopback up and a folder for the files that replace those in `/etc`.
    pub(crate) fn make_netns(&self, name: &str) -> Result<String, DemoError> {
        let netns = self.netns(name);
        self.claim.hold(|| {
            command::ip(&format!("netns add {netns}"))?;
            let etc = Path::new("/etc/netns").join(&netns);
            // Another world that ends may remove the empty parent in between.
            let made = (0..3).any(|_| fs::create_dir_all(&etc).is_ok());
            if made { Ok(()) } else { fs::create_dir(&etc).map_err(DemoError::file(etc)) }
        })?;
        command::ip(&format!("-n {netns} link set lo up"))?;
        Ok(netns)
    }

    /// Lets a namespace forward packets. None of its links has an address that is tentative for a while: from that no neighbour
    /// is looked for (RFC 4862 section 5.4), and whoever calls a new pod by IPv6 would wait for a second (RFC 4861 section 10).
    pub(crate) fn forward(&self, name: &str) -> Result<(), DemoError> {
        let switches = "cd /proc/sys/net && echo 1 >ipv4/ip_forward && echo 1 >ipv6/conf/all/forwarding \
                        && echo 0 >ipv6/conf/default/accept_dad";
        command::exec(&self.netns(name), &["sh", "-c", switches])?.checked().map(drop)
    }

    /// Links the fabric to a node: a veth pair, an address at each end, routes both ways.
    pub(crate) fn link_to_fabric(&self, node: &str, number: u8) -> Result<(), DemoError> {
        let (fabric, node) = (self.netns(FABRIC), self.netns(node));
        command::ip(&format!("-n {node} link add eth0 type veth peer name node{number} netns {fabric}"))?;
        command::ip(&format!("-n {node} link set eth0 up"))?;
        command::ip(&format!("-n {fabric} link set node{number} up"))?;
        for family in self.families.each() {
            let (flag, length) = (family.flag(), family.block_length());
            let at = |host| Block::Link(number).address(*family, host);
            let nodad = if *family == Family::V6 { "nodad" } else { "" };
            let (pods, gateway) = (Block::Pods(number), Block::Pods(number).address(*family, 1));
            for line in [
                format!("-n {fabric} addr add {}/{length} dev node{number} {nodad}", at(1)),
                format!("-n {node} addr add {}/{length} dev eth0 {nodad}", at(2)),
                format!("-n {node} addr add {gateway}/{} dev lo", family.host_length()),
                format!("-n {node} {flag} route add default via {}", at(1)),
                format!("-n {fabric} {flag} route add {} via {}", pods.cidr(*family), at(2)),
            ] {
                command::ip(&line)?;
            }
        }
        Ok(())
    }

    /// Writes the names of Services for every pod. The files keep their inodes: running processes have
    /// them mounted.
    pub(crate) fn refresh_hosts(&self) -> Result<(), DemoError> {
        self.pods.values().try_for_each(|pod| self.write_hosts(&pod.netns, &pod.namespace))
    }

    pub(crate) fn write_hosts(&self, netns: &str, namespace: &str) -> Result<(), DemoError> {
        let path = Path::new("/etc/netns").join(netns).join("hosts");
        let hosts = self.objects.hosts(namespace);
        // Pods have the file itself mounted, and who reads it while it is written finds nothing.
        if fs::read_to_string(&path).is_ok_and(|written| written == hosts) {
            return Ok(());
        }
        fs::write(&path, hosts).map_err(DemoError::file(path))
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        let nodes = self.nodes.values();
        let proxies = nodes.flat_map(|node| [&node.proxy, &node.holder]).filter_map(Option::as_ref);
        self.ca.iter().chain(proxies).chain(self.pods.values().filter_map(|pod| pod.app.as_ref()))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if thread::panicking() {
            for process in self.processes() {
                eprintln!("{}", process.last_words());
            }
        }
        self.claim.release();
        teardown::yield_to_signal();
    }
}

/// Where the binaries of this workspace are: beside this one, or one folder up for a test's.
pub(crate) fn binary(name: &str) -> Result<PathBuf, DemoError> {
    let own = std::env::current_exe().map_err(DemoError::file("/proc/self/exe"))?;
    let beside = own.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    beside.into_iter().find(|path| path.is_file()).ok_or_else(|| DemoError::Missing {
        program: name.to_owned(),
        advice: "build the whole workspace with `cargo build --workspace`",
    })
}

/// Finds a program on the search path.
pub(crate) fn require(program: &str, advice: &'static str) -> Result<(), DemoError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let missing = || DemoError::Missing { program: program.to_owned(), advice };
    found.then_some(()).ok_or_else(missing)
}
