//! HTTP/2 and gRPC through the mesh, judged by other people's programs: h2spec, and the client of gRPC's own
//! interoperability tests.
//!
//! Needs root, the Debian packages that `tests/run` installs, and the programs that it builds: `H2SPEC`, `GRPC_INTEROP`
//! (the folder of gRPC's client and server) and `GRPC_TOOLS` (the folder of `tests/grpc`).

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a test")]

#[path = "../ingress/certificate.rs"]
mod certificate;
#[path = "../ingress/certificate_folder.rs"]
mod certificate_folder;
mod credentials;
mod gateway;
mod grpc;
#[path = "../grpc/programs.rs"]
mod grpc_programs;
mod h2spec;
mod report;
mod rig;
