//! parentRef → the ports of a Service (GAMMA, GEP-1426). Pure; knows nothing of other parents of the route.

use k8s_openapi::api::core::v1::{Service, ServicePort};
use serde::{Deserialize, Serialize};

use super::address::cluster_addresses;
use super::protocol::{find_declared_protocol, find_transport};
use crate::cluster::objects::{ObjectKey, Objects};
use crate::route::RouteKind;
use crate::snapshot::transport::Transport;

/// The Gateway API's group, the default of a parentRef.
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// A parentRef as the route has it, to be repeated in its status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// The API group; the Gateway API's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The kind; Gateway when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The parent's name.
    pub name: String,
    /// The parent's namespace; the route's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The Service's port by number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
    /// The Service's port by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

/// Whose parentRef it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ownership {
    /// A Service: the mesh's.
    Service,
    /// Kind Service in the Gateway API's group: nobody's, and almost always a forgotten `group: ""`.
    MistakenGroup,
    /// Another controller's: no status of ours.
    Foreign,
}

impl ParentRef {
    /// Whose parentRef this is. `core` is how some tools write the empty group.
    pub(super) fn ownership(&self) -> Ownership {
        match (self.kind.as_deref().unwrap_or("Gateway"), self.group.as_deref().unwrap_or(GATEWAY_GROUP)) {
            ("Service", "" | "core") => Ownership::Service,
            ("Service", GATEWAY_GROUP) => Ownership::MistakenGroup,
            _ => Ownership::Foreign,
        }
    }

    /// The object that is named, for a route of `route_namespace`.
    pub(super) fn target(&self, route_namespace: &str) -> ObjectKey {
        let namespace = self.namespace.as_deref().filter(|text| !text.is_empty());
        ObjectKey::new(namespace.unwrap_or(route_namespace), &self.name)
    }
}

/// Where a parentRef leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Placement {
    /// The Service's ports that take the route.
    pub(super) ports: Vec<u16>,
    /// What the user is told about ports that do not.
    pub(super) remarks: Vec<String>,
}

/// The ports of the Service `key` that a route of this kind with this parentRef holds on, or why there are none.
pub(super) fn resolve_ports(
    objects: &Objects,
    key: &ObjectKey,
    parent: &ParentRef,
    kind: RouteKind,
) -> Result<Placement, String> {
    let service = objects.services.get(key).ok_or_else(|| format!("Service {key} does not exist"))?;
    refuse_unroutable(service, key)?;
    let named: Vec<&ServicePort> =
        ports_of(service, Transport::Tcp).filter(|port| is_named(port, parent)).collect();
    if named.is_empty() {
        return Err(format!("Service {key} has no TCP port {}", describe_port(parent)));
    }
    let mut placement = Placement::default();
    for port in named {
        let Ok(number) = u16::try_from(port.port) else { continue };
        match find_declared_protocol(port).refuse_route(kind) {
            None => placement.ports.push(number),
            Some(protocol) => placement
                .remarks
                .push(format!("port {number} is declared as {protocol}, which the route does not speak")),
        }
    }
    placement.ports.sort_unstable();
    placement.ports.dedup();
    if placement.ports.is_empty() {
        return Err(format!("no port of Service {key} is left: {}", placement.remarks.join("; ")));
    }
    Ok(placement)
}

/// Services without an address of their own have nothing that routes could hold on (GEP-1294, Service types).
fn refuse_unroutable(service: &Service, key: &ObjectKey) -> Result<(), String> {
    let spec = service.spec.as_ref();
    let why = if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
        "is of type ExternalName"
    } else if spec.and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        "is headless (clusterIP None)"
    } else if spec.is_none_or(|spec| cluster_addresses(spec).is_empty()) {
        "has no clusterIP"
    } else {
        return Ok(());
    };
    Err(format!("Service {key} {why}: it has no address that routes apply to"))
}

/// The ports of a Service with this transport.
pub(super) fn ports_of(service: &Service, transport: Transport) -> impl Iterator<Item = &ServicePort> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.filter(move |port| find_transport(port) == Some(transport))
}

fn is_named(port: &ServicePort, parent: &ParentRef) -> bool {
    parent.port.is_none_or(|number| number == port.port)
        && parent.section_name.as_deref().is_none_or(|name| port.name.as_deref() == Some(name))
}

fn describe_port(parent: &ParentRef) -> String {
    match (parent.port, parent.section_name.as_deref()) {
        (Some(number), Some(name)) => format!("{number} named {name}"),
        (Some(number), None) => number.to_string(),
        (None, Some(name)) => format!("named {name}"),
        (None, None) => "at all".to_owned(),
    }
}
