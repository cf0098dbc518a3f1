//! What stands between a Gateway and its clients, and how far its word about them is believed.

use std::net::IpAddr;

use crate::snapshot::AddressRange;

/// Who is believed about clients. By default nobody: a client is whoever has opened the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intermediaries {
    /// How many proxies there are in front that append to `X-Forwarded-For`.
    pub trusted_hops: usize,
    /// Whether connections have to begin with a header of the PROXY protocol.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// The PROXY protocol on every connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Who may speak it; anybody where nothing is said.
    pub from: Option<Vec<AddressRange>>,
}

impl ProxyProtocol {
    /// Whether somebody at `peer`, which is no IPv4-mapped address, may speak it.
    #[must_use]
    pub fn may_come_from(&self, peer: IpAddr) -> bool {
        self.from.as_ref().is_none_or(|ranges| ranges.iter().any(|range| range.contains(peer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anybody_may_speak_it_where_nobody_is_named() {
        let peer = IpAddr::from([192, 0, 2, 1]);
        assert!(ProxyProtocol::default().may_come_from(peer));
        let from = |range: &str| ProxyProtocol { from: Some(vec![range.parse().expect(range)]) };
        assert!(from("192.0.2.0/24").may_come_from(peer));
        assert!(!from("198.51.100.0/24").may_come_from(peer));
    }
}
