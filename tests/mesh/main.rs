//! The mesh driven by real tools: curl, h2load, a gRPC client, an SMTP server, openssl, and sockets with nothing
//! between them and the bytes.
//!
//! Needs root, the Debian packages that `tests/run` installs, and `GRPC_TOOLS`, the folder of the gRPC client and
//! server that it builds.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a test")]

mod balance;
mod endless;
mod failures;
mod grpc;
#[path = "../grpc/programs.rs"]
mod grpc_programs;
mod http1;
mod http2;
mod idle;
mod interim;
mod opaque;
mod passthrough;
mod refusals;
mod retries;
mod rig;
mod sharing;
mod smtp;
mod terms;
mod upgrades;
