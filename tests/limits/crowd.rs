//! Ten thousand idle connections: a few KiB each, and nobody notices.

use node_proxy::demo::command::until;
use node_proxy::demo::world::World;

use crate::stage::{
    Inside, PATIENCE, ask, check_innocent, descriptors, get, resident_kib, service, stage, timed,
};

const CROWD: usize = 10_000;

#[test]
fn ten_thousand_idle_connections_cost_a_few_kib_each() {
    let mut world = stage(World::builder(), 0);
    let (server, inside) = (service(&world, "server", 80), Inside::new(&world, "client"));
    let idle = descriptors(&mut world, "node-a");
    let before = resident_kib(&mut world, "node-a");
    let (mut crowd, took) = timed(|| {
        let mut crowd = Vec::with_capacity(CROWD);
        for number in 0..CROWD {
            let mut stream = inside.connect(server).unwrap();
            let answer = ask(&mut stream).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 "), "connection {number}: {answer}");
            crowd.push(stream);
        }
        crowd
    });
    let after = resident_kib(&mut world, "node-a");
    let each = (after - before) as f64 / CROWD as f64;
    println!("{CROWD} idle connections, made in {took:?}: {before} KiB to {after} KiB, {each:.1} KiB each");
    assert!(each < 16.0, "{each} KiB for each connection");
    assert!(descriptors(&mut world, "node-a") >= CROWD);
    let longest = check_innocent(&world, 100);
    println!("beside them, the longest of 100 requests of an innocent pod: {longest:?}");
    // They are served as ever, whichever.
    for stream in crowd.iter_mut().step_by(997) {
        assert!(ask(stream).unwrap().starts_with("HTTP/1.1 200 "));
    }
    drop(crowd);
    assert!(until(PATIENCE, || descriptors(&mut world, "node-a") < idle + 50), "descriptors are kept");
    // What was freed goes back to the kernel after some seconds.
    let is_given_back = || resident_kib(&mut world, "node-a") < before + (after - before) / 3;
    let given_back = until(PATIENCE, is_given_back);
    let normal = resident_kib(&mut world, "node-a");
    println!("after they have left: {normal} KiB");
    assert!(given_back, "{normal} KiB are kept");
    assert_eq!(get(&world, "client", "server"), "200");
}
