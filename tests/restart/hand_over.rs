//! One proxy after another, with nothing lost: who is asked to go, who stays, and when the old one ends.

use std::io::Read as _;

use nix::sys::signal::Signal;
use node_proxy::demo::command::until;
use node_proxy::demo::world::World;

use super::rig::{
    Held, PATIENCE, ask_again, builder, connect, curl, ends_well, netns, service, settle, stage, staged,
};

#[test]
fn the_old_proxy_sees_to_its_connections_and_ends_by_itself_when_they_have_ended() {
    let mut world = stage();
    for node in ["node-a", "node-b"] {
        let mut held = Held::open(&world);
        let mut kept = connect(&netns(&world, "client"), service(&world, 80)).unwrap();
        let before = ask_again(&mut kept, "/before");
        assert!(before.starts_with("http/1.1 200") && !before.contains("connection: close"), "{before}");

        let mut old = world.hand_over(node).unwrap();
        held.speak();
        let last = ask_again(&mut kept, "/last");
        assert!(last.starts_with("http/1.1 200"), "{last}");
        // Clients are asked to go by the proxy that serves them; the other node's moves to another hop, unseen.
        assert_eq!(last.contains("connection: close"), node == "node-a", "{last}");
        if node == "node-a" {
            assert_eq!(kept.read(&mut [0; 8]).unwrap(), 0, "and then it ends");
        }
        drop(kept);
        let mut new = connect(&netns(&world, "client"), service(&world, 80)).unwrap();
        for path in ["/new", "/new/again"] {
            let head = ask_again(&mut new, path);
            assert!(head.starts_with("http/1.1 200") && !head.contains("connection: close"), "{head}");
        }
        drop(new);

        // Whoever exchanges proxies asks the old one to stop; it goes on.
        old.signal(Signal::SIGTERM);
        let noted = || old.log().contains("told to stop: this ends when nobody is served");
        assert!(until(PATIENCE, noted), "{}", old.last_words());
        held.speak();
        assert!(old.is_running(), "{}", old.last_words());
        held.end();
        ends_well(&mut old);
        assert!(old.log().contains("drained"), "{}", old.last_words());
        settle(&world, "client");
    }
}

#[test]
fn a_proxy_that_is_told_to_stop_before_it_hears_of_its_successor_drains_all_the_same() {
    let mut world = stage();
    // Both words are there when it wakes: which one it takes first is as it falls.
    for round in 0..3 {
        let mut kept = connect(&netns(&world, "client"), service(&world, 80)).unwrap();
        ask_again(&mut kept, "/before");
        let mut held = Held::open(&world);
        let old = world.proxy("node-a").unwrap();
        old.signal(Signal::SIGSTOP);
        let new = world.successor("node-a", &[]).unwrap();
        let serves = || new.log().contains("enrolling pods");
        assert!(until(PATIENCE, serves), "{}", new.last_words());
        let mut old = std::mem::replace(world.proxy("node-a").unwrap(), new);
        old.signal(Signal::SIGTERM);
        old.signal(Signal::SIGCONT);
        let is_asked_to_go = || {
            let head = ask_again(&mut kept, "/on");
            assert!(head.starts_with("http/1.1 200"), "{round}: {head}");
            head.contains("connection: close")
        };
        assert!(until(PATIENCE, is_asked_to_go), "{round}: {}", old.last_words());
        held.speak();
        held.end();
        ends_well(&mut old);
        assert!(old.log().contains("drained"), "{}", old.last_words());
        settle(&world, "client");
    }
}

#[test]
fn the_new_proxy_answers_enrols_and_lets_go_at_once() {
    let mut world = stage();
    let mut held = Held::open(&world);
    let mut old = world.hand_over("node-a").unwrap();
    // Once it has proven anew what the old one had proven.
    let counted = || world.admin("node-a", "/metrics").unwrap().contains("\ngammarus_pods_enrolled 1\n");
    assert!(until(PATIENCE, counted), "{}", world.admin("node-a", "/metrics").unwrap());
    assert_eq!(world.admin("node-a", "/readyz").unwrap(), "ready\n");
    world.pod("client-2").namespace("shop").service_account("client-2").on("node-a").start().unwrap();
    settle(&world, "client-2");
    held.speak();

    // The pod leaves, while the old proxy still carries a connection of it: nothing may keep its namespace alive.
    let links = |world: &World| {
        world.exec_on_node("node-a", &["ip", "-o", "link"]).unwrap().stdout.matches(": pod").count()
    };
    let before = links(&world);
    world.remove_pod("client").unwrap();
    held.near.read(&mut [0; 8]).expect_err("it was cut");
    held.far.read(&mut [0; 8]).expect_err("a part is no whole");
    drop(held);
    assert!(until(PATIENCE, || links(&world) == before - 1), "something holds the namespace of the pod");
    ends_well(&mut old);
    settle(&world, "client-2");
}

#[test]
fn the_drain_ends_at_its_deadline() {
    let mut world = staged(builder().proxy_arguments(&["--drain-seconds=1"]));
    let mut held = Held::open(&world);
    let mut old = world.hand_over("node-a").unwrap();
    ends_well(&mut old);
    assert!(old.log().contains("what is left is cut connections=1"), "{}", old.last_words());
    held.near.read(&mut [0; 8]).expect_err("it was cut");
    settle(&world, "client");
}

#[test]
fn a_proxy_without_a_holder_works_as_ever() {
    let mut world = staged(World::builder());
    world.holder("node-a").unwrap_err();
    assert!(curl(&world, "client", "http://server.shop/plain-start").starts_with("server:"));
    // Two of them on one node: the second one is told so.
    let mut second = world.successor("node-a", &[]).unwrap();
    assert!(until(PATIENCE, || !second.is_running()));
    assert!(second.log().contains("cannot listen on 127.0.0.1:15000"), "{}", second.last_words());
    settle(&world, "client");
}
