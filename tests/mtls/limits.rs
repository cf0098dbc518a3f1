//! One pod's limits are its own, and one pod's end is a whole one.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use node_proxy::demo::command::until;
use node_proxy::demo::world::World;

use super::peer::{HOP, dial, good_leaf};
use super::rig::{
    End, OWN_APP, PATIENCE, accepted, address, connect, curl, failures, listen_in, logged, read_to_end,
    service, settle, stage, staged, url_of,
};

#[test]
fn the_connection_that_is_one_too_many_is_refused_and_neighbours_are_not() {
    let mut world = staged(World::builder().proxy_arguments(&["--max-connections-per-pod=5"]));
    world.pod("neighbour").namespace("shop").service_account("client").on("node-a").start().unwrap();
    settle(&world, "neighbour", "http://server.shop", "server");
    let guarded = url_of(&world, "guarded", "/");
    let server = service(&world, "guarded.vault", 80);
    let mut open: Vec<TcpStream> = (0..5).map(|_| connect(&world, "client", server).unwrap()).collect();
    assert_eq!(greet(&world, "client", server).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let line = logged(&world, "node-a", &["direction=outbound", "reason=pod_limit"]);
    assert!(line.contains("src.workload=client"), "{line}");
    assert!(failures(&world, "node-a", "outbound", "pod_limit") >= 1.0);
    assert!(curl(&world, "neighbour", &[&guarded]).success(), "the neighbour has its own seats");
    // The five are served, and a seat that is given back is taken again.
    let mut first = open.remove(0);
    first.write_all(b"GET /seated HTTP/1.1\r\nhost: guarded\r\nconnection: close\r\n\r\n").unwrap();
    let (answer, end) = read_to_end(&mut first);
    assert!(answer.contains("guarded: GET /seated") && end == End::Clean, "{answer}");
    settle(&world, "client", "http://guarded.vault/again", "guarded");
}

/// A connection that has been heard of for a while after its first bytes. A refusal can come as early as
/// within the call of `connect`.
fn greet(world: &World, from: &str, destination: SocketAddr) -> io::Result<TcpStream> {
    let mut client = connect(world, from, destination)?;
    client.write_all(b"hello")?;
    client.set_read_timeout(Some(Duration::from_millis(200)))?;
    match client.read(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(client),
        answer => answer.and(Ok(client)),
    }
}

#[test]
fn inbound_connections_count_too() {
    let world = staged(World::builder().proxy_arguments(&["--max-connections-per-pod=5"]));
    let application = listen_in(&world, "server");
    let destination = address(&world, "server", OWN_APP);
    // Hops that the stage has left idle take seats as well, until they are swept.
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..8 {
        match greet(&world, "outsider", destination) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => refused += 1,
            client => held.push(client.unwrap()),
        }
    }
    assert!(refused >= 3 && held.len() <= 5, "{refused} refused, {} taken", held.len());
    logged(&world, "node-b", &["direction=inbound", "reason=pod_limit"]);
    assert!(curl(&world, "client", &["http://guarded.vault/other-pod"]).success());
    drop((held, application));
}

#[test]
fn a_proxy_without_descriptors_refuses_with_a_reason_and_recovers() {
    let mut world = stage();
    let server = service(&world, "guarded.vault", 80);
    let proxy = world.proxy("node-a").unwrap().id().to_string();
    let allow = |descriptors: &str| {
        let limit = format!("--nofile={descriptors}:");
        let said = Command::new("prlimit").args(["--pid", &proxy, &limit]).status();
        assert!(said.expect("prlimit is needed: install the Debian package util-linux").success());
    };
    allow("266");
    let taken: Vec<_> = (0..30).map(|_| greet(&world, "client", server)).collect();
    let refused = taken.iter().filter(|taken| taken.is_err()).count();
    assert!((1..30).contains(&refused), "{refused} of 30 were refused");
    logged(&world, "node-a", &["direction=outbound", "reason=proxy_limit"]);
    assert!(failures(&world, "node-a", "outbound", "proxy_limit") >= 1.0);
    allow("4096");
    assert!(curl(&world, "client", &["http://guarded.vault/afterwards"]).success());
}

/// How many pods a node has a link to: the kernel takes a pod's away when its namespace ends, and not before.
#[track_caller]
fn veth_count(world: &World, node: &str) -> usize {
    let links = world.exec_on_node(node, &["ip", "-o", "link"]).unwrap().checked().unwrap();
    links.stdout.lines().filter(|line| line.contains(": pod")).count()
}

#[test]
fn a_removed_pods_namespace_ends_although_its_connections_live() {
    let mut world = stage();
    let application = listen_in(&world, "server");
    let leaf = good_leaf(&world, "spiffe://cluster.local/ns/shop/sa/client");
    // Of every kind: opaque through the hop, an idle HTTP hop, plain text, TLS, and an HTTP/2 connection.
    let mut opaque = connect(&world, "client", service(&world, "server.shop", 9000)).unwrap();
    opaque.write_all(b"\x01held").unwrap();
    let opaque_app = accepted(&application);
    assert!(curl(&world, "client", &["http://server.shop/http1"]).success());
    assert!(curl(&world, "client", &["--http2-prior-knowledge", "http://server.shop/http2"]).success());
    let plain = connect(&world, "outsider", address(&world, "server", OWN_APP)).unwrap();
    let plain_app = accepted(&application);
    let mut tls = dial(&world, "outsider", address(&world, "server", OWN_APP), (Some(&leaf), HOP));
    tls.write_all(b"held").unwrap();
    let tls_app = accepted(&application);
    // And a request over HTTP/2 that is never answered.
    let asks = ["curl", "-s", "--http2-prior-knowledge", "http://server.shop:9080/"];
    world
        .pod("asker")
        .namespace("shop")
        .service_account("client")
        .on("node-a")
        .program(&asks)
        .start()
        .unwrap();
    let asked = accepted(&application);
    let links = veth_count(&world, "node-a");
    world.remove_pod("asker").unwrap();
    let ended = until(PATIENCE, || veth_count(&world, "node-a") < links);
    assert!(ended, "the namespace of a pod whose request is open is held");
    let before = (veth_count(&world, "node-a"), veth_count(&world, "node-b"));
    // The test's own sockets inside the pods would keep their namespaces, too: those go as a pod's do.
    drop((opaque, opaque_app, plain_app, tls_app, asked, application));
    // The client first: it has somebody to take leave of. A kernel holds a namespace while an end is unheard.
    world.remove_pod("client").unwrap();
    let ended = until(PATIENCE, || veth_count(&world, "node-a") == before.0 - 1);
    assert!(ended, "the client's namespace is held");
    world.remove_pod("server").unwrap();
    assert!(
        until(PATIENCE, || veth_count(&world, "node-b") == before.1 - 1),
        "the server's namespace is held: {}",
        world.admin("node-b", "/metrics").unwrap()
    );
    drop((plain, tls));
}
