//! Which objects feed which, so that a change finds the addresses and Services that it touches.
//!
//! Kept by what each object says now and said before; nothing here is judged or compiled.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;

use super::workload::owns_addresses;
use crate::cluster::objects::{Changed, ObjectKey, Objects};
use crate::cluster::relation::Relation;
use crate::cluster::trimmed::{EndpointSlice, Pod};

/// A label of a namespace's pods by its hash: what shares one by chance is told apart by looking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Label(u64);

/// What leads from a changed object to all that is made of it.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Address → the pods that say it is their own.
    owners: Relation<IpAddr, ObjectKey>,
    /// Address → the slices that list it.
    listing: Relation<IpAddr, ObjectKey>,
    /// Service → its slices.
    slices: Relation<ObjectKey, ObjectKey>,
    /// Label → the pods that have it.
    labelled: Relation<Label, ObjectKey>,
    /// Label → the Services whose selector begins with it.
    selecting: Relation<Label, ObjectKey>,
}

impl Label {
    fn new(namespace: &str, name: &str, value: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        (namespace, name, value).hash(&mut hasher);
        Self(hasher.finish())
    }
}

impl Index {
    /// Takes in what has changed.
    pub(super) fn update(&mut self, objects: &Objects, changed: &Changed) {
        self.exchange(objects, changed);
        self.owners.settle();
        self.listing.settle();
        self.slices.settle();
        self.labelled.settle();
        self.selecting.settle();
    }

    fn exchange(&mut self, objects: &Objects, changed: &Changed) {
        for (key, before) in &changed.pods {
            self.exchange_pod(key, before.as_deref(), objects.pods.get(key).map(Arc::as_ref));
        }
        for (key, before) in &changed.endpoint_slices {
            if let Some(slice) = before {
                addresses(slice).for_each(|address| self.listing.remove(address, key.clone()));
                service_of(key, slice)
                    .into_iter()
                    .for_each(|service| self.slices.remove(service, key.clone()));
            }
            if let Some(slice) = objects.endpoint_slices.get(key) {
                addresses(slice).for_each(|address| self.listing.insert(address, key.clone()));
                service_of(key, slice)
                    .into_iter()
                    .for_each(|service| self.slices.insert(service, key.clone()));
            }
        }
        for (key, before) in &changed.services {
            if let Some(label) = before.as_deref().and_then(|service| first_label(key, service)) {
                self.selecting.remove(label, key.clone());
            }
            if let Some(label) = objects.services.get(key).and_then(|service| first_label(key, service)) {
                self.selecting.insert(label, key.clone());
            }
        }
    }

    fn exchange_pod(&mut self, key: &ObjectKey, before: Option<&Pod>, now: Option<&Pod>) {
        if let Some(pod) = before {
            for address in own_addresses(pod) {
                self.owners.remove(address, key.clone());
            }
            for label in labels(key, pod) {
                self.labelled.remove(label, key.clone());
            }
        }
        if let Some(pod) = now {
            for address in own_addresses(pod) {
                self.owners.insert(address, key.clone());
            }
            for label in labels(key, pod) {
                self.labelled.insert(label, key.clone());
            }
        }
    }

    /// The pods that say that an address is their own, by name.
    pub(super) fn owners(&self, address: IpAddr) -> impl Iterator<Item = &ObjectKey> {
        self.owners.of(&address)
    }

    /// The slices of a Service, by name.
    pub(super) fn slices<'a>(&'a self, service: &ObjectKey) -> impl Iterator<Item = &'a ObjectKey> + use<'a> {
        self.slices.of(service)
    }

    /// The pods that a Service selects, by name.
    pub(super) fn selected<'a>(
        &'a self,
        objects: &'a Objects,
        key: &ObjectKey,
        service: &'a Service,
    ) -> Vec<(&'a ObjectKey, &'a Pod)> {
        let Some(label) = first_label(key, service) else { return Vec::new() };
        let pods = self.labelled.of(&label).filter_map(|pod| Some((pod, &**objects.pods.get(pod)?)));
        pods.filter(|(pod, object)| pod.namespace == key.namespace && selects(service, object)).collect()
    }

    /// Every Service that may have other endpoints: for its own sake, or for the sake of its slices and its pods,
    /// or of what is known of these addresses.
    pub(super) fn touched_services(
        &self,
        objects: &Objects,
        changed: &Changed,
        addresses: &BTreeSet<IpAddr>,
    ) -> BTreeSet<ObjectKey> {
        let mut services: BTreeSet<ObjectKey> = changed.services.keys().cloned().collect();
        for (key, before) in &changed.endpoint_slices {
            let slices = before.iter().chain(objects.endpoint_slices.get(key));
            services.extend(slices.filter_map(|slice| service_of(key, slice)));
        }
        for (key, before) in &changed.pods {
            for pod in before.iter().chain(objects.pods.get(key)) {
                services.extend(self.selectors_of(objects, key, pod).cloned());
            }
        }
        for address in addresses {
            let slices = self.listing.of(address);
            services.extend(slices.filter_map(|key| service_of(key, objects.endpoint_slices.get(key)?)));
            for key in self.owners.of(address) {
                let Some(pod) = objects.pods.get(key) else { continue };
                services.extend(self.selectors_of(objects, key, pod).cloned());
            }
        }
        services
    }

    /// The Services without slices that select a pod.
    fn selectors_of<'a>(
        &'a self,
        objects: &'a Objects,
        key: &'a ObjectKey,
        pod: &'a Pod,
    ) -> impl Iterator<Item = &'a ObjectKey> {
        labels(key, pod).flat_map(|label| self.selecting.of(&label)).filter(move |service| {
            service.namespace == key.namespace
                && objects.services.get(service).is_some_and(|service| selects(service, pod))
                && self.slices.of(service).next().is_none()
        })
    }
}

/// Whether a Service with a selector selects a pod, namespaces aside.
fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.iter().flat_map(|spec| spec.selector.iter().flatten());
    let mut wanted = selector.map(|(name, value)| pod.labels.find(name) == Some(value));
    wanted.all(|has| has)
}

fn first_label(key: &ObjectKey, service: &Service) -> Option<Label> {
    let selector = service.spec.as_ref()?.selector.as_ref()?;
    selector.first_key_value().map(|(name, value)| Label::new(&key.namespace, name, value))
}

fn labels<'a>(key: &'a ObjectKey, pod: &'a Pod) -> impl Iterator<Item = Label> + use<'a> {
    pod.labels.iter().map(|(name, value)| Label::new(&key.namespace, name, value))
}

fn own_addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    pod.addresses.iter().copied().filter(|_| owns_addresses(pod))
}

fn addresses(slice: &EndpointSlice) -> impl Iterator<Item = IpAddr> {
    slice.endpoints.iter().map(|endpoint| endpoint.address)
}

/// The Service that a slice is of, if it is of any.
fn service_of(key: &ObjectKey, slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.service.as_ref()?;
    Some(ObjectKey { namespace: Arc::clone(&key.namespace), name: Arc::clone(name) })
}
