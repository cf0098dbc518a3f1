//! A cluster of two real nodes, as `tests/cluster/up` makes it: that it is what other tests take it for.
//!
//! Its own network is the control of every test of the mesh on it: what fails here says nothing about the mesh.
//! What it shares with those tests is in [`rig`].

#![expect(clippy::unwrap_used, reason = "all of this is tests")]

mod network;
mod pods;
#[path = "../cluster/rig.rs"]
mod rig;
