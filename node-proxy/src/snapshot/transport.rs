//! What is below a port number: one number may be there for TCP and for UDP.

use std::fmt;

/// The transport of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// What the `protocol` of a port says, which is TCP where it says nothing; `None` for SCTP.
    #[must_use]
    pub fn find(protocol: Option<&str>) -> Option<Self> {
        match protocol {
            None | Some("TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some(_) => None,
        }
    }

    /// As the API has it.
    #[must_use]
    pub const fn as_protocol(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// A port that a Gateway listens on: one number may be there for TCP and for UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// The port.
    pub number: u16,
    /// For what.
    pub transport: Transport,
}

impl Port {
    /// A port of TCP.
    #[must_use]
    pub const fn tcp(number: u16) -> Self {
        Self { number, transport: Transport::Tcp }
    }

    /// A port of UDP.
    #[must_use]
    pub const fn udp(number: u16) -> Self {
        Self { number, transport: Transport::Udp }
    }
}

/// As it is called in a Service and in a container: `tcp-80`.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Transport::Tcp => write!(f, "tcp-{}", self.number),
            Transport::Udp => write!(f, "udp-{}", self.number),
        }
    }
}
