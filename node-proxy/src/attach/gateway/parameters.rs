//! GatewayClasses, and what a Gateway asks for as a whole: parameters and addresses.
//!
//! There are no parameters that would be read: a reference is taken when it leads to a ConfigMap, so that whoever has one is
//! told when it goes, and refused when it leads anywhere else (GatewayClassSpec.parametersRef).

use std::sync::Arc;

use super::GATEWAY_CONTROLLER_NAME;
use crate::attach::condition::{Condition, ConditionReason, ConditionStatus, ConditionType};
use crate::cluster::api::{Gateway, GatewayClass};
use crate::cluster::objects::{ObjectKey, Objects};

/// The type of address that a Gateway may ask for (AddressType).
const IP_ADDRESS: &str = "IPAddress";

/// A GatewayClass of ours, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgedClass {
    /// Its name.
    pub name: Arc<str>,
    /// Its `metadata.generation`.
    pub generation: Option<i64>,
    /// Why it is not accepted: its parameters.
    pub(super) refusal: Option<String>,
}

impl JudgedClass {
    /// A class, if it is one of ours, by whatever name.
    pub(super) fn judge(objects: &Objects, key: &ObjectKey, class: &GatewayClass) -> Option<Self> {
        if class.spec.controller_name != GATEWAY_CONTROLLER_NAME {
            return None;
        }
        let refusal = class.spec.parameters_ref.as_ref().and_then(|parameters| {
            let target =
                parameters.namespace.as_deref().map(|namespace| ObjectKey::new(namespace, &parameters.name));
            refuse_parameters(objects, (&parameters.group, &parameters.kind), target.as_ref())
        });
        Some(Self {
            name: Arc::clone(&key.name),
            generation: class.metadata.generation,
            refusal: refusal.map(|why| format!("spec.parametersRef: {why}")),
        })
    }

    /// `Accepted`.
    #[must_use]
    pub fn accepted(&self) -> Condition {
        let (status, reason, message) = match &self.refusal {
            Some(why) => (ConditionStatus::False, ConditionReason::InvalidParameters, why.clone()),
            None => (ConditionStatus::True, ConditionReason::Accepted, String::new()),
        };
        let kind = ConditionType::Accepted;
        Condition { kind, status, reason, message, observed_generation: self.generation }
    }
}

/// Why a Gateway of this class is not accepted, whatever its listeners are.
pub(super) fn refuse_gateway(
    objects: &Objects,
    class: &JudgedClass,
    (key, gateway): (&ObjectKey, &Gateway),
) -> Option<(ConditionReason, String)> {
    if let Some(why) = &class.refusal {
        let message = format!("GatewayClass {} is not accepted: {why}", class.name);
        return Some((ConditionReason::InvalidParameters, message));
    }
    let infrastructure = gateway.spec.infrastructure.as_ref();
    let refused = infrastructure.and_then(|own| own.parameters_ref.as_ref()).and_then(|parameters| {
        let target = ObjectKey::new(&key.namespace, &parameters.name);
        refuse_parameters(objects, (&parameters.group, &parameters.kind), Some(&target))
    });
    if let Some(why) = refused {
        return Some((
            ConditionReason::InvalidParameters,
            format!("spec.infrastructure.parametersRef: {why}"),
        ));
    }
    let addresses = gateway.spec.addresses.iter().flatten().enumerate();
    let kinds = addresses.filter_map(|(index, address)| Some((index, address.r#type.as_deref()?)));
    let unknown = kinds.into_iter().find(|(_, kind)| *kind != IP_ADDRESS);
    unknown.map(|(index, kind)| {
        let message = format!("spec.addresses[{index}]: type {kind} is not supported: {IP_ADDRESS} is");
        (ConditionReason::UnsupportedAddress, message)
    })
}

fn refuse_parameters(
    objects: &Objects,
    (group, kind): (&str, &str),
    target: Option<&ObjectKey>,
) -> Option<String> {
    if kind != "ConfigMap" || !group.is_empty() {
        return Some(format!("{kind} of group {group:?} is no ConfigMap"));
    }
    match target {
        None => Some("the namespace of the ConfigMap is missing".to_owned()),
        Some(key) if !objects.config_maps.contains_key(key) => {
            Some(format!("ConfigMap {key} does not exist"))
        }
        Some(_) => None,
    }
}
