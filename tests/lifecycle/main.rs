//! The mesh is upgraded and taken off a running cluster, under load: nobody who only uses it may notice.
//!
//! Needs a cluster in which Gammarus is installed, as the tests of `tests/kubernetes` do, and changes what is installed
//! there: one test at a time, and no other suite beside them. Whatever happens, the mesh is installed again at the end.

#![expect(clippy::unwrap_used, clippy::panic, reason = "all of this is tests")]

mod chronicle;
mod installation;
#[path = "../cluster/rig.rs"]
mod rig;
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
