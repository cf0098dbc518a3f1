//! Descriptors at their limit: refusals with a reason, never an accept that fails.

use std::process::Command;

use node_proxy::demo::command::until;
use node_proxy::demo::world::World;

use crate::stage::{Inside, PATIENCE, ask, descriptors, failures, get, resident_kib, service, stage};

/// The limit of the proxy's descriptors, and how many connections are tried.
const LIMIT: usize = 1024;
const CONNECTIONS: usize = 2_000;

#[test]
fn at_its_limit_of_descriptors_a_proxy_refuses_and_goes_on_with_what_it_has() {
    let mut world = stage(World::builder(), 0);
    let (server, inside) = (service(&world, "server", 80), Inside::new(&world, "client"));
    let process = world.proxy("node-a").unwrap().id().to_string();
    let limit = format!("--nofile={LIMIT}:{LIMIT}");
    let said = Command::new("prlimit").args(["--pid", &process, &limit]).status();
    assert!(said.expect("prlimit is needed: install the Debian package util-linux").success());
    let (idle, before) = (descriptors(&mut world, "node-a"), resident_kib(&mut world, "node-a"));
    let mut held = Vec::new();
    let mut refused = 0_u16;
    for _ in 0..CONNECTIONS {
        match inside.connect(server).and_then(|mut stream| ask(&mut stream).map(|answer| (stream, answer))) {
            Ok((stream, answer)) if answer.starts_with("HTTP/1.1 200 ") => held.push(stream),
            Ok((_, answer)) => panic!("neither served nor reset: {answer:?}"),
            Err(_) => refused += 1,
        }
    }
    let (used, after) = (descriptors(&mut world, "node-a"), resident_kib(&mut world, "node-a"));
    println!(
        "{CONNECTIONS} connections with {LIMIT} descriptors: {} served, {refused} refused, {used} descriptors used, \
         {before} KiB to {after} KiB",
        held.len()
    );
    assert!(
        held.len() > LIMIT / 2 && usize::from(refused) >= CONNECTIONS - LIMIT,
        "{} held, {refused} refused",
        held.len()
    );
    assert!(used < LIMIT, "some are left for everything else");
    assert!(failures(&world, "node-a", "outbound", "proxy_limit") >= f64::from(refused));
    for stream in held.iter_mut().step_by(37) {
        assert!(ask(stream).unwrap().starts_with("HTTP/1.1 200 "), "what it has goes on");
    }
    let log = world.proxy("node-a").unwrap().log();
    assert!(!log.contains("cannot accept"), "{log}");
    drop(held);
    assert!(until(PATIENCE, || descriptors(&mut world, "node-a") < idle + 50), "descriptors are kept");
    assert_eq!(get(&world, "client", "server"), "200");
    assert_eq!(get(&world, "innocent", "other"), "200");
}
