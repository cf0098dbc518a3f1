//! The certificate authority of the Gammarus mesh, its client, and the identities it signs for.
//!
//! A node proxy makes a key, sends a CSR with its own token, and gets a leaf for one service account that
//! has a pod on that node, together with the trust bundle. The way of a request on the CA's side is
//! `server → authorize → issue`, under what `root` keeps on disk; `client` is the other end.
//!
//! # Invariants
//! 1. A workload's private key never reaches the CA, and the CA's own never leaves its state directory.
//! 2. Nothing in a leaf comes from the CSR but the public key.
//! 3. A caller that is not authorised for an identity never reaches the signer.
//! 4. A root that cannot be read is an error, never a reason to make another one.

pub mod api;
pub mod authorize;
pub mod client;
pub mod issue;
pub mod root;
pub mod server;
pub mod spiffe;

pub use client::{CaClient, ClientError, SignedIdentity, WorkloadKey};
pub use spiffe::{SpiffeId, TrustDomain};
