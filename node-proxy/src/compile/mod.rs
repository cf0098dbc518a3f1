//! Objects and their judgement → the snapshot that the data path reads. Pure: no I/O, no clock.
//!
//! A [`Compiler`] keeps the latest snapshot and indexes from objects to what is made of them, so that an update costs
//! what it touches: changed objects lead to addresses, addresses and objects to Services, and those are compiled
//! again. Everything at once is the same step with everything changed. Whatever comes out equal keeps its old `Arc`,
//! so that a change reaches only those whom it concerns. What routes hold where is `attach`'s word; nothing is
//! judged again here.

mod endpoint;
mod frontend;
pub mod gateway;
mod index;
mod route;
mod service;
pub mod workload;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use gammarus_ca::TrustDomain;
use k8s_openapi::api::core::v1::{Service, ServicePort as DeclaredPort};

use crate::attach::{Attachments, Clients, PortGroup};
use crate::cluster::objects::{Changed, ObjectKey, Objects};
use crate::cluster::trimmed::Node;
use crate::snapshot::Snapshot;
use crate::snapshot::service::{ServicePort, ServicePortKey};
use crate::snapshot::transport::Port;
use endpoint::{Endpoints, KnownEndpoints, Sources, compile_endpoints};
use frontend::{Frontends, Lead};
use index::Index;
use service::{Tables, compile_port, declared_ports, find_leads};
use workload::{Workloads, compile_namespace, compile_node_addresses, compile_pod_ranges};

/// Makes one snapshot after another.
#[derive(Debug)]
pub struct Compiler {
    own_node: String,
    trust_domain: TrustDomain,
    snapshot: Snapshot,
    index: Index,
    endpoints: KnownEndpoints,
    frontends: Frontends,
    /// Service → its ports, with what leads to each.
    published: HashMap<ObjectKey, BTreeMap<Port, Vec<Lead>>>,
    datagrams: Datagrams,
}

/// Whether ports of UDP are of any use: a Gateway may lead there, the mesh never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Datagrams {
    Known,
    Left,
}

/// What one update is compiled from.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// What there is now.
    pub objects: &'a Objects,
    /// What of it has changed since the last step.
    pub changed: &'a Changed,
    /// The judgement of `objects`.
    pub attachments: &'a Attachments,
    /// Where the judgement has changed since the last step.
    pub groups: &'a BTreeSet<PortGroup>,
}

/// Whether a node is in another zone than before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Zones {
    AsBefore,
    Changed,
}

/// A Service on its way into the snapshot.
struct Renewal<'a> {
    key: &'a ObjectKey,
    service: &'a Service,
    /// Whether its endpoints may be others; else only routes are.
    endpoints: EndpointsStep,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EndpointsStep {
    Keep,
    Renew,
}

/// The snapshot of these objects, for the node `own_node`.
#[must_use]
pub fn compile(objects: &Objects, own_node: &str, trust_domain: &TrustDomain) -> Snapshot {
    let mut attachments = Attachments::default();
    let changed = &Changed::everything(objects);
    let groups = &attachments.update(objects, changed).groups;
    let step = Step { objects, changed, attachments: &attachments, groups };
    Compiler::new(own_node, trust_domain.clone()).update(&step)
}

impl Compiler {
    /// A compiler for the node `own_node` that knows of nothing yet.
    #[must_use]
    pub fn new(own_node: &str, trust_domain: TrustDomain) -> Self {
        Self {
            own_node: own_node.to_owned(),
            trust_domain,
            snapshot: Snapshot::default(),
            index: Index::default(),
            endpoints: KnownEndpoints::default(),
            frontends: Frontends::default(),
            published: HashMap::new(),
            datagrams: Datagrams::Left,
        }
    }

    /// The same, for a Gateway: ports of UDP are compiled, too.
    #[must_use]
    pub const fn with_datagrams(mut self) -> Self {
        self.datagrams = Datagrams::Known;
        self
    }

    /// The snapshot of what there is now, which shares with the last one whatever is equal.
    pub fn update(&mut self, step: &Step<'_>) -> Snapshot {
        let Step { objects, changed, groups, .. } = *step;
        self.index.update(objects, changed);
        let zones = self.update_nodes(step);
        let addresses = self.update_namespaces(step);
        self.update_workloads(step, &addresses);
        let mut renewed = self.index.touched_services(objects, changed, &addresses);
        if zones == Zones::Changed {
            // Seldom: nodes stay where they are.
            renewed.extend(objects.services.keys().cloned());
        }
        let routed: BTreeSet<_> = groups.iter().map(|group| group.port.service.clone()).collect();
        for key in renewed.union(&routed) {
            match objects.services.get(key) {
                Some(service) => {
                    let endpoints =
                        if renewed.contains(key) { EndpointsStep::Renew } else { EndpointsStep::Keep };
                    self.update_service(step, &Renewal { key, service, endpoints });
                }
                None => self.remove_ports(key, &BTreeMap::new()),
            }
        }
        self.endpoints.forget_unused();
        self.snapshot.generation = self.snapshot.generation.wrapping_add(1);
        self.snapshot.clone()
    }

    fn update_nodes(&mut self, step: &Step<'_>) -> Zones {
        let nodes = &step.objects.nodes;
        let changed = step.changed.nodes.iter().map(|(key, before)| (before.as_ref(), nodes.get(key)));
        if changed.clone().any(|(before, now)| before != now) {
            self.snapshot.pod_ranges = compile_pod_ranges(step.objects);
            self.snapshot.node_addresses = Arc::new(compile_node_addresses(step.objects));
        }
        let zone = |node: Option<&Arc<Node>>| node.and_then(|node| node.zone.clone());
        let mut moved = changed.filter(|(before, now)| zone(*before) != zone(*now));
        if moved.next().is_none() { Zones::AsBefore } else { Zones::Changed }
    }

    /// Renews the settings of namespaces, and finds the addresses of which something else may be known now.
    fn update_namespaces(&mut self, step: &Step<'_>) -> BTreeSet<IpAddr> {
        let Step { objects, changed, .. } = *step;
        let mut addresses = BTreeSet::new();
        for key in changed.namespaces.keys() {
            let now = objects.namespaces.get(key).map(|namespace| compile_namespace(namespace));
            if self.snapshot.namespaces.get(&key.name).copied() == now {
                continue;
            }
            match now {
                Some(policy) => self.snapshot.namespaces.insert(Arc::clone(&key.name), policy),
                None => self.snapshot.namespaces.remove(&key.name),
            }
            let pods =
                objects.pods.range(ObjectKey { namespace: Arc::clone(&key.name), ..ObjectKey::default() }..);
            for (_, pod) in pods.take_while(|(pod, _)| pod.namespace == key.name) {
                addresses.extend(pod.addresses.iter());
            }
        }
        for (key, before) in &changed.pods {
            addresses.extend(before.iter().chain(objects.pods.get(key)).flat_map(|pod| pod.addresses.iter()));
        }
        for key in changed.marks.keys() {
            addresses.extend(objects.pods.get(key).iter().flat_map(|pod| pod.addresses.iter()));
        }
        addresses
    }

    fn update_workloads(&mut self, step: &Step<'_>, addresses: &BTreeSet<IpAddr>) {
        let mut workloads = Workloads::new(step.objects, &self.snapshot.namespaces, &self.trust_domain);
        for address in addresses {
            let old = self.snapshot.workloads.get(address);
            match workloads.find(*address, self.index.owners(*address)) {
                Some(now) if old == Some(&now) => {}
                Some(now) => self.snapshot.workloads.insert(*address, now),
                None => self.snapshot.workloads.remove(address),
            }
        }
    }

    fn update_service(&mut self, step: &Step<'_>, renewal: &Renewal<'_>) {
        let ports = declared_ports(renewal.service, self.datagrams);
        self.remove_ports(renewal.key, &ports);
        for (listed, declared) in ports {
            let Port { number, transport } = listed;
            let key = ServicePortKey { service: renewal.key.clone(), port: number, transport };
            let old = self.snapshot.service_ports.get(&key).cloned();
            let port = self.compile_port(step, renewal, (&key, declared), old.as_ref());
            let is_same = old.is_some_and(|old| Arc::ptr_eq(&old, &port));
            if !is_same {
                self.snapshot.service_ports.insert(key.clone(), port);
            }
            let leads = find_leads(renewal.service, listed, declared);
            let before = self.published.get(renewal.key).and_then(|ports| ports.get(&listed));
            if before != Some(&leads) {
                let published = self.published.entry(renewal.key.clone()).or_default();
                let before = published.insert(listed, leads.clone()).unwrap_or_default();
                self.lead(&key, &before, &leads);
            } else if !is_same {
                leads.iter().for_each(|lead| self.frontends.publish(*lead, &mut self.snapshot));
            }
        }
    }

    fn compile_port(
        &mut self,
        step: &Step<'_>,
        renewal: &Renewal<'_>,
        (key, declared): (&ServicePortKey, &DeclaredPort),
        old: Option<&Arc<ServicePort>>,
    ) -> Arc<ServicePort> {
        let endpoints = match old.filter(|_| renewal.endpoints == EndpointsStep::Keep) {
            Some(old) => Endpoints::of(old),
            None => self.renew_endpoints(step, renewal, declared),
        };
        let first = PortGroup { port: key.clone(), clients: Clients::All };
        let mut tables = old.map(|old| Tables::of(old)).unwrap_or_default();
        if old.is_some() {
            let changed = step.groups.range(first..).take_while(|group| group.port == *key);
            changed.for_each(|group| tables.renew(group, step.attachments));
        } else {
            let all = step.attachments.groups_of(key);
            all.iter().for_each(|group| tables.renew(group, step.attachments));
        }
        let port = compile_port((key.clone(), renewal.service, declared), endpoints, tables, old);
        self.endpoints.exchange(old.map(|old| &**old), Some(&port));
        port
    }

    fn renew_endpoints(
        &mut self,
        step: &Step<'_>,
        renewal: &Renewal<'_>,
        declared: &DeclaredPort,
    ) -> Endpoints {
        let sources = Sources {
            objects: step.objects,
            index: &self.index,
            workloads: &self.snapshot.workloads,
            own_node: &self.own_node,
            own_zone: step
                .objects
                .nodes
                .get(&ObjectKey::new("", &self.own_node))
                .and_then(|node| node.zone.as_deref()),
        };
        compile_endpoints(&sources, &mut self.endpoints, (renewal.key, renewal.service), declared)
    }

    /// Takes away the published ports of a Service that it does not declare any more.
    fn remove_ports(&mut self, service: &ObjectKey, declared: &BTreeMap<Port, &DeclaredPort>) {
        let is_left = |port: &Port| declared.contains_key(port);
        if self.published.get(service).is_none_or(|ports| ports.keys().all(is_left)) {
            return;
        }
        let Some(mut ports) = self.published.remove(service) else { return };
        for (gone, leads) in ports.extract_if(.., |port, _| !declared.contains_key(port)) {
            let Port { number, transport } = gone;
            let key = ServicePortKey { service: service.clone(), port: number, transport };
            if let Some(old) = self.snapshot.service_ports.get(&key).cloned() {
                self.endpoints.exchange(Some(&old), None);
                self.snapshot.service_ports.remove(&key);
            }
            self.lead(&key, &leads, &[]);
        }
        if !ports.is_empty() {
            self.published.insert(service.clone(), ports);
        }
    }

    /// Has these lead to a port now, where those did before.
    fn lead(&mut self, key: &ServicePortKey, before: &[Lead], now: &[Lead]) {
        for lead in before {
            self.frontends.give_up(*lead, key);
        }
        for lead in now {
            self.frontends.claim(*lead, key);
        }
        for lead in before.iter().chain(now) {
            self.frontends.publish(*lead, &mut self.snapshot);
        }
    }
}
