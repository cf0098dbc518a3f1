//! Where load comes from: a pod, in whose network namespace sockets are made.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use node_proxy::demo::world::World;
use node_proxy::pod::netns::NetnsFd;
use rustls::ClientConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

/// How requests are made.
#[derive(Clone, Debug)]
pub(crate) enum Requests {
    Plain,
    EverySecondInTls(Arc<ClientConfig>),
}

/// A client's pod with the addresses that it asks.
#[derive(Debug)]
pub(crate) struct Source {
    netns: NetnsFd,
    /// Its name.
    pub(crate) pod: String,
    /// Where its calls go.
    pub(crate) calls: String,
    /// Where its requests go.
    pub(crate) requests: Requests,
    /// Of the Service whose pods come and go, one of each family.
    pub(crate) web: Vec<IpAddr>,
    /// Of the Service whose pods stay.
    pub(crate) steady: Vec<IpAddr>,
}

impl Source {
    #[track_caller]
    pub(crate) fn new(world: &World, pod: &str) -> Self {
        let (web, steady) = (resolve(world, pod, "web"), resolve(world, pod, "steady"));
        Self::of(world, pod, (web, steady), ("web:50051".to_owned(), Requests::Plain))
    }

    /// A client of a Gateway, which is there for both Services. Every second connection of its requests is in TLS.
    #[track_caller]
    pub(crate) fn of_gateway(world: &World, pod: &str, gateway: &str, tls: Arc<ClientConfig>) -> Self {
        let addresses = world.running_pod(gateway).unwrap().addresses.clone();
        let calls = format!("{}:50051", addresses[0]);
        Self::of(world, pod, (addresses.clone(), addresses), (calls, Requests::EverySecondInTls(tls)))
    }

    #[track_caller]
    fn of(
        world: &World,
        pod: &str,
        (web, steady): (Vec<IpAddr>, Vec<IpAddr>),
        (calls, requests): (String, Requests),
    ) -> Self {
        let netns = &world.running_pod(pod).unwrap().netns;
        let netns = NetnsFd::open(&Path::new("/run/netns").join(netns)).unwrap();
        Self { netns, pod: pod.to_owned(), calls, requests, web, steady }
    }

    /// A new connection from the pod.
    pub(crate) async fn connect(&self, destination: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.netns.run(|| {
            let domain = Domain::for_address(destination);
            Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))
        })?;
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
