//! A new issuer and a new root under load, squeezed into a minute in which leaves live for ten seconds.

use std::fs;
use std::time::Duration;

use node_proxy::demo::command::until;
use node_proxy::demo::world::World;

use crate::load::Load;
use crate::stage::{Mesh, Stage};

/// The whole takes a root's life.
const ROOT_LIFE: Duration = Duration::from_secs(60);

/// How many roots the CA gives out.
#[track_caller]
fn roots(stage: &Stage) -> usize {
    fs::read_to_string(stage.world.dir().join("ca/ca.crt")).unwrap().matches("BEGIN CERTIFICATE").count()
}

#[test]
fn a_rotation_of_issuer_and_root_fails_nothing() {
    let mut builder = World::builder().ca_arguments(&["--leaf-lifetime-seconds", "10"]);
    builder = builder.ca_arguments(&["--issuer-lifetime-seconds", "30", "--root-lifetime-seconds", "60"]);
    let stage = Stage::set_in(builder, Mesh::On);
    let load = Load::start(&stage);
    let told = |step: &str| fs::read_to_string(stage.world.dir().join("ca.log")).unwrap().contains(step);
    for step in ["a new issuer signs under the same root", "the new root signs"] {
        assert!(until(ROOT_LIFE, || told(step)), "{step:?} does not come to be");
        load.note(step);
    }
    assert!(until(ROOT_LIFE, || roots(&stage) == 1), "the old root stays");
    load.note("the old root has left");
    // A renewal later nobody has anything of it any more.
    load.pass(Duration::from_secs(5));
    let counts = load.finish("a new issuer and a new root");
    counts.check();
    assert_eq!(counts.grpc_connections, 1, "connections of the gRPC client");
}
