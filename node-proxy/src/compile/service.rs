//! One Service → its ports as a snapshot has them: endpoints, routes, and the addresses that lead there.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Service, ServicePort as DeclaredPort, ServiceSpec};

use super::Datagrams;
use super::endpoint::Endpoints;
use super::frontend::Lead;
use super::route::compile_table;
use crate::attach::{
    Attachments, Clients, DeclaredProtocol, PortGroup, cluster_addresses, find_declared_protocol,
    find_transport,
};
use crate::route::RouteTable;
use crate::snapshot::service::{EndpointSet, FrontendKind, PortProtocol, ServicePort, ServicePortKey};
use crate::snapshot::transport::{Port, Transport};

/// `sessionAffinityConfig.clientIP.timeoutSeconds` where nothing is said: three hours, in seconds.
const DEFAULT_AFFINITY: u64 = 10_800;

/// The ports of a Service that count.
pub(super) fn declared_ports(service: &Service, with: Datagrams) -> BTreeMap<Port, &DeclaredPort> {
    let Some(spec) = &service.spec else { return BTreeMap::new() };
    if spec.type_.as_deref() == Some("ExternalName") {
        return BTreeMap::new();
    }
    let counts = |port: &Port| with == Datagrams::Known || port.transport == Transport::Tcp;
    let ports = spec.ports.iter().flatten().filter_map(|declared| {
        let number = u16::try_from(declared.port).ok()?;
        Some((Port { number, transport: find_transport(declared)? }, declared))
    });
    ports.filter(|(port, _)| counts(port)).collect()
}

/// The routes of a port, by whom they hold for.
#[derive(Default)]
pub(super) struct Tables {
    producer: Option<Arc<RouteTable>>,
    consumers: HashMap<Arc<str>, Arc<RouteTable>>,
}

impl Tables {
    pub(super) fn of(port: &ServicePort) -> Self {
        Self { producer: port.producer.clone(), consumers: port.consumers.clone() }
    }

    /// Compiles the table of one group of clients anew.
    pub(super) fn renew(&mut self, group: &PortGroup, attachments: &Attachments) {
        let routes = attachments.routes_of(group);
        match &group.clients {
            Clients::All => self.producer = compile_table(routes, self.producer.as_ref()),
            Clients::Of(namespace) => {
                match compile_table(routes, self.consumers.get(namespace)) {
                    Some(table) => self.consumers.insert(Arc::clone(namespace), table),
                    None => self.consumers.remove(namespace),
                };
            }
        }
    }
}

/// A port, shared with the previous snapshot as far as it is equal.
pub(super) fn compile_port(
    (key, service, declared): (ServicePortKey, &Service, &DeclaredPort),
    endpoints: Endpoints,
    tables: Tables,
    old: Option<&Arc<ServicePort>>,
) -> Arc<ServicePort> {
    let mut port = ServicePort {
        protocol: find_protocol(declared, tables.producer.as_deref()),
        endpoints: share_set(endpoints.of_cluster, old),
        affinity: service.spec.as_ref().and_then(find_affinity),
        external: None,
        producer: tables.producer,
        consumers: tables.consumers,
        key,
    };
    port.external = endpoints.external.map(|set| {
        let old = old.and_then(|old| old.external.as_ref());
        let (key, endpoints) = (port.key.clone(), share_set(set, old));
        // Routes never hold there.
        let (producer, consumers) = (None, HashMap::new());
        let (protocol, affinity) = (port.protocol, port.affinity);
        share_port(
            ServicePort { key, protocol, endpoints, affinity, external: None, producer, consumers },
            old,
        )
    });
    share_port(port, old)
}

fn share_set(set: Arc<EndpointSet>, old: Option<&Arc<ServicePort>>) -> Arc<EndpointSet> {
    match old.filter(|old| old.endpoints.is_same(&set)) {
        Some(old) => Arc::clone(&old.endpoints),
        None => set,
    }
}

fn share_port(port: ServicePort, old: Option<&Arc<ServicePort>>) -> Arc<ServicePort> {
    match old.filter(|old| old.is_same(&port)) {
        Some(old) => Arc::clone(old),
        None => Arc::new(port),
    }
}

/// How long a client stays with its endpoint.
fn find_affinity(spec: &ServiceSpec) -> Option<Duration> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|config| u64::try_from(config.timeout_seconds?).ok());
    Some(Duration::from_secs(seconds.unwrap_or(DEFAULT_AFFINITY)))
}

/// What the port speaks, for every client: declared, or said by a producer route. A consumer's route says
/// so to its own namespace only ([`ServicePort::protocol_for`]).
fn find_protocol(declared: &DeclaredPort, producer: Option<&RouteTable>) -> PortProtocol {
    match find_declared_protocol(declared) {
        DeclaredProtocol::Http(word) if is_http2(declared, &word) => PortProtocol::Http2,
        DeclaredProtocol::Http(_) => PortProtocol::Http,
        DeclaredProtocol::Other(_) | DeclaredProtocol::Tls(_) => PortProtocol::Opaque,
        DeclaredProtocol::Undeclared => producer.map_or(PortProtocol::Undeclared, PortProtocol::of),
    }
}

/// Whether the word for HTTP that was found says that it is HTTP/2 by prior knowledge. gRPC always is; gRPC-Web is not, but
/// a port's name has the other's prefix.
fn is_http2(declared: &DeclaredPort, word: &str) -> bool {
    let of_name = declared.app_protocol.as_deref().is_none_or(str::is_empty);
    let is_web =
        declared.name.as_deref().is_some_and(|name| name == "grpc-web" || name.starts_with("grpc-web-"));
    let is_known =
        ["grpc", "h2c", "http2", "kubernetes.io/h2c"].iter().any(|known| known.eq_ignore_ascii_case(word));
    is_known && !(of_name && is_web)
}

/// Whatever leads to a port of a Service. Datagrams are sent to a Gateway alone, and to no Service.
pub(super) fn find_leads(service: &Service, port: Port, declared: &DeclaredPort) -> Vec<Lead> {
    let Port { number, transport: Transport::Tcp } = port else { return Vec::new() };
    let own = service.spec.iter().flat_map(cluster_addresses);
    let own = own.map(|address| Lead::Address(address, number, FrontendKind::ClusterIp));
    let external = external_addresses(service).into_iter();
    let external = external.map(|address| Lead::Address(address, number, FrontendKind::External));
    let node_port = declared.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    own.chain(external).chain(node_port.map(Lead::NodePort)).collect()
}

/// `externalIPs` and the load balancer's addresses.
fn external_addresses(service: &Service) -> Vec<IpAddr> {
    let listed = service.spec.iter().flat_map(|spec| spec.external_ips.iter().flatten());
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    // With ipMode Proxy the balancer itself must see the connection (KEP-1860).
    let vips = ingress.filter(|entry| entry.ip_mode.as_deref() != Some("Proxy"));
    listed.chain(vips.filter_map(|entry| entry.ip.as_ref())).filter_map(|text| text.parse().ok()).collect()
}
