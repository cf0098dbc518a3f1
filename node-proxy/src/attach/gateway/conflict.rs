//! Listeners that cannot be told apart (GatewaySpec.listeners, "Distinct Listeners").
//!
//! Of a Gateway's own listeners none wins: "ALL indistinct Listeners must not be accepted". A ListenerSet's yield to
//! those of the Gateway and of the sets that come before it (ListenerSetSpec.listeners).

use super::listener::Listener;
use crate::attach::condition::ConditionReason;

/// Finds the conflicts among groups of listeners: those of the Gateway first, then those of each set.
pub(super) fn find_conflicts<'l>(groups: impl Iterator<Item = &'l mut [Listener]>) {
    let mut taken: Vec<Claim> = Vec::new();
    for group in groups {
        let own: Vec<Claim> = group.iter().filter_map(Claim::of).collect();
        for listener in group {
            let Some(claim) = Claim::of(listener) else { continue };
            let others = own.iter().filter(|other| other.name != claim.name).chain(&taken);
            let found = others.filter_map(|other| Some((claim.conflicts_with(other)?, other)));
            // A protocol that does not fit is worse than a name that is taken.
            let worst = found.min_by_key(|(reason, _)| *reason != ConditionReason::ProtocolConflict);
            listener.findings.conflict = worst.map(|(reason, other)| {
                let what = if reason == ConditionReason::ProtocolConflict {
                    "another protocol"
                } else {
                    "the same hostname"
                };
                // Nothing of the other one but its port: it may be another team's.
                (reason, format!("another listener on port {} has {what}", other.port))
            });
        }
        taken.extend(own);
    }
}

/// What a listener takes for itself.
#[derive(Clone, Debug)]
struct Claim {
    name: std::sync::Arc<str>,
    port: u16,
    protocol: super::ListenerProtocol,
    hostname: Option<crate::route::HostnameMatch>,
}

impl Claim {
    /// None of a listener whose protocol is not supported: nothing listens for it.
    fn of(listener: &Listener) -> Option<Self> {
        let Listener { name, port, hostname, .. } = listener;
        Some(Self {
            name: name.clone(),
            port: *port,
            protocol: listener.protocol?,
            hostname: hostname.clone(),
        })
    }

    fn conflicts_with(&self, other: &Self) -> Option<ConditionReason> {
        if self.port != other.port {
            None
        } else if !self.protocol.shares_port_with(other.protocol) {
            Some(ConditionReason::ProtocolConflict)
        } else {
            (self.hostname == other.hostname).then_some(ConditionReason::HostnameConflict)
        }
    }
}
