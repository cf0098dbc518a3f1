//! Proxies that come and go: hand-overs, crashes, and what the holder keeps between them.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "all of this is tests")]

mod crash;
mod hand_over;
mod holder;
mod rig;
mod successors;
