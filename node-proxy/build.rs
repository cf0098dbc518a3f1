//! How the programs of this package are linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // More than 1 MB of relocations, all of which the start of every proxy reads, become a hundredth of that.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
}
