//! The stage of these tests, and what they ask of it: two nodes, an enrolled pod on each, a strict namespace
//! and pods that are in no mesh.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use node_proxy::demo::address::Families;
use node_proxy::demo::command::{Finished, until};
use node_proxy::demo::world::{World, WorldBuilder};
use node_proxy::pod::netns::NetnsFd;

/// How long anything may take that is not a wait of the protocol.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Where a pod's application listens.
pub(crate) const APP: u16 = 8080;
/// Where the test itself stands in for a pod's application.
pub(crate) const OWN_APP: u16 = 9000;

const SERVICES: &str = r"
{apiVersion: v1, kind: Service, metadata: {name: server, namespace: shop},
 spec: {selector: {app: server}, ports: [{name: http, port: 80, targetPort: 8080},
   {name: tcp-own, port: 9000}, {name: tcp-nobody, port: 9999}, {name: http-own, port: 9080, targetPort: 9000},
   {name: own, port: 9090, targetPort: 9000}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: guarded, namespace: vault},
 spec: {selector: {app: guarded}, ports: [{name: http, port: 80, targetPort: 8080}]}}
";

/// A world with both nodes, the namespaces and the Services, and no pod yet.
#[track_caller]
pub(crate) fn nodes(builder: WorldBuilder) -> World {
    let mut world = builder.start().unwrap();
    world.namespace("shop", &[("gammarus.io/mesh", "enabled")]).unwrap();
    let strict = [("gammarus.io/mesh", "enabled"), ("gammarus.io/mtls", "strict")];
    world.namespace("vault", &strict).unwrap();
    world.namespace("outside", &[]).unwrap();
    world.apply(SERVICES).unwrap();
    world.node("node-a").unwrap();
    world.node("node-b").unwrap();
    world
}

/// The pods that most tests need: client and outsider on node-a, server and guarded on node-b.
#[track_caller]
pub(crate) fn stage() -> World {
    staged(World::builder().families(Families::Dual))
}

/// See [`stage`].
#[track_caller]
pub(crate) fn staged(builder: WorldBuilder) -> World {
    let mut world = nodes(builder);
    world.pod("client").namespace("shop").service_account("client").on("node-a").start().unwrap();
    world.pod("outsider").namespace("outside").on("node-a").start().unwrap();
    for (name, namespace) in [("server", "shop"), ("guarded", "vault")] {
        let pod = world.pod(name).namespace(namespace).service_account(name).on("node-b");
        pod.labels(&[("app", name)]).app(name).unwrap().start().unwrap();
    }
    settle_hop(&world, "client", "http://server.shop", "server");
    for (url, name) in [("http://server.shop", "server"), ("http://guarded.vault", "guarded")] {
        settle(&world, "client", url, name);
    }
    world
}

/// Waits until a pod reaches a Service, so that what is checked next is checked strictly.
#[track_caller]
pub(crate) fn settle(world: &World, pod: &str, url: &str, answers: &str) {
    let answered = || curl(world, pod, &[url]).stdout.starts_with(&format!("{answers}:"));
    assert!(until(PATIENCE, answered), "{pod} does not reach {url}: {:?}", curl(world, pod, &[url]));
}

/// Waits until a pod of node-a reaches a pod of the mesh by the hop: its node has seen the mark.
#[track_caller]
pub(crate) fn settle_hop(world: &World, pod: &str, url: &str, server: &str) {
    let (client, server) = (format!("src.workload={pod} "), format!("dst.workload={server} "));
    let joined = || {
        let asked = curl(world, pod, &[url]).success();
        let log = world.access_log("node-a").unwrap();
        let of_hop = |line: &str| [&client[..], &server, "mtls=yes"].iter().all(|part| line.contains(part));
        asked && log.lines().last().is_some_and(of_hop)
    };
    assert!(until(PATIENCE, joined), "{pod} does not reach {server} by the hop");
}

/// `curl` in a pod.
#[track_caller]
pub(crate) fn curl(world: &World, pod: &str, args: &[&str]) -> Finished {
    world.exec(pod, &[&["curl", "-sS", "--max-time", "8"], args].concat()).unwrap()
}

/// `curl` by a process of a node.
#[track_caller]
pub(crate) fn curl_on_node(world: &World, node: &str, args: &[&str]) -> Finished {
    world.exec_on_node(node, &[&["curl", "-sS", "--max-time", "8"], args].concat()).unwrap()
}

/// The URL of a path at a pod's own address.
#[track_caller]
pub(crate) fn url_of(world: &World, pod: &str, path: &str) -> String {
    format!("http://{}{path}", address(world, pod, APP))
}

/// A Service's first address with a port, as a pod resolves its name.
#[track_caller]
pub(crate) fn service(world: &World, name: &str, port: u16) -> SocketAddr {
    let found = world.exec("client", &["getent", "ahosts", name]).unwrap().checked().unwrap();
    let address = found.stdout.split_whitespace().next().and_then(|text| text.parse().ok());
    SocketAddr::new(address.unwrap_or_else(|| panic!("no address of {name}: {found:?}")), port)
}

/// Makes the closing of a connection a reset.
pub(crate) fn abort(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// A pod's first address with a port.
#[track_caller]
pub(crate) fn address(world: &World, pod: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(world, pod), port)
}

/// A pod's first address.
#[track_caller]
pub(crate) fn ip(world: &World, pod: &str) -> IpAddr {
    world.running_pod(pod).unwrap().addresses[0]
}

/// Opens a connection from inside a namespace of the world: a pod's, a node's, or `fabric`.
#[track_caller]
pub(crate) fn connect(world: &World, place: &str, destination: SocketAddr) -> io::Result<TcpStream> {
    let stream = netns(world, place).run(|| TcpStream::connect_timeout(&destination, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A listener of the test's own inside a namespace of the world.
#[track_caller]
pub(crate) fn listen(world: &World, place: &str, listen: SocketAddr) -> TcpListener {
    let listener = netns(world, place).run(|| TcpListener::bind(listen)).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

/// The test as the application of `pod`, on [`OWN_APP`].
#[track_caller]
pub(crate) fn listen_in(world: &World, pod: &str) -> TcpListener {
    listen(world, pod, address(world, pod, OWN_APP))
}

/// A namespace of the world: a pod's, a node's, or `fabric`.
#[track_caller]
pub(crate) fn netns(world: &World, place: &str) -> NetnsFd {
    let name = format!("{}{place}", world.prefix());
    NetnsFd::open(&Path::new("/run/netns").join(name)).unwrap()
}

/// The next connection of a listener, if one comes in time.
pub(crate) fn accept(listener: &TcpListener, within: Duration) -> Option<TcpStream> {
    let mut accepted = None;
    let _judged_by_the_caller = until(within, || {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    let (stream, _) = accepted?;
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    Some(stream)
}

/// The connection that must come.
#[track_caller]
pub(crate) fn accepted(listener: &TcpListener) -> TcpStream {
    accept(listener, PATIENCE).expect("a connection to the application")
}

/// How a stream of bytes ended, seen by its reader.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// A proper end: FIN, or close_notify.
    Clean,
    /// A reset, or an end that TLS calls a truncation.
    Broken,
}

/// Reads to the end: what came, and how it ended. Silence for [`PATIENCE`] fails the test.
#[track_caller]
pub(crate) fn read_to_end(stream: &mut impl Read) -> (String, End) {
    let mut text = Vec::new();
    let end = match stream.read_to_end(&mut text) {
        Ok(_) => End::Clean,
        Err(error) => {
            let late = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
            assert!(!late, "nothing came and nothing ended");
            End::Broken
        }
    };
    (String::from_utf8_lossy(&text).into_owned(), end)
}

/// Reads exactly as many bytes as `expected` has, and compares.
#[track_caller]
pub(crate) fn expect_bytes(stream: &mut impl Read, expected: &str) {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).unwrap_or_else(|error| panic!("waiting for {expected:?}: {error}"));
    assert_eq!(String::from_utf8_lossy(&bytes), expected);
}

/// One plain HTTP request on a connection of the test's own, and how that ended.
pub(crate) fn ask_plain(stream: &mut TcpStream, path: &str) -> (String, End) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    if stream.write_all(request.as_bytes()).is_err() {
        return (String::new(), End::Broken);
    }
    read_to_end(stream)
}

/// Waits for a line of a node's access log that has all of `parts`, and returns it.
#[track_caller]
pub(crate) fn logged(world: &World, node: &str, parts: &[&str]) -> String {
    let mut found = None;
    let _asserted_below = until(PATIENCE, || {
        let log = world.access_log(node).unwrap();
        let mut lines = log.lines();
        found = lines.find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned);
        found.is_some()
    });
    found.unwrap_or_else(|| {
        let log = world.access_log(node).unwrap();
        let tail = log.lines().rev().take(12).collect::<Vec<_>>().join("\n");
        panic!("no line of {node} with {parts:?}; the last ones, newest first:\n{tail}")
    })
}

/// The sum of all series of a metric whose line has all of `labels`.
#[track_caller]
pub(crate) fn metric(world: &World, node: &str, name: &str, labels: &[&str]) -> f64 {
    let text = world.admin(node, "/metrics").unwrap();
    let lines = text.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// How often a node has given a reason, inbound or outbound.
#[track_caller]
pub(crate) fn failures(world: &World, node: &str, direction: &str, reason: &str) -> f64 {
    let labels = [format!("direction=\"{direction}\""), format!("reason=\"{reason}\"")];
    metric(world, node, "gammarus_failures_total", &[&labels[0], &labels[1]])
}

/// Takes away the mark by which other nodes know that a pod speaks mTLS, and waits until `node` has seen that.
#[track_caller]
pub(crate) fn remove_mark(world: &World, node: &str, pod: &str) {
    let namespace = &world.running_pod(pod).unwrap().namespace;
    let file = world.objects_dir().join(format!("status/pods/{namespace}.{pod}.yaml"));
    let before = generation(world, node);
    std::fs::remove_file(&file).unwrap();
    assert!(until(PATIENCE, || generation(world, node) > before), "{node} does not follow its objects");
}

/// The generation of a node's view of the cluster.
#[track_caller]
pub(crate) fn generation(world: &World, node: &str) -> f64 {
    metric(world, node, "gammarus_snapshot_generation", &[])
}

/// How long something took.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let outcome = work();
    (outcome, begun.elapsed())
}
