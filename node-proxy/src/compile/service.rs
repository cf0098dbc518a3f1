//! One Service → its ports and the addresses that lead to them.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort as DeclaredPort};

use super::endpoint::compile_endpoints;
use super::{Compiler, route};
use crate::attach::{DeclaredProtocol, PortRoutes, cluster_addresses, find_declared_protocol, is_tcp};
use crate::cluster::objects::ObjectKey;
use crate::snapshot::Snapshot;
use crate::snapshot::service::{
    EndpointSet, Frontend, FrontendKind, PortProtocol, ServicePort, ServicePortKey,
};

/// A Service as it goes into a snapshot.
pub(super) struct CompiledService {
    cluster_addresses: Vec<IpAddr>,
    external_addresses: Vec<IpAddr>,
    ports: Vec<CompiledPort>,
}

struct CompiledPort {
    port: Arc<ServicePort>,
    node_port: Option<u16>,
}

/// Everything about one Service: what comes out depends on that Service, its endpoints and its routes alone,
/// but where no slices name them, its endpoints are looked for among all Pods.
pub(super) fn compile_service(
    compiler: &mut Compiler<'_>,
    key: &ObjectKey,
    service: &Service,
) -> CompiledService {
    let mut compiled = CompiledService {
        cluster_addresses: Vec::new(),
        external_addresses: external_addresses(service),
        ports: Vec::new(),
    };
    let Some(spec) = &service.spec else { return compiled };
    if spec.type_.as_deref() == Some("ExternalName") {
        return compiled;
    }
    compiled.cluster_addresses = cluster_addresses(spec);
    for declared in spec.ports.iter().flatten().filter(|port| is_tcp(port)) {
        let Ok(number) = u16::try_from(declared.port) else { continue };
        let key = ServicePortKey { service: key.clone(), port: number };
        let endpoints = compile_endpoints(compiler, &key.service, service, declared);
        let port = compile_port(compiler, key, declared, endpoints);
        let node_port =
            declared.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
        compiled.ports.push(CompiledPort { port, node_port });
    }
    compiled
}

/// A port, shared with the previous snapshot as far as it is equal.
fn compile_port(
    compiler: &Compiler<'_>,
    key: ServicePortKey,
    declared: &DeclaredPort,
    endpoints: EndpointSet,
) -> Arc<ServicePort> {
    let old = compiler.previous.service_ports.get(&key);
    let routes = compiler.attachments.find_port_routes(&key);
    let producer = routes.map(|routes| routes.producer.as_slice()).filter(|routes| !routes.is_empty());
    let consumers = routes.iter().flat_map(|routes| &routes.consumers).map(|(namespace, routes)| {
        let old = old.and_then(|old| old.consumers.get(namespace));
        (Arc::clone(namespace), route::compile_table(routes, old))
    });
    let port = ServicePort {
        protocol: find_protocol(declared, routes),
        endpoints: match old.filter(|old| old.endpoints.is_same(&endpoints)) {
            Some(old) => Arc::clone(&old.endpoints),
            None => Arc::new(endpoints),
        },
        producer: producer
            .map(|routes| route::compile_table(routes, old.and_then(|old| old.producer.as_ref()))),
        consumers: consumers.collect(),
        key,
    };
    match old.filter(|old| old.is_same(&port)) {
        Some(old) => Arc::clone(old),
        None => Arc::new(port),
    }
}

/// What the port speaks, for every client: declared, or said by a producer route. A consumer's route says
/// so to its own namespace only ([`ServicePort::protocol_for`]).
fn find_protocol(declared: &DeclaredPort, routes: Option<&PortRoutes>) -> PortProtocol {
    match find_declared_protocol(declared) {
        DeclaredProtocol::Http => PortProtocol::Http,
        DeclaredProtocol::Other(_) => PortProtocol::Opaque,
        DeclaredProtocol::Undeclared if routes.is_some_and(|routes| !routes.producer.is_empty()) => {
            PortProtocol::Http
        }
        DeclaredProtocol::Undeclared => PortProtocol::Undeclared,
    }
}

/// Puts a Service and the addresses that lead to it into the snapshot. A clusterIP always wins over an
/// address of another kind; of several Services that claim one external address, the first by name has it.
pub(super) fn publish(snapshot: &mut Snapshot, compiled: CompiledService) {
    for CompiledPort { port, node_port } in compiled.ports {
        snapshot.service_ports.insert(port.key.clone(), Arc::clone(&port));
        for address in &compiled.cluster_addresses {
            let frontend = Frontend { kind: FrontendKind::ClusterIp, port: Arc::clone(&port) };
            snapshot.frontends.insert((*address, port.key.port), frontend);
        }
        let external = compiled.external_addresses.iter().map(|address| (*address, port.key.port));
        let on_nodes = node_port.into_iter().flat_map(|number| {
            let nodes = snapshot.node_addresses.keys();
            nodes.map(move |address| (*address, number))
        });
        for destination in external.chain(on_nodes).collect::<Vec<_>>() {
            let frontend = Frontend { kind: FrontendKind::External, port: Arc::clone(&port) };
            snapshot.frontends.entry(destination).or_insert(frontend);
        }
    }
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
