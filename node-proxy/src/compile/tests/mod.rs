//! Tests of compiling: YAML objects in, a snapshot out.

mod endpoints;
mod routes;
mod services;
mod workloads;

use std::net::IpAddr;
use std::sync::Arc;

use gammarus_ca::TrustDomain;

use super::compile;
use crate::attach::attach;
use crate::attach::fixture::{mark, objects};
use crate::cluster::objects::{ObjectKey, Objects};
use crate::snapshot::Snapshot;
use crate::snapshot::service::{ServicePort, ServicePortKey};
use crate::snapshot::workload::Workload;

/// Compiles for the node `a`.
fn compile_after(objects: &Objects, previous: &Snapshot) -> Snapshot {
    compile(objects, &attach(objects), previous, "a", &TrustDomain::new("cluster.local").unwrap())
}

fn snapshot_of(yaml: &str) -> Snapshot {
    compile_after(&objects(yaml), &Snapshot::default())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[track_caller]
fn workload<'a>(snapshot: &'a Snapshot, address: &str) -> &'a Arc<Workload> {
    snapshot.find_workload(ip(address)).expect("the pod is known")
}

#[track_caller]
fn port<'a>(snapshot: &'a Snapshot, service: &str, port: u16) -> &'a Arc<ServicePort> {
    let (namespace, name) = service.split_once('/').unwrap();
    let key = ServicePortKey { service: ObjectKey::new(namespace, name), port };
    snapshot.find_service_port(&key).expect("the Service port is known")
}

/// The endpoints' addresses, in order.
fn addresses(port: &ServicePort) -> Vec<String> {
    port.endpoints.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
}
