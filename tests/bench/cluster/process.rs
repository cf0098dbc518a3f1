//! Processes of the mesh on this machine's own network: proxies without pods, and the controller.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use node_proxy::demo::command::until;
use tempfile::TempDir;

use crate::api_server::ports::free_ports;
use crate::counters::Memory;
use crate::door;
use crate::installed::{Installed, SYSTEM};

/// How long anything may take that is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(900);

/// A process, until it is dropped.
pub(crate) struct Running {
    process: Child,
    admin: u16,
    pub(crate) folder: TempDir,
}

/// A program of this workspace, as it was built beside this one: in the folder above its own.
pub(crate) fn program(name: &str) -> PathBuf {
    let own = env::current_exe().unwrap();
    let mut places = own.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    places.find(|path| path.is_file()).unwrap_or_else(|| panic!("{name} is not built: tests/bench/run does"))
}

impl Running {
    /// A proxy. It has no CA, and no pod asks it for anything.
    pub(crate) fn proxy(installed: &Installed, node: &str, kubeconfig: &Path) -> Self {
        let folder = TempDir::new().unwrap();
        let place = |name: &str| folder.path().join(name).display().to_string();
        let arguments = [
            "mesh".to_owned(),
            format!("--node={node}"),
            format!("--ca-bundle={}", installed.server.authority().display()),
            format!("--token-file={}", place("token")),
            format!("--socket={}", place("enrol.sock")),
            format!("--state-dir={}", place("state")),
            "--ca-address=127.0.0.1:1".to_owned(),
            "--access-log=off".to_owned(),
            "--workers=2".to_owned(),
        ];
        Self::start(&arguments, kubeconfig, folder)
    }

    /// Waits until it is ready.
    pub(crate) fn wait_until_ready(&self) {
        self.wait("readiness", || self.get("/readyz").ends_with("\r\n\r\nready\n"));
    }

    /// A controller, once it answers.
    pub(crate) fn controller(kubeconfig: &Path) -> Self {
        let arguments = ["controller".to_owned(), format!("--namespace={SYSTEM}")];
        let running = Self::start(&arguments, kubeconfig, TempDir::new().unwrap());
        running.wait("an answer", || !running.get("/metrics").is_empty());
        running
    }

    fn start(arguments: &[String], kubeconfig: &Path, folder: TempDir) -> Self {
        let [admin, health] = free_ports();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program("node-proxy")).args(arguments);
        let process = command
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--admin-listen=127.0.0.1:{admin}"))
            .arg(format!("--health-listen=127.0.0.1:{health}"))
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { process, admin, folder }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn memory(&self) -> Memory {
        Memory::of(self.id())
    }

    /// An answer of its admin server, empty while there is none.
    pub(crate) fn get(&self, path: &str) -> String {
        door::ask(self.admin, path)
    }

    pub(crate) fn wait(&self, what: &str, holds: impl FnMut() -> bool) {
        let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        assert!(until(PATIENCE, holds), "no {what}: {}", log());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _has_ended_before = self.process.kill();
        let _its_status = self.process.wait();
    }
}
