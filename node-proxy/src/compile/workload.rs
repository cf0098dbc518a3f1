//! Namespaces, Nodes and Pods → namespaces' settings, address ranges and workloads.
//!
//! An address is a pod's identity here, so only pods that run and have a network of their own count.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use gammarus_ca::{SpiffeId, TrustDomain};
use k8s_openapi::api::core::v1::Namespace;

use crate::attach::labels::{MESH_LABEL, MTLS_LABEL, PLAINTEXT_PORTS_ANNOTATION, parse_plaintext_ports};
use crate::cluster::objects::{ObjectKey, Objects};
use crate::cluster::trimmed::Pod;
use crate::snapshot::map::SharedMap;
use crate::snapshot::workload::{Enrolment, MtlsMode, Workload};
use crate::snapshot::{AddressRange, NamespacePolicy};

pub use gammarus_ca::authorize::GATEWAY_NAME_LABEL;

/// The label of the pods that serve a Gateway of ours: what is made for a Gateway is named by it.
pub const GATEWAY_LABEL: &str = "gammarus.io/gateway";

pub(super) fn compile_namespace(namespace: &Namespace) -> NamespacePolicy {
    let labels = namespace.metadata.labels.as_ref();
    let label = |name| labels.and_then(|labels| labels.get(name)).map(String::as_str);
    let mtls = if label(MTLS_LABEL) == Some("strict") { MtlsMode::Strict } else { MtlsMode::Permissive };
    NamespacePolicy { enrolled: label(MESH_LABEL) == Some("enabled"), mtls }
}

/// The ranges of `spec.podCIDRs` of all nodes by their first addresses, in order, and none within another: where an address
/// would be is looked up at once.
pub(super) fn compile_pod_ranges(objects: &Objects) -> Arc<[AddressRange]> {
    let ranges = objects.nodes.values().flat_map(|node| node.pod_ranges.iter());
    let ordered: BTreeSet<AddressRange> = ranges.map(|range| range.from_first()).collect();
    let mut outermost: Vec<AddressRange> = Vec::new();
    for range in ordered {
        if !outermost.last().is_some_and(|last| last.contains(range.address)) {
            outermost.push(range);
        }
    }
    outermost.into()
}

/// The nodes' own addresses, internal and external.
pub(super) fn compile_node_addresses(objects: &Objects) -> HashMap<IpAddr, Arc<str>> {
    let mut addresses = HashMap::new();
    for (key, node) in &*objects.nodes {
        addresses.extend(node.addresses.iter().map(|address| (*address, Arc::clone(&key.name))));
    }
    addresses
}

/// Compiles workloads one by one, each pod once.
pub(super) struct Workloads<'a> {
    pub(super) objects: &'a Objects,
    pub(super) namespaces: &'a SharedMap<Arc<str>, NamespacePolicy>,
    pub(super) trust_domain: &'a TrustDomain,
    compiled: HashMap<ObjectKey, Option<Compiled>>,
    /// Of namespaces and service accounts: many pods share one.
    identities: HashMap<(&'a str, &'a str), Option<SpiffeId>>,
}

/// A pod as a workload, with and without its mark, as far as anybody asked.
struct Compiled {
    plain: Arc<Workload>,
    marked: Option<Arc<Workload>>,
}

impl<'a> Workloads<'a> {
    pub(super) fn new(
        objects: &'a Objects,
        namespaces: &'a SharedMap<Arc<str>, NamespacePolicy>,
        trust_domain: &'a TrustDomain,
    ) -> Self {
        Self { objects, namespaces, trust_domain, compiled: HashMap::new(), identities: HashMap::new() }
    }

    /// The workload that has an address, of the pods that say it is theirs: of one that is not being deleted, and
    /// of several such the youngest.
    pub(super) fn find(
        &mut self,
        address: IpAddr,
        owners: impl Iterator<Item = &'a ObjectKey>,
    ) -> Option<Arc<Workload>> {
        let mut pods: Vec<_> =
            owners.filter_map(|key| Some((key, self.objects.pods.get(key)?.as_ref()))).collect();
        pods.sort_by_key(|(_, pod)| (!pod.is_leaving, pod.created));
        pods.into_iter().rev().find_map(|(key, pod)| self.compile(key, pod, address))
    }

    /// Marked where its mark names the address. A mark of another uid is another pod's, and is ignored; so is one
    /// of a pod without a uid.
    fn compile(&mut self, key: &'a ObjectKey, pod: &'a Pod, address: IpAddr) -> Option<Arc<Workload>> {
        let compiled = self.compiled.entry(key.clone()).or_insert_with(|| {
            let account = (&*key.namespace, service_account(pod));
            let identity = self
                .identities
                .entry(account)
                .or_insert_with(|| SpiffeId::new(self.trust_domain.clone(), account.0, account.1).ok());
            let plain = compile_pod(key, pod, self.namespaces.get(&key.namespace), identity.clone()?);
            Some(Compiled { plain: Arc::new(plain), marked: None })
        });
        let compiled = compiled.as_mut()?;
        let uid = &*compiled.plain.uid;
        let mark = self.objects.marks.get(key).filter(|mark| mark.uid == uid && !uid.is_empty());
        let Some(mark) = mark.filter(|mark| mark.addresses.contains(&address)) else {
            return Some(Arc::clone(&compiled.plain));
        };
        let marked = || {
            let (enrolment, hop_ports) = (Enrolment::Marked, mark.ports.clone());
            Arc::new(Workload { enrolment, hop_ports, ..Workload::clone(&compiled.plain) })
        };
        Some(Arc::clone(compiled.marked.get_or_insert_with(marked)))
    }
}

/// Whether the pod runs and has a network of its own: a finished pod's addresses are free for others, and
/// a pod of the host's network shares the node's.
#[must_use]
pub fn owns_addresses(pod: &Pod) -> bool {
    !pod.is_finished && !pod.is_on_host_network
}

/// Who a pod is in the mesh, and whether it is to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The identity of its service account.
    pub identity: SpiffeId,
    /// Whether its namespace and labels put it into the mesh.
    pub is_enrolled: bool,
    /// Whether they would, and it stays outside because it shares its node's network.
    pub is_left_alone: bool,
}

/// Whether a pod is to be in the mesh; `None` as long as it or its namespace is not known.
#[must_use]
pub fn find_membership(objects: &Objects, key: &ObjectKey, trust_domain: &TrustDomain) -> Option<Membership> {
    let pod = objects.pods.get(key)?;
    let namespace = objects.namespaces.get(&ObjectKey::new("", &key.namespace))?;
    let policy = compile_namespace(namespace);
    let identity = SpiffeId::new(trust_domain.clone(), &key.namespace, service_account(pod)).ok()?;
    let workload = compile_pod(key, pod, Some(&policy), identity);
    let is_meant = workload.enrolment != Enrolment::None;
    let (is_enrolled, is_left_alone) =
        (is_meant && !pod.is_on_host_network, is_meant && pod.is_on_host_network);
    Some(Membership { identity: workload.identity, is_enrolled, is_left_alone })
}

fn service_account(pod: &Pod) -> &str {
    pod.service_account.as_deref().filter(|name| !name.is_empty()).unwrap_or("default")
}

/// A pod as a workload that is not marked. Names that make no identity, which no API server lets happen, make no
/// workload.
fn compile_pod(key: &ObjectKey, pod: &Pod, policy: Option<&NamespacePolicy>, identity: SpiffeId) -> Workload {
    let opted_out = pod.labels.find(MESH_LABEL) == Some("disabled");
    let is_expected = policy.is_some_and(|policy| policy.enrolled) && !opted_out;
    let is_gateway = pod.labels.find(GATEWAY_NAME_LABEL).is_some();
    let plaintext = pod.annotations.find(PLAINTEXT_PORTS_ANNOTATION);
    Workload {
        uid: pod.uid.clone().unwrap_or_default(),
        pod: key.clone(),
        identity,
        node: pod.node.clone(),
        addresses: pod.addresses.to_vec(),
        enrolment: if is_expected { Enrolment::Expected } else { Enrolment::None },
        mtls: policy.map_or(MtlsMode::Permissive, |policy| policy.mtls),
        is_gateway,
        hop_ports: Vec::new(),
        plaintext_ports: plaintext.map(|text| parse_plaintext_ports(text).ports).unwrap_or_default(),
    }
}
