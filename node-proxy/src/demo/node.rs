//! The nodes of a world: a namespace that forwards, the Node object, and the node's own proxy; and the CA
//! that all proxies share.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::address::Block;
use super::command::{self, Process};
use super::fault::DemoError;
use super::objects::fresh_uid;
use super::world::{AccessLog, Holders, World, binary};

/// Where a proxy's admin listener is, in its node's namespace.
pub const ADMIN: &str = "127.0.0.1:15000";
/// The name that the CA's own certificate is for.
const CA_NAME: &str = "gammarus-ca.gammarus-system.svc";
const CA_PORT: u16 = 8443;
/// How long a process of the mesh may take to come up on a busy machine.
pub(crate) const READY: Duration = Duration::from_secs(30);

/// A node: its namespace and the processes on it.
#[derive(Debug)]
pub struct WorldNode {
    /// The name of its network namespace.
    pub netns: String,
    /// The folder of its proxy: socket, state, logs.
    pub dir: PathBuf,
    /// The node's own addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// The folder of objects that its proxy watches.
    pub objects: PathBuf,
    pub(crate) number: u8,
    pub(crate) pods: u8,
    pub(crate) proxy: Option<Process>,
    pub(crate) holder: Option<Process>,
    /// How many proxies it has had.
    pub(crate) proxies: u32,
}

impl WorldNode {
    /// The unix socket on which the proxy takes enrolments.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("node.sock")
    }

    /// What its proxy takes for the root of its host: the only part of this machine that is the node's.
    #[must_use]
    pub fn host_root(&self) -> PathBuf {
        self.dir.join("host")
    }

    /// The folder that proxy and plugin leave their state to each other in.
    #[must_use]
    pub fn plugin_state(&self) -> PathBuf {
        self.dir.join("state")
    }
}

pub(crate) fn add(world: &mut World, name: &str, objects: PathBuf) -> Result<(), DemoError> {
    let taken = || DemoError::Object { origin: format!("node {name}"), problem: "exists already".to_owned() };
    if world.nodes.contains_key(name) {
        return Err(taken());
    }
    let number = u8::try_from(world.nodes.len() + 1).map_err(|_| taken())?;
    let netns = world.make_netns(name)?;
    world.forward(name)?;
    world.link_to_fabric(name, number)?;
    let dir = world.dir().join(name);
    for part in [dir.join("state"), dir.join("host/run/netns")] {
        fs::create_dir_all(&part).map_err(DemoError::file(part))?;
    }
    let each = world.families.each();
    let addresses = each.iter().map(|family| Block::Link(number).address(*family, 2)).collect::<Vec<_>>();
    write_object(world, name, number, &addresses)?;
    let (proxy, holder) = (None, None);
    let node = WorldNode { netns, dir, addresses, objects, number, pods: 0, proxy, holder, proxies: 0 };
    world.nodes.insert(name.to_owned(), node);
    if !world.has_mesh() {
        return Ok(());
    }
    if world.holders == Holders::Each {
        world.restart_holder(name)?;
    }
    restart_proxy(world, name)
}

fn write_object(world: &mut World, name: &str, number: u8, addresses: &[IpAddr]) -> Result<(), DemoError> {
    let each = world.families.each();
    let blocks = each.iter().map(|family| Block::Pods(number).cidr(*family)).collect::<Vec<_>>();
    let addresses = addresses.iter().map(|address| json!({ "type": "InternalIP", "address": address }));
    let object = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name },
        "spec": { "podCIDR": blocks[0], "podCIDRs": blocks },
        "status": { "addresses": addresses.collect::<Vec<_>>() },
    });
    world.objects.write(&format!("Node {name}"), object, "").map(drop)
}

fn ca_address(world: &World) -> SocketAddr {
    SocketAddr::new(Block::Fabric.address(world.families.each()[0], 1), CA_PORT)
}

/// Starts the CA on the fabric and waits for its root.
pub(crate) fn start_ca(world: &World) -> Result<Process, DemoError> {
    let (dir, tokens) = (world.dir().join("ca"), world.dir().join("tokens"));
    for part in [&dir, &tokens] {
        fs::create_dir_all(part).map_err(DemoError::file(part))?;
    }
    let mut argv = vec![
        binary("gammarus-ca")?.display().to_string(),
        format!("--listen={}", ca_address(world)),
        format!("--state-dir={}", dir.display()),
        "--trust-domain=cluster.local".to_owned(),
        format!("--tokens={}", tokens.display()),
        format!("--objects={}", world.objects_dir().display()),
        format!("--server-name={CA_NAME}"),
    ];
    argv.extend(world.ca_arguments.iter().cloned());
    let mut command = command::within(&world.netns("fabric"), &argv);
    command.envs(world.ca_environment.iter().map(|(name, value)| (name, value)));
    let mut ca = Process::start("gammarus-ca", command, &world.dir().join("ca.log"))?;
    let root = dir.join("ca.crt");
    ca.wait_until("the root", READY, || fs::metadata(&root).is_ok_and(|file| file.len() > 0))?;
    Ok(ca)
}

/// Starts the proxy of a node, in place of one that has ended, and waits until it is ready.
pub(crate) fn restart_proxy(world: &mut World, name: &str) -> Result<(), DemoError> {
    if let Some(node) = world.nodes.get_mut(name) {
        node.proxy = None;
    }
    let mut proxy = start_proxy(world, name, &[])?;
    let node = world.running_node(name)?;
    let url = format!("http://{ADMIN}/readyz");
    let probe = ["curl", "-s", "--fail", "-o", "/dev/null", "--max-time", "1", &url];
    proxy.wait_until("readiness", READY, || {
        command::exec(&node.netns, &probe).is_ok_and(|answer| answer.success())
    })?;
    if let Some(node) = world.nodes.get_mut(name) {
        node.proxy = Some(proxy);
    }
    Ok(())
}

/// How a proxy of a node finds the CA, and what it shows there.
pub(crate) fn ca_flags(world: &World, node: &str) -> [String; 4] {
    [
        format!("--ca-address={}", ca_address(world)),
        format!("--ca-server-name={CA_NAME}"),
        format!("--ca-bundle={}", world.dir().join("ca/ca.crt").display()),
        format!("--token-file={}", world.dir().join("tokens").join(node).display()),
    ]
}

/// Starts a proxy of a node, with a log of its own.
pub(crate) fn start_proxy(world: &mut World, name: &str, more: &[&str]) -> Result<Process, DemoError> {
    let number = world.nodes.get_mut(name).map_or(0, |node| {
        node.proxies += 1;
        node.proxies
    });
    let node = world.running_node(name)?;
    let token = world.dir().join("tokens").join(name);
    if !token.exists() {
        fs::write(&token, fresh_uid()?).map_err(DemoError::file(&token))?;
    }
    let access_log = match world.access_log {
        AccessLog::File => node.dir.join("access.log").display().to_string(),
        AccessLog::Off => "off".to_owned(),
    };
    let mut argv = vec![binary("node-proxy")?.display().to_string(), "mesh".to_owned()];
    argv.extend(ca_flags(world, name));
    argv.extend([
        format!("--node={name}"),
        format!("--socket={}", node.socket().display()),
        format!("--state-dir={}", node.dir.join("state").display()),
        format!("--host-root={}", node.host_root().display()),
        format!("--admin-listen={ADMIN}"),
        "--health-listen=[::]:15021".to_owned(),
        "--workers=1".to_owned(),
        format!("--access-log={access_log}"),
        format!("--log-level={}", world.log_level),
    ]);
    // An API server takes the place of the folder.
    if !world.proxy_arguments.iter().any(|argument| argument.starts_with("--kubeconfig=")) {
        argv.push(format!("--objects={}", node.objects.display()));
    }
    if world.holders == Holders::Each {
        argv.push(format!("--holder={}", node.holder_socket().display()));
    }
    argv.extend(world.proxy_arguments.iter().cloned());
    let flag = |argument: &str| argument.split('=').next().unwrap_or_default().to_owned();
    argv.retain(|argument| !more.iter().any(|other| flag(other) == flag(argument)));
    argv.extend(more.iter().map(|argument| (*argument).to_owned()));
    let log = if number <= 1 { "proxy.log".to_owned() } else { format!("proxy-{number}.log") };
    Process::start(&format!("node-proxy of {name}"), command::within(&node.netns, &argv), &node.dir.join(log))
}
