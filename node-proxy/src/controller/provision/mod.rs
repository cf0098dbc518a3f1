//! What a Gateway of ours needs beside its status: its own proxies, and how they are reached.
//!
//! For every Gateway that is accepted there are a ServiceAccount, a ConfigMap, a Deployment and a Service, and what its parameters
//! ask for. What they are is
//! made from what was judged ([`demand`], [`objects`], [`name`]; pure); what there is of them is watched ([`watch`]); what differs is
//! applied by who leads ([`mod@apply`]); and what could not be done is said by the Gateway ([`shortfall`]).

pub mod apply;
pub mod demand;
pub mod image;
pub mod name;
pub mod objects;
pub mod shortfall;
pub mod watch;

pub use demand::Demand;
pub use name::{key_of, label_of, name_of};
pub use objects::Settings;

#[cfg(test)]
mod tests;
