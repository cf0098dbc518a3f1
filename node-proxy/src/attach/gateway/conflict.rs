//! Listeners that cannot be told apart (GatewaySpec.listeners, "Distinct Listeners").
//!
//! Of a Gateway's own listeners none wins: "ALL indistinct Listeners must not be accepted". A ListenerSet's yield to
//! those of the Gateway and of the sets that come before it (ListenerSetSpec.listeners).

use std::sync::Arc;

use super::listener::{Listener, ListenerProtocol};
use crate::attach::condition::ConditionReason;
use crate::route::HostnameMatch;

/// Finds the conflicts among groups of listeners: those of the Gateway first, then those of each set.
pub(super) fn find_conflicts<'l>(groups: impl Iterator<Item = &'l mut [Listener]>) {
    let mut taken: Vec<Claim> = Vec::new();
    for group in groups {
        // What yields to those before it takes nothing: it drives out neither its neighbours nor those that come after it.
        let yields = |claim: &Claim| taken.iter().any(|other| claim.conflicts_with(other).is_some());
        let own: Vec<Claim> = group.iter().filter_map(Claim::of).filter(|claim| !yields(claim)).collect();
        for listener in group {
            let Some(claim) = Claim::of(listener) else { continue };
            let mut found = find_conflict(&claim, taken.iter());
            if found.is_none() {
                found = find_conflict(&claim, own.iter().filter(|other| other.name != claim.name));
            }
            listener.findings.conflict = found;
        }
        taken.extend(own);
    }
}

/// With what a listener is at odds, if it is with any of these.
fn find_conflict<'c>(
    claim: &Claim,
    others: impl Iterator<Item = &'c Claim>,
) -> Option<(ConditionReason, String)> {
    let found = others.filter_map(|other| claim.conflicts_with(other));
    // A protocol that does not fit is worse than a name that is taken.
    let reason = found.min_by_key(|reason| *reason != ConditionReason::ProtocolConflict)?;
    let is_protocol = reason == ConditionReason::ProtocolConflict;
    let what = if is_protocol { "another protocol" } else { "the same hostname" };
    // Nothing of the other one but its port: it may be another team's.
    Some((reason, format!("another listener on port {} has {what}", claim.port)))
}

/// Finds the listeners with TLS that are for some of the same names on a port: a client that goes on using a connection
/// for another of them meets the wrong one (ListenerConditionOverlappingTLSConfig).
pub(super) fn find_overlaps(listeners: &mut [&mut Listener]) {
    let is_secure = |listener: &Listener| listener.protocol.is_some_and(ListenerProtocol::is_secure);
    let secure: Vec<_> = listeners
        .iter()
        .enumerate()
        .filter(|(_, listener)| is_secure(listener) && listener.is_accepted())
        .map(|(place, listener)| (place, listener.port, listener.hostname.clone()))
        .collect();
    let overlaps = |(place, port, hostname): &(usize, u16, Option<HostnameMatch>)| {
        secure.iter().any(|(other, other_port, other_hostname)| {
            let meet = match (hostname, other_hostname) {
                (Some(one), Some(other)) => one.meet(other).is_some(),
                (None, _) | (_, None) => true,
            };
            place != other && port == other_port && meet
        })
    };
    let found: Vec<(usize, u16)> =
        secure.iter().filter(|own| overlaps(own)).map(|(place, port, _)| (*place, *port)).collect();
    for (place, port) in found {
        // Nothing of the other one but its port, as above.
        let message = format!("another listener with TLS on port {port} has hostnames in common with it");
        listeners[place].findings.overlap = Some(message);
    }
}

/// What a listener takes for itself.
#[derive(Clone, Debug)]
struct Claim {
    name: Arc<str>,
    port: u16,
    protocol: ListenerProtocol,
    hostname: Option<HostnameMatch>,
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
        // One number may be there for TCP and for UDP.
        if self.port != other.port || self.protocol.transport() != other.protocol.transport() {
            None
        } else if !self.protocol.shares_port_with(other.protocol) {
            Some(ConditionReason::ProtocolConflict)
        } else {
            (self.hostname == other.hostname).then_some(ConditionReason::HostnameConflict)
        }
    }
}
