//! The rig itself: with the mesh off nothing fails, and what does fail is seen.

use std::time::Duration;

use crate::counts::Kind;
use crate::load::Load;
use crate::stage::{Mesh, Stage};

#[test]
fn with_the_mesh_off_nothing_fails() {
    let stage = Stage::set(Mesh::Off);
    let load = Load::start(&stage);
    load.pass(Duration::from_secs(3));
    load.finish("without a mesh").check();
}

#[test]
fn what_fails_is_seen_with_the_mesh_off() {
    let mut stage = Stage::set(Mesh::Off);
    let load = Load::start(&stage);
    load.note("servers are killed");
    for pod in ["web-0", "web-1", "steady-1"] {
        stage.kill_server(pod);
    }
    load.fail();
    let counts = load.finish("without a mesh, servers killed");
    for kind in Kind::ALL {
        assert!(counts.failed(kind) > 0, "no failure of {kind}\n{counts:#}");
    }
}
