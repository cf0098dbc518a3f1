//! How a pod joins the mesh, as the plugin and the node's proxy say it to each other.
//!
//! The plugin (`main.rs`) is the client of [`protocol`], the node's proxy is its server; [`fd`] carries the
//! pod's network namespace beside the words, and [`state`] is what the proxy leaves on the node's disk for the
//! hours in which it cannot answer. This library must never start a thread, talk to an API server, or know a
//! runtime: it is also linked into a plugin that has to work when everything else on the node is broken.
//!
//! # Invariants
//! 1. Nothing that comes over the socket, from a file or from the environment reaches a path unchecked:
//!    [`attachment`]'s names are only made by parsing.
//! 2. Every call ends within the time it was given.
//! 3. A release of either side understands the release before it.

pub mod attachment;
pub mod fd;
pub mod protocol;
pub mod state;

pub use attachment::{Attachment, AttachmentId, ContainerId, IfName, NameError, PodName};
pub use protocol::{Command, Outcome, ProtocolError, Reply, Request, call, read_request, write_reply};

/// Where the node's proxy listens unless the configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/gammarus/enrol.sock";

/// Where the node's proxy keeps what must outlive it, unless the configuration says otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/gammarus";
