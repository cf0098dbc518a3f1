//! Namespaces, an application and a stand-in for the data path, for the tests of redirection.
//!
//! Everything ends with its value: namespaces are deleted also when a test panics.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use node_proxy::accept::orig_dst::original_destination;
use node_proxy::pod::netns::NetnsFd;
use node_proxy::pod::{Direction, PodListener, redirect, sockets};
use tokio::sync::oneshot;

/// Where the application of the pod listens.
pub(crate) const APP_PORT: u16 = 8080;

/// The addresses of client and pod, family by family.
pub(crate) const V4: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
/// See [`V4`].
pub(crate) const V6: [&str; 2] = ["fd77::1", "fd77::2"];

/// Runs a program, and fails with what it said.
#[track_caller]
pub(crate) fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a program");
    let output = Command::new(program)
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("`{program}` is needed for this test: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{line}` failed (root is needed): {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A network namespace with a name; deleted at the end.
pub(crate) struct Namespace {
    pub(crate) name: String,
    fd: Option<NetnsFd>,
}

impl Namespace {
    pub(crate) fn new(role: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("gpod{}-{}-{role}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        run(&format!("ip netns add {name}"));
        let mut namespace = Self { name, fd: None };
        namespace.fd = Some(NetnsFd::open(&namespace.path()).expect("the new namespace"));
        namespace.ip("link set lo up");
        namespace
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    pub(crate) fn fd(&self) -> &NetnsFd {
        self.fd.as_ref().expect("open while the namespace is used")
    }

    #[track_caller]
    pub(crate) fn ip(&self, arguments: &str) -> String {
        run(&format!("ip -n {} {arguments}", self.name))
    }

    #[track_caller]
    pub(crate) fn exec(&self, line: &str) -> String {
        run(&format!("ip netns exec {} {line}", self.name))
    }

    /// Gives up the namespace's name and this process' hold on it.
    pub(crate) fn delete(&mut self) {
        self.fd = None;
        run(&format!("ip netns del {}", self.name));
    }

    pub(crate) fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let stream = self.fd().run(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(stream)
    }

    pub(crate) fn listen(&self, address: SocketAddr) -> TcpListener {
        self.fd().run(|| TcpListener::bind(address)).expect("a listening socket")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.fd = None;
        // Nothing more can be done where this fails, and a panic here would hide the test's own.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// A client and a pod, joined by a cable.
pub(crate) struct Pair {
    pub(crate) client: Namespace,
    pub(crate) pod: Namespace,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let (client, pod) = (Namespace::new("client"), Namespace::new("pod"));
        join(&client, &pod, "eth0", [V4, V6]);
        for (namespace, via) in [(&client, 1), (&pod, 0)] {
            namespace.ip(&format!("route add default via {}", V4[via]));
            namespace.ip(&format!("-6 route add default via {}", V6[via]));
        }
        Self { client, pod }
    }

    /// As [`Pair::new`], with the rules in the pod, and a proxy.
    pub(crate) fn captured() -> (Self, Proxy) {
        let pair = Self::new();
        redirect::install(pair.pod.fd()).expect("rules");
        let proxy = Proxy::start(&pair.pod);
        (pair, proxy)
    }
}

/// Lays a cable with these addresses (first of each for the first namespace).
pub(crate) fn join(first: &Namespace, second: &Namespace, interface: &str, addresses: [[&str; 2]; 2]) {
    let (one, two) = (&first.name, &second.name);
    run(&format!("ip link add {interface} netns {one} type veth peer name {interface} netns {two}"));
    for (side, namespace) in [first, second].into_iter().enumerate() {
        namespace.ip(&format!("addr add {}/24 dev {interface}", addresses[0][side]));
        namespace.ip(&format!("addr add {}/64 dev {interface} nodad", addresses[1][side]));
        namespace.ip(&format!("link set {interface} up"));
    }
}

pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

/// Something that runs on a thread of its own until it is dropped.
struct Background {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    fn start(serve: impl Future<Output = ()> + Send + 'static) -> Self {
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = serve => {}
                    _ = stopped => {}
                }
            });
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Who ends a connection, and so remembers it for a minute.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The application, after its greeting.
    ByApp,
    /// The client.
    ByClient,
}

/// Answers every connection with one line, the client's address as it sees it, then echoes.
pub(crate) struct App {
    _background: Background,
}

impl App {
    pub(crate) fn start(namespace: &Namespace, address: SocketAddr) -> Self {
        Self::with(namespace, address, Ending::ByClient)
    }

    pub(crate) fn with(namespace: &Namespace, address: SocketAddr, ending: Ending) -> Self {
        let listener = namespace.listen(address);
        listener.set_nonblocking(true).expect("non-blocking");
        Self {
            _background: Background::start(async move {
                use tokio::io::AsyncWriteExt;
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                loop {
                    let Ok((mut stream, peer)) = listener.accept().await else { continue };
                    tokio::spawn(async move {
                        let _ = stream.write_all(format!("{}\n", peer.ip()).as_bytes()).await;
                        if ending == Ending::ByApp {
                            return;
                        }
                        let (mut read, mut write) = stream.split();
                        let _ = tokio::io::copy(&mut read, &mut write).await;
                    });
                }
            }),
        }
    }

    /// On [`APP_PORT`] of both families.
    pub(crate) fn both(namespace: &Namespace) -> [Self; 2] {
        ["0.0.0.0", "::"].map(|any| Self::start(namespace, v6_only_safe(any)))
    }
}

/// The IPv6 application listens on the pod's address alone, not to collide with the IPv4 one.
fn v6_only_safe(any: &str) -> SocketAddr {
    if any == "::" { at(V6[1], APP_PORT) } else { at(any, APP_PORT) }
}

/// What the stand-in for the data path has seen.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) inbound: AtomicUsize,
    pub(crate) outbound: AtomicUsize,
}

impl Seen {
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.inbound.load(Ordering::SeqCst), self.outbound.load(Ordering::SeqCst))
    }
}

/// Stands for the data path: accepts, dials the original destination, copies.
pub(crate) struct Proxy {
    pub(crate) seen: Arc<Seen>,
    _background: Background,
}

impl Proxy {
    pub(crate) fn start(namespace: &Namespace) -> Self {
        let listeners = sockets::listen(namespace.fd()).expect("listeners");
        Self::serve(namespace.fd().try_clone().expect("a descriptor"), listeners)
    }

    pub(crate) fn serve(netns: NetnsFd, listeners: Vec<PodListener>) -> Self {
        let seen = Arc::new(Seen::default());
        let (netns, counts) = (Arc::new(netns), seen.clone());
        let serve = async move {
            for PodListener { direction, socket } in listeners {
                let listener = tokio::net::TcpListener::from_std(socket).expect("a listener");
                tokio::spawn(accept(direction, listener, netns.clone(), counts.clone()));
            }
            std::future::pending::<()>().await;
        };
        Self { seen, _background: Background::start(serve) }
    }
}

async fn accept(
    direction: Direction,
    listener: tokio::net::TcpListener,
    netns: Arc<NetnsFd>,
    seen: Arc<Seen>,
) {
    loop {
        let Ok((stream, client)) = listener.accept().await else { continue };
        let netns = netns.clone();
        let count = match direction {
            Direction::Inbound => &seen.inbound,
            Direction::Outbound | Direction::Ingress => &seen.outbound,
        };
        count.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            if let Err(error) = forward(direction, &stream, client, &netns).await {
                eprintln!("{direction:?} connection of {client}: {error}");
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger");
            }
        });
    }
}

async fn forward(
    direction: Direction,
    stream: &tokio::net::TcpStream,
    client: SocketAddr,
    netns: &NetnsFd,
) -> io::Result<()> {
    let destination = original_destination(stream)?;
    let out = match direction {
        Direction::Inbound => sockets::dial_local(netns, client, destination)?,
        Direction::Outbound | Direction::Ingress => sockets::dial(netns, Some(client.ip()), destination)?,
    };
    let out = tokio::net::TcpStream::from_std(out)?;
    out.writable().await?;
    if let Some(error) = out.take_error()? {
        return Err(error);
    }
    tokio::try_join!(copy(stream, &out), copy(&out, stream))?;
    Ok(())
}

async fn copy(from: &tokio::net::TcpStream, to: &tokio::net::TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 4096];
    loop {
        from.readable().await?;
        let length = match from.try_read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        if length == 0 {
            return socket2::SockRef::from(to).shutdown(Shutdown::Write);
        }
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            to.writable().await?;
            match to.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Reads the line that [`App`] begins with: whom the application sees as its client.
pub(crate) fn greeting(stream: &mut TcpStream) -> io::Result<IpAddr> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte)?;
        if byte == [b'\n'] {
            break;
        }
        line.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&line);
    text.parse().map_err(|_| io::Error::other(format!("{text:?} is no address")))
}

/// Sends four bytes and wants them back.
pub(crate) fn echo(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"ping")?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    if &answer == b"ping" { Ok(()) } else { Err(io::Error::other("other bytes came back")) }
}
