//! backendRef → where its share goes. Pure.
//!
//! For a Service's route any namespace may be named without a ReferenceGrant; grants govern those of Gateways
//! ([`ParentKind`]).
//!
//! A backend whose port is declared as another protocol, by `appProtocol` or name, is refused with
//! `UnsupportedProtocol`: plain HTTP towards a port that says it speaks TLS or a database's protocol would
//! fail in a way that nobody can read off the route, and so would TLS towards one of plain HTTP.

use k8s_openapi::api::core::v1::ServicePort;

use super::condition::ConditionReason;
use super::gateway::grant::{Referrer, is_permitted};
use super::judge::ParentKind;
use super::parent::ports_of;
use super::protocol::{DeclaredProtocol, find_declared_protocol};
use crate::cluster::objects::{ObjectKey, Objects};
use crate::route::{RouteKind, RouteRef};
use crate::snapshot::service::ServicePortKey;

/// A backendRef, the same for all kinds of route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BackendRef {
    pub(super) group: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    pub(super) port: Option<i32>,
    /// 1 when the route gives none.
    pub(super) weight: u32,
}

impl BackendRef {
    /// The object that is named, for a route of `route_namespace`.
    pub(super) fn target(&self, route_namespace: &str) -> ObjectKey {
        let namespace = self.namespace.as_deref().filter(|text| !text.is_empty());
        ObjectKey::new(namespace.unwrap_or(route_namespace), &self.name)
    }
}

/// Whether a BackendTLSPolicy is for a port of a Service, and a Gateway speaks TLS there.
fn has_policy(objects: &Objects, service: &ObjectKey, port: &ServicePort) -> bool {
    let first = ObjectKey { namespace: service.namespace.clone(), ..ObjectKey::default() };
    let there = objects.backend_tls_policies.range(first..);
    let mut there = there.take_while(|(key, _)| key.namespace == service.namespace);
    there.any(|(_, policy)| {
        let mut own = policy.spec.target_refs.iter().filter(|target| {
            target.group.is_empty() && target.kind == "Service" && *target.name == *service.name
        });
        own.any(|target| target.section_name.is_none() || target.section_name == port.name)
    })
}

/// Why a backend cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BackendRefusal {
    pub(super) reason: ConditionReason,
    /// What is wrong, without the field's path.
    pub(super) message: String,
}

/// The Service that a backendRef of this route names and may name, whether it is there or not.
pub(super) fn find_service(
    objects: &Objects,
    (route, parent): (&RouteRef, ParentKind),
    backend: &BackendRef,
) -> Result<ObjectKey, BackendRefusal> {
    let group = backend.group.as_deref().unwrap_or_default();
    let kind = backend.kind.as_deref().unwrap_or("Service");
    if kind != "Service" || !matches!(group, "" | "core") {
        return Err(BackendRefusal {
            reason: ConditionReason::InvalidKind,
            message: format!("backends of kind {kind} in group \"{group}\" are not known"),
        });
    }
    let key = backend.target(&route.key.namespace);
    let referrer = Referrer { kind: route.kind.as_label(), namespace: &route.key.namespace };
    if parent == ParentKind::Gateway && !is_permitted(objects, referrer, ("", "Service", &key)) {
        return Err(BackendRefusal {
            reason: ConditionReason::RefNotPermitted,
            message: format!("no ReferenceGrant of namespace {} allows Service {key}", key.namespace),
        });
    }
    Ok(key)
}

/// The Service port that a backendRef of this route names.
pub(super) fn resolve_backend(
    objects: &Objects,
    (route, parent): (&RouteRef, ParentKind),
    backend: &BackendRef,
) -> Result<ServicePortKey, BackendRefusal> {
    let key = find_service(objects, (route, parent), backend)?;
    let Some(service) = objects.services.get(&key) else {
        return refuse(ConditionReason::BackendNotFound, format!("Service {key} does not exist"));
    };
    if service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
        // Among the reasons that the API lists for ResolvedRefs, this is the nearest: it describes such Services
        // under a backendRef's `kind`, of which "Implementations SHOULD NOT support ExternalName Services".
        return refuse(
            ConditionReason::InvalidKind,
            format!("Service {key} is of type ExternalName, which is not followed"),
        );
    }
    let Some(number) = backend.port else {
        return refuse(ConditionReason::BackendNotFound, format!("a port of Service {key} must be named"));
    };
    let transport = route.kind.transport();
    let found = ports_of(service, transport).find(|port| port.port == number);
    let (Some(port), Ok(number)) = (found, u16::try_from(number)) else {
        let protocol = transport.as_protocol();
        let message = format!("Service {key} has no {protocol} port {number}");
        return refuse(ConditionReason::BackendNotFound, message);
    };
    let declared = find_declared_protocol(port);
    // A Gateway may end a TLSRoute's TLS, or begin one towards a port.
    let is_translated = parent == ParentKind::Gateway
        && (route.kind == RouteKind::Tls
            || matches!(declared, DeclaredProtocol::Tls(_)) && has_policy(objects, &key, port));
    if let Some(protocol) = declared.refuse_backend(route.kind).filter(|_| !is_translated) {
        return refuse(
            ConditionReason::UnsupportedProtocol,
            format!("port {number} of Service {key} is declared as {protocol}"),
        );
    }
    Ok(ServicePortKey { service: key, port: number, transport })
}

fn refuse(reason: ConditionReason, message: String) -> Result<ServicePortKey, BackendRefusal> {
    Err(BackendRefusal { reason, message })
}
