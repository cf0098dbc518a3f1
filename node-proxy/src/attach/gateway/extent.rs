//! All that the proxy of one Gateway needs to know of the cluster, and nothing else: what its feed consists of.
//!
//! Secrets are in it only where the Gateway, or a ListenerSet of it, may refer to them: a reference that nobody has granted
//! must not bring a key into another namespace's pods.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::grant::{Referrer, is_permitted};
use super::{Gateways, JudgedGateway, named};
use crate::attach::AttachedRoute;
use crate::cluster::objects::{Kind, Nodes, ObjectId, ObjectKey, Objects};
use crate::cluster::trimmed::EndpointSlice;
use crate::route::{Backend, RouteKind};

/// What one Gateway is served by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// The objects that it has to do with, and other Gateways may not.
    pub ids: BTreeSet<ObjectId>,
    /// All Nodes: which zone each replica is in, and who is near, and the ranges of pods' addresses.
    pub nodes: Nodes,
}

impl Gateways {
    /// The objects by which one Gateway is served; none for one that is not there, or not of a class of ours.
    #[must_use]
    pub fn extent(&self, objects: &Objects, gateway: &ObjectKey) -> Extent {
        let Some(judged) = self.gateways.get(gateway) else { return Extent::default() };
        let mut extent = Gathering { objects, ids: BTreeSet::new() };
        extent.add_gateway(judged);
        extent.add_named(judged);
        for (route, own) in &self.routes {
            if own.parents.iter().any(|parent| parent.gateway == *gateway) {
                extent.add(kind_of(route.kind), &route.key);
                extent.add_backends(&own.attached);
            }
        }
        extent.add_surroundings();
        Extent { ids: extent.ids, nodes: Arc::clone(&objects.nodes) }
    }
}

struct Gathering<'o> {
    objects: &'o Objects,
    ids: BTreeSet<ObjectId>,
}

impl Gathering<'_> {
    fn add(&mut self, kind: Kind, key: &ObjectKey) {
        self.ids.insert(ObjectId { kind, key: key.clone() });
    }

    fn add_gateway(&mut self, judged: &JudgedGateway) {
        self.add(Kind::Gateway, &judged.key);
        for set in &judged.listener_sets {
            self.add(Kind::ListenerSet, &set.key);
        }
        if let Some(gateway) = self.objects.gateways.get(&judged.key) {
            self.add(Kind::GatewayClass, &ObjectKey::new("", &gateway.spec.gateway_class_name));
        }
    }

    /// What the Gateway, its class and its ListenerSets name and may have.
    fn add_named(&mut self, judged: &JudgedGateway) {
        let mut wanted = BTreeSet::new();
        if let Some(gateway) = self.objects.gateways.get(&judged.key) {
            named::add_gateway(&mut wanted, self.objects, (&judged.key, gateway));
            let class = ObjectKey::new("", &gateway.spec.gateway_class_name);
            let class = self.objects.gateway_classes.get(&class);
            // Those of a class are the cluster operator's, who need not be granted anything.
            self.ids.extend(class.and_then(|class| named::find_parameters(class)));
        }
        let own = Referrer { kind: "Gateway", namespace: &judged.key.namespace };
        let of_sets = judged.listener_sets.iter().filter(|set| set.is_accepted());
        let of_sets = of_sets.map(|set| Referrer { kind: "ListenerSet", namespace: &set.key.namespace });
        let referrers: Vec<Referrer<'_>> = of_sets.chain([own]).collect();
        let is_granted = |id: &ObjectId| {
            let target = ("", id.kind.as_label(), &id.key);
            referrers.iter().any(|referrer| is_permitted(self.objects, *referrer, target))
        };
        wanted.retain(is_granted);
        self.ids.extend(wanted);
    }

    fn add_backends(&mut self, route: &AttachedRoute) {
        let mut services = BTreeSet::new();
        let mut note = |backend: &Backend| {
            if let Backend::Service(port) = backend {
                services.insert(port.service.clone());
            }
        };
        for rule in &route.rules {
            rule.filters.mirrors.iter().for_each(|mirror| note(&mirror.backend));
            for backend in &rule.backends {
                note(&backend.backend);
                backend.filters.mirrors.iter().for_each(|mirror| note(&mirror.backend));
            }
        }
        for service in services {
            self.add_service(&service);
        }
    }

    fn add_service(&mut self, service: &ObjectKey) {
        if !self.ids.insert(ObjectId { kind: Kind::Service, key: service.clone() }) {
            return;
        }
        let objects = self.objects;
        let first = || ObjectKey::new(&service.namespace, "");
        let slices = objects.endpoint_slices.range(first()..);
        for (key, slice) in slices.take_while(|(key, _)| key.namespace == service.namespace) {
            if slice.service.as_deref() == Some(&*service.name) {
                self.add(Kind::EndpointSlice, key);
                self.add_pods(slice);
            }
        }
        // A policy is in the namespace of what it is for (GEP-1897).
        let policies = objects.backend_tls_policies.range(first()..);
        for (key, policy) in policies.take_while(|(key, _)| key.namespace == service.namespace) {
            self.add(Kind::BackendTlsPolicy, key);
            self.ids.extend(named::find_authorities(key, policy));
        }
    }

    /// Who is behind a slice: by the pods that it names, and by the addresses where it names none, as hand-written ones do.
    fn add_pods(&mut self, slice: &EndpointSlice) {
        let mut nameless: BTreeSet<IpAddr> = BTreeSet::new();
        for endpoint in &slice.endpoints {
            match &endpoint.pod {
                Some(pod) => self.add_pod(&pod.key),
                None => drop(nameless.insert(endpoint.address)),
            }
        }
        if nameless.is_empty() {
            return;
        }
        for (key, pod) in &self.objects.pods {
            if pod.addresses.iter().any(|address| nameless.contains(address)) {
                self.add_pod(key);
            }
        }
    }

    fn add_pod(&mut self, key: &ObjectKey) {
        self.add(Kind::Pod, key);
        self.add(Kind::Mark, key);
    }

    /// The namespaces of all that is in it, by whose labels routes are taken and pods are spoken to, with their grants.
    fn add_surroundings(&mut self) {
        let namespaces: BTreeSet<Arc<str>> = self.ids.iter().map(|id| id.key.namespace.clone()).collect();
        for namespace in namespaces.iter().filter(|name| !name.is_empty()) {
            self.add(Kind::Namespace, &ObjectKey::new("", namespace));
            let grants = self.objects.reference_grants.range(ObjectKey::new(namespace, "")..);
            for (key, _) in grants.take_while(|(key, _)| key.namespace == *namespace) {
                self.add(Kind::ReferenceGrant, key);
            }
        }
    }
}

const fn kind_of(route: RouteKind) -> Kind {
    match route {
        RouteKind::Grpc => Kind::GrpcRoute,
        RouteKind::Http => Kind::HttpRoute,
        RouteKind::Tcp => Kind::TcpRoute,
        RouteKind::Tls => Kind::TlsRoute,
        RouteKind::Udp => Kind::UdpRoute,
    }
}
