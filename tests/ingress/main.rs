//! A Gateway in real namespaces: real clients outside, its pod, and backends in the mesh and outside of it.
//!
//! Needs root and the Debian packages that `tests/run` installs.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a test")]

mod backends;
mod certificate;
mod changes;
mod clients;
mod connections;
mod datagrams;
mod from_mesh;
mod precedence;
mod proxied;
mod requests;
mod rig;
mod secure;
mod trusted;
mod versions;
mod zones;
