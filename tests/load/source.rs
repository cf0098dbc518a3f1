//! Where load comes from: a pod, in whose network namespace sockets are made.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::rc::Rc;

use node_proxy::demo::world::World;
use node_proxy::pod::netns::NetnsFd;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

/// A client's pod with the addresses that it asks.
#[derive(Debug)]
pub(crate) struct Source {
    netns: NetnsFd,
    /// Of the Service whose pods come and go, one of each family.
    pub(crate) web: Vec<IpAddr>,
    /// Of the Service whose pods stay.
    pub(crate) steady: Vec<IpAddr>,
}

impl Source {
    #[track_caller]
    pub(crate) fn new(world: &World, pod: &str) -> Self {
        let netns = &world.running_pod(pod).unwrap().netns;
        Self {
            netns: NetnsFd::open(&Path::new("/run/netns").join(netns)).unwrap(),
            web: resolve(world, pod, "web"),
            steady: resolve(world, pod, "steady"),
        }
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
