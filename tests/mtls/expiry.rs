//! The end of a leaf's life: what was made with it ends unless it is continued, what is new has a newer one, and a CA
//! that is away in between is noticed by nobody.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use node_proxy::demo::command::until;
use node_proxy::demo::world::World;

use super::ends::{joined, with_fake_peer};
use super::load::Load;
use super::peer::{HOP, Leaf, Request, dial, signer};
use super::rig::{
    APP, End, PATIENCE, accepted, address, connect, listen_in, logged, metric, read_to_end, service, settle,
    stage, staged, url_of,
};

/// The life of a leaf in these tests, in seconds.
const LIFE: f64 = 20.0;

fn short_lived() -> World {
    staged(World::builder().ca_arguments(&["--leaf-lifetime-seconds=20"]))
}

/// Seconds until the leaf of a service account ends; 0 where it is not local.
pub(crate) fn left(world: &World, node: &str, name: &str) -> f64 {
    let identity = format!("identity=\"spiffe://cluster.local/ns/shop/sa/{name}\"");
    metric(world, node, "gammarus_cert_expiry_seconds", &[&identity])
}

/// An opaque connection from client to server, on which both have spoken, and where the server goes on listening.
#[track_caller]
pub(crate) fn held(world: &World) -> (TcpStream, TcpStream, TcpListener) {
    let application = listen_in(world, "server");
    let mut client = connect(world, "client", service(world, "server.shop", 9000)).unwrap();
    client.write_all(b"\x01hello").unwrap();
    let mut server = accepted(&application);
    server.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    server.read_exact(&mut [0; 6]).unwrap();
    (client, server, application)
}

/// The certificate of a peer of the test's own, which ends in so many seconds.
pub(crate) fn ending(world: &World, name: &str, seconds: u64) -> Leaf {
    let uri = format!("spiffe://cluster.local/ns/shop/sa/{name}");
    let until = time::OffsetDateTime::now_utc() + Duration::from_secs(seconds);
    Request { until, ..Request::of(&[&uri]) }.sign(&signer(world))
}

#[test]
fn the_servers_side_ends_a_hop_with_its_clients_leaf() {
    let world = stage();
    let leaf = ending(&world, "client", 3);
    let begun = Instant::now();
    let mut client = dial(&world, "outsider", address(&world, "server", APP), (Some(&leaf), HOP));
    // A request that is not complete: whoever waits for the rest of it waits for ever.
    client.write_all(b"POST /rest HTTP/1.1\r\nhost: server\r\ncontent-length: 9\r\n\r\n").unwrap();
    assert_eq!(read_to_end(&mut client), (String::new(), End::Broken));
    let lived = begun.elapsed().as_secs_f64();
    assert!((1.5..6.0).contains(&lived), "it has lived for {lived} s");
    logged(&world, "node-b", &["direction=inbound", "dst.workload=server", "reason=certificate_expired"]);
}

#[test]
fn the_clients_side_ends_a_hop_with_its_servers_leaf() {
    let (world, listener) = with_fake_peer();
    let leaf = ending(&world, "fake", 3);
    let begun = Instant::now();
    // By way of an opaque port: nobody but the certificate ends this.
    let (mut client, _server) = joined(&world, &listener, 82, &leaf);
    assert_eq!(read_to_end(&mut client), (String::new(), End::Broken));
    let lived = begun.elapsed().as_secs_f64();
    assert!((1.5..6.0).contains(&lived), "it has lived for {lived} s");
    logged(&world, "node-a", &["direction=outbound", "src.workload=client", "reason=certificate_expired"]);
}

#[test]
fn a_ca_that_is_away_for_two_fifths_of_a_leafs_life_is_noticed_by_no_request() {
    let mut world = short_lived();
    let renewed = |world: &World, node: &str, name: &str| left(world, node, name) > 0.95 * LIFE;
    assert!(until(PATIENCE * 2, || renewed(&world, "node-a", "client")), "the leaf is not renewed");
    let load = Load::start(&world, "client", "server.shop");
    let begun = Instant::now();
    std::thread::sleep(Duration::from_secs_f64(0.3 * LIFE));
    world.stop_ca().unwrap();
    std::thread::sleep(Duration::from_secs_f64(0.4 * LIFE));
    let waiting = left(&world, "node-a", "client");
    assert!(waiting > 0.0 && waiting < 0.4 * LIFE, "the old leaf is not kept: {waiting} s are left");
    world.start_ca().unwrap();
    let rest = Duration::from_secs_f64(LIFE).saturating_sub(begun.elapsed());
    let again = || left(&world, "node-a", "client") > 0.6 * LIFE;
    assert!(until(rest, again), "no new leaf before the old one has ended");
    // And on beyond the end of every leaf that was there before.
    std::thread::sleep(rest.max(Duration::from_secs(5)));
    let log = world.proxy("node-a").unwrap().log();
    assert!(log.contains("certificate not fetched"), "no renewal has met the outage");
    let answered = load.finish("with the CA away");
    assert!(answered > 300, "only {answered}");
}

#[test]
fn keys_and_connections_go_with_the_last_pod_of_an_identity() {
    let mut world = stage();
    world.pod("client-2").namespace("shop").service_account("client").on("node-a").start().unwrap();
    settle(&world, "client-2", "http://server.shop/second", "server");
    let (_client, mut server, _application) = held(&world);
    world.remove_pod("client").unwrap();
    assert_eq!(read_to_end(&mut server).1, End::Broken, "the connection has outlived its pod");
    assert!(left(&world, "node-a", "client") > 0.0, "another pod still has the identity");
    settle(&world, "client-2", "http://server.shop/still", "server");
    world.remove_pod("client-2").unwrap();
    assert!(until(PATIENCE, || left(&world, "node-a", "client") == 0.0), "the leaf is still there");
    let log = world.proxy("node-a").unwrap().log();
    assert!(log.contains("certificate forgotten"), "{log}");
    // What was held for the identity is fetched again, and works, when a pod of it comes again.
    world.pod("client-3").namespace("shop").service_account("client").on("node-a").start().unwrap();
    settle(&world, "client-3", &url_of(&world, "server", "/third"), "server");
    logged(&world, "node-b", &["src.workload=client-3", "mtls=yes"]);
}
