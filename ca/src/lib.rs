//! The certificate authority of the Gammarus mesh, its client, and the identities it signs for.
//!
//! A node proxy makes a key, sends a CSR with its own token, and gets a leaf for one service account that
//! has a pod on that node, together with the trust bundle. The controller and the proxies of Gateways, which no node's proxy
//! speaks for, ask for the one of their own pod. The way of a request on the CA's side is
//! `server → answer → authorize → issue`; `client` is the other end. What signs is kept by `keeper`: `rotation` says
//! which step is next, `state` has it in a directory or a Secret, `supplied` reads a signer that a person gives, and
//! `signer` checks any before it may sign. `live` is what requests see of all that, and `reports` what nodes say to it.
//! With a cluster, callers are checked by its API server and replicas share one Secret (`cluster`).
//!
//! # Invariants
//! 1. A workload's private key never reaches the CA, and the CA's own never leaves the place of its state.
//! 2. Nothing in a leaf comes from the CSR but the public key.
//! 3. A caller that is not authorised for an identity never reaches the signer.
//! 4. A root that cannot be read is an error, never a reason to make another one.
//! 5. Nothing is signed under a root that a node of the mesh may not have yet; who is no node is not waited for (`reports`).

pub mod answer;
pub mod api;
pub mod authorize;
pub mod bundle;
pub mod causes;
pub mod client;
pub mod cluster;
pub mod issue;
pub mod keeper;
pub mod limit;
mod live;
pub mod log;
pub mod metrics;
mod reports;
pub mod rotation;
pub mod server;
pub mod signer;
pub mod spiffe;
pub mod state;
pub mod supplied;

pub use causes::{Complaint, with_causes};
pub use client::{CaClient, ClientError, SignedIdentity, WorkloadKey};
pub use spiffe::{SpiffeId, TrustDomain};
