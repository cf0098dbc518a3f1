//! GatewayClasses, and what a Gateway asks for as a whole: parameters and addresses.
//!
//! Parameters are in a ConfigMap, in its key `gateway.yaml` ([`document`]). One that is missing or broken is said by whoever refers
//! to it (GatewayClassSpec.parametersRef): nothing is made by it, and what was made before stays and serves on, since an operator's slip
//! about pods is no reason to turn clients away.

mod document;
mod serving;

use std::sync::Arc;

use super::GATEWAY_CONTROLLER_NAME;
use crate::attach::condition::{Condition, ConditionReason, ConditionStatus, ConditionType};
use crate::cluster::api::{Gateway, GatewayClass};
use crate::cluster::objects::{ObjectKey, Objects, PARAMETERS_KEY};
pub use document::{Autoscaling, Parameters, Resources, ServiceType};
pub use serving::{LONGEST_DRAIN_SECONDS, MOST_TRUSTED_HOPS};

/// The type of address that a Gateway may ask for (AddressType).
const IP_ADDRESS: &str = "IPAddress";

/// A GatewayClass of ours, judged.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgedClass {
    /// Its name.
    pub name: Arc<str>,
    /// Its `metadata.generation`.
    pub generation: Option<i64>,
    /// What it says of all its Gateways; or why it is not accepted.
    pub(super) parameters: Result<Arc<Parameters>, String>,
}

impl JudgedClass {
    /// A class, if it is one of ours, by whatever name.
    pub(super) fn judge(objects: &Objects, key: &ObjectKey, class: &GatewayClass) -> Option<Self> {
        if class.spec.controller_name != GATEWAY_CONTROLLER_NAME {
            return None;
        }
        let parameters = match &class.spec.parameters_ref {
            None => Ok(Arc::default()),
            Some(own) => {
                let target = own.namespace.as_deref().map(|namespace| ObjectKey::new(namespace, &own.name));
                let read = read_parameters(objects, (&own.group, &own.kind), target.as_ref());
                read.map(Arc::new).map_err(|why| format!("spec.parametersRef: {why}"))
            }
        };
        Some(Self { name: Arc::clone(&key.name), generation: class.metadata.generation, parameters })
    }

    /// `Accepted`.
    #[must_use]
    pub fn accepted(&self) -> Condition {
        let (status, reason, message) = match &self.parameters {
            Err(why) => (ConditionStatus::False, ConditionReason::InvalidParameters, why.clone()),
            Ok(_) => (ConditionStatus::True, ConditionReason::Accepted, String::new()),
        };
        let kind = ConditionType::Accepted;
        Condition { kind, status, reason, message, observed_generation: self.generation }
    }
}

/// What a Gateway of this class says of its pods and its Service, over what the class does; or why it is not accepted, whatever its
/// listeners are.
pub(super) fn judge_parameters(
    objects: &Objects,
    class: &JudgedClass,
    (key, gateway): (&ObjectKey, &Gateway),
) -> Result<Arc<Parameters>, (ConditionReason, String)> {
    let invalid = |why: String| (ConditionReason::InvalidParameters, why);
    let of_class = class
        .parameters
        .as_ref()
        .map_err(|why| invalid(format!("GatewayClass {} is not accepted: {why}", class.name)))?;
    let infrastructure = gateway.spec.infrastructure.as_ref();
    let parameters = match infrastructure.and_then(|own| own.parameters_ref.as_ref()) {
        None => Arc::clone(of_class),
        Some(own) => {
            let target = ObjectKey::new(&key.namespace, &own.name);
            let read = read_parameters(objects, (&own.group, &own.kind), Some(&target)).and_then(|own| {
                let both = own.over(of_class);
                let with_class = format!("with the parameters of GatewayClass {}", class.name);
                both.check().map_err(|why| format!("{}: {with_class}: {why}", describe(&target)))?;
                Ok(both)
            });
            let at_field = |why: String| invalid(format!("spec.infrastructure.parametersRef: {why}"));
            Arc::new(read.map_err(at_field)?)
        }
    };
    let addresses = gateway.spec.addresses.iter().flatten().enumerate();
    let kinds = addresses.filter_map(|(index, address)| Some((index, address.r#type.as_deref()?)));
    match kinds.into_iter().find(|(_, kind)| *kind != IP_ADDRESS) {
        None => Ok(parameters),
        Some((index, kind)) => {
            let message = format!("spec.addresses[{index}]: type {kind} is not supported: {IP_ADDRESS} is");
            Err((ConditionReason::UnsupportedAddress, message))
        }
    }
}

fn read_parameters(
    objects: &Objects,
    (group, kind): (&str, &str),
    target: Option<&ObjectKey>,
) -> Result<Parameters, String> {
    if kind != "ConfigMap" || !group.is_empty() {
        return Err(format!("{kind} of group {group:?} is no ConfigMap"));
    }
    let key = target.ok_or_else(|| "the namespace of the ConfigMap is missing".to_owned())?;
    let config_map = objects.config_maps.get(key).ok_or_else(|| format!("ConfigMap {key} does not exist"))?;
    let text = config_map.data.as_ref().and_then(|data| data.get(PARAMETERS_KEY));
    let text = text.ok_or_else(|| format!("ConfigMap {key} has no key {PARAMETERS_KEY}"))?;
    Parameters::read(text).map_err(|why| format!("{}: {why}", describe(key)))
}

fn describe(config_map: &ObjectKey) -> String {
    format!("ConfigMap {config_map}, {PARAMETERS_KEY}")
}
