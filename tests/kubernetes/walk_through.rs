//! The README's walk-through, typed as it stands.

use std::path::Path;

use super::stage::run;

#[test]
fn the_walk_through_goes_as_the_readme_says() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/walk-through");
    let said = run(script.to_str().unwrap(), &[], "");
    assert!(
        said.ok && said.out.contains("the walk-through is as the README says"),
        "{}{}",
        said.out,
        said.err
    );
}
