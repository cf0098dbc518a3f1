//! The addresses of a world: routed, as a cluster's are, with nothing translated on the way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Which address families the pods and Services of a world have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// Both, IPv4 first.
    #[default]
    Dual,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// One of the two families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// The block that an address is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// The fabric's own address, where the CA listens.
    Fabric,
    /// The link between the fabric and the node of this number: host 1 is the fabric, 2 the node.
    Link(u8),
    /// The pods of the node of this number: host 1 is the node, their gateway.
    Pods(u8),
    /// The clusterIPs of Services.
    Services,
}

impl Families {
    /// The families, in the order in which a dual-stack object lists them.
    pub(crate) const fn each(self) -> &'static [Family] {
        match self {
            Self::Dual => &[Family::V4, Family::V6],
            Self::V4 => &[Family::V4],
            Self::V6 => &[Family::V6],
        }
    }
}

impl Family {
    /// As in a Service's `ipFamilies`.
    pub(crate) const fn as_label(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The flag of `ip`.
    pub(crate) const fn flag(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }

    /// The prefix length of a single address.
    pub(crate) const fn host_length(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The prefix length of a node's block of pods.
    pub(crate) const fn block_length(self) -> u8 {
        match self {
            Self::V4 => 24,
            Self::V6 => 64,
        }
    }
}

impl Block {
    /// The address of host number `host` in this block.
    pub(crate) const fn address(self, family: Family, host: u8) -> IpAddr {
        match family {
            Family::V4 => {
                let [a, b, c] = match self {
                    Self::Fabric => [192, 168, 255],
                    Self::Link(node) => [192, 168, node],
                    Self::Pods(node) => [10, 244, node],
                    Self::Services => [10, 96, 0],
                };
                IpAddr::V4(Ipv4Addr::new(a, b, c, host))
            }
            Family::V6 => {
                let (block, node) = match self {
                    Self::Fabric => (0xfab, 0),
                    Self::Link(node) => (0x11, node),
                    Self::Pods(node) => (0x244, node),
                    Self::Services => (0x96, 0),
                };
                IpAddr::V6(Ipv6Addr::new(0xfd67, 0x6d72, block, node as u16, 0, 0, 0, host as u16))
            }
        }
    }

    /// The block as a CIDR.
    pub(crate) fn cidr(self, family: Family) -> String {
        format!("{}/{}", self.address(family, 0), family.block_length())
    }
}
