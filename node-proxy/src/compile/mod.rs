//! Objects and their judgement → the snapshot that the data path reads. Pure: no I/O, no clock.
//!
//! Whatever is equal to what the previous snapshot has keeps its old `Arc`, so that a change reaches only
//! those whom it concerns. What routes hold where is `attach`'s word; nothing is judged again here.
//!
//! Every change compiles all objects anew, one Service after the other (`service::compile_service`), and a
//! Service without slices looks through all Pods. Sharing is for the readers' sake: it makes no step cheaper.

mod endpoint;
mod route;
mod service;
pub mod workload;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use gammarus_ca::TrustDomain;

use crate::attach::Attachments;
use crate::cluster::objects::Objects;
use crate::snapshot::Snapshot;
use crate::snapshot::workload::Workload;
use endpoint::{KnownEndpoints, SlicesByService};

/// What each step may look at while one snapshot is made.
struct Compiler<'a> {
    objects: &'a Objects,
    attachments: &'a Attachments,
    previous: &'a Snapshot,
    own_node: &'a str,
    slices: SlicesByService,
    workloads: HashMap<IpAddr, Arc<Workload>>,
    endpoints: KnownEndpoints,
}

/// The snapshot of these objects for the node `own_node`.
///
/// `attachments` must be the judgement of the same `objects`. The new snapshot's generation follows that
/// of `previous`, with which it shares whatever is equal.
#[must_use]
pub fn compile(
    objects: &Objects,
    attachments: &Attachments,
    previous: &Snapshot,
    own_node: &str,
    trust_domain: &TrustDomain,
) -> Snapshot {
    let namespaces = workload::compile_namespaces(objects);
    let workloads = workload::compile_workloads(objects, &namespaces, previous, trust_domain);
    let mut compiler = Compiler {
        objects,
        attachments,
        previous,
        own_node,
        slices: endpoint::group_slices(&objects.endpoint_slices),
        workloads,
        endpoints: KnownEndpoints::collect(previous.service_ports.values().map(|port| &port.endpoints)),
    };
    let mut snapshot = Snapshot {
        generation: previous.generation.wrapping_add(1),
        namespaces,
        pod_ranges: workload::compile_pod_ranges(objects),
        node_addresses: workload::compile_node_addresses(objects),
        ..Snapshot::default()
    };
    for (key, object) in &objects.services {
        let compiled = service::compile_service(&mut compiler, key, object);
        service::publish(&mut snapshot, compiled);
    }
    snapshot.workloads = compiler.workloads;
    snapshot
}
