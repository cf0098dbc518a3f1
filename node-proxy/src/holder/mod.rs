//! What a node keeps while its proxy is exchanged: the pods' listening sockets, and the keys of their identities.
//!
//! The holder is a small process beside the proxy (design D8). It accepts nothing, dials nothing and reads nothing
//! that a pod or a peer has written: it keeps descriptors and sealed bytes that a proxy has given to it, and gives
//! them to the next proxy. While no proxy is there, connections wait in the listeners' backlogs; they are neither
//! refused nor let past.
//!
//! [`protocol`] is what both say to each other, [`holdings`] what is kept and who is told what, [`serve`] the process;
//! [`takeover`], [`keeper`] and [`succession`] are the proxy's side: its beginning, its life, its end.
//!
//! # A hand-over
//! ```text
//!   old proxy              holder                 new proxy
//!      │ serves               │ ◄──── Hello(Starting) │
//!      │                      │ Socket, Pod, Leaf ──► │ has every listener, every leaf
//!      │                      │ Complete ───────────► │ accepts
//!      │ ◄──────── Superseded │ ◄────────── Accepting │
//!      │ accepts no more, drains, ends                │ serves
//! ```
//! Both have the same listening sockets: there is no instant at which nobody accepts. What one proxy says from then on
//! of pods is passed on to the others: the one that drains follows the pods, too.

pub mod holdings;
pub mod keeper;
mod link;
pub mod protocol;
mod sealed;
pub mod serve;
pub mod succession;
pub mod takeover;

pub use keeper::{Heard, HeldPod, Keeper, Orders};
pub use takeover::{TakeOverError, Taken, take_over};
