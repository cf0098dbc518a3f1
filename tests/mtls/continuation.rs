//! Connections that are held for longer than leaves live: newer hops continue the older one, as long as both pods prove
//! anew who they are, and for nobody else.

use std::io::Write as _;
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use node_proxy::demo::command::until;
use node_proxy::demo::world::World;
use node_proxy::hop::Proof;
use node_proxy::hop::frame::Kind;

use super::ends::{joined, with_fake_peer};
use super::expiry::{ending, held, left};
use super::load::Load;
use super::peer::{HOP, dial, good_leaf, serve};
use super::rig::{
    End, OWN_APP, PATIENCE, accept, accepted, address, expect_bytes, listen_in, logged, read_to_end, stage,
    staged,
};

/// Says a word on a connection, both ways.
#[track_caller]
pub(crate) fn talk(client: &mut TcpStream, server: &mut TcpStream) {
    client.write_all(b"still").unwrap();
    expect_bytes(server, "still");
    server.write_all(b"there").unwrap();
    expect_bytes(client, "there");
}

#[test]
fn a_held_connection_outlives_its_leaves_and_ends_with_the_last_ones_that_the_ca_has_signed() {
    const LIFE: f64 = 12.0;
    let mut world = staged(World::builder().ca_arguments(&[&format!("--leaf-lifetime-seconds={LIFE}")]));
    let load = Load::start(&world, "client", "server.shop");
    let (mut client, mut server, application) = held(&world);
    let made = Instant::now();
    // Whatever leaves it was made with have ended by then.
    while made.elapsed().as_secs_f64() < LIFE + 1.0 {
        talk(&mut client, &mut server);
        sleep(Duration::from_millis(200));
    }
    let log = world.proxy("node-a").unwrap().log();
    assert!(log.contains("a hop is continued"), "nothing was continued: {log}");
    // What is dialled early for a hop that carries nothing of an application is ended without a word.
    while let Some(mut unused) = accept(&application, Duration::ZERO) {
        assert_eq!(read_to_end(&mut unused), (String::new(), End::Clean));
    }
    let answered = load.finish("while hops were continued");
    assert!(answered > 100, "only {answered}");
    world.stop_ca().unwrap();
    let stopped = Instant::now();
    let end = left(&world, "node-a", "client").min(left(&world, "node-b", "server"));
    for end in [&client, &server] {
        end.set_read_timeout(Some(Duration::from_secs_f64(2.0 * LIFE))).unwrap();
    }
    assert_eq!(read_to_end(&mut client), (String::new(), End::Broken), "the client's end");
    let lived = stopped.elapsed().as_secs_f64();
    assert_eq!(read_to_end(&mut server).1, End::Broken, "the server's end");
    assert!(lived < end + 1.5, "it has lived for {lived} s, and its last leaves for {end} s");
    assert!(lived > end - 2.0, "it was ended after {lived} s, before its last leaves ({end} s)");
    let told = |node: &str| world.access_log(node).unwrap().contains("reason=certificate_expired");
    assert!(until(PATIENCE, || told("node-a") || told("node-b")), "no log gives the reason");
}

#[test]
fn the_servers_side_lets_a_hop_live_on_for_its_own_client_alone() {
    let world = stage();
    let application = listen_in(&world, "server");
    let server = address(&world, "server", OWN_APP);
    let leaf = ending(&world, "client", 5);
    let open = || {
        let mut hop = dial(&world, "outsider", server, (Some(&leaf), HOP));
        hop.write_all(b"hello").unwrap();
        let mut app = accepted(&application);
        expect_bytes(&mut app, "hello");
        (hop, app)
    };
    let (mut own, mut own_app) = open();
    let (stranger, mut stranger_app) = open();
    let newer = |account: &str, proof| {
        let leaf = good_leaf(&world, &format!("spiffe://cluster.local/ns/shop/sa/{account}"));
        dial(&world, "outsider", server, (Some(&leaf), HOP)).continue_older(proof)
    };
    assert!(!newer("another", stranger.proof()), "continued for another identity");
    assert!(!newer("client", [0; Proof::LENGTH]), "continued without proof");
    assert!(newer("client", own.proof()), "not continued");
    assert_eq!(read_to_end(&mut stranger_app), (String::new(), End::Broken), "it lives on");
    // Both had the same leaf, which has ended now.
    own.write_all(b"still").unwrap();
    expect_bytes(&mut own_app, "still");
    own_app.write_all(b"there").unwrap();
    expect_bytes(&mut own, "there");
    assert!(!newer("client", stranger.proof()), "what has ended has ended");
    logged(&world, "node-b", &["direction=inbound", "dst.workload=server", "reason=certificate_expired"]);
}

#[test]
fn the_clients_side_asks_the_same_server_alone_and_until_it_says_yes() {
    const LIFE: u64 = 8;
    let (mut world, listener) = with_fake_peer();
    let begun = Instant::now();
    let (mut client, mut older) = joined(&world, &listener, 82, &ending(&world, "fake", LIFE));
    // At half of its life another hop is made. First somebody else answers.
    let other = good_leaf(&world, "spiffe://cluster.local/ns/shop/sa/server");
    if let Ok(mut refused) = serve(accepted(&listener), &other) {
        assert_eq!(read_to_end(&mut refused), (String::new(), End::Broken), "taken for the server");
    }
    let mut newer =
        serve(accepted(&listener), &good_leaf(&world, "spiffe://cluster.local/ns/shop/sa/fake")).unwrap();
    newer.answer_continue(older.proof(), Kind::Refuse);
    newer.answer_continue(older.proof(), Kind::Accept);
    assert!(begun.elapsed().as_secs() < LIFE, "that was too late: {:?}", begun.elapsed());
    sleep(Duration::from_secs(LIFE + 1).saturating_sub(begun.elapsed()));
    client.write_all(b"still").unwrap();
    expect_bytes(&mut older, "still");
    older.write_all(b"there").unwrap();
    expect_bytes(&mut client, "there");
    let log = world.proxy("node-a").unwrap().log();
    for told in ["no newer hop", "does not know the hop any more", "a hop is continued"] {
        assert!(log.contains(told), "{told}: {log}");
    }
}
