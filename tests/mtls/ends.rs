//! Ends stay ends through the hop: FINs, half-closes, resets; and a truncated hop is a reset,
//! so that nobody takes a part for the whole.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use node_proxy::demo::address::Families;
use node_proxy::demo::command::until;
use node_proxy::demo::world::World;

use super::peer::{HOP, Leaf, Request, close_notify, dial, good_leaf, read_head, serve, signer};
use super::rig::{
    End, OWN_APP, PATIENCE, abort, accept, accepted, address, connect, curl, expect_bytes, generation,
    listen, listen_in, logged, nodes, read_to_end, service, stage,
};

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
const FAKE: &str = "spiffe://cluster.local/ns/shop/sa/fake";
/// The fabric's own address, where the peer of the test's making listens.
const FABRIC: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 255, 1)), 9100);
const FAKE_POD: &str = r#"
{apiVersion: v1, kind: Pod, metadata: {name: fake, namespace: shop, uid: fake-uid, labels: {app: fake}},
 spec: {nodeName: node-z, serviceAccountName: fake, containers: [{name: app, image: none}]},
 status: {phase: Running, podIP: 192.168.255.1, podIPs: [{ip: 192.168.255.1}],
   conditions: [{type: Ready, status: "True"}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: fake, namespace: shop},
 spec: {selector: {app: fake}, ports: [{name: http, port: 80, targetPort: 9100},
   {name: tcp-opaque, port: 82, targetPort: 9100}, {name: undeclared, port: 81, targetPort: 9100}]}}
"#;

#[test]
fn inbound_ends_are_passed_on_as_they_are() {
    let world = stage();
    let leaf = good_leaf(&world, CLIENT);
    let application = listen_in(&world, "server");
    let server = address(&world, "server", OWN_APP);
    let open = || {
        let mut client = dial(&world, "outsider", server, (Some(&leaf), HOP));
        client.write_all(b"hello").unwrap();
        client.flush().unwrap();
        let mut app = accepted(&application);
        expect_bytes(&mut app, "hello");
        (client, app)
    };

    let (client, mut app) = open();
    client.sock.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut app), (String::new(), End::Broken), "a truncated hop");
    drop(client);

    let (mut client, mut app) = open();
    close_notify(&mut client);
    assert_eq!(read_to_end(&mut app), (String::new(), End::Broken), "a hop that ends before its stream");

    let (mut client, mut app) = open();
    client.end();
    assert_eq!(read_to_end(&mut app), (String::new(), End::Clean), "the stream's end");
    app.write_all(b"bye").unwrap();
    drop(app);
    assert_eq!(read_to_end(&mut client), ("bye".to_owned(), End::Clean), "after a half-close");

    let (mut client, app) = open();
    app.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client), (String::new(), End::Clean), "the application's FIN");
    client.write_all(b"more").unwrap();
    client.flush().unwrap();
    expect_bytes(&mut &app, "more");
    drop(client);

    let (mut client, app) = open();
    abort(app);
    assert_eq!(read_to_end(&mut client), (String::new(), End::Broken), "the application's reset");
}

#[test]
fn a_reset_before_the_first_word_is_a_reset_and_not_an_end() {
    let world = stage();
    let application = listen_in(&world, "server");
    let mut plain = connect(&world, "outsider", address(&world, "server", OWN_APP)).unwrap();
    abort(accepted(&application));
    assert_eq!(read_to_end(&mut plain), (String::new(), End::Broken), "plain text into the mesh");
    // An undeclared port: the endpoint is dialled at once, and the first speaker decides.
    let mut client = connect(&world, "client", service(&world, "server.shop", 9090)).unwrap();
    abort(accepted(&application));
    assert_eq!(read_to_end(&mut client), (String::new(), End::Broken), "through the hop");
    let client = connect(&world, "client", service(&world, "server.shop", 9090)).unwrap();
    let mut app = accepted(&application);
    abort(client);
    assert_eq!(read_to_end(&mut app), (String::new(), End::Broken), "the client's");
}

#[test]
fn a_whole_connection_between_two_pods_keeps_its_half_closes() {
    let world = stage();
    let application = listen_in(&world, "server");
    for port in [9000, 9090] {
        let mut client = connect(&world, "client", service(&world, "server.shop", port)).unwrap();
        client.write_all(b"\x01question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut app = accepted(&application);
        assert_eq!(read_to_end(&mut app), ("\x01question".to_owned(), End::Clean), "{port}");
        app.write_all(b"answer").unwrap();
        drop(app);
        assert_eq!(read_to_end(&mut client), ("answer".to_owned(), End::Clean), "{port}");
    }
    logged(&world, "node-a", &["direction=outbound", "dst.port=9000", "mtls=yes"]);
}

/// A world in which the pods of node-a take a listener of the test's for an enrolled pod with identity FAKE.
#[track_caller]
pub(crate) fn with_fake_peer() -> (World, TcpListener) {
    let mut world = nodes(World::builder().families(Families::V4));
    world.pod("client").namespace("shop").service_account("client").on("node-a").start().unwrap();
    let listener = listen(&world, "fabric", FABRIC);
    let marks = world.objects_dir().join("status/pods");
    std::fs::create_dir_all(&marks).unwrap();
    std::fs::write(marks.join("shop.fake.yaml"), "uid: fake-uid\naddresses: [192.168.255.1]\n").unwrap();
    let before = generation(&world, "node-a");
    world.apply(FAKE_POD).unwrap();
    assert!(until(PATIENCE, || generation(&world, "node-a") > before));
    let known = || world.admin("node-a", "/config").is_ok_and(|dump| dump.contains("192.168.255.1"));
    let _older_dumps_have_no_workloads = until(Duration::from_secs(1), known);
    (world, listener)
}

/// A connection of the client pod to the peer, with the peer's end of the hop.
#[track_caller]
pub(crate) fn joined(
    world: &World,
    peer: &TcpListener,
    port: u16,
    leaf: &Leaf,
) -> (TcpStream, super::peer::Server) {
    let mut client = connect(world, "client", service(world, "fake.shop", port)).unwrap();
    client.write_all(b"GET /question HTTP/1.1\r\nhost: fake\r\n\r\n").unwrap();
    let mut server = serve(accepted(peer), leaf).unwrap();
    let head = read_head(&mut server);
    assert!(head.starts_with("GET /question HTTP/1.1"), "{head}");
    (client, server)
}

#[test]
fn a_truncated_hop_is_a_reset_and_no_complete_answer() {
    let (world, peer) = with_fake_peer();
    let leaf = good_leaf(&world, FAKE);
    // An answer that lasts until the connection ends, over HTTP, an opaque port and an undeclared one.
    for port in [80, 81, 82] {
        let until_close = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\na part";
        let (mut client, mut server) = joined(&world, &peer, port, &leaf);
        server.write_all(until_close.as_bytes()).unwrap();
        server.flush().unwrap();
        server.sock.shutdown(Shutdown::Write).unwrap();
        let (text, end) = read_to_end(&mut client);
        assert_eq!(end, End::Broken, "port {port}: truncated after {text:?}");

        let (mut client, mut server) = joined(&world, &peer, port, &leaf);
        server.write_all(until_close.as_bytes()).unwrap();
        close_notify(&mut server);
        let (text, end) = read_to_end(&mut client);
        assert_eq!(end, End::Broken, "port {port}: the hop ended before its stream, after {text:?}");

        let (mut client, mut server) = joined(&world, &peer, port, &leaf);
        server.write_all(until_close.as_bytes()).unwrap();
        server.end();
        let (text, end) = read_to_end(&mut client);
        // So that the next one is a hop of its own.
        close_notify(&mut server);
        assert!(text.ends_with("\r\n\r\na part") && end == End::Clean, "port {port}: {end:?} {text:?}");
    }
    // Half of a body of known length, ended properly: that is no whole one, either.
    let (mut client, mut server) = joined(&world, &peer, 80, &leaf);
    server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").unwrap();
    server.end();
    assert_eq!(read_to_end(&mut client).1, End::Broken);
    close_notify(&mut server);
    // The client's half-close reaches the peer as the stream's end, and the other way goes on.
    let (mut client, mut server) = joined(&world, &peer, 82, &leaf);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.read(&mut [0]).unwrap(), 0, "the stream's end");
    server.write_all(b"after the end").unwrap();
    server.end();
    assert_eq!(read_to_end(&mut client), ("after the end".to_owned(), End::Clean));
}

/// Whoever answers at the pod's address, the client's proxy tries once, with TLS, and sends nothing else.
#[track_caller]
fn check_server_refused(
    (world, peer): (&World, &TcpListener),
    answer: impl FnOnce(TcpStream),
    (reason, error): (&str, &str),
) {
    let request = std::thread::scope(|scope| {
        let asking = scope.spawn(|| curl(world, "client", &["-i", "http://fake.shop/marker-refused"]));
        let stream = accepted(peer);
        let mut first = [0; 1];
        stream.peek(&mut first).unwrap();
        assert_eq!(first, [22], "the first byte is a TLS handshake's");
        answer(stream);
        asking.join().unwrap()
    });
    assert!(request.stdout.starts_with("HTTP/1.1 503"), "{error}: {request:?}");
    assert!(request.stdout.contains(&format!("gammarus-reason: {reason}")), "{error}: {request:?}");
    assert!(accept(peer, Duration::from_millis(200)).is_none(), "{error}: it was tried again");
    logged(world, "node-a", &["direction=outbound", &format!("reason={reason}"), error]);
}

#[test]
fn a_server_that_is_not_who_was_dialled_is_refused_and_never_tried_in_plain_text() {
    let (world, peer) = with_fake_peer();
    let wire = world.capture().unwrap();
    let own = signer(&world);
    let refused = |leaf: Leaf, error: &str| {
        let answer = move |stream: TcpStream| {
            // The client's alert may come during the handshake or after it.
            if let Ok(mut server) = serve(stream, &leaf) {
                let (text, end) = read_to_end(&mut server);
                assert_eq!((text.as_str(), end), ("", End::Broken));
            }
        };
        check_server_refused((&world, &peer), answer, ("peer_identity_refused", error));
    };
    refused(good_leaf(&world, "spiffe://cluster.local/ns/shop/sa/server"), "sa/server");
    refused(Request::of(&[FAKE]).expired().sign(&own), "expired");
    refused(Request::of(&[FAKE, CLIENT]).sign(&own), "2 URI names");
    refused(Request::of(&["spiffe://other.example/ns/shop/sa/fake"]).sign(&own), "trust");
    let fake = good_leaf(&world, FAKE);
    refused(fake.with_key_of(&good_leaf(&world, FAKE)), "did not prove");

    let plain = |mut stream: TcpStream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        let _whatever_it_says = read_to_end(&mut stream);
    };
    check_server_refused((&world, &peer), plain, ("handshake_failed", "handshake with"));
    check_server_refused((&world, &peer), abort, ("handshake_failed", "handshake with"));
    check_server_refused((&world, &peer), drop, ("handshake_failed", "handshake with"));
    let recording = wire.stop().unwrap();
    assert!(!recording.shows("marker-refused"), "the request was readable between the nodes");
    let client = world.running_pod("client").unwrap().addresses[0];
    assert!(recording.packets(client, FABRIC.ip()).unwrap() > 0, "the capture sees nothing");
}
