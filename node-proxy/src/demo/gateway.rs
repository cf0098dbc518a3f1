//! The pod of a Gateway: the same binary in another mode, as the Gateway's Deployment would run it.

use std::path::PathBuf;

use super::command;
use super::fault::DemoError;
use super::node::{ADMIN, READY, ca_flags};
use super::world::{World, binary};
use crate::compile::workload::{GATEWAY_LABEL, GATEWAY_NAME_LABEL};

impl World {
    /// Starts a pod `name` of the Gateway `gateway` of `namespace`, and returns once the Gateway's ports are open. It is of a
    /// ServiceAccount of its own name, and never captured.
    ///
    /// # Errors
    /// When the node is unknown, or the ports do not come up.
    pub fn gateway_pod(&mut self, name: &str, gateway: (&str, &str), node: &str) -> Result<(), DemoError> {
        self.gateway_pod_with(name, gateway, node, &[])
    }

    /// The same with more flags.
    ///
    /// # Errors
    /// As [`Self::gateway_pod`].
    pub fn gateway_pod_with(
        &mut self,
        name: &str,
        (namespace, gateway): (&str, &str),
        node: &str,
        flags: &[&str],
    ) -> Result<(), DemoError> {
        let mut argv = vec![binary("node-proxy")?.display().to_string(), "ingress".to_owned()];
        argv.extend(ca_flags(self, node));
        argv.extend([
            format!("--node={node}"),
            format!("--objects={}", self.objects_dir().display()),
            format!("--gateway={namespace}/{gateway}"),
            format!("--pod={name}"),
            format!("--service-account={name}"),
            format!("--admin-listen={ADMIN}"),
            "--health-listen=[::]:15021".to_owned(),
            "--workers=1".to_owned(),
            format!("--access-log={}", self.gateway_access_log(name).display()),
            format!("--log-level={}", self.log_level),
        ]);
        argv.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let program: Vec<&str> = argv.iter().map(String::as_str).collect();
        let pod = self.pod(name).namespace(namespace).service_account(name).on(node);
        let labels = [
            ("gammarus.io/mesh", "disabled"),
            ("app", name),
            (GATEWAY_NAME_LABEL, gateway),
            (GATEWAY_LABEL, gateway),
        ];
        pod.labels(&labels).program(&program).start()?;
        let netns = self.running_pod(name)?.netns.clone();
        let url = format!("http://{ADMIN}/readyz");
        let probe = ["curl", "-s", "--fail", "-o", "/dev/null", "--max-time", "1", &url];
        let is_ready = || command::exec(&netns, &probe).is_ok_and(|answer| answer.success());
        self.application(name)?.wait_until("the Gateway's ports", READY, is_ready)
    }

    /// Where a pod of a Gateway writes its access lines.
    #[must_use]
    pub fn gateway_access_log(&self, name: &str) -> PathBuf {
        self.dir().join(format!("{name}.access.log"))
    }
}
