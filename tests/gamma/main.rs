//! GAMMA in the living world: routes of Services, followed by real proxies on two nodes, asked with real `curl`.
//!
//! Every test has a world of its own ([`stage`]). What a route means is held by the tables of the pure modules; here
//! it is held that the traffic, the status and the log all say the same, and that they follow every change.

#![expect(clippy::unwrap_used, clippy::panic, reason = "all of this is tests")]

mod backends;
mod connections;
mod edits;
mod filters;
mod kinds;
mod matches;
mod parents;
mod refusals;
mod roles;
mod sessions;
mod stage;
