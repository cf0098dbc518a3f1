//! The start-up taint: a node that is born with it takes pods once its proxy is ready.
//!
//! The taint is the user's, who has nodes register with it. Here it is only ever taken away.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use kube::api::{ApiResource, Patch, PatchParams};
use kube::core::{NotUsed, Object};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::lease::Leadership;
use crate::error::Complaint;

/// The key of the taint.
const TAINT: &str = "gammarus.io/not-ready";
/// The DaemonSet whose pods are the proxies.
const DAEMON_SET: &str = "gammarus-node";
/// Before a node is tried again whose taint could not be taken away.
const RETRY: Duration = Duration::from_secs(2);

/// A Node, as far as its taints go.
type TaintedNode = Object<Taints, NotUsed>;
/// A Pod, as far as where it runs, and whether it is ready.
type PlacedPod = Object<Place, PodStatus>;

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Taints {
    /// As they are written, so that exactly these are taken away.
    #[serde(default)]
    taints: Vec<Value>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Place {
    node_name: Option<String>,
}

/// What is known of nodes and of the proxies on them.
#[derive(Debug, Default)]
struct Known {
    /// Node → its taints, of nodes that have ours.
    tainted: BTreeMap<String, Vec<Value>>,
    /// Pod → its node, of proxies that are ready.
    ready: BTreeMap<String, String>,
    listed: BTreeSet<String>,
}

/// Takes the taint away wherever the proxy is ready, while `leadership` is held.
pub async fn run(client: Client, namespace: String, mut leadership: Leadership) -> Infallible {
    loop {
        leadership.gained().await;
        tokio::select! {
            () = leadership.lost() => {}
            never = lift(&client, &namespace) => match never {},
        }
    }
}

async fn lift(client: &Client, namespace: &str) -> Infallible {
    let nodes: Api<TaintedNode> = Api::all_with(client.clone(), &ApiResource::erase::<Node>(&()));
    let pods: Api<PlacedPod> =
        Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<Pod>(&()));
    let mut node_events = pin!(watcher(nodes.clone(), Config::default()).default_backoff());
    let mut pod_events = pin!(watcher(pods, Config::default()).default_backoff());
    let (mut known, mut is_due) = (Known::default(), false);
    let mut listed_nodes = BTreeSet::new();
    let [mut of_nodes, mut of_pods] = <[Complaint; 2]>::default();
    let mut of_node: BTreeMap<String, Complaint> = BTreeMap::new();
    loop {
        tokio::select! {
            Some(event) = node_events.next() => {
                if let Some(event) = tell_if_failed(&mut of_nodes, "nodes", event) {
                    known.take_node(event, &mut listed_nodes);
                }
            }
            Some(event) = pod_events.next() => {
                if let Some(event) = tell_if_failed(&mut of_pods, "pods", event) {
                    known.take_pod(event);
                }
            }
            () = sleep(RETRY), if is_due => {}
        }
        is_due = false;
        of_node.retain(|node, _| known.tainted.contains_key(node));
        for (node, taints) in known.due() {
            match lift_from(&nodes, &node, &taints).await {
                Ok(()) => {
                    tracing::info!(%node, "the proxy is ready: the taint {TAINT} is taken away");
                    known.tainted.remove(&node);
                }
                Err(error) => {
                    if let Some(error) = of_node.entry(node.clone()).or_default().raise(error) {
                        tracing::warn!(%node, error, "the taint {TAINT} cannot be taken away");
                    }
                    is_due = true;
                }
            }
        }
    }
}

/// What has happened; the same trouble again and again is told once.
fn tell_if_failed<K>(
    complaint: &mut Complaint,
    what: &str,
    event: watcher::Result<Event<K>>,
) -> Option<Event<K>> {
    match event {
        Ok(event) => {
            complaint.settle();
            Some(event)
        }
        Err(error) => {
            if let Some(error) = complaint.raise(error) {
                tracing::warn!(error, "{what} cannot be followed for the start-up taint");
            }
            None
        }
    }
}

/// Takes the taint away if the node's taints are still those that were seen.
async fn lift_from(nodes: &Api<TaintedNode>, node: &str, taints: &[Value]) -> kube::Result<()> {
    let patch = serde_json::from_value(Value::Array(lifting(taints))).map_err(kube::Error::SerdeError)?;
    nodes.patch(node, &PatchParams::default(), &Patch::Json::<()>(patch)).await.map(drop)
}

/// A JSON patch that takes ours out of a node's taints, from the last one on, and does nothing if they are others by now.
fn lifting(taints: &[Value]) -> Vec<Value> {
    let ours = taints.iter().enumerate().rev().filter(|(_, taint)| taint["key"] == TAINT);
    ours.flat_map(|(place, taint)| {
        let path = format!("/spec/taints/{place}");
        [json!({"op": "test", "path": path, "value": taint}), json!({"op": "remove", "path": path})]
    })
    .collect()
}

impl Known {
    fn take_node(&mut self, event: Event<TaintedNode>, listed: &mut BTreeSet<String>) {
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(node) => {
                listed.insert(node.name_any());
                self.put_node(node);
            }
            Event::InitDone => self.tainted.retain(|node, _| listed.contains(node)),
            Event::Apply(node) => self.put_node(node),
            Event::Delete(node) => drop(self.tainted.remove(&node.name_any())),
        }
    }

    fn put_node(&mut self, node: TaintedNode) {
        let is_ours = node.spec.taints.iter().any(|taint| taint["key"] == TAINT);
        match is_ours {
            true => self.tainted.insert(node.name_any(), node.spec.taints),
            false => self.tainted.remove(&node.name_any()),
        };
    }

    fn take_pod(&mut self, event: Event<PlacedPod>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => {
                self.listed.insert(pod.name_any());
                self.put_pod(&pod);
            }
            Event::InitDone => self.ready.retain(|pod, _| self.listed.contains(pod)),
            Event::Apply(pod) => self.put_pod(&pod),
            Event::Delete(pod) => drop(self.ready.remove(&pod.name_any())),
        }
    }

    fn put_pod(&mut self, pod: &PlacedPod) {
        match pod.spec.node_name.as_ref().filter(|_| is_ready_proxy(pod)) {
            Some(node) => self.ready.insert(pod.name_any(), node.clone()),
            None => self.ready.remove(&pod.name_any()),
        };
    }

    fn due(&self) -> Vec<(String, Vec<Value>)> {
        let ready: BTreeSet<&String> = self.ready.values().collect();
        let due = self.tainted.iter().filter(|(node, _)| ready.contains(node));
        due.map(|(node, taints)| (node.clone(), taints.clone())).collect()
    }
}

fn is_ready_proxy(pod: &PlacedPod) -> bool {
    let is_of_daemon_set = pod
        .owner_references()
        .iter()
        .any(|owner| owner.controller == Some(true) && owner.kind == "DaemonSet" && owner.name == DAEMON_SET);
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let is_ready =
        conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    is_of_daemon_set && is_ready && pod.metadata.deletion_timestamp.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(owner: &str, ready: &str, leaves: bool) -> PlacedPod {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "gammarus-system", "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": owner, "uid": "u", "controller": true}
            ]},
            "spec": {"nodeName": "n"},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        });
        if leaves {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(pod).unwrap()
    }

    fn node(taints: Value) -> TaintedNode {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": {"taints": taints}});
        serde_json::from_value(node).unwrap()
    }

    #[test]
    fn a_node_is_freed_when_its_own_proxy_is_ready_and_keeps_all_other_taints() {
        let taint =
            |key: &str| json!({"key": key, "effect": "NoSchedule", "timeAdded": "2026-01-01T00:00:00Z"});
        let taints = json!([taint(TAINT), taint("other"), taint(TAINT)]);
        let mut known = Known::default();
        known.put_node(node(taints));
        assert_eq!(known.due(), []);
        for pod in
            [pod("other", "True", false), pod(DAEMON_SET, "False", false), pod(DAEMON_SET, "True", true)]
        {
            known.put_pod(&pod);
            assert_eq!(known.due(), []);
        }
        known.put_pod(&pod(DAEMON_SET, "True", false));
        let due = known.due();
        assert_eq!(due.len(), 1);
        assert_eq!(
            lifting(&due[0].1),
            [
                json!({"op": "test", "path": "/spec/taints/2", "value": taint(TAINT)}),
                json!({"op": "remove", "path": "/spec/taints/2"}),
                json!({"op": "test", "path": "/spec/taints/0", "value": taint(TAINT)}),
                json!({"op": "remove", "path": "/spec/taints/0"}),
            ]
        );
        known.put_node(node(json!([taint("other")])));
        assert_eq!(known.due(), []);
    }
}
