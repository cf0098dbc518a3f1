//! EndpointSlices, or Pods where a Service has no slice → the endpoints that may be chosen.
//!
//! Chooses as kube-proxy does: per address family, ready endpoints; where there are none, those that are
//! terminating and still serve; with `internalTrafficPolicy: Local`, only those of the node itself.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Compiler;
use super::workload::{is_running, owns_addresses, pod_addresses};
use crate::attach::cluster_addresses;
use crate::cluster::objects::ObjectKey;
use crate::snapshot::service::{Endpoint, EndpointLoad, EndpointSet};
use crate::snapshot::workload::Workload;

/// The label that says whose slice it is.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Service → its slices, in the order of their names.
pub(super) type SlicesByService = HashMap<ObjectKey, Vec<Arc<EndpointSlice>>>;

/// What identifies an endpoint over time: the pod's uid, where there is a pod, and the address.
type EndpointIdentity = (Option<Arc<str>>, SocketAddr);

/// Endpoints of the last snapshot and of this one, by identity, so that load and `Arc`s are shared.
#[derive(Default)]
pub(super) struct KnownEndpoints {
    by_identity: HashMap<EndpointIdentity, Arc<Endpoint>>,
}

/// An endpoint before choosing.
struct Candidate {
    address: SocketAddr,
    workload: Option<Arc<Workload>>,
    node: Option<Arc<str>>,
    is_ready: bool,
    is_serving_terminating: bool,
}

impl KnownEndpoints {
    pub(super) fn collect<'a>(sets: impl Iterator<Item = &'a Arc<EndpointSet>>) -> Self {
        let endpoints = sets.flat_map(|set| &set.endpoints);
        Self { by_identity: endpoints.map(|endpoint| (identity(endpoint), Arc::clone(endpoint))).collect() }
    }

    /// The endpoint as it is now, with the load of what it was before.
    fn renew(&mut self, address: SocketAddr, workload: Option<Arc<Workload>>) -> Arc<Endpoint> {
        let identity = (workload.as_ref().map(|workload| Arc::clone(&workload.uid)), address);
        let known = self.by_identity.get(&identity);
        if let Some(known) =
            known.filter(|known| is_same_workload(known.workload.as_ref(), workload.as_ref()))
        {
            return Arc::clone(known);
        }
        let load = known.map_or_else(|| Arc::new(EndpointLoad::default()), |known| Arc::clone(&known.load));
        let endpoint = Arc::new(Endpoint { address, workload, load });
        self.by_identity.insert(identity, Arc::clone(&endpoint));
        endpoint
    }
}

fn identity(endpoint: &Endpoint) -> EndpointIdentity {
    (endpoint.workload.as_ref().map(|workload| Arc::clone(&workload.uid)), endpoint.address)
}

fn is_same_workload(one: Option<&Arc<Workload>>, other: Option<&Arc<Workload>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

/// The slices of each Service, by the label that ties them to it.
pub(super) fn group_slices(slices: &BTreeMap<ObjectKey, Arc<EndpointSlice>>) -> SlicesByService {
    let mut grouped = SlicesByService::new();
    for (key, slice) in slices {
        let labels = slice.metadata.labels.as_ref();
        if let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL)) {
            grouped.entry(ObjectKey::new(&key.namespace, service)).or_default().push(Arc::clone(slice));
        }
    }
    grouped
}

/// The endpoints of one port of one Service, in the order of their addresses.
pub(super) fn compile_endpoints(
    compiler: &mut Compiler<'_>,
    key: &ObjectKey,
    service: &Service,
    port: &ServicePort,
) -> EndpointSet {
    let Some(spec) = &service.spec else { return EndpointSet::default() };
    let mut candidates = match compiler.slices.get(key) {
        Some(slices) => slices.iter().flat_map(|slice| slice_candidates(compiler, slice, port)).collect(),
        None => pod_candidates(compiler, &key.namespace, spec, port),
    };
    if spec.internal_traffic_policy.as_deref() == Some("Local") {
        candidates.retain(|candidate| candidate.node.as_deref() == Some(compiler.own_node));
    }
    candidates.sort_by_key(|candidate| candidate.address);
    candidates.dedup_by_key(|candidate| candidate.address);
    let mut endpoints = Vec::new();
    for is_ipv4 in [true, false] {
        let family = || candidates.iter().filter(|candidate| candidate.address.is_ipv4() == is_ipv4);
        let any_ready = family().any(|candidate| candidate.is_ready);
        let may_take = |candidate: &Candidate| {
            if any_ready { candidate.is_ready } else { candidate.is_serving_terminating }
        };
        for candidate in family().filter(|candidate| may_take(candidate)) {
            endpoints.push(compiler.endpoints.renew(candidate.address, candidate.workload.clone()));
        }
    }
    EndpointSet { endpoints }
}

/// One slice's endpoints for a port. Slices of host names are none of ours.
fn slice_candidates(compiler: &Compiler<'_>, slice: &EndpointSlice, port: &ServicePort) -> Vec<Candidate> {
    let name = port.name.as_deref().unwrap_or_default();
    let is_port = |listed: &&k8s_openapi::api::discovery::v1::EndpointPort| {
        listed.name.as_deref().unwrap_or_default() == name
            && listed.protocol.as_deref().unwrap_or("TCP") == "TCP"
    };
    let listed = slice.ports.iter().flatten().find(is_port);
    let Some(number) = listed.and_then(|listed| u16::try_from(listed.port?).ok()) else { return Vec::new() };
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    slice
        .endpoints
        .iter()
        .filter_map(|endpoint| slice_candidate(compiler, namespace, endpoint, number))
        .collect()
}

/// `None` for a pod's endpoint whose Pod is not known with this address: it is used once it is, so that
/// a marked pod is never dialled in plain text (design D7).
fn slice_candidate(
    compiler: &Compiler<'_>,
    namespace: &str,
    endpoint: &SliceEndpoint,
    port: u16,
) -> Option<Candidate> {
    // "consumers SHOULD only use the first" of `addresses`.
    let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    let workload = match target {
        Some(target) => {
            let namespace = target.namespace.as_deref().unwrap_or(namespace);
            let key = ObjectKey::new(namespace, target.name.as_deref().unwrap_or_default());
            let pod = compiler.objects.pods.get(&key)?;
            if !is_running(pod) || !pod_addresses(pod).contains(&address) {
                return None;
            }
            if target.uid.is_some() && target.uid != pod.metadata.uid {
                return None;
            }
            if owns_addresses(pod) {
                Some(compiler.workloads.get(&address).filter(|workload| workload.pod == key)?)
            } else {
                None
            }
        }
        None => compiler.workloads.get(&address),
    };
    let conditions = endpoint.conditions.as_ref();
    // "A nil value should be interpreted as "true"", and of `serving` "should be interpreted as ready".
    let is_ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let is_serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(is_ready);
    let is_terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
    let workload_node = workload.and_then(|workload| workload.node.clone());
    Some(Candidate {
        address: SocketAddr::new(address, port),
        workload: workload.cloned(),
        node: endpoint.node_name.as_deref().map(Into::into).or(workload_node),
        is_ready,
        is_serving_terminating: is_serving && is_terminating,
    })
}

/// Endpoints made from the Pods that a Service selects, where nothing makes slices of them.
fn pod_candidates(
    compiler: &Compiler<'_>,
    namespace: &str,
    spec: &ServiceSpec,
    port: &ServicePort,
) -> Vec<Candidate> {
    let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.is_empty()) else {
        return Vec::new();
    };
    let publishes_all = spec.publish_not_ready_addresses == Some(true);
    let mut candidates = Vec::new();
    for (key, pod) in compiler.objects.pods.iter().filter(|(key, _)| *key.namespace == *namespace) {
        let labels = pod.metadata.labels.as_ref();
        let has =
            |(name, value): (&String, &String)| labels.and_then(|labels| labels.get(name)) == Some(value);
        if !is_running(pod) || !selector.iter().all(has) {
            continue;
        }
        let Some(number) = find_target_port(pod, port) else { continue };
        let is_up = publishes_all || is_ready(pod);
        let is_terminating = pod.metadata.deletion_timestamp.is_some();
        for address in pod_addresses(pod).into_iter().filter(|address| has_family(spec, *address)) {
            // The address of a Pod that has long gone may be another's by now.
            let owner = compiler.workloads.get(&address).filter(|workload| workload.pod == *key);
            let workload = match owner {
                Some(_) => owner,
                None if owns_addresses(pod) => continue,
                None => None,
            };
            candidates.push(Candidate {
                address: SocketAddr::new(address, number),
                workload: workload.cloned(),
                node: pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).map(Into::into),
                is_ready: is_up && (publishes_all || !is_terminating),
                is_serving_terminating: is_up && is_terminating,
            });
        }
    }
    candidates
}

/// A pod without a Ready condition counts as ready: no kubelet says otherwise.
fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.filter(|condition| condition.type_ == "Ready").all(|condition| condition.status == "True")
}

/// `targetPort` on this pod: a number, a container port's name, or `port` itself when absent.
fn find_target_port(pod: &Pod, port: &ServicePort) -> Option<u16> {
    let number = match &port.target_port {
        None => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => find_named_port(pod, name)?,
    };
    u16::try_from(number).ok().filter(|number| *number != 0)
}

/// A TCP container port by its name; init containers that keep running (sidecars) count.
fn find_named_port(pod: &Pod, name: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let mut tcp = ports.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
    tcp.find(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port)
}

/// Whether the Service has addresses of this family: by `ipFamilies`, else by its clusterIPs; a Service
/// that says neither has all.
fn has_family(spec: &ServiceSpec, address: IpAddr) -> bool {
    if let Some(families) = spec.ip_families.as_ref().filter(|families| !families.is_empty()) {
        return families.iter().any(|family| (family == "IPv4") == address.is_ipv4());
    }
    let own = cluster_addresses(spec);
    own.is_empty() || own.iter().any(|own| own.is_ipv4() == address.is_ipv4())
}
