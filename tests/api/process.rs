//! The proxy itself at a real API server: what it says of itself while it has the cluster's objects, and while it has not.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use node_proxy::cluster::kubernetes::MESH_KINDS;
use tempfile::TempDir;

use crate::api_server::ApiServer;
use crate::api_server::ports::free_ports;
use crate::door;
use crate::follower::PATIENCE;
use crate::relay::Relay;
use crate::source::{apply, http_route, server, service};

/// A proxy that runs until it is dropped.
struct Proxy {
    process: Child,
    admin: u16,
}

impl Proxy {
    fn start(server: &ApiServer, kubeconfig: &Path, folder: &Path) -> Self {
        Self::start_at(server, kubeconfig, folder, "info")
    }

    /// The same with a level of its log, which is in the file `log` of the folder.
    fn start_at(server: &ApiServer, kubeconfig: &Path, folder: &Path, level: &str) -> Self {
        let [admin, health] = free_ports();
        let process = command()
            .args(["--node=node-a", "--ca-address=127.0.0.1:1", "--access-log=off", "--workers=1"])
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--ca-bundle={}", server.authority().display()))
            .arg(format!("--token-file={}", folder.join("token").display()))
            .arg(format!("--socket={}", folder.join("enrol.sock").display()))
            .arg(format!("--state-dir={}", folder.join("state").display()))
            .arg(format!("--admin-listen=127.0.0.1:{admin}"))
            .arg(format!("--health-listen=127.0.0.1:{health}"))
            .arg(format!("--log-level={level}"))
            .stdin(Stdio::null())
            .stderr(File::create(folder.join("log")).unwrap())
            .spawn()
            .unwrap();
        Self { process, admin }
    }

    /// An answer of its admin server, empty while there is none.
    fn get(&self, path: &str) -> String {
        door::ask(self.admin, path)
    }

    #[track_caller]
    fn wait_for(&self, path: &str, says: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let answer = self.get(path);
            if says(&answer) {
                return answer;
            }
            assert!(begun.elapsed() < PATIENCE, "{path}: {answer}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Tells it to stop, and waits until it has.
    #[track_caller]
    fn stop(mut self) {
        Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status().unwrap();
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _has_ended_before = self.process.kill();
        let _its_status = self.process.wait();
    }
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_node-proxy"));
    command.arg("mesh").env_remove("KUBECONFIG").env_remove("KUBERNETES_SERVICE_HOST");
    command
}

#[test]
fn a_proxy_says_whether_its_objects_are_of_now() {
    let server = server();
    let folder = TempDir::new().unwrap();
    let relay = Relay::to(&server);
    let kubeconfig = relay.kubeconfig(&server, folder.path());
    apply(&server, &[service("my-unlikely-name", None), http_route("a", "my-unlikely-name", "1")]);
    let proxy = Proxy::start(&server, &kubeconfig, folder.path());
    let ready = proxy.wait_for("/readyz", |answer| answer.starts_with("HTTP/1.1 200 "));
    assert!(ready.ends_with("\r\n\r\nready\n"), "{ready}");
    let snapshot = proxy.get("/snapshot");
    assert!(snapshot.contains("my-unlikely-name"), "{snapshot}");
    let metrics = proxy.get("/metrics");
    assert!(metrics.contains("gammarus_cluster_silence_seconds{kind=\"HTTPRoute\"}"), "{metrics}");
    proxy.stop();
    assert!(fs::read_to_string(folder.path().join("state/cluster.jsonl")).unwrap().contains("HTTPRoute"));

    relay.cut();
    let proxy = Proxy::start(&server, &kubeconfig, folder.path());
    let ready = proxy.wait_for("/readyz", |answer| answer.starts_with("HTTP/1.1 200 "));
    assert!(ready.contains("\r\n\r\nready\nwith the objects of 20"), "{ready}");
    let status = proxy.get("/status");
    assert!(status.contains("objects are those of 20"), "{status}");
    let snapshot = proxy.get("/snapshot");
    assert!(snapshot.contains("my-unlikely-name"), "{snapshot}");
    relay.mend();
    proxy.wait_for("/readyz", |answer| answer.ends_with("\r\n\r\nready\n"));
    proxy.stop();
}

#[test]
fn that_the_api_server_is_away_is_told_once_of_each_kind_and_by_the_proxy_alone() {
    let server = ApiServer::shared();
    let relay = Relay::to(&server);
    relay.cut();
    let said = |level: &str, tries: usize| {
        let folder = TempDir::new().unwrap();
        let kubeconfig = relay.kubeconfig(&server, folder.path());
        let before = relay.tries();
        let proxy = Proxy::start_at(&server, &kubeconfig, folder.path(), level);
        let begun = Instant::now();
        while relay.tries() < before + tries {
            assert!(begun.elapsed() < PATIENCE, "{} tries", relay.tries() - before);
            thread::sleep(Duration::from_millis(50));
        }
        drop(proxy);
        fs::read_to_string(folder.path().join("log")).unwrap()
    };
    // Ten kinds, each tried some times.
    let log = said("info", 40);
    for kind in MESH_KINDS {
        let told = format!("cannot be watched yet kind=\"{}\"", kind.as_label());
        assert_eq!(log.matches(&told).count(), 1, "{told}: {log}");
    }
    assert!(!log.contains("kube_client"), "{log}");
    let log = said("info,kube_client=error", 20);
    assert!(log.contains("ERROR kube_client"), "{log}");
}

#[test]
fn a_proxy_that_is_not_told_where_the_objects_are_says_what_is_missing() {
    let wrong = |more: &[&str]| {
        let needed = ["--node=a", "--ca-address=127.0.0.1:1", "--ca-bundle=/b", "--token-file=/c"];
        let folder = TempDir::new().unwrap();
        let state = format!("--state-dir={}", folder.path().display());
        let ended = command().args(needed).arg(state).args(more).output().unwrap();
        assert!(!ended.status.success(), "{ended:?}");
        String::from_utf8(ended.stderr).unwrap()
    };
    let said = wrong(&[]);
    let missing = "neither --objects nor --kubeconfig is given, KUBECONFIG is not set, and this is no pod of a cluster: ";
    assert!(said.contains(missing), "{said}");
    let said = wrong(&["--kubeconfig=/proc/version"]);
    assert!(said.contains("the kubeconfig /proc/version cannot be used: "), "{said}");
}
