//! Namespaces, Nodes and Pods → namespaces' settings, address ranges and workloads.
//!
//! An address is a pod's identity here, so only pods that run and have a network of their own count.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use gammarus_ca::{SpiffeId, TrustDomain};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::attach::labels::{MESH_LABEL, MTLS_LABEL, PLAINTEXT_PORTS_ANNOTATION, parse_plaintext_ports};
use crate::cluster::objects::{ObjectKey, Objects};
use crate::snapshot::workload::{Enrolment, MtlsMode, Workload};
use crate::snapshot::{AddressRange, NamespacePolicy, Snapshot};

/// Namespace name → settings.
pub(super) fn compile_namespaces(objects: &Objects) -> HashMap<Arc<str>, NamespacePolicy> {
    objects
        .namespaces
        .iter()
        .map(|(key, namespace)| (Arc::clone(&key.name), compile_namespace(namespace)))
        .collect()
}

fn compile_namespace(namespace: &Namespace) -> NamespacePolicy {
    let label = |name| label_of(&namespace.metadata, name);
    let mtls = if label(MTLS_LABEL) == Some("strict") { MtlsMode::Strict } else { MtlsMode::Permissive };
    NamespacePolicy { enrolled: label(MESH_LABEL) == Some("enabled"), mtls }
}

/// The ranges of `spec.podCIDRs` of all nodes, each once.
pub(super) fn compile_pod_ranges(objects: &Objects) -> Vec<AddressRange> {
    let mut ranges = Vec::new();
    for spec in objects.nodes.values().filter_map(|node| node.spec.as_ref()) {
        let several = spec.pod_cidrs.iter().flatten();
        for range in several.chain(&spec.pod_cidr).filter_map(|text| text.parse().ok()) {
            if !ranges.contains(&range) {
                ranges.push(range);
            }
        }
    }
    ranges
}

/// The nodes' own addresses, internal and external.
pub(super) fn compile_node_addresses(objects: &Objects) -> HashMap<IpAddr, Arc<str>> {
    let mut addresses = HashMap::new();
    for (key, node) in &objects.nodes {
        let listed = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        let own = listed.filter(|entry| matches!(entry.type_.as_str(), "InternalIP" | "ExternalIP"));
        addresses.extend(own.filter_map(|entry| Some((entry.address.parse().ok()?, Arc::clone(&key.name)))));
    }
    addresses
}

/// Pod address → workload. Where two pods claim an address, the one that is not being deleted has it, and
/// of two such the younger.
pub(super) fn compile_workloads(
    objects: &Objects,
    namespaces: &HashMap<Arc<str>, NamespacePolicy>,
    previous: &Snapshot,
    trust_domain: &TrustDomain,
) -> HashMap<IpAddr, Arc<Workload>> {
    let mut pods: Vec<(&ObjectKey, &Pod)> = objects
        .pods
        .iter()
        .map(|(key, pod)| (key, pod.as_ref()))
        .filter(|(_, pod)| owns_addresses(pod))
        .collect();
    pods.sort_by_key(|(_, pod)| {
        let metadata = &pod.metadata;
        (metadata.deletion_timestamp.is_none(), metadata.creation_timestamp.clone())
    });
    let mut workloads = HashMap::new();
    for (key, pod) in pods {
        let policy = namespaces.get(&key.namespace);
        let Some(workload) = compile_pod(key, pod, policy, trust_domain) else { continue };
        for (address, workload) in by_enrolment(objects, workload) {
            let kept = previous.workloads.get(&address).filter(|old| **old == workload);
            workloads.insert(address, kept.map_or(workload, Arc::clone));
        }
    }
    workloads
}

/// Whether the pod runs and has a network of its own: a finished pod's addresses are free for others, and
/// a pod of the host's network shares the node's.
pub(super) fn owns_addresses(pod: &Pod) -> bool {
    is_running(pod) && !is_on_host_network(pod)
}

/// Whether the pod is not finished.
pub(super) fn is_running(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

fn is_on_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true)
}

/// Whether a pod is to be in the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// It is, with this identity.
    Enrolled(SpiffeId),
    /// It is not.
    None,
}

/// Whether a pod is to be in the mesh; `None` as long as its namespace is not known.
#[must_use]
pub fn find_membership(objects: &Objects, pod: &Pod, trust_domain: &TrustDomain) -> Option<Membership> {
    let key = ObjectKey::new(pod.metadata.namespace.as_deref()?, pod.metadata.name.as_deref()?);
    let namespace = objects.namespaces.get(&ObjectKey::new("", &key.namespace))?;
    let policy = compile_namespace(namespace);
    let workload = compile_pod(&key, pod, Some(&policy), trust_domain)?;
    Some(match workload.enrolment {
        Enrolment::Marked | Enrolment::Expected if !is_on_host_network(pod) => {
            Membership::Enrolled(workload.identity)
        }
        _ => Membership::None,
    })
}

/// All addresses of a pod: `status.podIPs`, or `status.podIP` where only that is there.
pub(super) fn pod_addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let several = status.pod_ips.iter().flatten().map(|entry| entry.ip.as_str());
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in several.chain(status.pod_ip.as_deref()).filter_map(|text| text.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// A pod as a workload that is not marked; `None` if its names make no identity, which no API server lets
/// happen.
fn compile_pod(
    key: &ObjectKey,
    pod: &Pod,
    policy: Option<&NamespacePolicy>,
    trust_domain: &TrustDomain,
) -> Option<Workload> {
    let spec = pod.spec.as_ref();
    let account = spec.and_then(|spec| spec.service_account_name.as_deref()).filter(|name| !name.is_empty());
    let opted_out = label_of(&pod.metadata, MESH_LABEL) == Some("disabled");
    let is_expected = policy.is_some_and(|policy| policy.enrolled) && !opted_out;
    let annotations = pod.metadata.annotations.as_ref();
    let plaintext = annotations.and_then(|annotations| annotations.get(PLAINTEXT_PORTS_ANNOTATION));
    let identity = SpiffeId::new(trust_domain.clone(), &key.namespace, account.unwrap_or("default")).ok()?;
    Some(Workload {
        uid: pod.metadata.uid.as_deref().unwrap_or_default().into(),
        pod: key.clone(),
        identity,
        node: spec.and_then(|spec| spec.node_name.as_deref()).map(Into::into),
        addresses: pod_addresses(pod),
        enrolment: if is_expected { Enrolment::Expected } else { Enrolment::None },
        mtls: policy.map_or(MtlsMode::Permissive, |policy| policy.mtls),
        plaintext_ports: plaintext.map(|text| parse_plaintext_ports(text).ports).unwrap_or_default(),
    })
}

/// The workload for each of its addresses: marked for those that its mark names. A mark of another uid is
/// another pod's, and is ignored; so is one of a pod without a uid.
fn by_enrolment(objects: &Objects, workload: Workload) -> Vec<(IpAddr, Arc<Workload>)> {
    let mark =
        objects.marks.get(&workload.pod).filter(|mark| *mark.uid == *workload.uid && !mark.uid.is_empty());
    let marked = Arc::new(Workload { enrolment: Enrolment::Marked, ..workload.clone() });
    let plain = Arc::new(workload);
    let is_marked = |address: &IpAddr| mark.is_some_and(|mark| mark.addresses.contains(address));
    let choose = |address: &IpAddr| Arc::clone(if is_marked(address) { &marked } else { &plain });
    plain.addresses.iter().map(|address| (*address, choose(address))).collect()
}

fn label_of<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(name).map(String::as_str)
}
