//! Redirection in real network namespaces: what was found to break a pod's connections stays fixed.
//!
//! Needs root, and the programs `ip` and `nft` to build namespaces and to look at them.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a test")]

mod capture;
mod cluster;
mod container;
mod enrolment;
mod late;
mod learning;
mod live;
mod mesh;
mod node;
mod older;
mod pending;
mod records;
mod repair;
mod reuse;
mod rig;
mod time_wait;
mod uninstall;
