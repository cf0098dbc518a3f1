//! The API server's own defaults and checks for the core kinds, as far as the mesh depends on them.
//!
//! Pure. Nothing here allocates: a Service without an address stays without one.

mod pod;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    ClientIPConfig, ConfigMap, Namespace, Node, Secret, Service, ServicePort, ServiceSpec,
    SessionAffinityConfig,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

pub(crate) use pod::{Pod, PodSpec, PodStatus};

use super::schema::FieldError;

const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// A core kind: what the API server would fill in, and what it would refuse.
pub(super) trait Admit {
    /// Whether a field that its type does not have is one of the kind all the same.
    fn passes_over(_field: &str) -> bool {
        false
    }
    /// Fills in defaults.
    fn apply_defaults(&mut self) {}
    /// Adds what is wrong to `errors`.
    fn check(&self, _errors: &mut Vec<FieldError>) {}
    /// What is taken, and is likely not meant.
    fn find_doubt(&self) -> Option<FieldError> {
        None
    }
}

impl Admit for ConfigMap {}

impl Admit for Namespace {
    fn apply_defaults(&mut self) {
        if let Some(name) = self.metadata.name.clone() {
            let labels = self.metadata.labels.get_or_insert_default();
            labels.insert("kubernetes.io/metadata.name".to_owned(), name);
        }
    }
}

impl Admit for Node {
    fn apply_defaults(&mut self) {
        if let Some(spec) = &mut self.spec {
            let ranges = spec.pod_cidrs.get_or_insert_default();
            if let (true, Some(range)) = (ranges.is_empty(), &spec.pod_cidr) {
                ranges.push(range.clone());
            }
        }
    }

    fn check(&self, errors: &mut Vec<FieldError>) {
        let ranges = self.spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten());
        for (index, range) in ranges.enumerate() {
            if !is_range(range) {
                errors.push(FieldError::new(
                    format!("spec.podCIDRs[{index}]"),
                    format!("must be an address range like 10.0.0.0/24, is {range:?}"),
                ));
            }
        }
        let addresses = self.status.iter().flat_map(|status| status.addresses.iter().flatten());
        for (index, address) in addresses.enumerate() {
            if matches!(address.type_.as_str(), "InternalIP" | "ExternalIP") {
                check_address(&address.address, format!("status.addresses[{index}].address"), errors);
            }
        }
    }
}

impl Admit for Secret {
    fn apply_defaults(&mut self) {
        self.type_.get_or_insert_with(|| "Opaque".to_owned());
        let strings: BTreeMap<String, String> = self.string_data.take().unwrap_or_default();
        if !strings.is_empty() {
            let strings = strings.into_iter().map(|(name, text)| (name, ByteString(text.into_bytes())));
            self.data.get_or_insert_default().extend(strings);
        }
    }
}

impl Admit for EndpointSlice {
    fn apply_defaults(&mut self) {
        for port in self.ports.iter_mut().flatten() {
            port.name.get_or_insert_default();
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
    }

    fn check(&self, errors: &mut Vec<FieldError>) {
        let family = self.address_type.as_str();
        if !matches!(family, "IPv4" | "IPv6" | "FQDN") {
            errors.push(FieldError::new("addressType", format!("must be IPv4, IPv6 or FQDN, is {family:?}")));
        }
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            if endpoint.addresses.is_empty() {
                errors.push(FieldError::new(format!("endpoints[{index}].addresses"), "is required"));
            }
            for (place, address) in endpoint.addresses.iter().enumerate() {
                let fits = match (family, address.parse::<IpAddr>()) {
                    ("IPv4", Ok(address)) => address.is_ipv4(),
                    ("IPv6", Ok(address)) => address.is_ipv6(),
                    ("IPv4" | "IPv6", Err(_)) => false,
                    _ => true,
                };
                if !fits {
                    let field = format!("endpoints[{index}].addresses[{place}]");
                    errors
                        .push(FieldError::new(field, format!("must be an {family} address, is {address:?}")));
                }
            }
        }
        for (index, port) in self.ports.iter().flatten().enumerate() {
            let field = format!("ports[{index}]");
            if let Some(number) = port.port {
                check_port(number, format!("{field}.port"), errors);
            }
            check_protocol(port.protocol.as_ref(), &field, errors);
        }
    }
}

impl Admit for Service {
    fn apply_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        let kind = spec.type_.get_or_insert_with(|| "ClusterIP".to_owned()).clone();
        let affinity = spec.session_affinity.get_or_insert_with(|| "None".to_owned()).clone();
        if affinity == "ClientIP" {
            let config = spec.session_affinity_config.get_or_insert_with(SessionAffinityConfig::default);
            let client_ip = config.client_ip.get_or_insert_with(ClientIPConfig::default);
            client_ip.timeout_seconds.get_or_insert(10_800);
        }
        if kind != "ExternalName" {
            spec.internal_traffic_policy.get_or_insert_with(|| "Cluster".to_owned());
        }
        for port in spec.ports.iter_mut().flatten() {
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
            port.target_port.get_or_insert(IntOrString::Int(port.port));
        }
        let addresses = spec.cluster_ips.get_or_insert_default();
        if let (true, Some(address)) = (addresses.is_empty(), &spec.cluster_ip)
            && !address.is_empty()
        {
            addresses.push(address.clone());
        }
        if spec.cluster_ip.is_none() {
            spec.cluster_ip = addresses.first().cloned();
        }
    }

    fn check(&self, errors: &mut Vec<FieldError>) {
        let Some(spec) = &self.spec else { return };
        let kind = spec.type_.as_deref().unwrap_or_default();
        one_of(kind, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], "spec.type", errors);
        if kind == "ExternalName" {
            if spec.external_name.as_deref().is_none_or(str::is_empty) {
                errors.push(FieldError::new("spec.externalName", "is required for type ExternalName"));
            }
            return;
        }
        let affinity = spec.session_affinity.as_deref().unwrap_or_default();
        one_of(affinity, &["ClientIP", "None"], "spec.sessionAffinity", errors);
        let policy = spec.internal_traffic_policy.as_deref().unwrap_or_default();
        one_of(policy, &["Cluster", "Local"], "spec.internalTrafficPolicy", errors);
        if let Some(distribution) = spec.traffic_distribution.as_deref() {
            let known = ["PreferClose", "PreferSameNode", "PreferSameZone"];
            one_of(distribution, &known, "spec.trafficDistribution", errors);
        }
        check_cluster_addresses(spec, errors);
        check_service_ports(spec.ports.as_deref().unwrap_or_default(), spec, errors);
    }

    fn find_doubt(&self) -> Option<FieldError> {
        let spec = self.spec.as_ref()?;
        let allocated = spec.type_.as_deref() != Some("ExternalName");
        (allocated && spec.cluster_ips.as_ref().is_none_or(Vec::is_empty)).then(|| {
            let message = "is not set, and nothing here allocates one: the Service can only be a backend";
            FieldError::new("spec.clusterIP", message)
        })
    }
}

fn check_cluster_addresses(spec: &ServiceSpec, errors: &mut Vec<FieldError>) {
    let addresses = spec.cluster_ips.as_deref().unwrap_or_default();
    for (index, address) in addresses.iter().enumerate() {
        if address != "None" {
            check_address(address, format!("spec.clusterIPs[{index}]"), errors);
        }
    }
    if let (Some(address), Some(first)) = (&spec.cluster_ip, addresses.first())
        && address != first
    {
        let message = format!("must be the first of spec.clusterIPs, {first}, is {address}");
        errors.push(FieldError::new("spec.clusterIP", message));
    }
    for (index, address) in spec.external_ips.iter().flatten().enumerate() {
        check_address(address, format!("spec.externalIPs[{index}]"), errors);
    }
}

fn check_service_ports(ports: &[ServicePort], spec: &ServiceSpec, errors: &mut Vec<FieldError>) {
    if ports.is_empty() && spec.cluster_ip.as_deref() != Some("None") {
        errors.push(FieldError::new("spec.ports", "is required"));
    }
    let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
    for (index, port) in ports.iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        check_port(port.port, format!("{field}.port"), errors);
        check_protocol(port.protocol.as_ref(), &field, errors);
        match &port.target_port {
            Some(IntOrString::Int(number)) if port.target_port != Some(IntOrString::Int(port.port)) => {
                check_port(*number, format!("{field}.targetPort"), errors);
            }
            Some(IntOrString::String(name)) if name.is_empty() || name.len() > 15 => {
                let message = format!("must be a port number or name, is {name:?}");
                errors.push(FieldError::new(format!("{field}.targetPort"), message));
            }
            _ => {}
        }
        match port.name.as_deref().filter(|name| !name.is_empty()) {
            None if ports.len() > 1 => {
                errors.push(FieldError::new(
                    format!("{field}.name"),
                    "is required where there are several ports",
                ));
            }
            Some(name) if !names.insert(name) => {
                errors.push(FieldError::new(format!("{field}.name"), format!("is there twice: {name}")));
            }
            _ => {}
        }
        if !numbers.insert((port.port, port.protocol.as_deref())) {
            errors.push(FieldError::new(format!("{field}.port"), format!("is there twice: {}", port.port)));
        }
    }
}

fn check_port(number: i32, field: String, errors: &mut Vec<FieldError>) {
    if !(1..=65_535).contains(&number) {
        errors.push(FieldError::new(field, format!("must be from 1 to 65535, is {number}")));
    }
}

fn check_protocol(protocol: Option<&String>, field: &str, errors: &mut Vec<FieldError>) {
    if let Some(protocol) = protocol {
        one_of(protocol, &PROTOCOLS, &format!("{field}.protocol"), errors);
    }
}

fn check_address(address: &str, field: String, errors: &mut Vec<FieldError>) {
    if address.parse::<IpAddr>().is_err() {
        errors.push(FieldError::new(field, format!("must be an IP address, is {address:?}")));
    }
}

fn one_of(value: &str, choices: &[&str], field: &str, errors: &mut Vec<FieldError>) {
    if !choices.contains(&value) {
        errors.push(FieldError::new(field, format!("must be one of {}, is {value:?}", choices.join(", "))));
    }
}

fn is_range(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, length)| {
        let most = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        length.parse::<u8>().is_ok_and(|length| length <= most)
    })
}
