//! The holder itself: what it is like as a process, who may speak to it, and what becomes of it when it is killed.

use std::os::unix::fs::PermissionsExt as _;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use node_proxy::demo::command::until;
use node_proxy::demo::world::World;

use super::rig::{Held, PATIENCE, ask_once, ends_well, netns, say, service, settle, stage};

#[test]
fn it_is_small_sealed_and_for_root_alone() {
    let mut world = stage();
    let id = world.holder("node-b").unwrap().id();
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{id}/{file}")).unwrap();
    let status = read("status");
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).expect("a field of status");
        line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).expect("a number")
    };
    let own_memory = field("RssAnon:");
    say(&format!("the holder: {} KiB, {own_memory} KiB of them its own", field("VmRSS:")));
    // A part of it are the program's relocations, which grow with all that the other modes can do.
    assert!(own_memory < 5120, "{status}");
    // Keys are in memory that is locked and left out of dumps.
    let sealed = read("smaps")
        .lines()
        .filter(|line| line.starts_with("VmFlags:"))
        .any(|flags| ["lo", "dd"].iter().all(|flag| flags.split_whitespace().any(|word| word == *flag)));
    assert!(sealed, "nothing is sealed");

    let socket = world.running_node("node-b").unwrap().holder_socket();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let directory = socket.parent().unwrap();
    assert_eq!((mode(directory), mode(&socket)), (0o700, 0o600));
    // Somebody who is let in by mistake is not spoken to.
    let opened = || std::fs::Permissions::from_mode(0o777);
    for path in [world.dir(), &world.running_node("node-b").unwrap().dir, directory, &socket] {
        std::fs::set_permissions(path, opened()).unwrap();
    }
    let ask = |user: u32| {
        let program = format!(
            "import os, socket\nos.setgid({user})\nos.setuid({user})\n\
             s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\ns.settimeout(5)\ns.connect('{}')\n\
             h = b'{{\"note\":\"hello\",\"version\":1,\"role\":\"starting\"}}'\n\
             try: s.send(len(h).to_bytes(4, 'big') + h)\nexcept OSError: pass\n\
             try: print(len(s.recv(65536)))\nexcept ConnectionResetError: print(0)",
            socket.display()
        );
        world.exec_on_node("node-b", &["/usr/bin/python3", "-c", &program]).unwrap().checked().unwrap().stdout
    };
    assert_eq!(ask(65534).trim(), "0");
    assert_ne!(ask(0).trim(), "0", "the control: root is told something");
    let log = world.holder("node-b").unwrap().log();
    assert!(log.contains("only root may come here uid=65534"), "{log}");
    settle(&world, "client");
}

#[test]
fn a_holder_that_is_started_again_is_told_everything_again() {
    let mut world = stage();
    let mut held = Held::open(&world);
    for node in ["node-a", "node-b"] {
        world.holder(node).unwrap().stop(Signal::SIGKILL, PATIENCE).unwrap();
        held.speak();
        settle(&world, "client");
        world.restart_holder(node).unwrap();
        let told = |world: &mut World| {
            world.proxy(node).unwrap().log().contains("the holder is there again and knows everything")
        };
        assert!(until(PATIENCE, || told(&mut world)), "{}", world.proxy(node).unwrap().last_words());
        held.speak();
    }
    held.end();
    world.stop_ca().unwrap();
    for node in ["node-a", "node-b"] {
        world.proxy(node).unwrap().stop(Signal::SIGKILL, PATIENCE).unwrap();
        // In the gap, so that it can only be the holder's socket that it waits at.
        let (client, destination) = (netns(&world, "client"), service(&world, 80));
        let waiting = thread::spawn(move || ask_once(&client, destination, "/after-both"));
        world.restart_proxy(node).unwrap();
        let answer = waiting.join().unwrap().unwrap();
        assert!(answer.starts_with("server: GET /after-both"), "{node}: {answer}");
    }
    let mut old = world.hand_over("node-b").unwrap();
    ends_well(&mut old);
    settle(&world, "client");
}

#[test]
fn a_proxy_waits_for_its_holder() {
    let mut world = stage();
    let node = "node-a";
    world.proxy(node).unwrap().stop(Signal::SIGKILL, PATIENCE).unwrap();
    world.holder(node).unwrap().stop(Signal::SIGKILL, PATIENCE).unwrap();
    let mut proxy = world.successor(node, &[]).unwrap();
    let waits = || proxy.log().contains("waiting for the holder");
    assert!(until(PATIENCE, waits), "{}", proxy.last_words());
    let ready = world.exec_on_node(node, &["curl", "-s", "--max-time", "5", "http://127.0.0.1:15000/readyz"]);
    assert!(ready.unwrap().stdout.starts_with("not ready"), "{}", proxy.last_words());
    assert!(proxy.is_running());
    proxy.stop(Signal::SIGTERM, Duration::from_secs(5)).unwrap();
    assert!(proxy.log().contains("told to stop"), "{}", proxy.last_words());
    world.restart_holder(node).unwrap();
    world.restart_proxy(node).unwrap();
}

#[test]
fn a_holder_beside_another_waits_for_its_end_and_then_knows_everything() {
    let mut world = stage();
    let mut held = Held::open(&world);
    let next = world.next_holder("node-a").unwrap();
    let waits = || next.log().contains("another holder is there: waiting for its end");
    assert!(until(PATIENCE, waits), "{}", next.last_words());
    // As at an upgrade: the new pod's proxy takes over by the old pod's holder, which then ends with its pod.
    let mut old = world.hand_over("node-a").unwrap();
    held.speak();
    world.holder("node-a").unwrap().stop(Signal::SIGTERM, PATIENCE).unwrap();
    let told = |world: &mut World| {
        world.proxy("node-a").unwrap().log().contains("the holder is there again and knows everything")
    };
    assert!(until(PATIENCE, || told(&mut world)), "{}", world.proxy("node-a").unwrap().last_words());
    held.speak();
    let mut newer = world.hand_over("node-a").unwrap();
    held.speak();
    held.end();
    ends_well(&mut old);
    ends_well(&mut newer);
    settle(&world, "client");
}

#[test]
fn a_holder_that_waits_can_be_told_to_end() {
    let world = stage();
    let mut next = world.next_holder("node-a").unwrap();
    let waits = || next.log().contains("another holder is there: waiting for its end");
    assert!(until(PATIENCE, waits), "{}", next.last_words());
    let status = next.stop(Signal::SIGTERM, PATIENCE).unwrap();
    assert!(status.success() && next.log().contains("told to stop"), "{}", next.last_words());
    settle(&world, "client");
}
