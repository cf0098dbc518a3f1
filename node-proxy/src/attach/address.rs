//! A Service's own addresses: where routes apply, and what a client dials. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::ServiceSpec;

/// A Service's clusterIPs, each once; none for a headless one, or where nothing has allocated any.
#[must_use]
pub fn cluster_addresses(spec: &ServiceSpec) -> Vec<IpAddr> {
    let several = spec.cluster_ips.iter().flatten();
    let mut addresses = Vec::new();
    // "None" is no address, so a headless Service has none.
    for address in several.chain(&spec.cluster_ip).filter_map(|text| text.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}
