//! The snapshot as JSON, for the admin's dump of the live configuration.
//!
//! What it says is what the data path does: it is made from the snapshot itself, in a stable order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::Snapshot;
use super::gateway::{ConnectionListener, GatewayPort, RequestListener, TlsListener};
use super::service::{Endpoint, FrontendKind, PortProtocol, ServicePort};
use super::transport::Port;
use super::workload::{Enrolment, MtlsMode, Workload};
use crate::route::{Backend, RouteTable, Rule, WeightedBackend};

impl Snapshot {
    /// Everything that the data path knows: namespaces, the pods' address ranges, workloads, Service ports with their protocol,
    /// routes in the order in which they are tried, and endpoints with identity and enrolment.
    #[must_use]
    pub fn dump(&self) -> Value {
        let mut namespaces: Vec<_> = self.namespaces.iter().collect();
        namespaces.sort_by_key(|(name, _)| Arc::clone(name));
        let namespaces = namespaces.into_iter().map(|(name, policy)| {
            json!({"name": &**name, "enrolled": policy.enrolled, "mtls": mtls_label(policy.mtls)})
        });
        let mut workloads: Vec<_> = self.workloads.iter().collect();
        workloads.sort_by_key(|(address, _)| **address);
        let workloads = workloads.into_iter().map(|(address, workload)| {
            let mut dumped = dump_workload(workload);
            dumped["address"] = json!(address.to_string());
            dumped
        });
        let mut ports: Vec<_> = self.service_ports.values().collect();
        ports.sort_by(|one, other| one.key.cmp(&other.key));
        json!({
            "generation": self.generation,
            "namespaces": namespaces.collect::<Vec<_>>(),
            "podRanges": self.pod_ranges.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "frontends": self.dump_frontends(),
            "workloads": workloads.collect::<Vec<_>>(),
            "servicePorts": ports.into_iter().map(|port| dump_port(port)).collect::<Vec<_>>(),
            "gatewayPorts": self.gateway_ports.iter().map(dump_gateway_port).collect::<Vec<_>>(),
        })
    }

    fn dump_frontends(&self) -> Vec<Value> {
        let mut frontends: BTreeMap<_, _> = BTreeMap::new();
        for address in self.node_addresses.keys() {
            frontends.extend(self.node_ports.iter().map(|(port, frontend)| ((*address, *port), frontend)));
        }
        frontends.extend(self.frontends.iter().map(|(destination, frontend)| (*destination, frontend)));
        let dumped = frontends.into_iter().map(|((address, number), frontend)| {
            let kind = match frontend.kind {
                FrontendKind::ClusterIp => "clusterIP",
                FrontendKind::External => "external",
            };
            let key = &frontend.port.key;
            json!({
                "address": address.to_string(),
                "port": number,
                "kind": kind,
                "service": key.service.to_string(),
                "servicePort": key.port,
            })
        });
        dumped.collect()
    }
}

fn dump_port(port: &ServicePort) -> Value {
    let mut consumers: Vec<_> = port.consumers.iter().collect();
    consumers.sort_by_key(|(namespace, _)| Arc::clone(namespace));
    let consumers = consumers
        .into_iter()
        .map(|(namespace, table)| json!({"clients": &**namespace, "rules": dump_table(table)}));
    let external = port.external.as_ref().map(|external| dump_endpoints(external));
    json!({
        "service": port.key.service.to_string(),
        "port": port.key.port,
        "transport": port.key.transport.as_protocol(),
        "protocol": protocol_label(port.protocol),
        "producerRules": port.producer.as_ref().map(|table| dump_table(table)),
        "consumerRules": consumers.collect::<Vec<_>>(),
        "endpoints": dump_endpoints(port),
        "externalEndpoints": external,
        "affinitySeconds": port.affinity.map(|affinity| affinity.as_secs()),
    })
}

fn dump_endpoints(port: &ServicePort) -> Vec<Value> {
    port.endpoints.endpoints.iter().map(|endpoint| dump_endpoint(endpoint)).collect()
}

fn dump_gateway_port((open, port): (&Port, &Arc<GatewayPort>)) -> Value {
    let (protocol, listeners): (_, Vec<Value>) = match &**port {
        GatewayPort::Http(listeners) => {
            ("http", listeners.values().map(|listener| dump_requests("http", listener)).collect())
        }
        GatewayPort::Tcp(listener) => ("tcp", vec![dump_connections("tcp", listener)]),
        GatewayPort::Udp(listener) => ("udp", vec![dump_connections("udp", listener)]),
        GatewayPort::Tls(listeners) => {
            let dump = |listener: &TlsListener| match listener {
                TlsListener::Passthrough(listener) => dump_connections("passthrough", listener),
                TlsListener::Connections(_, listener) => dump_connections("terminate", listener),
                TlsListener::Requests(_, listener) => dump_requests("https", listener),
            };
            ("tls", listeners.values().map(dump).collect())
        }
    };
    let mut listeners = listeners;
    listeners.sort_by_key(|listener| listener["listener"].to_string());
    json!({"port": open.number, "protocol": protocol, "listeners": listeners})
}

fn dump_requests(kind: &str, listener: &RequestListener) -> Value {
    let mut rules: Vec<_> = listener.hosts.values().flat_map(|table| dump_table(table)).collect();
    rules.sort_by_cached_key(Value::to_string);
    json!({"listener": listener.id.to_string(), "kind": kind, "rules": rules})
}

fn dump_connections(kind: &str, listener: &ConnectionListener) -> Value {
    let rules: Vec<_> = listener.tables.iter().flat_map(|table| dump_table(table)).collect();
    json!({"listener": listener.id.to_string(), "kind": kind, "rules": rules})
}

fn dump_table(table: &RouteTable) -> Vec<Value> {
    table.entries().map(|(matches, rule)| dump_rule(&matches, rule)).collect()
}

fn dump_rule(matches: &str, rule: &Rule) -> Value {
    let backends =
        rule.backends.backends().iter().map(|WeightedBackend { backend, weight, .. }| match backend {
            Backend::Service(key) => {
                json!({"service": key.service.to_string(), "port": key.port, "weight": weight})
            }
            Backend::Failing(reason) => json!({"failing": reason.as_label(), "weight": weight}),
        });
    json!({
        "match": matches,
        "route": rule.route.to_string(),
        "rule": rule.index,
        "name": rule.name.as_deref(),
        "backends": backends.collect::<Vec<_>>(),
    })
}

fn dump_endpoint(endpoint: &Endpoint) -> Value {
    json!({
        "address": endpoint.address.to_string(),
        "workload": endpoint.workload.as_ref().map(|workload| dump_workload(workload)),
        "inFlight": endpoint.load.in_flight.load(Ordering::Relaxed),
        "ejected": endpoint.load.health.standing().is_out(),
    })
}

fn dump_workload(workload: &Workload) -> Value {
    let enrolment = match workload.enrolment {
        Enrolment::Marked => "marked",
        Enrolment::Expected => "expected",
        Enrolment::None => "none",
    };
    json!({
        "pod": workload.pod.to_string(),
        "uid": &*workload.uid,
        "node": workload.node.as_deref(),
        "identity": workload.identity.to_string(),
        "enrolment": enrolment,
        "mtls": mtls_label(workload.mtls),
        "hopPorts": workload.hop_ports,
        "plaintextPorts": workload.plaintext_ports,
    })
}

const fn mtls_label(mode: MtlsMode) -> &'static str {
    match mode {
        MtlsMode::Permissive => "permissive",
        MtlsMode::Strict => "strict",
    }
}

const fn protocol_label(protocol: PortProtocol) -> &'static str {
    match protocol {
        PortProtocol::Http => "http",
        PortProtocol::Http2 => "http2",
        PortProtocol::Undeclared => "undeclared",
        PortProtocol::Opaque => "opaque",
    }
}
