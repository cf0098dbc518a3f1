//! What the cluster says.
pub mod api;
pub mod objects;
pub mod schema;
