//! The stage of these tests: two nodes with a holder each, an enrolled pod on each, and one on each that is not.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use node_proxy::demo::address::Families;
use node_proxy::demo::command::{Process, until};
use node_proxy::demo::world::{World, WorldBuilder};
use node_proxy::pod::netns::NetnsFd;

/// How long anything may take that is not to be quick.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
/// Where the test stands in for the server's application.
pub(crate) const OWN_APP: u16 = 9000;

const SERVICES: &str = r"
{apiVersion: v1, kind: Service, metadata: {name: server, namespace: shop},
 spec: {selector: {app: server}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp-own, port: 9000}]}}
";

/// A world with holders, at its beginning.
pub(crate) fn builder() -> WorldBuilder {
    World::builder().families(Families::V4).with_holders()
}

/// The client and a stranger on node-a, the server and another stranger on node-b.
#[track_caller]
pub(crate) fn staged(builder: WorldBuilder) -> World {
    let mut world = builder.start().unwrap();
    world.namespace("shop", &[("gammarus.io/mesh", "enabled"), ("gammarus.io/mtls", "strict")]).unwrap();
    world.namespace("outside", &[]).unwrap();
    world.apply(SERVICES).unwrap();
    world.node("node-a").unwrap();
    world.node("node-b").unwrap();
    for (name, node) in [("stranger-a", "node-a"), ("stranger-b", "node-b")] {
        world.pod(name).namespace("outside").on(node).app(name).unwrap().start().unwrap();
    }
    let server = world.pod("server").namespace("shop").service_account("server").on("node-b");
    server.labels(&[("app", "server")]).app("server").unwrap().start().unwrap();
    world.pod("client").namespace("shop").service_account("client").on("node-a").start().unwrap();
    settle(&world, "client");
    world
}

/// See [`staged`].
#[track_caller]
pub(crate) fn stage() -> World {
    staged(builder())
}

/// Waits until a pod reaches the server.
#[track_caller]
pub(crate) fn settle(world: &World, pod: &str) {
    let answer = || curl(world, pod, "http://server.shop/settle");
    assert!(
        until(PATIENCE, || answer().starts_with("server:")),
        "{pod} does not reach the server: {}",
        answer()
    );
}

/// What `curl` in a pod prints.
#[track_caller]
pub(crate) fn curl(world: &World, pod: &str, url: &str) -> String {
    let done = world.exec(pod, &["curl", "-sS", "--max-time", "8", url]).unwrap();
    format!("{}{}", done.stdout, done.stderr)
}

/// The address of the Service, as the client resolves its name.
#[track_caller]
pub(crate) fn service(world: &World, port: u16) -> SocketAddr {
    let found = world.exec("client", &["getent", "ahostsv4", "server.shop"]).unwrap().checked().unwrap();
    let address: IpAddr = found.stdout.split_whitespace().next().unwrap().parse().unwrap();
    SocketAddr::new(address, port)
}

/// A pod's network namespace.
#[track_caller]
pub(crate) fn netns(world: &World, pod: &str) -> NetnsFd {
    NetnsFd::open(&Path::new("/run/netns").join(format!("{}{pod}", world.prefix()))).unwrap()
}

/// Opens a connection from inside a pod.
pub(crate) fn connect(netns: &NetnsFd, destination: SocketAddr) -> io::Result<TcpStream> {
    let stream = netns.run(|| TcpStream::connect_timeout(&destination, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One request on a connection of its own, with its answer's body.
pub(crate) fn ask_once(netns: &NetnsFd, destination: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = connect(netns, destination)?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(io::Error::other(answer)),
    }
}

/// One request on a connection that is kept: the head of its answer.
#[track_caller]
pub(crate) fn ask_again(stream: &mut TcpStream, path: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: server\r\n\r\n").as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let head = String::from_utf8(answer).unwrap().to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    head
}

/// An opaque connection from the client to the test, which stands in for the server's application.
pub(crate) struct Held {
    pub(crate) near: TcpStream,
    pub(crate) far: TcpStream,
}

impl Held {
    #[track_caller]
    pub(crate) fn open(world: &World) -> Self {
        let address = world.running_pod("server").unwrap().addresses[0];
        let listener =
            netns(world, "server").run(|| TcpListener::bind(SocketAddr::new(address, OWN_APP))).unwrap();
        let mut near = connect(&netns(world, "client"), service(world, OWN_APP)).unwrap();
        near.write_all(b"begin").unwrap();
        let (far, _) = listener.accept().unwrap();
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut held = Self { near, far };
        held.expect_far(b"begin");
        held
    }

    #[track_caller]
    fn expect_far(&mut self, expected: &[u8]) {
        let mut bytes = vec![0; expected.len()];
        self.far.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, expected);
    }

    /// A word each way.
    #[track_caller]
    pub(crate) fn speak(&mut self) {
        self.near.write_all(b"ping").unwrap();
        self.expect_far(b"ping");
        self.far.write_all(b"pong").unwrap();
        let mut bytes = [0; 4];
        self.near.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"pong");
    }

    /// Ends it in order, both ways.
    #[track_caller]
    pub(crate) fn end(mut self) {
        self.near.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(self.far.read(&mut [0; 8]).unwrap(), 0);
        drop(self.far);
        assert_eq!(self.near.read(&mut [0; 8]).unwrap(), 0);
    }
}

/// Waits until a process ends by itself, and with 0.
#[track_caller]
pub(crate) fn ends_well(process: &mut Process) {
    assert!(until(PATIENCE, || !process.is_running()), "it goes on: {}", process.last_words());
    let status = process.stop(nix::sys::signal::Signal::SIGKILL, PATIENCE).unwrap();
    assert!(status.success(), "{status}: {}", process.last_words());
}

/// Prints what was counted: not by the macros, whose text nobody sees when the test passes.
pub(crate) fn say(line: &str) {
    io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
}
