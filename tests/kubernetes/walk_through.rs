//! The README's walk-throughs, typed as they stand.

use std::path::Path;

use super::ReadsCertificates;
use super::rig::Cluster;

#[test]
fn the_walk_throughs_go_as_the_readme_says() {
    let _turn = ReadsCertificates::turn();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/walk-through");
    let said = Cluster::find().run_for(300, (script.to_str().unwrap(), &[]), "");
    assert!(
        said.success && said.stdout.contains("the walk-through is as the README says"),
        "{}",
        said.said()
    );
}
