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
    /// The only ports at which it takes the hop, if there are any such: those of a Gateway's listeners.
    pub hop_ports: Vec<u16>,
    /// Ports named in `gammarus.io/plaintext-ports`: strict mode takes plain text there.
    pub plaintext_ports: Vec<u16>,
}

impl Workload {
    /// Whether the pod takes the hop at a port.
    #[must_use]
    pub fn enrolment_at(&self, port: u16) -> Enrolment {
        if self.hop_ports.is_empty() || self.hop_ports.contains(&port) {
            self.enrolment
        } else {
            Enrolment::None
        }
    }

    /// Whether the pod's own connections are captured, or about to be: those of a Gateway's pod never are.
    #[must_use]
    pub fn is_captured(&self) -> bool {
        self.enrolment != Enrolment::None && self.hop_ports.is_empty()
    }
}
