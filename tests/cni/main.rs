//! The real plugin as container runtimes call it: by the CNI project's own library, with its `cnitool`, behind its
//! reference plugins `ptp` and `host-local`, on a node whose proxy is alive, or was.

#![expect(clippy::unwrap_used, clippy::panic, reason = "all of this is tests")]

mod agent_away;
mod cnitool;
#[path = "../cluster/ended.rs"]
mod ended;
mod life;
mod older;
mod rig;
