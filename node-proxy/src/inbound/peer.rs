//! Who is calling, and whether it may call in plain text.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::accept::JoinedPod;
use crate::snapshot::Snapshot;
use crate::snapshot::workload::MtlsMode;
use crate::telemetry::{Peer, PlaintextReason};

/// What the pod takes from this caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Terms {
    /// mTLS, or else a reset.
    MtlsOnly,
    /// Both. `Hold` is for callers that may be about to speak mTLS without knowing that they are waited for.
    Both(ServerFirst, PlaintextReason),
}

/// What becomes of bytes that the application sends before the client has spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServerFirst {
    /// Held for a moment: the caller could be a mesh client whose handshake is on its way.
    Hold,
    /// Passed on at once.
    Pass,
}

/// The terms for a caller.
pub(super) fn find_terms(
    snapshot: &Snapshot,
    pod: &JoinedPod,
    client: SocketAddr,
    destination: SocketAddr,
) -> Terms {
    // A namespace that is not known cannot be said to be permissive.
    let mode = snapshot.find_namespace(&pod.pod.pod.namespace).map_or(MtlsMode::Strict, |policy| policy.mtls);
    if mode == MtlsMode::Permissive || pod.pod.standing.is_leaving() {
        let (server_first, reason) = match snapshot.find_workload(client.ip()) {
            Some(workload) if !workload.is_captured() => {
                let first = if workload.is_gateway { ServerFirst::Hold } else { ServerFirst::Pass };
                (first, PlaintextReason::SourceNotEnrolled)
            }
            Some(_) => (ServerFirst::Hold, PlaintextReason::StalePeer),
            // A node often has an address of its own in its pods' range: the gateway.
            None if snapshot.is_pod_address(client.ip()) && !is_node_process(pod, client, destination) => {
                (ServerFirst::Hold, PlaintextReason::StalePeer)
            }
            None => (ServerFirst::Pass, PlaintextReason::SourceNotEnrolled),
        };
        return Terms::Both(server_first, reason);
    }
    let workloads = pod.pod.addresses.iter().filter_map(|address| snapshot.find_workload(*address));
    // An address that was another pod's a moment ago does not lend this one its exceptions.
    let own = workloads.into_iter().find(|workload| workload.uid == pod.pod.uid);
    if own.is_some_and(|own| own.plaintext_ports.contains(&destination.port())) {
        return Terms::Both(ServerFirst::Pass, PlaintextReason::PlaintextPort);
    }
    // The kubelet calls from an address of the node, often one that no object names: a bridge's or a tunnel's. So
    // does a client that was masqueraded to it. Only the kubelet's connection is a socket of the node itself.
    if snapshot.find_workload(client.ip()).is_none() && is_node_process(pod, client, destination) {
        return Terms::Both(ServerFirst::Pass, PlaintextReason::NodeProcess);
    }
    Terms::MtlsOnly
}

fn is_node_process(pod: &JoinedPod, client: SocketAddr, destination: SocketAddr) -> bool {
    pod.pod.host.has_opened(client, destination).unwrap_or_else(|error| {
        tracing::warn!(%error, %client, "cannot tell whether a caller is a process of the node; it is refused");
        false
    })
}

/// The caller as an end of a journey; its identity is left open until a handshake has proven it.
pub(crate) fn as_peer(snapshot: &Snapshot, client: SocketAddr) -> Peer {
    let pod = snapshot.find_workload(client.ip()).map(|workload| Arc::clone(workload).pod.clone());
    Peer { address: Some(client), pod, identity: None }
}
