//! The mesh on a real Kubernetes of two nodes, installed from `manifests/`: what users do, and what no conformance
//! suite looks at.
//!
//! Needs a cluster in which Gammarus is installed: `tests/run kubernetes` brings one up with `tests/cluster/up` and
//! `tests/cluster/install`, and ends it. Every test has namespaces of its own: [`rig`] makes them, as for all tests on a
//! cluster, and [`stage`] says what there is in one.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "all of this is tests")]

#[path = "../ingress/certificate.rs"]
mod certificate;
mod enrolment;
mod gateways;
mod grpc;
#[path = "../grpc/programs.rs"]
mod grpc_programs;
mod parents;
#[path = "../cluster/rig.rs"]
mod rig;
mod routes;
mod stage;
mod teams;
mod trust;
mod walk_through;
mod wire;
mod workloads;

use std::sync::{Mutex, MutexGuard, PoisonError};

use rig::Cluster;

/// That the controller may read the certificates of Gateways, for as long as this is there. By one test at a time: who ends
/// it would end it for all.
struct ReadsCertificates {
    _alone: MutexGuard<'static, ()>,
}

impl ReadsCertificates {
    const RIGHTS: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/install/gateway-certificates.yaml");

    /// Only for whoever grants it by other means, and takes it away again.
    fn turn() -> MutexGuard<'static, ()> {
        static TURN: Mutex<()> = Mutex::new(());
        TURN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[track_caller]
    fn grant() -> Self {
        let alone = Self::turn();
        Cluster::find().kubectl(&["apply", "--filename", Self::RIGHTS]).output();
        Self { _alone: alone }
    }
}

impl Drop for ReadsCertificates {
    fn drop(&mut self) {
        let _nothing_more_to_do =
            Cluster::find().kubectl(&["delete", "--ignore-not-found", "--filename", Self::RIGHTS]);
    }
}
