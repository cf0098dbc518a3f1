//! EndpointSlices, or Pods where a Service has no slice → the endpoints that may be chosen.
//!
//! Chooses as kube-proxy does: per address family, ready endpoints; where there are none, those that are
//! terminating and still serve; with `internalTrafficPolicy: Local`, only those of the node itself.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::index::Index;
use super::workload::owns_addresses;
use crate::attach::cluster_addresses;
use crate::cluster::objects::{ObjectKey, Objects};
use crate::cluster::trimmed::{EndpointSlice, Pod, SliceEndpoint};
use crate::route::session::endpoint_id;
use crate::snapshot::map::SharedMap;
use crate::snapshot::service::{Endpoint, EndpointLoad, EndpointSet};
use crate::snapshot::workload::Workload;

/// What identifies an endpoint over time: the pod's uid, where there is a pod, and the address.
type EndpointIdentity = (Option<Arc<str>>, SocketAddr);

/// What endpoints are compiled from.
pub(super) struct Sources<'a> {
    pub(super) objects: &'a Objects,
    pub(super) index: &'a Index,
    pub(super) workloads: &'a SharedMap<IpAddr, Arc<Workload>>,
    pub(super) own_node: &'a str,
}

/// Every endpoint of the latest snapshot, by identity, so that load and `Arc`s are shared.
#[derive(Debug, Default)]
pub(super) struct KnownEndpoints {
    by_identity: HashMap<EndpointIdentity, Known>,
    /// What no set may hold any more. Until every Service has been looked at, another may have it.
    leaving: Vec<EndpointIdentity>,
}

#[derive(Debug)]
struct Known {
    endpoint: Arc<Endpoint>,
    /// How many sets hold it.
    sets: usize,
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
    /// The endpoint as it is now, with the load of what it was before.
    fn renew(&mut self, address: SocketAddr, workload: Option<Arc<Workload>>) -> Arc<Endpoint> {
        let identity = (workload.as_ref().map(|workload| Arc::clone(&workload.uid)), address);
        let known = match self.by_identity.entry(identity) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                self.leaving.push(unknown.key().clone());
                let id = endpoint_id(unknown.key().0.as_deref(), address);
                let load = Arc::new(EndpointLoad { id, ..EndpointLoad::default() });
                let endpoint = Arc::new(Endpoint { address, workload, load });
                return Arc::clone(&unknown.insert(Known { endpoint, sets: 0 }).endpoint);
            }
        };
        if !is_same_workload(known.endpoint.workload.as_ref(), workload.as_ref()) {
            let load = Arc::clone(&known.endpoint.load);
            known.endpoint = Arc::new(Endpoint { address, workload, load });
        }
        Arc::clone(&known.endpoint)
    }

    /// Notes that a Service port has one set now, where it had another before.
    pub(super) fn exchange(&mut self, before: Option<&EndpointSet>, now: Option<&EndpointSet>) {
        for endpoint in now.iter().flat_map(|set| &set.endpoints) {
            if let Some(known) = self.by_identity.get_mut(&identity(endpoint)) {
                known.sets += 1;
            }
        }
        for endpoint in before.iter().flat_map(|set| &set.endpoints) {
            let identity = identity(endpoint);
            let Some(known) = self.by_identity.get_mut(&identity) else { continue };
            known.sets = known.sets.saturating_sub(1);
            if known.sets == 0 {
                self.leaving.push(identity);
            }
        }
    }

    /// Forgets what no set holds any more.
    pub(super) fn forget_unused(&mut self) {
        for identity in self.leaving.drain(..) {
            if self.by_identity.get(&identity).is_some_and(|known| known.sets == 0) {
                self.by_identity.remove(&identity);
            }
        }
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

/// The endpoints of one port of one Service, in the order of their addresses.
pub(super) fn compile_endpoints(
    sources: &Sources<'_>,
    known: &mut KnownEndpoints,
    (key, service): (&ObjectKey, &Service),
    port: &ServicePort,
) -> EndpointSet {
    let Some(spec) = &service.spec else { return EndpointSet::default() };
    let slices: Vec<_> = sources.index.slices(key).collect();
    let mut candidates = if slices.is_empty() {
        pod_candidates(sources, (key, service), spec, port)
    } else {
        let slices = slices.into_iter().filter_map(|slice| sources.objects.endpoint_slices.get(slice));
        slices.flat_map(|slice| slice_candidates(sources, slice, port)).collect()
    };
    if spec.internal_traffic_policy.as_deref() == Some("Local") {
        candidates.retain(|candidate| candidate.node.as_deref() == Some(sources.own_node));
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
            endpoints.push(known.renew(candidate.address, candidate.workload.clone()));
        }
    }
    EndpointSet { endpoints }
}

/// One slice's endpoints for a port.
fn slice_candidates(sources: &Sources<'_>, slice: &EndpointSlice, port: &ServicePort) -> Vec<Candidate> {
    let name = port.name.as_deref().unwrap_or_default();
    let Some((_, number)) = slice.ports.iter().find(|(listed, _)| **listed == *name) else {
        return Vec::new();
    };
    slice.endpoints.iter().filter_map(|endpoint| slice_candidate(sources, endpoint, *number)).collect()
}

/// `None` for a pod's endpoint whose Pod is not known with this address: it is used once it is, so that
/// a marked pod is never dialled in plain text (design D7).
fn slice_candidate(sources: &Sources<'_>, endpoint: &SliceEndpoint, port: u16) -> Option<Candidate> {
    let address = endpoint.address;
    let workload = match &endpoint.pod {
        Some(target) => {
            let pod = sources.objects.pods.get(&target.key)?;
            if pod.is_finished || !pod.addresses.contains(&address) {
                return None;
            }
            if target.uid.is_some() && target.uid.as_deref() != pod.uid.as_deref() {
                return None;
            }
            if owns_addresses(pod) {
                Some(sources.workloads.get(&address).filter(|workload| workload.pod == target.key)?)
            } else {
                None
            }
        }
        None => sources.workloads.get(&address),
    };
    let workload_node = || workload.and_then(|workload| workload.node.clone());
    Some(Candidate {
        address: SocketAddr::new(address, port),
        workload: workload.cloned(),
        node: endpoint.node.clone().or_else(workload_node),
        is_ready: endpoint.is_ready,
        is_serving_terminating: endpoint.is_serving_terminating,
    })
}

/// Endpoints made from the Pods that a Service selects, where nothing makes slices of them.
fn pod_candidates(
    sources: &Sources<'_>,
    (key, service): (&ObjectKey, &Service),
    spec: &ServiceSpec,
    port: &ServicePort,
) -> Vec<Candidate> {
    let publishes_all = spec.publish_not_ready_addresses == Some(true);
    let mut candidates = Vec::new();
    for (key, pod) in sources.index.selected(sources.objects, key, service) {
        if pod.is_finished {
            continue;
        }
        let Some(number) = find_target_port(pod, port) else { continue };
        let is_up = publishes_all || pod.is_ready;
        for address in pod.addresses.iter().copied().filter(|address| has_family(spec, *address)) {
            // The address of a Pod that has long gone may be another's by now.
            let owner = sources.workloads.get(&address).filter(|workload| workload.pod == *key);
            let workload = match owner {
                Some(_) => owner,
                None if owns_addresses(pod) => continue,
                None => None,
            };
            candidates.push(Candidate {
                address: SocketAddr::new(address, number),
                workload: workload.cloned(),
                node: pod.node.clone(),
                is_ready: is_up && (publishes_all || !pod.is_leaving),
                is_serving_terminating: is_up && pod.is_leaving,
            });
        }
    }
    candidates
}

/// `targetPort` on this pod: a number, a container port's name, or `port` itself when absent.
fn find_target_port(pod: &Pod, port: &ServicePort) -> Option<u16> {
    let number = match &port.target_port {
        None => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => {
            pod.named_ports.iter().find(|(known, _)| **known == **name).map(|(_, number)| *number)?
        }
    };
    u16::try_from(number).ok().filter(|number| *number != 0)
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
