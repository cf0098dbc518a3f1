//! A CA whose clock is not ours: really shifted, by libfaketime, and only the wall clock.

use std::path::PathBuf;

use node_proxy::demo::command::until;
use node_proxy::demo::world::{World, WorldBuilder};

use super::load::Load;
use super::rig::{PATIENCE, metric, staged};

/// The library of the Debian package libfaketime.
fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let mut found = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    found.find(|path| path.is_file()).expect("libfaketime is needed: install the Debian package faketime")
}

/// A world whose CA is so many seconds ahead, or behind, and whose leaves live for so long by its own clock.
fn shifted(seconds: i32, life: u32) -> WorldBuilder {
    World::builder()
        .ca_environment("LD_PRELOAD", &library().display().to_string())
        .ca_environment("FAKETIME", &format!("{seconds:+}"))
        .ca_environment("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .ca_environment("FAKETIME_DISABLE_SHM", "1")
        .ca_arguments(&[&format!("--leaf-lifetime-seconds={life}")])
}

/// Seconds until the client's leaf ends, by our clock.
fn left(world: &World) -> f64 {
    let identity = "identity=\"spiffe://cluster.local/ns/shop/sa/client\"";
    metric(world, "node-a", "gammarus_cert_expiry_seconds", &[identity])
}

#[test]
fn a_ca_five_minutes_behind_gives_leaves_that_are_renewed_by_our_clock() {
    // Of 320 seconds 20 are left when they come.
    let world = staged(shifted(-300, 320));
    let load = Load::start(&world, "client", "server.shop");
    for renewal in 1..=2 {
        assert!(until(PATIENCE * 2, || left(&world) < 15.0), "renewal {renewal}: nothing ages");
        assert!(until(PATIENCE * 2, || left(&world) > 17.0), "renewal {renewal}: {} s left", left(&world));
    }
    assert!(left(&world) <= 20.0, "the CA's clock is not shifted: {} s left", left(&world));
    load.finish("with a CA five minutes behind");
}

#[test]
fn a_ca_five_minutes_ahead_gives_leaves_that_hold_at_once() {
    let world = staged(shifted(300, 20));
    let load = Load::start(&world, "client", "server.shop");
    let now = left(&world);
    assert!((300.0..=320.0).contains(&now), "the CA's clock is not shifted: {now} s left");
    assert!(until(PATIENCE, || left(&world) < now - 3.0), "nothing ages");
    load.finish("with a CA five minutes ahead");
}
