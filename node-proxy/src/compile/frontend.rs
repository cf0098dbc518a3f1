//! Addresses and node ports → the Service port that each leads to, where several may claim one.
//!
//! A clusterIP beats an address of any other kind; of several Services that claim the same, the first by name has
//! it. An address that is named beats a node port of the node that has it.

use std::net::IpAddr;
use std::sync::Arc;

use crate::cluster::relation::Relation;
use crate::snapshot::Snapshot;
use crate::snapshot::service::{Frontend, FrontendKind, ServicePortKey};

/// One thing that leads to a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lead {
    /// An address of its own, with the port there.
    Address(IpAddr, u16, FrontendKind),
    /// A port of every node.
    NodePort(u16),
}

/// Who claims what, the best claim first.
#[derive(Debug, Default)]
pub(super) struct Frontends {
    addresses: Relation<(IpAddr, u16), (FrontendKind, ServicePortKey)>,
    node_ports: Relation<u16, ServicePortKey>,
}

impl Frontends {
    pub(super) fn claim(&mut self, lead: Lead, port: &ServicePortKey) {
        match lead {
            Lead::Address(address, number, kind) => {
                self.addresses.insert((address, number), (kind, port.clone()));
            }
            Lead::NodePort(number) => self.node_ports.insert(number, port.clone()),
        }
    }

    pub(super) fn give_up(&mut self, lead: Lead, port: &ServicePortKey) {
        match lead {
            Lead::Address(address, number, kind) => {
                self.addresses.remove((address, number), (kind, port.clone()));
            }
            Lead::NodePort(number) => self.node_ports.remove(number, port.clone()),
        }
    }

    /// Has the snapshot say who has it now.
    pub(super) fn publish(&self, lead: Lead, snapshot: &mut Snapshot) {
        let find = |kind: FrontendKind, key: &ServicePortKey| {
            let port = snapshot.service_ports.get(key)?;
            let port = match (kind, &port.external) {
                (FrontendKind::External, Some(external)) => external,
                _ => port,
            };
            Some(Frontend { kind, port: Arc::clone(port) })
        };
        match lead {
            Lead::Address(address, number, _) => {
                let destination = (address, number);
                let best = self.addresses.of(&destination).next();
                match best.and_then(|(kind, key)| find(*kind, key)) {
                    Some(frontend) => snapshot.frontends.insert(destination, frontend),
                    None => snapshot.frontends.remove(&destination),
                }
            }
            Lead::NodePort(number) => {
                let best = self.node_ports.of(&number).next();
                match best.and_then(|key| find(FrontendKind::External, key)) {
                    Some(frontend) => snapshot.node_ports.insert(number, frontend),
                    None => snapshot.node_ports.remove(&number),
                }
            }
        }
    }
}
