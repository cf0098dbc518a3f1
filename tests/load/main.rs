//! Load that must not notice what happens under it: requests, calls and connections from both nodes, by clients that
//! never try twice, while routes, endpoints, certificates and pods change.
//!
//! Every test prints its counts, and each failure with its time and what was done before it. One load at a time: two
//! cores have enough to do with that.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "all of this is tests")]

mod calls;
#[path = "../ingress/certificate.rs"]
mod certificate;
mod connections;
mod control;
mod counts;
mod edits;
mod endpoints;
mod front;
mod gateway;
#[path = "../grpc/programs.rs"]
mod grpc_programs;
mod hand_over;
mod killed;
mod labels;
mod leaves;
mod load;
mod requests;
mod rotation;
mod routes;
mod services;
mod source;
mod stage;
