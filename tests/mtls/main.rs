//! The hop between nodes in real namespaces: who is let in, who is refused, and how connections end.

#![allow(missing_docs, clippy::unwrap_used, clippy::unwrap_in_result, clippy::panic, reason = "a test")]

mod ca;
mod ends;
mod families;
mod foreign;
mod limits;
mod outage;
mod peer;
mod permissive;
mod refused;
mod rig;
mod same_node;
mod strict;
