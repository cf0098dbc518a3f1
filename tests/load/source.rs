//! Where load comes from: a pod, in whose network namespace sockets are made, or this machine itself.

#![allow(dead_code, reason = "every test that has this among its modules uses a part of it")]

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;

use node_proxy::demo::command::{Process, within};
use node_proxy::demo::world::World;
use node_proxy::pod::netns::NetnsFd;
use rustls::ClientConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

/// A client with the addresses that it asks.
#[derive(Debug)]
pub(crate) struct Source {
    /// That of its pod, with its name.
    netns: Option<(NetnsFd, String)>,
    /// Where its programs leave what they say.
    logs: PathBuf,
    /// Where its calls go.
    pub(crate) calls: String,
    /// Whom it trusts in TLS.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// Of the Service whose pods come and go, one of each family.
    pub(crate) web: Vec<IpAddr>,
    /// Of the Service whose pods stay.
    pub(crate) steady: Vec<IpAddr>,
}

impl Source {
    #[track_caller]
    pub(crate) fn new(world: &World, pod: &str) -> Self {
        let (web, steady) = (resolve(world, pod, "web"), resolve(world, pod, "steady"));
        Self::of(world, pod, (web, steady), ("web:50051".to_owned(), None))
    }

    /// A client of a Gateway, which is there for both Services.
    #[track_caller]
    pub(crate) fn of_gateway(world: &World, pod: &str, gateway: &str, tls: Arc<ClientConfig>) -> Self {
        let addresses = world.running_pod(gateway).unwrap().addresses.clone();
        let calls = format!("{}:50051", addresses[0]);
        Self::of(world, pod, (addresses.clone(), addresses), (calls, Some(tls)))
    }

    #[track_caller]
    fn of(
        world: &World,
        pod: &str,
        (web, steady): (Vec<IpAddr>, Vec<IpAddr>),
        (calls, tls): (String, Option<Arc<ClientConfig>>),
    ) -> Self {
        let name = world.running_pod(pod).unwrap().netns.clone();
        let netns = NetnsFd::open(&Path::new("/run/netns").join(&name)).unwrap();
        let logs = world.dir().to_owned();
        Self { netns: Some((netns, name)), logs, calls, tls, web, steady }
    }

    /// This machine, as a client of whatever is at these addresses.
    pub(crate) fn outside(addresses: &[IpAddr], tls: Arc<ClientConfig>, logs: &Path) -> Self {
        let calls = SocketAddr::new(addresses[0], 50051).to_string();
        let (web, steady) = (addresses.to_vec(), addresses.to_vec());
        Self { netns: None, logs: logs.to_owned(), calls, tls: Some(tls), web, steady }
    }

    /// A program that goes on until it is dropped.
    #[track_caller]
    pub(crate) fn spawn(&self, name: &str, argv: &[&str]) -> Process {
        let command = match &self.netns {
            Some((_, netns)) => within(netns, argv),
            None => {
                let mut command = Command::new(argv[0]);
                command.args(&argv[1..]);
                command
            }
        };
        Process::start(name, command, &self.logs.join(format!("{name}.log"))).unwrap()
    }

    /// A new connection.
    pub(crate) async fn connect(&self, destination: SocketAddr) -> io::Result<TcpStream> {
        let open = || {
            let domain = Domain::for_address(destination);
            Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))
        };
        let socket = match &self.netns {
            Some((netns, _)) => netns.run(open)?,
            None => open()?,
        };
        let stream = TcpSocket::from_std_stream(socket.into()).connect(destination).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// A Service's addresses, as the pod resolves its name.
#[track_caller]
fn resolve(world: &World, pod: &str, service: &str) -> Vec<IpAddr> {
    let found = world.exec(pod, &["getent", "ahosts", service]).unwrap().checked().unwrap();
    let streams = found.stdout.lines().filter(|line| line.contains("STREAM"));
    let addresses: Vec<_> = streams.filter_map(|line| line.split(' ').next()?.parse().ok()).collect();
    assert_eq!(addresses.len(), 2, "one address of each family: {found:?}");
    addresses
}

/// Takes one after the other, over and over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turn(Rc<Cell<usize>>);

impl Turn {
    pub(crate) fn next(&self) -> usize {
        self.0.replace(self.0.get() + 1)
    }

    pub(crate) fn of<T: Copy>(&self, choices: &[T]) -> T {
        choices[self.next() % choices.len()]
    }
}
