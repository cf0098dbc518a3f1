//! What the proxies of all nodes say for the length of a test: a pod that has gone has taken its log along.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use super::rig::Cluster;

/// Follows the logs of the node's proxies, and prints them when a test fails.
#[derive(Default)]
pub(crate) struct Chronicle {
    /// By the names of their pods.
    followed: BTreeMap<String, Child>,
}

impl Chronicle {
    /// Follows every proxy that is there by now.
    pub(crate) fn follow(&mut self, cluster: &Cluster) {
        let pods = "--selector=app.kubernetes.io/name=gammarus-node";
        let listed =
            cluster.kubectl(&["get", "pods", "--namespace", "gammarus-system", pods, "--output", "name"]);
        for pod in listed.output().lines().map(|line| line.trim_start_matches("pod/").to_owned()) {
            self.followed.entry(pod).or_insert_with_key(|pod| {
                let script = ". \"$0\" && exec kubectl logs --follow --container proxy --namespace gammarus-system \"$1\"";
                Command::new("bash")
                    .args(["-c", script])
                    .arg(cluster.file("env"))
                    .arg(pod)
                    .stdout(File::create(path(pod)).unwrap())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap()
            });
        }
    }
}

impl Drop for Chronicle {
    fn drop(&mut self) {
        for (pod, following) in &mut self.followed {
            let _it_may_have_ended = following.kill();
            let _ = following.wait();
            let log = fs::read_to_string(path(pod)).unwrap_or_default();
            let _ = fs::remove_file(path(pod));
            if thread::panicking() {
                // What the proxy says of itself, without the lines of access.
                let lines = log.lines().filter(|line| line.contains(" node_proxy::"));
                let text = lines.collect::<Vec<_>>().join("\n");
                let _ = writeln!(io::stdout(), "--- the proxy of {pod}\n{text}");
            }
        }
    }
}

fn path(pod: &str) -> PathBuf {
    std::env::temp_dir().join(format!("gammarus-{pod}-{}.log", std::process::id()))
}
