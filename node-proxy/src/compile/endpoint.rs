//! EndpointSlices, or Pods where a Service has no slice → the endpoints that may be chosen.
//!
//! Chooses as kube-proxy does: per address family, ready endpoints; where there are none, those that are
//! terminating and still serve; with `internalTrafficPolicy: Local`, only those of the node itself, as far as cluster
//! addresses lead there; and otherwise those near by, where the slices' hints say of each whom it is for. Where there
//! are no slices, hints are what `trafficDistribution` makes of the nodes' zones.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use k8s_openapi::api::core::v1::{Service, ServicePort as DeclaredPort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::index::Index;
use super::workload::owns_addresses;
use crate::attach::{cluster_addresses, find_transport};
use crate::cluster::objects::{ObjectKey, Objects};
use crate::cluster::trimmed::{EndpointSlice, Pod, SliceEndpoint};
use crate::route::session::endpoint_id;
use crate::snapshot::map::SharedMap;
use crate::snapshot::service::{Endpoint, EndpointLoad, EndpointSet, ServicePort};
use crate::snapshot::transport::Transport;
use crate::snapshot::workload::Workload;

/// What identifies an endpoint over time: the pod's uid, where there is a pod, and the address.
type EndpointIdentity = (Option<Arc<str>>, SocketAddr);

/// What endpoints are compiled from.
pub(super) struct Sources<'a> {
    pub(super) objects: &'a Objects,
    pub(super) index: &'a Index,
    pub(super) workloads: &'a SharedMap<IpAddr, Arc<Workload>>,
    pub(super) own_node: &'a str,
    pub(super) own_zone: Option<&'a str>,
}

/// The endpoints of one port of one Service.
pub(super) struct Endpoints {
    /// For its cluster addresses and as a backend.
    pub(super) of_cluster: Arc<EndpointSet>,
    /// For addresses of other kinds, where they differ.
    pub(super) external: Option<Arc<EndpointSet>>,
}

impl Endpoints {
    pub(super) fn of(port: &ServicePort) -> Self {
        let external = port.external.as_ref().map(|external| Arc::clone(&external.endpoints));
        Self { of_cluster: Arc::clone(&port.endpoints), external }
    }
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
    zone: Hint,
    host: Hint,
}

/// Whom the hints of an endpoint name, of zones or of nodes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hint {
    Nobody,
    /// The own one among others.
    Here,
    Elsewhere,
}

impl Hint {
    fn new<'a>(names: impl Iterator<Item = &'a str>, own: Option<&str>) -> Self {
        let mut hint = Self::Nobody;
        for name in names {
            if Some(name) == own {
                return Self::Here;
            }
            hint = Self::Elsewhere;
        }
        hint
    }
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

    /// Notes that a Service port is this now, where it was another before.
    pub(super) fn exchange(&mut self, before: Option<&ServicePort>, now: Option<&ServicePort>) {
        self.exchange_sets(before.map(|port| &port.endpoints), now.map(|port| &port.endpoints));
        let [before, now] = [before, now].map(|port| Some(&port?.external.as_ref()?.endpoints));
        self.exchange_sets(before, now);
    }

    fn exchange_sets(&mut self, before: Option<&Arc<EndpointSet>>, now: Option<&Arc<EndpointSet>>) {
        if before.map(Arc::as_ptr) == now.map(Arc::as_ptr) {
            return;
        }
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

    /// Forgets what no set holds any more, and says so to whoever keeps connections there.
    pub(super) fn forget_unused(&mut self) {
        for identity in self.leaving.drain(..) {
            if let Entry::Occupied(known) = self.by_identity.entry(identity)
                && known.get().sets == 0
            {
                known.remove().endpoint.load.has_left.store(true, Ordering::Relaxed);
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
    port: &DeclaredPort,
) -> Endpoints {
    let Some(spec) = &service.spec else { return Endpoints { of_cluster: Arc::default(), external: None } };
    let slices: Vec<_> = sources.index.slices(key).collect();
    let mut candidates = if slices.is_empty() {
        pod_candidates(sources, (key, service), spec, port)
    } else {
        let slices = slices.into_iter().filter_map(|slice| sources.objects.endpoint_slices.get(slice));
        slices.flat_map(|slice| slice_candidates(sources, slice, port)).collect()
    };
    candidates.sort_by_key(|candidate| candidate.address);
    candidates.dedup_by_key(|candidate| candidate.address);
    let everywhere = choose(known, &candidates, is_near);
    if spec.internal_traffic_policy.as_deref() != Some("Local") {
        return Endpoints { of_cluster: Arc::new(everywhere), external: None };
    }
    candidates.retain(|candidate| candidate.node.as_deref() == Some(sources.own_node));
    let local = choose(known, &candidates, |_| |_| true);
    Endpoints { of_cluster: Arc::new(local), external: Some(Arc::new(everywhere)) }
}

/// The candidates that may be chosen, family by family.
fn choose<F: Fn(&Candidate) -> bool>(
    known: &mut KnownEndpoints,
    candidates: &[Candidate],
    prefer: impl Fn(&[&Candidate]) -> F,
) -> EndpointSet {
    let mut endpoints = Vec::new();
    for is_ipv4 in [true, false] {
        let family = || candidates.iter().filter(move |candidate| candidate.address.is_ipv4() == is_ipv4);
        let mut chosen: Vec<_> = family().filter(|candidate| candidate.is_ready).collect();
        if chosen.is_empty() {
            chosen.extend(family().filter(|candidate| candidate.is_serving_terminating));
        } else {
            let is_preferred = prefer(&chosen);
            chosen.retain(|candidate| is_preferred(candidate));
        }
        let renewed = chosen.iter().map(|chosen| known.renew(chosen.address, chosen.workload.clone()));
        endpoints.extend(renewed);
    }
    EndpointSet { endpoints }
}

/// Which of the ready endpoints are near, as kube-proxy has it: hints count only where every endpoint has one of that
/// kind, and where one of them is for here.
fn is_near(ready: &[&Candidate]) -> fn(&Candidate) -> bool {
    let counts = |hint: fn(&Candidate) -> Hint| {
        ready.iter().all(|candidate| hint(candidate) != Hint::Nobody)
            && ready.iter().any(|candidate| hint(candidate) == Hint::Here)
    };
    if counts(|candidate| candidate.host) {
        |candidate| candidate.host == Hint::Here
    } else if counts(|candidate| candidate.zone) {
        |candidate| candidate.zone == Hint::Here
    } else {
        |_| true
    }
}

/// One slice's endpoints for a port.
fn slice_candidates(sources: &Sources<'_>, slice: &EndpointSlice, port: &DeclaredPort) -> Vec<Candidate> {
    let name = port.name.as_deref().unwrap_or_default();
    let ports = match find_transport(port) {
        Some(Transport::Tcp) => &slice.ports,
        Some(Transport::Udp) => &slice.udp_ports,
        None => return Vec::new(),
    };
    let Some((_, number)) = ports.iter().find(|(listed, _)| **listed == *name) else {
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
        zone: Hint::new(endpoint.for_zones.iter().map(|zone| &**zone), sources.own_zone),
        host: Hint::new(endpoint.for_nodes.iter().map(|node| &**node), Some(sources.own_node)),
    })
}

/// Endpoints made from the Pods that a Service selects, where nothing makes slices of them.
fn pod_candidates(
    sources: &Sources<'_>,
    (key, service): (&ObjectKey, &Service),
    spec: &ServiceSpec,
    port: &DeclaredPort,
) -> Vec<Candidate> {
    let distribution = spec.traffic_distribution.as_deref();
    let publishes_all = spec.publish_not_ready_addresses == Some(true);
    let mut candidates = Vec::new();
    for (key, pod) in sources.index.selected(sources.objects, key, service) {
        if pod.is_finished {
            continue;
        }
        let Some(number) = find_target_port(pod, port) else { continue };
        let is_up = publishes_all || pod.is_ready;
        let (zone, host) = make_hints(sources, distribution, pod);
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
                zone,
                host,
            });
        }
    }
    candidates
}

/// The hints that the slice of this pod would have: its zone and, if nodes are asked for, its node.
fn make_hints(sources: &Sources<'_>, distribution: Option<&str>, pod: &Pod) -> (Hint, Hint) {
    let by_node = distribution == Some("PreferSameNode");
    if !by_node && !matches!(distribution, Some("PreferClose" | "PreferSameZone")) {
        return (Hint::Nobody, Hint::Nobody);
    }
    let name = pod.node.as_deref();
    let node = name.and_then(|name| sources.objects.nodes.get(&ObjectKey::new("", name)));
    let zone = node.and_then(|node| node.zone.as_deref());
    let host = name.filter(|_| by_node);
    (Hint::new(zone.into_iter(), sources.own_zone), Hint::new(host.into_iter(), Some(sources.own_node)))
}

/// `targetPort` on this pod: a number, a container port's name, or `port` itself when absent.
fn find_target_port(pod: &Pod, port: &DeclaredPort) -> Option<u16> {
    let number = match &port.target_port {
        None => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => {
            let ports = match find_transport(port)? {
                Transport::Tcp => &pod.named_ports,
                Transport::Udp => &pod.named_udp_ports,
            };
            ports.iter().find(|(known, _)| **known == **name).map(|(_, number)| *number)?
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
