//! What a pod's connection is for, by its original destination.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::snapshot::Snapshot;
use crate::snapshot::service::Frontend;
use crate::snapshot::workload::Workload;

/// What an address leads to.
#[derive(Clone, Debug)]
pub enum Target {
    /// A Service's port.
    Service(Frontend),
    /// A pod itself. Never routed (design D3), but the hop is mTLS when the pod is in the mesh.
    Pod(Arc<Workload>),
    /// Nothing that the mesh knows: passed through.
    Unknown,
}

/// Finds what an original destination leads to.
#[must_use]
pub fn find_target(snapshot: &Snapshot, destination: SocketAddr) -> Target {
    if let Some(frontend) = snapshot.find_frontend(destination) {
        return Target::Service(frontend.clone());
    }
    match snapshot.find_workload(destination.ip()) {
        Some(workload) => Target::Pod(Arc::clone(workload)),
        None => Target::Unknown,
    }
}
