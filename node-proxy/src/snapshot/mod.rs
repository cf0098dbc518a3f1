//! What the data path reads: one immutable [`Snapshot`], published by one writer through an atomic pointer.
//!
//! The data path takes one reference per request (HTTP) or per connection (opaque) and only ever calls
//! `find_*`. Everything stringly was parsed when it was compiled.

mod dump;
pub mod gateway;
pub mod health;
pub mod map;
mod range;
pub mod service;
pub mod transport;
pub mod workload;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use gateway::{BackendTlsPorts, GatewayPorts};
use map::SharedMap;
pub use range::{AddressRange, BadRange};
use service::{Frontend, FrontendMap, ServicePort, ServicePortKey};
use workload::{MtlsMode, Workload};

/// A namespace's settings for the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespacePolicy {
    /// `gammarus.io/mesh=enabled`.
    pub enrolled: bool,
    /// `gammarus.io/mtls`.
    pub mtls: MtlsMode,
}

/// Everything the data path may ask about the cluster, as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts snapshots of this process.
    pub generation: u64,
    /// `VIP:port` → Service port.
    pub frontends: FrontendMap,
    /// Node port → Service port, on every address of a node.
    pub node_ports: SharedMap<u16, Frontend>,
    /// Service ports by key, for backends.
    pub service_ports: SharedMap<ServicePortKey, Arc<ServicePort>>,
    /// Pod address → pod.
    pub workloads: SharedMap<IpAddr, Arc<Workload>>,
    /// Namespace name → settings.
    pub namespaces: SharedMap<Arc<str>, NamespacePolicy>,
    /// The ranges that the nodes' pods get their addresses from (`spec.podCIDRs`), by their first addresses and in order, none
    /// within another.
    pub pod_ranges: Arc<[AddressRange]>,
    /// The nodes' own addresses.
    pub node_addresses: Arc<HashMap<IpAddr, Arc<str>>>,
    /// The ports of the Gateway that is served, where one is.
    pub gateway_ports: Arc<GatewayPorts>,
    /// The ports of Services that the Gateway speaks TLS with.
    pub backend_tls: Arc<BackendTlsPorts>,
}

impl Snapshot {
    /// The Service port behind an original destination.
    #[must_use]
    pub fn find_frontend(&self, destination: SocketAddr) -> Option<&Frontend> {
        let (address, port) = (destination.ip(), destination.port());
        let on_node =
            || self.node_addresses.contains_key(&address).then(|| self.node_ports.get(&port)).flatten();
        self.frontends.get(&(address, port)).or_else(on_node)
    }

    /// The Service port of a backend.
    #[must_use]
    pub fn find_service_port(&self, key: &ServicePortKey) -> Option<&Arc<ServicePort>> {
        self.service_ports.get(key)
    }

    /// The pod that has an address.
    #[must_use]
    pub fn find_workload(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.workloads.get(&address)
    }

    /// A namespace's settings.
    #[must_use]
    pub fn find_namespace(&self, name: &str) -> Option<&NamespacePolicy> {
        self.namespaces.get(name)
    }

    /// Whether an address could be a pod's: it lies in a node's pod range.
    #[must_use]
    pub fn is_pod_address(&self, address: IpAddr) -> bool {
        let after = self.pod_ranges.partition_point(|range| range.address <= address);
        self.pod_ranges[..after].last().is_some_and(|range| range.contains(address))
    }
}
