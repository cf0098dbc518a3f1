//! The certificate authority of the Gammarus mesh, its client, and the identities it signs for.

pub mod spiffe;

pub use spiffe::{SpiffeId, TrustDomain};
