//! What `manifests/` installs, on a real API server: that kustomization and chart are one, that all of it is taken as it
//! stands, and that everybody may do what they must and no more.

mod admission;
mod objects;
mod provision;
mod rights;
mod taint;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::api_server::{ApiServer, Channel, Ended};

/// The mesh's own namespace.
const SYSTEM: &str = "gammarus-system";
/// How long the API server may take to enforce a policy that it has been given.
const PATIENCE: Duration = Duration::from_secs(60);

/// The server with the mesh's objects, while a test has it.
static INSTALLED: Mutex<Weak<ApiServer>> = Mutex::new(Weak::new());

/// The folder of the manifests.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests").canonicalize().unwrap()
}

/// An API server on which `kubectl apply -k manifests/` was typed: for tests in namespaces of their own.
#[track_caller]
fn installed() -> Arc<ApiServer> {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(server) = installed.upgrade() {
        return server;
    }
    let server = Arc::new(ApiServer::with_gateway_api(Channel::Experimental));
    apply(&server);
    *installed = Arc::downgrade(&server);
    server
}

/// What a user types, with unknown and doubled fields refused. Returns what it said.
#[track_caller]
fn apply(server: &ApiServer) -> String {
    let folder = folder();
    server.kubectl(&["apply", "--validate=strict", "-k", folder.to_str().unwrap()]).output()
}

/// Helm, as tests/prepare.sh has built it.
fn helm(arguments: &[&str]) -> Ended {
    program("HELM", "need_helm", arguments)
}

/// A program that tests/prepare.sh has built, in the folder of the manifests.
#[track_caller]
fn program(variable: &str, preparation: &str, arguments: &[&str]) -> Ended {
    let path = env::var_os(variable);
    let path = path.unwrap_or_else(|| {
        panic!("${variable} is not set: run tests/run, or {preparation} of tests/prepare.sh")
    });
    Command::new(path).args(arguments).current_dir(folder()).output().unwrap().into()
}

/// Asks again until the answer is yes.
#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(100));
    }
}
