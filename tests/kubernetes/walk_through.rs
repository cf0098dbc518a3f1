//! The README's walk-through, typed as it stands.

use std::path::Path;

use super::rig::Cluster;

#[test]
fn the_walk_through_goes_as_the_readme_says() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/walk-through");
    let said = Cluster::find().run(script.to_str().unwrap(), &[], "");
    assert!(
        said.success && said.stdout.contains("the walk-through is as the README says"),
        "{}",
        said.said()
    );
}
