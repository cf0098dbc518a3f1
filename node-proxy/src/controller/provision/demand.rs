//! What a Gateway asks for that somebody has to provide, from what was judged of it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::attach::gateway::{JudgedGateway, ListenerProtocol, Parameters};
use crate::cluster::objects::{ObjectKey, Objects};

/// The transport of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    const fn of(protocol: ListenerProtocol) -> Self {
        match protocol {
            ListenerProtocol::Http
            | ListenerProtocol::Https
            | ListenerProtocol::Tcp
            | ListenerProtocol::Tls => Self::Tcp,
        }
    }

    /// As the API has it.
    pub(super) const fn as_protocol(self) -> &'static str {
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

/// As it is called in a Service and in a container: `tcp-80`.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Transport::Tcp => write!(f, "tcp-{}", self.number),
            Transport::Udp => write!(f, "udp-{}", self.number),
        }
    }
}

/// What a Gateway asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Demand {
    /// The Gateway.
    pub gateway: ObjectKey,
    /// Its `metadata.uid`.
    pub uid: String,
    /// Its class.
    pub class_name: String,
    /// `spec.infrastructure.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.infrastructure.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// Where its listeners and those of its ListenerSets are served.
    pub ports: BTreeSet<Port>,
    /// How its pods and its Service are to be. Where that cannot be told they stay as they are.
    pub parameters: Option<Arc<Parameters>>,
    /// The first address that it asks for by its value: a Service asks for one.
    pub address: Option<String>,
    /// Its ListenerSets, which say, too, what has become of it.
    pub listener_sets: BTreeSet<ObjectKey>,
}

impl Demand {
    /// What a Gateway asks for, if it is accepted, or is not for its parameters alone. One that is being deleted, and one without a
    /// uid, which no API server has, asks for nothing.
    #[must_use]
    pub fn find(objects: &Objects, judged: &JudgedGateway) -> Option<Self> {
        let gateway = objects.gateways.get(&judged.key)?;
        let is_refused = !judged.is_accepted() && !judged.stays_as_made();
        if is_refused || gateway.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let infrastructure = gateway.spec.infrastructure.as_ref();
        let texts = |texts: Option<&BTreeMap<String, String>>| texts.cloned().unwrap_or_default();
        let served = judged.all_listeners().filter(|(_, listener)| listener.is_served());
        let port = |number, protocol| Port { number, transport: Transport::of(protocol) };
        let mut asked = gateway.spec.addresses.iter().flatten().filter_map(|address| address.value.clone());
        Some(Self {
            gateway: judged.key.clone(),
            uid: gateway.metadata.uid.clone()?,
            class_name: gateway.spec.gateway_class_name.clone(),
            labels: texts(infrastructure.and_then(|own| own.labels.as_ref())),
            annotations: texts(infrastructure.and_then(|own| own.annotations.as_ref())),
            ports: served.filter_map(|(_, listener)| Some(port(listener.port, listener.protocol?))).collect(),
            parameters: judged.parameters().cloned(),
            address: asked.find(|value| !value.is_empty()),
            listener_sets: judged.listener_sets.iter().map(|set| set.key.clone()).collect(),
        })
    }
}

/// What all Gateways ask for.
pub type Demands = BTreeMap<ObjectKey, Arc<Demand>>;
