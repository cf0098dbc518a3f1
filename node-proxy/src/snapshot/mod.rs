//! What the data path reads: one immutable [`Snapshot`], published by one writer through an atomic pointer.
//!
//! The data path takes one reference per request (HTTP) or per connection (opaque) and only ever calls
//! `find_*`. Everything stringly was parsed when it was compiled.

mod dump;
pub mod gateway;
pub mod health;
pub mod map;
pub mod service;
pub mod transport;
pub mod workload;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use gateway::{BackendTlsPorts, GatewayPorts};
use map::SharedMap;
use service::{Frontend, FrontendMap, ServicePort, ServicePortKey};
use workload::{MtlsMode, Workload};

/// An address range in CIDR form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    /// Any address of the range.
    pub address: IpAddr,
    /// The length of the prefix in bits.
    pub prefix_len: u8,
}

impl AddressRange {
    /// Whether `address` lies in the range; addresses of the other family never do.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(range), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.prefix_len.min(32));
                (u64::from(range.to_bits()) >> shift) == (u64::from(address.to_bits()) >> shift)
            }
            (IpAddr::V6(range), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.prefix_len.min(128));
                range.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }
}

/// Why a text is not an address range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not ADDRESS/PREFIX-LENGTH")]
pub struct BadRange(String);

impl FromStr for AddressRange {
    type Err = BadRange;

    fn from_str(text: &str) -> Result<Self, BadRange> {
        let bad = || BadRange(text.to_owned());
        let (address, prefix_len) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let prefix_len: u8 = prefix_len.parse().map_err(|_| bad())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if prefix_len > longest { Err(bad()) } else { Ok(Self { address, prefix_len }) }
    }
}

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
    /// The ranges that the nodes' pods get their addresses from (`spec.podCIDRs`).
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
        self.pod_ranges.iter().any(|range| range.contains(address))
    }
}
