//! A Gateway in real namespaces: real clients outside, its pod, and backends in the mesh and outside of it.
//!
//! Needs root, the Debian packages that `tests/run` installs, and `GRPC_TOOLS`, the folder of the gRPC client and server that
//! it builds.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a test")]

mod backends;
mod calls;
mod certificate;
mod certificate_folder;
mod changes;
mod clients;
mod connections;
mod datagrams;
mod drain;
mod enrolled;
mod from_mesh;
#[path = "../grpc/programs.rs"]
mod grpc_programs;
mod hostnames;
mod metrics;
mod precedence;
mod proxied;
mod requests;
mod rig;
mod secure;
mod served;
mod sessions;
mod terms;
mod trusted;
mod versions;
mod websockets;
mod zones;
