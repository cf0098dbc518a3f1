//! The mesh on a real Kubernetes of two nodes, installed from `manifests/`: what users do, and what no conformance
//! suite looks at.
//!
//! Needs a cluster in which Gammarus is installed: `tests/run kubernetes` brings one up with `tests/cluster/up` and
//! `tests/cluster/install`, and ends it. Every test has namespaces of its own: [`rig`] makes them, as for all tests on a
//! cluster, and [`stage`] says what there is in one.

#![expect(clippy::unwrap_used, clippy::panic, reason = "all of this is tests")]

mod enrolment;
mod gateways;
mod grpc;
mod parents;
#[path = "../cluster/rig.rs"]
mod rig;
mod routes;
mod stage;
mod trust;
mod walk_through;
mod wire;
mod workloads;
