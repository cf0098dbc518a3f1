//! The hop: one mTLS connection between two pods that carries any number of TCP connections, its streams.
//!
//! The client's side opens a hop when it first needs one, and streams on it from then on: a stream costs neither a
//! handshake nor a socket between the nodes, and what many streams have to say at one moment shares records and
//! system calls. What is inside a stream is nobody's business here: HTTP and opaque bytes travel alike, and the
//! destination's side only decrypts and passes on.
//!
//! Frames ([`frame`]) become streams in [`switch`], which does no I/O; [`connection`] moves them through TLS and the
//! socket; [`handle`] and [`stream`] are what the rest of the data path holds, reads and writes.
//!
//! No hop outlives its two leaves by itself ([`deadline`]). One that still carries streams then is continued by a newer
//! hop between the same two pods: the newer one's handshake proves that both are still who they are, and what it
//! shows ([`proof`]) which of the hops that have arrived ([`register`]) may live for as long as itself.
//!
//! What this stage must never do: take the end of a hop for the end of a stream. A stream ends by its own frame, and
//! whatever is cut off before is broken.

pub mod connection;
pub mod deadline;
pub mod frame;
pub mod handle;
pub mod lane;
pub mod proof;
pub mod register;
mod sink;
pub mod stream;
pub mod switch;

#[cfg(test)]
mod continuation_tests;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use connection::Driver;
pub use deadline::Deadline;
pub use handle::{EXPIRED, Hop};
pub use lane::{Purpose, SHED};
pub use proof::Proof;
pub use register::{Owner, Register};
pub use stream::{Arrival, HopStream, OpenError};

/// For how long the other proxy may acknowledge nothing. It always reads, however slow the applications are, so one that
/// does not is gone.
pub const SILENCE: Duration = Duration::from_secs(20);
