//! The Secrets and ConfigMaps that Gateways of ours name: of all others a change says nothing about them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::grant::Reference;
use super::parameters::JudgedClass;
use super::view::{ListenerView, TlsView, view_frontend, view_gateway, view_listener_set};
use super::{find_client_reference, find_sets};
use crate::cluster::api::{BackendTlsPolicy, Gateway, GatewayClass};
use crate::cluster::objects::{Kind, ObjectId, ObjectKey, Objects};

/// What the Gateways of these classes, their ListenerSets, the classes and policies for backends name, whether it is there
/// or not.
pub(super) fn find_named(objects: &Objects, classes: &BTreeMap<Arc<str>, JudgedClass>) -> BTreeSet<ObjectId> {
    let mut named = BTreeSet::new();
    for name in classes.keys() {
        let class = objects.gateway_classes.get(&ObjectKey::new("", name));
        named.extend(class.and_then(|class| find_parameters(class)));
    }
    for (key, gateway) in &objects.gateways {
        if classes.contains_key(&*gateway.spec.gateway_class_name) {
            add_gateway(&mut named, objects, (key, gateway));
        }
    }
    let policies = objects.backend_tls_policies.iter();
    named.extend(policies.flat_map(|(key, policy)| find_authorities(key, policy)));
    named
}

/// What a class names as its parameters.
pub(super) fn find_parameters(class: &GatewayClass) -> Option<ObjectId> {
    let own = class.spec.parameters_ref.as_ref()?;
    let key = ObjectKey::new(own.namespace.as_deref()?, &own.name);
    Some(ObjectId { kind: Kind::ConfigMap, key })
}

/// The ConfigMaps in which a policy for backends has its authorities.
pub(super) fn find_authorities(key: &ObjectKey, policy: &BackendTlsPolicy) -> impl Iterator<Item = ObjectId> {
    let authorities = policy.spec.validation.ca_certificate_refs.iter().flatten();
    authorities.map(|own| ObjectId { kind: Kind::ConfigMap, key: ObjectKey::new(&key.namespace, &own.name) })
}

/// What a Gateway and its ListenerSets name.
pub(super) fn add_gateway(
    named: &mut BTreeSet<ObjectId>,
    objects: &Objects,
    (key, gateway): (&ObjectKey, &Gateway),
) {
    let infrastructure = gateway.spec.infrastructure.as_ref();
    if let Some(own) = infrastructure.and_then(|own| own.parameters_ref.as_ref()) {
        let key = ObjectKey::new(&key.namespace, &own.name);
        named.insert(ObjectId { kind: Kind::ConfigMap, key });
    }
    if let Some(own) = find_client_reference(gateway) {
        named.insert(ObjectId { kind: Kind::Secret, key: own.target(&key.namespace) });
    }
    let mut add = |listeners: &[ListenerView], namespace: &str| {
        let target = |kind, namespace: &str, own: &Reference| ObjectId { kind, key: own.target(namespace) };
        for listener in listeners {
            if let TlsView::Terminate(certificates) = &listener.tls {
                named.extend(certificates.iter().map(|own| target(Kind::Secret, namespace, own)));
            }
            let frontend = gateway.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref());
            if let Some(validation) = view_frontend(frontend, listener.port) {
                let authorities = validation.authorities.iter();
                named.extend(authorities.map(|own| target(Kind::ConfigMap, &key.namespace, own)));
            }
        }
    };
    add(&view_gateway(gateway), &key.namespace);
    for (set_key, set) in find_sets(objects, key) {
        add(&view_listener_set(set), &set_key.namespace);
    }
}
