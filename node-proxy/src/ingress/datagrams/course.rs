//! Where the datagrams of a port go: which endpoint a session begins with, and whether it is still right. Pure.

use std::sync::Arc;

use crate::error::FailureReason;
use crate::route::{Backend, Rule};
use crate::snapshot::Snapshot;
use crate::snapshot::gateway::{ConnectionListener, GatewayPort};
use crate::snapshot::service::{ServicePort, ServicePortKey};
use crate::snapshot::transport::Port;

/// What a port leads to, as of one snapshot.
#[derive(Clone, Debug, Default)]
pub(super) struct Course {
    /// The generation of the snapshot.
    generation: u64,
    listener: Option<Arc<ConnectionListener>>,
    /// The ports of the rule's backends, as far as they are there.
    ports: Vec<Option<Arc<ServicePort>>>,
}

/// What was chosen for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// An endpoint, by `EndpointLoad::id`, of a Service's port.
    Endpoint(ServicePortKey, u64),
    /// Nobody: the Service's port has no endpoint.
    NoEndpoint(ServicePortKey),
    /// Nobody: the share of a backend that may not be used.
    Failing(FailureReason),
}

impl Target {
    /// Why what is sent there is dropped.
    pub(super) const fn reason(&self) -> FailureReason {
        match self {
            Self::Endpoint(..) | Self::NoEndpoint(_) => FailureReason::NoEndpoint,
            Self::Failing(reason) => *reason,
        }
    }
}

impl Course {
    /// What a port of UDP leads to.
    pub(super) fn find(snapshot: &Snapshot, number: u16) -> Self {
        let listener = match snapshot.gateway_ports.get(&Port::udp(number)).map(|port| &**port) {
            Some(GatewayPort::Udp(listener)) => Some(Arc::clone(listener)),
            _ => None,
        };
        let rule = listener.as_ref().and_then(|listener| listener.find_rule(None));
        let find = |backend: &Backend| match backend {
            Backend::Service(key) => snapshot.find_service_port(key).cloned(),
            Backend::Failing(_) => None,
        };
        let backends = rule.iter().flat_map(|rule| rule.backends.backends());
        let ports = backends.map(|backend| find(&backend.backend)).collect();
        Self { generation: snapshot.generation, listener, ports }
    }

    /// Takes in a newer snapshot. Says whether anything is another than before.
    pub(super) fn follow(&mut self, snapshot: &Snapshot, number: u16) -> bool {
        if snapshot.generation == self.generation {
            return false;
        }
        let now = Self::find(snapshot, number);
        let is_same = same(self.listener.as_ref(), now.listener.as_ref())
            && self.ports.len() == now.ports.len()
            && self.ports.iter().zip(&now.ports).all(|(one, other)| same(one.as_ref(), other.as_ref()));
        *self = now;
        !is_same
    }

    /// The listener that has the port, if there is one.
    pub(super) const fn listener(&self) -> Option<&Arc<ConnectionListener>> {
        self.listener.as_ref()
    }

    fn rule(&self) -> Option<&Arc<Rule>> {
        self.listener.as_ref()?.find_rule(None)
    }

    /// Whether a session that was begun with this target would still be right to go there. What weight the backend has now
    /// is for those who come.
    pub(super) fn still_has(&self, target: &Target) -> bool {
        let Some(rule) = self.rule() else { return false };
        let backends = || rule.backends.backends().iter().zip(&self.ports);
        let port_of = |key: &ServicePortKey| {
            let is_it = |backend: &Backend| matches!(backend, Backend::Service(named) if named == key);
            backends().find(|(backend, _)| is_it(&backend.backend)).map(|(_, port)| port.as_ref())
        };
        match target {
            Target::Endpoint(key, id) => {
                port_of(key).flatten().is_some_and(|port| port.endpoints.find(*id).is_some())
            }
            Target::NoEndpoint(key) => {
                port_of(key).flatten().is_some_and(|port| port.endpoints.endpoints.is_empty())
            }
            Target::Failing(_) => backends().any(|(backend, port)| backend.weight > 0 && port.is_none()),
        }
    }
}

fn same<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
#[path = "course_tests.rs"]
mod tests;
