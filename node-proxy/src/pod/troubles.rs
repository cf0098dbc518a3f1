//! The pods that should be in the mesh and are not, each with the reason: for `/status`, the metrics, the log and Events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::Serialize;

use super::error::EnrolError;
use super::news::{Herald, News};
use super::registry::lock;
use crate::cluster::objects::ObjectKey;
use crate::error::with_causes;
use crate::telemetry::Metrics;

/// Why a pod is not in the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// The label of the metric.
    pub reason: &'static str,
    /// In words, with its causes.
    pub message: String,
}

/// The troubles of a node's pods.
#[derive(Debug)]
pub struct Troubles {
    pods: Mutex<BTreeMap<ObjectKey, Trouble>>,
    /// Pods of enrolled namespaces that share the node's network.
    left_alone: Mutex<BTreeSet<ObjectKey>>,
    metrics: Arc<Metrics>,
    herald: Arc<dyn Herald>,
}

impl Troubles {
    /// No troubles; what there will be is counted in `metrics`, and told by `herald`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, herald: Arc<dyn Herald>) -> Self {
        let (pods, left_alone) = (Mutex::new(BTreeMap::new()), Mutex::new(BTreeSet::new()));
        Self { pods, left_alone, metrics, herald }
    }

    /// The pods of enrolled namespaces that share the node's network and are left alone.
    #[must_use]
    pub fn left_alone(&self) -> BTreeSet<ObjectKey> {
        lock(&self.left_alone).clone()
    }

    /// Notes which pods are left alone. Each is told of once.
    pub(super) fn leave_alone(&self, pods: BTreeSet<ObjectKey>) {
        let before = std::mem::replace(&mut *lock(&self.left_alone), pods.clone());
        for pod in pods.difference(&before) {
            tracing::info!(%pod, "a pod of an enrolled namespace shares the node's network and is left alone");
            self.herald.tell(pod, News::HostNetworkIgnored);
        }
    }

    /// All of them, by pod.
    #[must_use]
    pub fn list(&self) -> BTreeMap<ObjectKey, Trouble> {
        self.lock().clone()
    }

    /// Notes why a pod is not in the mesh. Each reason is logged once, however often it is met.
    pub(super) fn note(&self, pod: &ObjectKey, error: &EnrolError) {
        let trouble = Trouble { reason: error.reason(), message: with_causes(error) };
        let mut pods = self.lock();
        let before = pods.insert(pod.clone(), trouble.clone());
        if before.is_none_or(|before| before.reason != trouble.reason) {
            tracing::warn!(%pod, reason = trouble.reason, error = trouble.message, "a pod is not in the mesh");
            self.herald.tell(pod, News::of_failure(error));
        }
        self.count(&pods);
    }

    /// The pod is in the mesh, or is not to be.
    pub(super) fn solve(&self, pod: &ObjectKey) {
        let mut pods = self.lock();
        if let Some(trouble) = pods.remove(pod) {
            tracing::info!(%pod, reason = trouble.reason, "no longer what keeps a pod out of the mesh");
            self.count(&pods);
        }
    }

    /// Forgets the pods of which `stays` says no.
    pub(super) fn retain(&self, mut stays: impl FnMut(&ObjectKey) -> bool) {
        let mut pods = self.lock();
        pods.retain(|pod, _| stays(pod));
        self.count(&pods);
    }

    fn count(&self, pods: &BTreeMap<ObjectKey, Trouble>) {
        let mut counts = BTreeMap::new();
        for trouble in pods.values() {
            *counts.entry(trouble.reason).or_default() += 1;
        }
        self.metrics.set_pods_unenrolled(&counts);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Trouble>> {
        lock(&self.pods)
    }
}
