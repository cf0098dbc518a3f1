//! TLS of the hop: which certificate is ours, which peer is taken, and what a first flight of bytes is.
//!
//! `connect` and `inbound` take their configurations from [`certs`], whose peers are judged in [`verify`];
//! `accept` and `inbound` ask [`client_hello`] whether a connection is the mesh's. A private key is
//! given to nobody but the node's holder, and no handshake resumes an older one, whose leaf may be gone.

pub mod certs;
pub mod client_hello;
pub mod clock;
pub mod store;
pub mod trust;
pub mod verify;

#[cfg(test)]
mod tests;

pub use certs::{CertError, WorkloadCert};
pub use client_hello::{ClientHelloPeek, inspect};
pub use clock::FirstEnd;
pub use store::{CertSource, CertStore, Expiries};
pub use trust::BundleSource;
pub use verify::{
    PeerError, explain, failure_reason, has_unknown_issuer, is_anonymous, peer_error, peer_identity,
};

/// What every ALPN of the mesh begins with, in any version.
pub const HOP_ALPN_PREFIX: &[u8] = b"gammarus/";
/// The ALPN of the hop that is spoken here (design D2).
pub const HOP_ALPN: &[u8] = b"gammarus/1";
