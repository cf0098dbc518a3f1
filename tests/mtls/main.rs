//! The hop between nodes in real namespaces: who is let in, who is refused, and how connections end.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_in_result,
    reason = "all of this is tests"
)]

mod ca;
mod clock;
mod continuation;
mod ends;
mod expiry;
mod families;
mod foreign;
mod limits;
mod load;
mod outage;
mod peer;
mod permissive;
mod refused;
mod rig;
mod rotation;
mod same_node;
mod strict;
