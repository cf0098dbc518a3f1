//! Tests of compiling: YAML objects in, a snapshot out.

mod endpoints;
mod oracle;
mod routes;
mod services;
mod workloads;

use std::net::IpAddr;
use std::sync::Arc;

use gammarus_ca::TrustDomain;

use super::{Compiler, Step, compile};
use crate::attach::Attachments;
use crate::attach::fixture::{mark, objects, replace};
use crate::cluster::objects::{Change, Changed, ObjectKey, Objects};
use crate::snapshot::Snapshot;
use crate::snapshot::service::{ServicePort, ServicePortKey};
use crate::snapshot::workload::Workload;

/// A cluster as the node `a` follows it from one state to the next.
struct Cluster {
    objects: Objects,
    attachments: Attachments,
    compiler: Compiler,
}

impl Cluster {
    fn new() -> Self {
        let compiler = Compiler::new("a", TrustDomain::new("cluster.local").unwrap());
        Self { objects: Objects::default(), attachments: Attachments::default(), compiler }
    }

    /// The snapshot once objects are these.
    fn become_these(&mut self, objects: Objects) -> Snapshot {
        let changed = replace(&mut self.objects, objects);
        self.update(&changed)
    }

    fn apply(&mut self, changes: Vec<Change>) -> Snapshot {
        let mut changed = Changed::default();
        for change in changes {
            self.objects.apply(change, &mut changed);
        }
        self.update(&changed)
    }

    fn update(&mut self, changed: &Changed) -> Snapshot {
        let groups = &self.attachments.update(&self.objects, changed).groups;
        let step = Step { objects: &self.objects, changed, attachments: &self.attachments, groups };
        self.compiler.update(&step)
    }
}

fn compile_once(objects: &Objects) -> Snapshot {
    compile(objects, "a", &TrustDomain::new("cluster.local").unwrap())
}

fn snapshot_of(yaml: &str) -> Snapshot {
    compile_once(&objects(yaml))
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
    let key = ServicePortKey::tcp(ObjectKey::new(namespace, name), port);
    snapshot.find_service_port(&key).expect("the Service port is known")
}

/// The endpoints' addresses, in order.
fn addresses(port: &ServicePort) -> Vec<String> {
    port.endpoints.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
}
