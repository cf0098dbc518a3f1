//! The mesh is upgraded and taken off a running cluster, and a Gateway and its proxies are changed, under load: nobody
//! who only uses them may notice.
//!
//! Needs a cluster in which Gammarus is installed, as the tests of `tests/kubernetes` do, and changes what is installed
//! there: one test at a time, and no other suite beside them. Whatever happens, the mesh is installed again at the end.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "all of this is tests")]

#[path = "../load/calls.rs"]
mod calls;
#[path = "../ingress/certificate.rs"]
mod certificate;
mod chronicle;
#[path = "../load/connections.rs"]
mod connections;
#[path = "../load/counts.rs"]
mod counts;
#[path = "../load/edits.rs"]
mod edits;
#[path = "../load/front.rs"]
mod front;
mod gateway;
#[path = "../grpc/programs.rs"]
mod grpc_programs;
mod installation;
#[path = "../load/load.rs"]
mod load;
#[path = "../load/requests.rs"]
mod requests;
#[path = "../cluster/rig.rs"]
mod rig;
#[path = "../load/source.rs"]
mod source;
#[path = "../kubernetes/stage.rs"]
mod stage;
mod traffic;
mod uninstall;
mod upgrade;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Only one test at a time may change what is installed.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
