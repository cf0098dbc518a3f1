//! One pod's limits are its own, and one pod's end is a whole one.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

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
    // Which of six has come last is for the threads that accept them to say: five stay, whichever.
    let mut open = opened(&world, "client", server, 6);
    assert!(until(PATIENCE, || without_refused(&mut open) < 6), "all six are held");
    assert_eq!(open.len(), 5);
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

/// So many connections, less those that are refused as early as within the call of `connect`.
#[track_caller]
fn opened(world: &World, from: &str, destination: SocketAddr, count: usize) -> Vec<TcpStream> {
    let connections = (0..count).map(|_| connect(world, from, destination));
    connections.filter(|tried| !matches!(tried, Err(error) if is_reset(error))).map(Result::unwrap).collect()
}

fn is_reset(error: &io::Error) -> bool {
    error.kind() == ErrorKind::ConnectionReset
}

/// Drops the connections that have been reset so far, and says how many are left. None of them may have ended
/// otherwise, or have been spoken on.
#[track_caller]
fn without_refused(open: &mut Vec<TcpStream>) -> usize {
    open.retain(|stream| {
        stream.set_nonblocking(true).unwrap();
        let seen = stream.peek(&mut [0]).unwrap_err();
        stream.set_nonblocking(false).unwrap();
        assert!(is_reset(&seen) || seen.kind() == ErrorKind::WouldBlock, "{seen}");
        !is_reset(&seen)
    });
    open.len()
}

#[test]
fn inbound_connections_count_too() {
    let world = staged(World::builder().proxy_arguments(&["--max-connections-per-pod=5"]));
    let application = listen_in(&world, "server");
    let destination = address(&world, "server", OWN_APP);
    let mut held = opened(&world, "outsider", destination, 8);
    // Each is taken to the application or refused. Hops that the stage has left idle take seats as well, until they
    // are swept.
    let mut taken = Vec::new();
    let decided = until(PATIENCE, || {
        taken.extend(application.accept().ok());
        taken.len() >= without_refused(&mut held)
    });
    assert!(decided, "{} are at the application, {} not refused", taken.len(), held.len());
    assert_eq!(taken.len(), held.len(), "one was refused that the application has");
    assert!(held.len() <= 5, "{} are taken", held.len());
    logged(&world, "node-b", &["direction=inbound", "reason=pod_limit"]);
    assert!(curl(&world, "client", &["http://guarded.vault/other-pod"]).success());
    drop((held, taken, application));
}

/// A connection on which a request was answered, and which stays.
fn served(world: &World, from: &str, destination: SocketAddr) -> io::Result<TcpStream> {
    let mut client = connect(world, from, destination)?;
    client.write_all(b"GET /seated HTTP/1.1\r\nhost: guarded\r\n\r\n")?;
    let (mut answer, mut piece) = (String::new(), [0; 1024]);
    while !answer.contains("guarded: GET /seated") {
        let count = client.read(&mut piece)?;
        assert!(count > 0, "{answer}");
        answer += std::str::from_utf8(&piece[..count]).unwrap();
    }
    Ok(client)
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
    let taken: Vec<_> = (0..30).map(|_| served(&world, "client", server)).collect();
    let refused = taken.iter().filter(|taken| taken.as_ref().is_err_and(is_reset)).count();
    assert_eq!(refused, taken.iter().filter(|taken| taken.is_err()).count(), "{taken:?}");
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
