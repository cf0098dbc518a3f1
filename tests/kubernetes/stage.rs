//! What there is in a namespace of these tests: servers that say what they have seen, questions to them, and what the
//! mesh says of pods and routes.

#![allow(dead_code, reason = "every test that has this among its modules uses a part of it")]

use std::net::IpAddr;

use node_proxy::demo::command::until;
use serde::Deserialize;
use serde_json::{Value, json};

use super::rig::{Ended, Namespace, PATIENCE};

/// What a server of this stage has seen of a request.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Seen {
    /// The server's pod.
    pub(crate) pod: String,
    /// Who asked, by address.
    pub(crate) client: IpAddr,
    pub(crate) target: String,
    headers: Vec<(String, String)>,
}

impl Seen {
    /// The values of a header, joined as one.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let values: Vec<&str> =
            self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect();
        if values.is_empty() { None } else { Some(values.join(",")) }
    }

    /// The deployment or pod that it comes from, without what Kubernetes adds.
    pub(crate) fn is_of(&self, workload: &str) -> bool {
        self.pod == workload || self.pod.starts_with(&format!("{workload}-"))
    }
}

/// A pod, as it is now.
#[derive(Clone, Debug)]
pub(crate) struct PodNow {
    pub(crate) uid: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) restarts: i64,
    /// The mark, if it has one.
    pub(crate) mark: Option<Value>,
}

impl Namespace {
    /// A new namespace in the mesh.
    #[track_caller]
    pub(crate) fn enrolled(purpose: &str) -> Self {
        Self::labelled(purpose, &[("gammarus.io/mesh", "enabled")])
    }

    /// The script of the servers, to be mounted as `/app/server.py`.
    #[track_caller]
    pub(crate) fn script(&self) {
        let script = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "server"},
            "data": {"server.py": include_str!("server.py")},
        });
        self.apply(&script.to_string());
    }

    /// What goes below `spec:` of a pod that is a server on port 8080.
    pub(crate) fn server_spec() -> &'static str {
        "terminationGracePeriodSeconds: 0, volumes: [{name: app, configMap: {name: server}}], containers: [
          {name: server, image: 'python:3', command: [python3, /app/server.py, '8080'],
           env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}],
           volumeMounts: [{name: app, mountPath: /app}],
           readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}}]"
    }

    /// A Deployment of servers on a node and its Service, port 80 to 8080; waits until it is available.
    #[track_caller]
    pub(crate) fn server(&self, name: &str, node: &str, replicas: u32) {
        self.script();
        let port = "{name: http, port: 80, targetPort: 8080}";
        let spec = format!("nodeName: {node}, {}", Self::server_spec());
        self.workload(name, replicas, &spec, port);
    }

    /// A Deployment of pods with this below `spec:`, and a Service with this port over it; waits until it is available.
    #[track_caller]
    pub(crate) fn workload(&self, name: &str, replicas: u32, spec: &str, port: &str) {
        self.apply(&format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: {name}}}, spec: {{replicas: {replicas},
              selector: {{matchLabels: {{app: {name}}}}}, template: {{metadata: {{labels: {{app: {name}}}}},
              spec: {{{spec}}}}}}}}}"
        ));
        self.apply(&format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{selector: {{app: {name}}},
              ports: [{port}]}}}}"
        ));
        self.wait_for_rollout(&format!("deployment/{name}"));
    }

    /// Asks by curl from a pod, and prints the status code after the body.
    #[track_caller]
    pub(crate) fn curl(&self, pod: &str, arguments: &[&str]) -> Ended {
        let fixed = ["curl", "-sS", "--max-time", "10", "-w", "\n%{http_code}"];
        self.exec(pod, &[&fixed, arguments].concat())
    }

    /// Asks until a server answers, and returns what it has seen.
    #[track_caller]
    pub(crate) fn ask(&self, pod: &str, arguments: &[&str]) -> Seen {
        let (mut seen, mut last) = (None, String::new());
        let answered = until(PATIENCE, || {
            let said = self.curl(pod, arguments);
            seen = said.stdout.lines().next().and_then(|line| serde_json::from_str(line).ok());
            last = said.said();
            seen.is_some()
        });
        assert!(answered, "curl {arguments:?} from {pod}: {last}");
        seen.unwrap()
    }

    /// Asks until a server's answer is as it is wanted.
    #[track_caller]
    pub(crate) fn ask_until(&self, pod: &str, arguments: &[&str], wanted: impl Fn(&Seen) -> bool) -> Seen {
        let mut seen = self.ask(pod, arguments);
        let comes = until(PATIENCE, || {
            seen = self.ask(pod, arguments);
            wanted(&seen)
        });
        assert!(comes, "curl {arguments:?} from {pod} still gives {seen:?}");
        seen
    }

    /// The status code, once it is this one.
    #[track_caller]
    pub(crate) fn expect_status(&self, pod: &str, arguments: &[&str], code: &str) {
        let mut last = String::new();
        let comes = until(PATIENCE, || {
            let said = self.curl(pod, arguments);
            last = said.said();
            said.stdout.lines().last() == Some(code)
        });
        assert!(comes, "curl {arguments:?} from {pod} still gives {last}");
    }

    #[track_caller]
    pub(crate) fn pod_now(&self, name: &str) -> PodNow {
        read_pod(&self.get(&format!("pod/{name}")))
    }

    /// The pods with a label `app`.
    #[track_caller]
    pub(crate) fn pods_of(&self, app: &str) -> Vec<PodNow> {
        let list = self.kubectl(&["get", "pods", "-l", &format!("app={app}"), "-o", "json"]).output();
        let list: Value = serde_json::from_str(&list).unwrap();
        list["items"].as_array().unwrap().iter().map(read_pod).collect()
    }

    /// Waits until a pod has its mark, with its own uid.
    #[track_caller]
    pub(crate) fn wait_for_mark(&self, pod: &str) {
        let has_mark = || {
            let now = self.pod_now(pod);
            now.mark.as_ref().is_some_and(|mark| mark["uid"] == *now.uid)
        };
        assert!(until(PATIENCE, has_mark), "{:?}", self.pod_now(pod));
    }

    /// The condition of a route on its first parent that is ours, as `Status Reason`.
    pub(crate) fn condition(&self, route: &str, kind: &str) -> String {
        let route = self.get(route);
        let parents = route["status"]["parents"].as_array().cloned().unwrap_or_default();
        let ours = parents.iter().find(|parent| parent["controllerName"] == "gammarus.io/mesh-controller");
        let conditions = ours.and_then(|parent| parent["conditions"].as_array().cloned()).unwrap_or_default();
        conditions.iter().find(|condition| condition["type"] == kind).map_or_else(String::new, |condition| {
            let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
            format!("{} {}", text("status"), text("reason"))
        })
    }

    /// Waits until the controller has said something of a route.
    #[track_caller]
    pub(crate) fn wait_for_condition(&self, route: &str, kind: &str, wanted: &str) {
        let said = || self.condition(route, kind);
        assert!(until(PATIENCE, || said() == wanted), "{route}: {kind} is {}, not {wanted}", said());
    }
}

/// For below `spec:` of pods with this label `app`: on both nodes, as many on each.
pub(crate) fn spread(app: &str) -> String {
    format!(
        "topologySpreadConstraints: [{{maxSkew: 1, topologyKey: kubernetes.io/hostname,
           whenUnsatisfiable: DoNotSchedule, labelSelector: {{matchLabels: {{app: {app}}}}}}}]"
    )
}

fn read_pod(pod: &Value) -> PodNow {
    let addresses = pod["status"]["podIPs"].as_array().into_iter().flatten();
    let containers = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let mark = pod["metadata"]["annotations"]["gammarus.io/enrolled"].as_str();
    PodNow {
        uid: pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
        addresses: addresses.filter_map(|entry| entry["ip"].as_str()?.parse().ok()).collect(),
        restarts: containers.filter_map(|container| container["restartCount"].as_i64()).sum(),
        mark: mark.and_then(|text| serde_json::from_str(text).ok()),
    }
}
