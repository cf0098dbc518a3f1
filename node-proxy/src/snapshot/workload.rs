//! Pods as the data path sees them.

use std::net::IpAddr;
use std::sync::Arc;

use gammarus_ca::SpiffeId;

use crate::cluster::objects::ObjectKey;

/// Whether a pod takes the mTLS hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Enrolment {
    /// Marked by the agent of its node: dial it with mTLS.
    Marked,
    /// In an enrolled namespace (and not opted out), but not marked yet: it may be about to be.
    Expected,
    /// Not of the mesh.
    None,
}

/// What a namespace takes on its pods' inbound side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MtlsMode {
    /// mTLS and plain text.
    Permissive,
    /// mTLS only.
    Strict,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The pod's `metadata.uid`: keys pools and load, so that a reused address is a new workload.
    pub uid: Arc<str>,
    /// The Pod's namespace and name.
    pub pod: ObjectKey,
    /// Its identity on the hop.
    pub identity: SpiffeId,
    /// The node it runs on.
    pub node: Option<Arc<str>>,
    /// All its addresses (`status.podIPs`).
    pub addresses: Vec<IpAddr>,
    /// Whether it takes the hop.
    pub enrolment: Enrolment,
    /// What its namespace asks of callers.
    pub mtls: MtlsMode,
    /// Whether it serves a Gateway: it speaks mTLS to pods of the mesh, which it is no part of.
    pub is_gateway: bool,
    /// Ports named in `gammarus.io/plaintext-ports`: strict mode takes plain text there.
    pub plaintext_ports: Vec<u16>,
}
