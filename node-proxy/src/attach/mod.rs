//! Which route holds where, and with which conditions: the one judgement for traffic and status.
//!
//! `compile` programs exactly what [`Attachments::routes_of`] gives, and a status says exactly what
//! [`RouteAttachment`] holds. Pure: the same objects always give the same judgement; no I/O, no clock.
//!
//! A rule that asks for what is not applied answers 500 and is named in `PartiallyInvalid`; a route whose
//! every rule does so is not accepted, and holds nowhere. Parents are judged one by one: what is wrong
//! with one never touches another. Parents that are not Services are not ours, and get no status.

mod address;
mod attachments;
mod backend;
mod condition;
mod filters;
pub mod gateway;
mod judge;
pub mod labels;
mod matches;
mod notice;
mod parent;
mod protocol;
mod session;
mod view;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::cluster::objects::ObjectKey;
use crate::route::{Filters, RouteRef, RuleMatches, Terms, WeightedBackend};
use crate::snapshot::service::ServicePortKey;

pub use address::cluster_addresses;
pub use attachments::{Attachments, Rejudged};
pub use condition::{Condition, ConditionReason, ConditionStatus, ConditionType};
pub use notice::Notice;
pub use parent::ParentRef;
pub use protocol::{DeclaredProtocol, find_declared_protocol, find_transport};

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
    /// How long its requests may take, and how often they are tried.
    pub terms: Terms,
    /// What is done to its requests.
    pub filters: Arc<Filters>,
    /// Backends with their weights; a backend that may not be used is `Failing` and keeps its share.
    pub backends: Vec<WeightedBackend>,
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

/// For whom a route holds on a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Clients {
    /// Every client whose namespace has no routes of its own there.
    All,
    /// Those of one namespace.
    Of(Arc<str>),
}

/// One port for one group of clients: what has one table of routes, all of one kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortGroup {
    /// The Service's port.
    pub port: ServicePortKey,
    /// The clients.
    pub clients: Clients,
}

fn serialize_route<S: Serializer>(route: &RouteRef, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(route)
}
