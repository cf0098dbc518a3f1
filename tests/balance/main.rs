//! Which endpoint a request goes to, and when it no longer does: through real namespaces, with servers that fail.
//!
//! Needs root and the Debian packages that `tests/run` installs.

#![expect(clippy::unwrap_used, reason = "all of this is tests")]

mod affinity;
mod draining;
mod ejection;
mod silence;
mod stage;
