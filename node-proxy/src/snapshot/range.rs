//! Ranges of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses of one family, as `10.0.0.0/8` (RFC 4632 section 3.1, RFC 4291 section 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressRange {
    /// Any address of the range.
    pub address: IpAddr,
    /// The length of the prefix in bits.
    pub prefix_len: u8,
}

/// Why a text is not an address range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRange {
    /// It has bits beyond its length, so that it is not clear what is meant.
    #[error("`{0}` has bits set behind its prefix")]
    BitsBehindPrefix(String),
    /// It is none at all.
    #[error("`{0}` is not ADDRESS/PREFIX-LENGTH")]
    NoRange(String),
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

    /// The same range by its first address.
    #[must_use]
    pub fn from_first(self) -> Self {
        let length = u32::from(self.prefix_len);
        let address = match self.address {
            IpAddr::V4(address) => {
                let kept = u32::MAX.checked_shl(32 - length.min(32)).unwrap_or_default();
                Ipv4Addr::from_bits(address.to_bits() & kept).into()
            }
            IpAddr::V6(address) => {
                let kept = u128::MAX.checked_shl(128 - length.min(128)).unwrap_or_default();
                Ipv6Addr::from_bits(address.to_bits() & kept).into()
            }
        };
        Self { address, ..self }
    }

    /// A range as a person means it: its first address, or one address alone. No peer is known by the mapped form of an IPv4
    /// address, so that is none either.
    ///
    /// # Errors
    /// [`BadRange`].
    pub fn read(text: &str) -> Result<Self, BadRange> {
        let no_range = || BadRange::NoRange(text.to_owned());
        let range = match text.parse::<IpAddr>() {
            Ok(address) => Self { address, prefix_len: if address.is_ipv4() { 32 } else { 128 } },
            Err(_) => text.parse()?,
        };
        if range.address.to_canonical() != range.address {
            return Err(no_range());
        }
        if range.from_first() == range { Ok(range) } else { Err(BadRange::BitsBehindPrefix(text.to_owned())) }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl FromStr for AddressRange {
    type Err = BadRange;

    fn from_str(text: &str) -> Result<Self, BadRange> {
        let bad = || BadRange::NoRange(text.to_owned());
        let (address, prefix_len) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        // A number alone: `+8` is one to `parse`.
        let is_number = prefix_len.bytes().all(|byte| byte.is_ascii_digit());
        let prefix_len: u8 = prefix_len.parse().map_err(|_| bad())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if prefix_len > longest || !is_number { Err(bad()) } else { Ok(Self { address, prefix_len }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(range: &str, address: &str, expected: bool) {
        let range: AddressRange = range.parse().unwrap();
        assert_eq!(range.contains(address.parse().unwrap()), expected, "{address} in {range:?}");
    }

    #[test]
    fn a_range_contains_exactly_the_addresses_with_its_prefix() {
        for (range, inside, outside) in [
            ("10.244.1.0/24", "10.244.1.255", "10.244.2.0"),
            ("10.244.1.7/24", "10.244.1.0", "10.244.0.255"),
            ("10.0.0.1/32", "10.0.0.1", "10.0.0.0"),
            ("10.0.0.0/31", "10.0.0.1", "10.0.0.2"),
            ("128.0.0.0/1", "255.255.255.255", "127.255.255.255"),
            ("fd00:1::/64", "fd00:1::ffff", "fd00:1:0:1::"),
            ("fd00::1/128", "fd00::1", "fd00::2"),
            ("fd00::/127", "fd00::1", "fd00::2"),
            ("8000::/1", "ffff::", "7fff::"),
        ] {
            check(range, inside, true);
            check(range, outside, false);
        }
    }

    #[test]
    fn a_prefix_of_zero_bits_contains_its_whole_family_and_nothing_of_the_other() {
        check("0.0.0.0/0", "255.1.2.3", true);
        check("0.0.0.0/0", "::1", false);
        check("::/0", "ffff::1", true);
        check("::/0", "1.2.3.4", false);
    }

    #[test]
    fn a_text_that_is_no_range_is_refused() {
        for text in ["", "10.0.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "10.0.0/8", "10.0.0.0/"] {
            assert!(text.parse::<AddressRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_person_writes_the_first_address_or_one_alone() {
        for (range, address, expected) in [
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.6", false),
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "::ffff:10.0.0.1", false),
            ("2001:db8::1", "2001:db8::1", true),
            ("2001:db8::1", "2001:db8::2", false),
        ] {
            let read = AddressRange::read(range).unwrap();
            assert_eq!(read.contains(address.parse().unwrap()), expected, "{range} {address}");
        }
        for text in [
            "",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "::/999",
            "::ffff:10.0.0.0/104",
            "lb.example.com",
        ] {
            assert_eq!(AddressRange::read(text), Err(BadRange::NoRange(text.to_owned())));
        }
        for text in ["10.0.0.1/8", "2001:db8::1/64", "0.0.0.1/0"] {
            assert_eq!(AddressRange::read(text), Err(BadRange::BitsBehindPrefix(text.to_owned())));
        }
    }
}
