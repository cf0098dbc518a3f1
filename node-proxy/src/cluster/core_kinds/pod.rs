//! A Pod as manifests and the API server write it, as far as the mesh asks.
//!
//! Nine tenths of what a Pod may say are of no concern here, and code that reads all of it is memory of every node: its
//! fields are known by their names alone.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::super::schema::FieldError;
use super::{Admit, check_address, check_port, check_protocol};

/// The fields that a Pod may have beside those that are read, by where they stand (`core/v1` of Kubernetes 1.34).
const PASSED_OVER: [(&str, &[&str]); 8] = [
    ("", &["apiVersion", "kind"]),
    (
        "spec",
        &[
            "activeDeadlineSeconds",
            "affinity",
            "automountServiceAccountToken",
            "dnsConfig",
            "dnsPolicy",
            "enableServiceLinks",
            "ephemeralContainers",
            "hostAliases",
            "hostIPC",
            "hostPID",
            "hostUsers",
            "hostname",
            "hostnameOverride",
            "imagePullSecrets",
            "nodeSelector",
            "os",
            "overhead",
            "preemptionPolicy",
            "priority",
            "priorityClassName",
            "readinessGates",
            "resourceClaims",
            "resources",
            "restartPolicy",
            "runtimeClassName",
            "schedulerName",
            "schedulingGates",
            "securityContext",
            "serviceAccount",
            "setHostnameAsFQDN",
            "shareProcessNamespace",
            "subdomain",
            "terminationGracePeriodSeconds",
            "tolerations",
            "topologySpreadConstraints",
            "volumes",
        ],
    ),
    ("spec.containers", CONTAINER),
    ("spec.containers.ports", CONTAINER_PORT),
    ("spec.initContainers", CONTAINER),
    ("spec.initContainers.ports", CONTAINER_PORT),
    (
        "status",
        &[
            "containerStatuses",
            "ephemeralContainerStatuses",
            "extendedResourceClaimStatus",
            "hostIP",
            "hostIPs",
            "initContainerStatuses",
            "message",
            "nominatedNodeName",
            "observedGeneration",
            "qosClass",
            "reason",
            "resize",
            "resourceClaimStatuses",
            "startTime",
        ],
    ),
    (
        "status.conditions",
        &["lastProbeTime", "lastTransitionTime", "message", "observedGeneration", "reason"],
    ),
];

const CONTAINER: &[&str] = &[
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "name",
    "readinessProbe",
    "resizePolicy",
    "resources",
    "restartPolicyRules",
    "securityContext",
    "startupProbe",
    "stdin",
    "stdinOnce",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeDevices",
    "volumeMounts",
    "workingDir",
];

const CONTAINER_PORT: &[&str] = &["hostIP", "hostPort"];

/// A Pod.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Pod {
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    pub(crate) spec: Option<PodSpec>,
    pub(crate) status: Option<PodStatus>,
}

/// What it is to be.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodSpec {
    pub(crate) containers: Option<Vec<Container>>,
    pub(crate) host_network: Option<bool>,
    pub(crate) init_containers: Option<Vec<Container>>,
    pub(crate) node_name: Option<String>,
    pub(crate) service_account_name: Option<String>,
}

/// One of its containers.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Container {
    pub(crate) ports: Option<Vec<ContainerPort>>,
    pub(crate) restart_policy: Option<String>,
}

/// A port that a container names.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ContainerPort {
    #[serde(default)]
    pub(crate) container_port: i32,
    pub(crate) name: Option<String>,
    pub(crate) protocol: Option<String>,
}

/// What it is.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodStatus {
    pub(crate) conditions: Option<Vec<PodCondition>>,
    pub(crate) phase: Option<String>,
    #[serde(rename = "podIP")]
    pub(crate) pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pub(crate) pod_ips: Option<Vec<PodIp>>,
}

/// A condition of its.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct PodCondition {
    #[serde(default)]
    pub(crate) status: String,
    #[serde(default, rename = "type")]
    pub(crate) name: String,
}

/// An address of its.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct PodIp {
    #[serde(default)]
    pub(crate) ip: String,
}

impl PodSpec {
    /// Its containers, and those that are only there at the beginning after them.
    fn all_containers_mut(&mut self) -> impl Iterator<Item = &mut Container> {
        self.containers.iter_mut().flatten().chain(self.init_containers.iter_mut().flatten())
    }
}

impl Admit for Pod {
    fn passes_over(field: &str) -> bool {
        let mut place: String =
            field.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest)).collect();
        let name = place.split_off(place.rfind('.').map_or(0, |dot| dot + 1));
        let place = place.trim_end_matches('.');
        PASSED_OVER.iter().any(|(known, names)| *known == place && names.contains(&name.as_str()))
    }

    fn apply_defaults(&mut self) {
        if let Some(spec) = &mut self.spec {
            spec.service_account_name.get_or_insert_with(|| "default".to_owned());
            for port in spec.all_containers_mut().flat_map(|container| container.ports.iter_mut().flatten()) {
                port.protocol.get_or_insert_with(|| "TCP".to_owned());
            }
        }
        if let Some(status) = &mut self.status {
            let addresses = status.pod_ips.get_or_insert_default();
            if let (true, Some(ip)) = (addresses.is_empty(), &status.pod_ip) {
                addresses.push(PodIp { ip: ip.clone() });
            }
            if status.pod_ip.is_none() {
                status.pod_ip = addresses.first().map(|address| address.ip.clone());
            }
        }
    }

    fn check(&self, errors: &mut Vec<FieldError>) {
        if self.metadata.uid.as_deref().is_none_or(str::is_empty) {
            errors.push(FieldError::new("metadata.uid", "is required: a pod is known by it"));
        }
        if let Some(spec) = &self.spec {
            for (index, container) in spec.containers.iter().flatten().enumerate() {
                for (place, port) in container.ports.iter().flatten().enumerate() {
                    let field = format!("spec.containers[{index}].ports[{place}]");
                    check_port(port.container_port, format!("{field}.containerPort"), errors);
                    check_protocol(port.protocol.as_ref(), &field, errors);
                }
            }
        }
        if let Some(status) = &self.status {
            for (index, address) in status.pod_ips.iter().flatten().enumerate() {
                check_address(&address.ip, format!("status.podIPs[{index}].ip"), errors);
            }
            let addresses = status.pod_ips.iter().flatten();
            if let Some(ip) = &status.pod_ip
                && !addresses.clone().any(|address| address.ip == *ip)
            {
                errors.push(FieldError::new("status.podIP", format!("{ip} is not among status.podIPs")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1 as core;
    use serde::de::value::Error;
    use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
    use serde::forward_to_deserialize_any;

    use super::*;

    /// Hears which fields a type asks for, and gives it nothing.
    struct FieldsOf<'a>(&'a mut Vec<&'static str>);

    impl<'de> Deserializer<'de> for FieldsOf<'_> {
        type Error = Error;

        fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
            Err(Error::custom("no struct"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _name: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Error> {
            self.0.extend(fields);
            self.deserialize_any(visitor)
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    fn fields_of<T: DeserializeOwned>() -> Vec<&'static str> {
        let mut fields = Vec::new();
        assert!(T::deserialize(FieldsOf(&mut fields)).is_err());
        fields
    }

    /// What is read at a place and what is passed over there are together what the kind has.
    fn check<Whole: DeserializeOwned, Read: DeserializeOwned>(place: &str) {
        let read = fields_of::<Read>();
        for field in fields_of::<Whole>() {
            let path = if place.is_empty() { field.to_owned() } else { format!("{place}.{field}") };
            assert_eq!(Pod::passes_over(&path), !read.contains(&field), "{path}");
        }
        assert!(!Pod::passes_over(&format!("{place}.nodename")));
    }

    #[test]
    fn every_field_that_a_pod_has_is_read_or_passed_over() {
        check::<core::Pod, Pod>("");
        check::<core::PodSpec, PodSpec>("spec");
        check::<core::Container, Container>("spec.containers[0]");
        check::<core::Container, Container>("spec.initContainers[12]");
        check::<core::ContainerPort, ContainerPort>("spec.containers[0].ports[1]");
        check::<core::PodStatus, PodStatus>("status");
        check::<core::PodCondition, PodCondition>("status.conditions[3]");
    }
}
