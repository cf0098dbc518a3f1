//! How the proxy of a Gateway, which has no rights at the API server, learns what it serves by (design D10).
//!
//! It comes to the controller with mTLS. Who it is says which Gateway it is of, and it is told of that one's objects alone
//! ([`crate::attach::gateway::Gateways::extent`]): all of them at first, and then what changes. What it was last told stays
//! good while no controller is there, and is kept for the next start of the process.
//!
//! `word` is what is said, [`serve`] the controller's side, [`follow`] the Gateway's.

pub mod follow;
pub mod serve;
mod word;

/// The ALPN of the feed (RFC 7301). Another version of what is said is another name.
pub const FEED_ALPN: &[u8] = b"gammarus-feed/1";
