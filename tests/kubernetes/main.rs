//! The mesh on a real Kubernetes of two nodes, installed from `manifests/`: what users do, and what no conformance
//! suite looks at.
//!
//! Needs a cluster in which Gammarus is installed: `tests/run kubernetes` brings one up with `tests/cluster/up` and
//! `tests/cluster/install`, and ends it. Every test has namespaces of its own ([`stage`]).

#![expect(clippy::unwrap_used, reason = "all of this is tests")]

mod enrolment;
mod routes;
mod stage;
mod walk_through;
mod wire;
mod workloads;
