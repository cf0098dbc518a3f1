//! Clients that stall: they hold their seats and a bounded part of memory, and nobody else waits for them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use node_proxy::demo::command::until;
use node_proxy::demo::world::World;

use crate::stage::{
    Inside, PATIENCE, POUR, ask, check_innocent, failures, get, read_until, resident_kib, service, stage,
};

/// Of each kind.
const EACH: usize = 200;
/// How many bytes they send, one a second.
const SENT: usize = 5;
/// What a client that does not read has asked for, in bytes: more than any buffer takes.
const MUCH: usize = 8 * 1024 * 1024;

#[test]
fn clients_that_stall_are_not_cut_and_cost_little() {
    let mut world = stage(World::builder(), 0);
    let (server, inside) = (service(&world, "server", 80), Inside::new(&world, "client"));
    let open = |first: &str| {
        let opened = (0..EACH).map(|_| {
            let mut stream = inside.connect(server).unwrap();
            stream.write_all(first.as_bytes()).unwrap();
            stream
        });
        opened.collect::<Vec<TcpStream>>()
    };
    let before = ["node-a", "node-b"].map(|node| resident_kib(&mut world, node));
    let said_before = broken_off(&world);
    let mut heads = open("GET / HTTP/1.1\r\nHost: server\r\nX-Part: ");
    let mut bodies = open("POST /count HTTP/1.1\r\nHost: server\r\nContent-Length: 1000\r\n\r\n");
    let mut readers = open(&format!("GET /bytes/{MUCH} HTTP/1.1\r\nHost: server\r\n\r\n"));
    // A byte a second, from every one that sends; the others say and hear nothing.
    for _ in 0..SENT {
        std::thread::sleep(Duration::from_secs(1));
        heads.iter_mut().chain(&mut bodies).for_each(|stream| stream.write_all(b"x").unwrap());
    }
    let after = ["node-a", "node-b"].map(|node| resident_kib(&mut world, node));
    println!(
        "{EACH} of each that stall: the client's proxy {} KiB to {} KiB, the server's {} KiB to {} KiB",
        before[0], after[0], before[1], after[1]
    );
    // Readers fill what their pod may have of windows and buffers, 64 MiB; the others need a buffer each.
    let most = 64 * 1024 + 3 * 16 * u64::try_from(EACH).unwrap();
    assert!(after[0] - before[0] < most && after[1] - before[1] < most, "more than {most} KiB");
    println!(
        "beside them, the longest of 100 requests of an innocent pod: {:?}",
        check_innocent(&world, 100)
    );
    assert_eq!(get(&world, "client", "server"), "200", "the pod itself is served, too");
    // Each comes to its end, however late.
    for stream in &mut heads {
        stream.write_all(b"\r\n\r\n").unwrap();
        assert!(read_until(stream, "\r\n\r\nok").unwrap().starts_with("HTTP/1.1 200 "));
    }
    for stream in &mut bodies {
        stream.write_all(&[b'y'; 1000 - SENT]).unwrap();
        assert!(read_until(stream, "\r\n\r\n1000").unwrap().starts_with("HTTP/1.1 200 "));
    }
    for stream in &mut readers {
        assert!(read_until(stream, "\r\n\r\n").unwrap().starts_with("HTTP/1.1 200 "));
    }
    let mut rest = vec![0; MUCH - 1024];
    for stream in readers.iter_mut().step_by(10) {
        let read = stream.read_exact(&mut rest);
        assert!(read.is_ok(), "{read:?}\n{}", broken_off(&world));
    }
    assert_eq!(broken_off(&world), said_before, "cut although their pod may hold as much");
    drop((heads, bodies, readers));
    let is_given_back = || resident_kib(&mut world, "node-a") < before[0] + (after[0] - before[0]) / 3;
    assert!(until(PATIENCE, is_given_back), "memory is kept");
    println!("afterwards: {} KiB", resident_kib(&mut world, "node-a"));
}

/// What the nodes have said of streams and connections that they have ended themselves.
fn broken_off(world: &World) -> String {
    let logs = ["node-a", "node-b"].map(|node| world.access_log(node).unwrap());
    let lines = logs.iter().flat_map(|log| log.lines());
    lines.filter(|line| line.contains("reason=")).collect::<Vec<_>>().join("\n")
}

#[test]
fn one_pod_s_buffers_have_one_bound() {
    const BOUND: usize = 4 * 1024 * 1024;
    let argument = format!("--max-buffered-bytes-per-pod={BOUND}");
    let mut world = stage(World::builder().proxy_arguments(&[&argument]), 0);
    let (pour, server) = (service(&world, "server", POUR), service(&world, "server", 80));
    let inside = Inside::new(&world, "client");
    let before = resident_kib(&mut world, "node-a");
    // Everyone is poured on and nobody reads, as long as the pod is given new ones.
    let mut crowd = Vec::new();
    let mut refused = 0;
    for _ in 0..600 {
        match inside.connect(pour).and_then(|mut stream| stream.read(&mut [0; 1]).map(|_| stream)) {
            Ok(stream) => crowd.push(stream),
            Err(_) => refused += 1,
        }
    }
    let is_told = || failures(&world, "node-a", "outbound", "buffer_limit") > 0.0;
    assert!(until(PATIENCE, is_told), "the bound was never reached: {} held", crowd.len());
    let after = resident_kib(&mut world, "node-a");
    let told = failures(&world, "node-a", "outbound", "buffer_limit");
    println!(
        "600 connections that are poured on and do not read, with {} KiB for the pod: {} taken, {refused} refused, \
         {told} ended with buffer_limit, {before} KiB to {after} KiB",
        BOUND / 1024,
        crowd.len()
    );
    // The bound, and what each stream may have in any case; without it, windows alone would be 40 MiB.
    assert!(after - before < 24 * 1024, "{before} to {after} KiB");
    println!(
        "beside them, the longest of 100 requests of an innocent pod: {:?}",
        check_innocent(&world, 100)
    );
    drop(crowd);
    let serves = || inside.connect(server).and_then(|mut stream| ask(&mut stream)).is_ok();
    assert!(until(PATIENCE, serves), "the pod is not served again");
    assert_eq!(get(&world, "client", "server"), "200");
}
