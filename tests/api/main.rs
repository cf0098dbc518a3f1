//! What needs an API server and no node: the real one, with its store, in a folder of its own.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "all of this is tests")]

#[path = "../cluster/api_server.rs"]
mod api_server;
mod churn;
mod definitions;
mod door;
mod follower;
mod gateways;
mod handshake;
mod manifests;
mod marks;
mod node;
mod pages;
mod process;
mod relay;
mod server;
mod source;
mod status;
