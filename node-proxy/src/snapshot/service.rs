//! Services, their ports and endpoints as the data path sees them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Duration;

use crate::cluster::objects::ObjectKey;
use crate::route::{RouteKind, RouteTable};
use crate::snapshot::health::Health;
use crate::snapshot::map::SharedMap;
use crate::snapshot::transport::Transport;
use crate::snapshot::workload::Workload;

/// What a Service's port is said to speak (design D4): by `appProtocol`, the port's name prefix or an
/// attached route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortProtocol {
    /// HTTP: HTTP/1.1 or HTTP/2 by prior knowledge, as the client's first bytes say.
    Http,
    /// HTTP/2 by prior knowledge. A client that comes with HTTP/1.1 all the same is taken at its word.
    Http2,
    /// Nothing is said: the first speaker decides.
    Undeclared,
    /// Anything else: bytes are passed on as they are.
    Opaque,
}

impl PortProtocol {
    /// What a port speaks because these routes hold on it.
    #[must_use]
    pub fn of(routes: &RouteTable) -> Self {
        match routes.kind() {
            Some(RouteKind::Tcp | RouteKind::Tls | RouteKind::Udp) => Self::Opaque,
            Some(RouteKind::Grpc | RouteKind::Http) | None => Self::Http,
        }
    }

    /// What a port of this protocol speaks to clients for whom these routes hold: routes for requests do not say of which
    /// version these are.
    #[must_use]
    pub fn under(self, routes: &RouteTable) -> Self {
        match (self, Self::of(routes)) {
            (Self::Http2, Self::Http) => Self::Http2,
            (_, routed) => routed,
        }
    }
}

/// How an address leads to a Service, in the order in which they beat each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum FrontendKind {
    /// A clusterIP: routes apply.
    #[default]
    ClusterIp,
    /// An external IP, load-balancer address or node port: the hop without routes (design D3).
    External,
}

/// A Service's port by number and transport: the key under which snapshots hold it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePortKey {
    /// The Service.
    pub service: ObjectKey,
    /// `spec.ports[].port`.
    pub port: u16,
    /// `spec.ports[].protocol`.
    pub transport: Transport,
}

impl ServicePortKey {
    /// A port of TCP.
    #[must_use]
    pub const fn tcp(service: ObjectKey, port: u16) -> Self {
        Self { service, port, transport: Transport::Tcp }
    }
}

/// A Service's port: what a client reaches behind `VIP:port`.
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// Which one.
    pub key: ServicePortKey,
    /// What it speaks.
    pub protocol: PortProtocol,
    /// Who answers when no route says otherwise.
    pub endpoints: Arc<EndpointSet>,
    /// For how long after its last request a client goes to the endpoint that it had (`sessionAffinity: ClientIP`).
    pub affinity: Option<Duration>,
    /// The port as addresses of other kinds reach it, where that differs: `internalTrafficPolicy` is of cluster
    /// addresses alone.
    pub external: Option<Arc<Self>>,
    /// Routes of the Service's own namespace.
    pub producer: Option<Arc<RouteTable>>,
    /// Routes of client namespaces: each replaces the whole producer group for clients of that namespace.
    pub consumers: HashMap<Arc<str>, Arc<RouteTable>>,
}

impl ServicePort {
    /// The routes that hold for a client of `namespace`, if any does (GEP-1426: consumer before producer).
    #[must_use]
    pub fn find_routes(&self, namespace: &str) -> Option<&Arc<RouteTable>> {
        self.consumers.get(namespace).or(self.producer.as_ref())
    }

    /// What the port speaks as a client of `namespace` sees it: a consumer route says so to the clients
    /// that it holds for, and to no others.
    #[must_use]
    pub fn protocol_for(&self, namespace: &str) -> PortProtocol {
        self.find_routes(namespace).map_or(self.protocol, |routes| self.protocol.under(routes))
    }

    /// Whether both are the same port with the very same endpoints and tables.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let consumers =
            || self.consumers.iter().all(|(name, table)| is_same(other.consumers.get(name), Some(table)));
        self.key == other.key
            && self.protocol == other.protocol
            && Arc::ptr_eq(&self.endpoints, &other.endpoints)
            && self.affinity == other.affinity
            && is_same(self.external.as_ref(), other.external.as_ref())
            && is_same(self.producer.as_ref(), other.producer.as_ref())
            && self.consumers.len() == other.consumers.len()
            && consumers()
    }
}

fn is_same<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

/// The endpoints of one Service port. Order is stable between snapshots.
#[derive(Clone, Debug, Default)]
pub struct EndpointSet {
    /// Endpoints that may be chosen, of all address families.
    pub endpoints: Vec<Arc<Endpoint>>,
}

impl EndpointSet {
    /// The endpoint with this id (`EndpointLoad::id`).
    #[must_use]
    pub fn find(&self, id: u64) -> Option<&Arc<Endpoint>> {
        self.endpoints.iter().find(|endpoint| endpoint.load.id == id)
    }

    /// Whether both hold the very same endpoints in the same order.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let same_len = self.endpoints.len() == other.endpoints.len();
        same_len && self.endpoints.iter().zip(&other.endpoints).all(|(one, other)| Arc::ptr_eq(one, other))
    }
}

/// One address of one pod (or of a bare EndpointSlice) behind a Service port.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where to dial: `PODIP:targetPort`.
    pub address: SocketAddr,
    /// The pod behind it, when there is one.
    pub workload: Option<Arc<Workload>>,
    /// How much is going on there now; outlives snapshots.
    pub load: Arc<EndpointLoad>,
}

/// What must outlive a snapshot about one endpoint. Keyed by pod uid and address when compiled.
#[derive(Debug, Default)]
pub struct EndpointLoad {
    /// What stands for the endpoint in sessions (`route::session`).
    pub id: u64,
    /// Requests and opaque connections under way.
    pub in_flight: AtomicU32,
    /// How it has fared.
    pub health: Health,
    /// Whether it has left every Service: connections that are kept to it are of no use any more.
    pub has_left: AtomicBool,
}

/// A destination address of a Service, resolved.
#[derive(Clone, Debug)]
pub struct Frontend {
    /// How the address leads there.
    pub kind: FrontendKind,
    /// The Service port behind it.
    pub port: Arc<ServicePort>,
}

impl Frontend {
    /// The routes that hold for a client of `namespace` that has dialled this address: never others than those on a
    /// clusterIP (design D3).
    #[must_use]
    pub fn find_routes(&self, namespace: &str) -> Option<&Arc<RouteTable>> {
        match self.kind {
            FrontendKind::ClusterIp => self.port.find_routes(namespace),
            FrontendKind::External => None,
        }
    }

    /// What is spoken there as a client of `namespace` sees it.
    #[must_use]
    pub fn protocol_for(&self, namespace: &str) -> PortProtocol {
        match self.kind {
            FrontendKind::ClusterIp => self.port.protocol_for(namespace),
            FrontendKind::External => self.port.protocol,
        }
    }
}

/// Service ports by the addresses that lead to them, but for node ports.
pub type FrontendMap = SharedMap<(IpAddr, u16), Frontend>;
