//! What stands between a Gateway and its clients, and how far its word about them is believed.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

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

/// A range of addresses of one family, as `10.0.0.0/8` (RFC 4632 section 3.1, RFC 4291 section 2.3); an address alone is
/// a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    network: IpAddr,
    length: u8,
}

impl AddressRange {
    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let behind = 32 - u32::from(self.length);
                let difference = network.to_bits() ^ address.to_bits();
                difference.checked_shr(behind).unwrap_or_default() == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let behind = 128 - u32::from(self.length);
                let difference = network.to_bits() ^ address.to_bits();
                difference.checked_shr(behind).unwrap_or_default() == 0
            }
            _ => false,
        }
    }
}

/// What is wrong with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressRangeError {
    /// It has bits beyond its length, so that it is not clear what is meant.
    #[error("has bits set behind its prefix")]
    BitsBehindPrefix,
    /// It is no range at all.
    #[error("is not ADDRESS/LENGTH")]
    NoRange,
}

impl FromStr for AddressRange {
    type Err = AddressRangeError;

    fn from_str(text: &str) -> Result<Self, AddressRangeError> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let network: IpAddr = address.parse().map_err(|_| AddressRangeError::NoRange)?;
        let bits: u8 = if network.is_ipv4() { 32 } else { 128 };
        let is_number = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
        let length = match length {
            Some(length) => Some(length)
                .filter(is_number)
                .and_then(|length| length.parse().ok())
                .filter(|length| *length <= bits)
                .ok_or(AddressRangeError::NoRange)?,
            None => bits,
        };
        let is_clear = match network {
            IpAddr::V4(network) => network.to_bits().checked_shl(length.into()).unwrap_or_default() == 0,
            IpAddr::V6(network) => network.to_bits().checked_shl(length.into()).unwrap_or_default() == 0,
        };
        // Peers are never known by the mapped form of an address.
        if network.to_canonical() != network {
            return Err(AddressRangeError::NoRange);
        }
        if is_clear { Ok(Self { network, length }) } else { Err(AddressRangeError::BitsBehindPrefix) }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_the_addresses_of_its_prefix_and_no_others() {
        for (range, address, expected) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7/32", "192.0.2.6", false),
            ("192.0.2.6/31", "192.0.2.7", true),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "192.0.2.1", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("2001:db8::1", "2001:db8::1", true),
            ("2001:db8::1/128", "2001:db8::2", false),
        ] {
            let parsed: AddressRange = range.parse().expect(range);
            assert_eq!(parsed.contains(address.parse().expect(address)), expected, "{range} {address}");
        }
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for (text, error) in [
            ("", AddressRangeError::NoRange),
            ("10.0.0.0/", AddressRangeError::NoRange),
            ("10.0.0.0/33", AddressRangeError::NoRange),
            ("10.0.0.0/+8", AddressRangeError::NoRange),
            ("10.0.0.0/8/8", AddressRangeError::NoRange),
            ("10.0.0/8", AddressRangeError::NoRange),
            ("::/129", AddressRangeError::NoRange),
            ("::/999", AddressRangeError::NoRange),
            ("::ffff:10.0.0.0/104", AddressRangeError::NoRange),
            ("lb.example.com", AddressRangeError::NoRange),
            ("10.0.0.1/8", AddressRangeError::BitsBehindPrefix),
            ("2001:db8::1/64", AddressRangeError::BitsBehindPrefix),
            ("0.0.0.1/0", AddressRangeError::BitsBehindPrefix),
        ] {
            assert_eq!(text.parse::<AddressRange>(), Err(error), "{text}");
        }
    }

    #[test]
    fn anybody_may_speak_it_where_nobody_is_named() {
        let peer = IpAddr::from([192, 0, 2, 1]);
        assert!(ProxyProtocol::default().may_come_from(peer));
        let from = |range: &str| ProxyProtocol { from: Some(vec![range.parse().expect(range)]) };
        assert!(from("192.0.2.0/24").may_come_from(peer));
        assert!(!from("198.51.100.0/24").may_come_from(peer));
    }
}
