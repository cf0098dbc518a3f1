//! What the cluster says: objects, from a source, through one writer, to a snapshot.
//!
//! A source ([`source::ObjectSource`]: the API server, or a directory of YAML) hands over changes; the one
//! [`writer`] applies them to [`objects::Objects`], has a snapshot built and publishes it. Nothing on the
//! data path ever waits for anything in here.

pub mod api;
pub mod certificate;
pub(crate) mod core_kinds;
pub mod directory;
pub(crate) mod document;
mod kind;
pub mod kubernetes;
pub(crate) mod line;
pub(crate) mod name;
pub mod objects;
pub mod relation;
pub mod report;
pub mod schema;
pub mod selector;
pub mod source;
pub(crate) mod state;
pub mod trimmed;
pub(crate) mod typed;
pub mod writer;

#[cfg(test)]
mod tests;
