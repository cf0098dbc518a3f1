//! The demo: the whole mesh on one machine with no Kubernetes, as a story in a terminal.
//!
//! [`world`] makes two nodes of network namespaces and starts the real processes on them; the scenes that
//! are played there, and every claim that is checked, are in `story`. The tests of the mesh build their worlds with
//! the same module. Nothing in here is part of the data path, and no other stage may import it.

pub mod address;
pub mod app;
pub mod capture;
pub mod command;
pub mod fault;
pub mod gateway;
pub mod node;
pub mod objects;
pub mod pod;
mod scenes;
mod screen;
mod story;
mod succession;
mod teardown;
pub mod world;

pub use story::{Afterwards, Programme, run};
