//! What one pod may have of the proxies, and that its neighbours keep theirs: idle crowds, clients that stall, floods,
//! and descriptors at their limit, in real namespaces. Each test prints its figures.
//!
//! Needs root and the Debian packages that `tests/run` installs.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "all of this is tests")]

mod crowd;
mod descriptors;
mod flood;
mod handshakes;
mod stage;
mod stall;
