//! Which route holds where, and with which conditions: the one judgement for traffic and status.
//!
//! `compile` programs exactly what [`Attachments::find_port_routes`] gives, and a status says exactly what
//! [`RouteAttachment`] holds. Pure: the same objects always give the same judgement; no I/O, no clock.
//!
//! A rule that asks for what is not applied answers 500 and is named in `PartiallyInvalid`; a route whose
//! every rule does so is not accepted, and holds nowhere. Parents are judged one by one: what is wrong
//! with one never touches another. Parents that are not Services are not ours, and get no status.

mod address;
mod backend;
mod condition;
mod judge;
pub mod labels;
mod matches;
mod notice;
mod parent;
mod protocol;
mod view;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::cluster::objects::{ObjectKey, Objects};
use crate::route::{Backend, RouteKind, RouteRef, RuleMatches};
use crate::snapshot::service::ServicePortKey;

pub use address::cluster_addresses;
pub use condition::{Condition, ConditionReason, ConditionStatus, ConditionType};
pub use notice::Notice;
pub use parent::ParentRef;
pub use protocol::{DeclaredProtocol, find_declared_protocol, is_tcp};

/// The `controllerName` under which the mesh writes status, and the only one whose entries it touches.
pub const CONTROLLER_NAME: &str = "gammarus.io/mesh-controller";

/// On whose behalf a route holds on a Service (GEP-1426).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum RouteRole {
    /// The route is in another namespace: it holds for clients of the route's namespace only.
    Consumer,
    /// The route is in the Service's namespace: it holds for every client that has no consumer route.
    Producer,
}

/// One parentRef of a route, judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentAttachment {
    /// Its place in the route's `parentRefs`, of which others may be other controllers'.
    #[serde(skip)]
    pub index: usize,
    /// The parentRef, as written.
    pub parent_ref: ParentRef,
    /// The Service that it names.
    pub service: ObjectKey,
    /// For whom the route holds there.
    pub role: RouteRole,
    /// The Service's ports that the route holds on; empty when it is not accepted.
    pub ports: Vec<u16>,
    /// `Accepted`, `ResolvedRefs` and, when only some rules hold, `PartiallyInvalid`.
    pub conditions: Vec<Condition>,
}

/// A route that names at least one Service as parent, judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteAttachment {
    /// Which route.
    #[serde(serialize_with = "serialize_route")]
    pub route: Arc<RouteRef>,
    /// Always [`CONTROLLER_NAME`].
    pub controller_name: &'static str,
    /// Its parents that are Services, in the order of the route.
    pub parents: Vec<ParentAttachment>,
}

/// A rule as judged: what it matches and where that goes.
#[derive(Clone, Debug)]
pub struct AttachedRule {
    /// Its place in the route's `rules`.
    pub index: usize,
    /// Its `name`.
    pub name: Option<Arc<str>>,
    /// What it matches.
    pub matches: RuleMatches,
    /// Backends with their weights; a backend that may not be used is `Failing` and keeps its share.
    pub backends: Vec<(Backend, u32)>,
}

/// A route as judged, for the data path.
#[derive(Clone, Debug)]
pub struct AttachedRoute {
    /// Which route.
    pub route: Arc<RouteRef>,
    /// `metadata.creationTimestamp` in Unix seconds; precedence breaks ties by it.
    pub created: Option<i64>,
    /// Its rules that can match anything, in order.
    pub rules: Vec<AttachedRule>,
}

/// The routes that hold on one Service port.
#[derive(Clone, Debug, Default)]
pub struct PortRoutes {
    /// Routes of the Service's namespace; all of one kind.
    pub producer: Vec<Arc<AttachedRoute>>,
    /// Routes of other namespaces, by namespace; all of one kind in each.
    pub consumers: BTreeMap<Arc<str>, Vec<Arc<AttachedRoute>>>,
}

/// The judgement of everything that asks the mesh for something. Serialises for the admin's `/status`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Attachments {
    /// Routes in the order of kind, namespace and name.
    pub routes: Vec<RouteAttachment>,
    /// What objects other than routes ask for and is not done.
    pub notices: Vec<Notice>,
    #[serde(skip)]
    ports: HashMap<ServicePortKey, PortRoutes>,
}

impl Attachments {
    /// The routes that hold on a Service port, if any does.
    #[must_use]
    pub fn find_port_routes(&self, key: &ServicePortKey) -> Option<&PortRoutes> {
        self.ports.get(key)
    }

    /// The judgement of one route, if it names a Service as parent.
    #[must_use]
    pub fn find_route(&self, kind: RouteKind, key: &ObjectKey) -> Option<&RouteAttachment> {
        self.routes.iter().find(|route| route.route.kind == kind && route.route.key == *key)
    }
}

/// Judges every route and notices what else asks for something that is not done.
#[must_use]
pub fn attach(objects: &Objects) -> Attachments {
    let judged = judge::judge_routes(objects);
    let mut attachments = Attachments { notices: notice::collect_notices(objects), ..Attachments::default() };
    for route in judged {
        for parent in &route.attachment.parents {
            program_parent(&mut attachments.ports, &route.attached, parent);
        }
        attachments.routes.push(route.attachment);
    }
    attachments
}

/// Adds a route to the ports that it holds on, once each however many parentRefs lead there.
fn program_parent(
    ports: &mut HashMap<ServicePortKey, PortRoutes>,
    route: &Arc<AttachedRoute>,
    parent: &ParentAttachment,
) {
    for port in &parent.ports {
        let key = ServicePortKey { service: parent.service.clone(), port: *port };
        let routes = ports.entry(key).or_default();
        let group = match parent.role {
            RouteRole::Producer => &mut routes.producer,
            RouteRole::Consumer => {
                routes.consumers.entry(Arc::clone(&route.route.key.namespace)).or_default()
            }
        };
        if !group.iter().any(|held| Arc::ptr_eq(held, route)) {
            group.push(Arc::clone(route));
        }
    }
}

/// The lines that say what changed between two judgements: new or changed conditions and notices, and
/// what is gone. For the caller to log.
#[must_use]
pub fn changed_lines(before: &Attachments, after: &Attachments) -> Vec<String> {
    let old = lines_by_subject(before);
    let new = lines_by_subject(after);
    let changed = new.iter().filter(|(subject, line)| old.get(*subject) != Some(line));
    let mut lines: Vec<String> = changed.map(|(subject, line)| format!("{subject}: {line}")).collect();
    let gone = old.keys().filter(|subject| !new.contains_key(*subject));
    lines.extend(gone.map(|subject| format!("{subject}: no longer said")));
    lines
}

/// Every condition and notice by what it is about. A generation alone is no change.
fn lines_by_subject(attachments: &Attachments) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    for route in &attachments.routes {
        for parent in &route.parents {
            for condition in &parent.conditions {
                let ParentAttachment { index, service, .. } = parent;
                let subject =
                    format!("{} parentRefs[{index}] Service {service}: {}", route.route, condition.kind);
                lines.insert(subject, condition.to_string());
            }
        }
    }
    for notice in &attachments.notices {
        lines.insert(format!("{} {}: {}", notice.kind, notice.object, notice.field), notice.message.clone());
    }
    lines
}

fn serialize_route<S: Serializer>(route: &RouteRef, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(route)
}
