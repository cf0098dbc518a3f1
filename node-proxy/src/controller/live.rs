//! What statuses say now: a watch of its own for each kind, of which only what concerns this controller is kept.
//!
//! The judgement is made of trimmed objects, which have no status. Asking for each object before it is written would cost
//! one more request for every write, as many at every change of leaders as there are routes, and would never notice
//! that somebody has changed our entries. Of other controllers' entries only their places are kept: they are never sent back.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kube::Resource;
use kube::api::{ApiResource, ObjectMeta};
use kube::core::{DynamicResourceScope, NotUsed, Object};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::plan::Role;
use super::subject::{Subject, SubjectKind};
use crate::attach::{CONTROLLER_NAME, ParentRef};
use crate::cluster::objects::ObjectKey;
use crate::route::RouteRef;

/// A condition, as a status has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LiveCondition {
    /// Which condition.
    #[serde(rename = "type")]
    pub kind: Box<str>,
    /// `True`, `False` or `Unknown`.
    pub status: Box<str>,
    /// Why, in one word.
    #[serde(default)]
    pub reason: Box<str>,
    /// Why, for a person.
    #[serde(default)]
    pub message: Box<str>,
    /// The generation that was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` became what it is, in RFC 3339.
    #[serde(default)]
    pub last_transition_time: Box<str>,
}

/// An entry of a route's `status.parents`, or of a policy's `status.ancestors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LiveEntry {
    /// Another controller's.
    Foreign,
    /// Ours: it has the name of one of our controllers.
    Own {
        /// Which of them.
        role: Role,
        /// The parentRef or ancestorRef that it is about.
        parent_ref: ParentRef,
        /// Its conditions, others' included, in their order.
        conditions: Vec<LiveCondition>,
    },
}

/// What a Gateway or a ListenerSet says of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LiveListener {
    /// Its name.
    pub name: Box<str>,
    /// The kinds of route that it takes.
    #[serde(default)]
    pub supported_kinds: Vec<LiveKind>,
    /// How many routes are attached to it.
    #[serde(default)]
    pub attached_routes: i32,
    /// Its conditions, others' included, in their order.
    #[serde(default)]
    pub conditions: Vec<LiveCondition>,
}

/// A kind of route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveKind {
    /// The API group.
    #[serde(default)]
    pub group: Option<Box<str>>,
    /// The kind.
    pub kind: Box<str>,
}

/// An address of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// `IPAddress` or `Hostname`.
    #[serde(rename = "type", default)]
    pub kind: Option<Box<str>>,
    /// The address.
    pub value: Box<str>,
}

/// What is said now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// By a GatewayClass.
    Class {
        /// It has a `status`.
        has_status: bool,
        /// `status.conditions`, if they are there.
        conditions: Option<Vec<LiveCondition>>,
        /// The names in `status.supportedFeatures`, if that is there.
        features: Option<Vec<String>>,
    },
    /// By a Gateway or a ListenerSet.
    Listeners {
        /// It has a `status`.
        has_status: bool,
        /// `status.conditions`, if they are there.
        conditions: Option<Vec<LiveCondition>>,
        /// `status.listeners`, if they are there.
        listeners: Option<Vec<LiveListener>>,
        /// `status.addresses`, if they are there.
        addresses: Option<Vec<Address>>,
        /// `status.attachedListenerSets`, if that is there.
        attached_listener_sets: Option<i32>,
    },
    /// By an XMesh.
    Mesh {
        /// `spec.controllerName` is ours.
        is_own: bool,
        /// It has a `spec.parametersRef`.
        has_parameters: bool,
        /// It has a `status`.
        has_status: bool,
        /// `status.conditions`, if they are there.
        conditions: Option<Vec<LiveCondition>>,
        /// The names in `status.supportedFeatures`, if that is there.
        features: Option<Vec<String>>,
    },
    /// By a route of its parents, or by a policy of its ancestors, if they are there.
    Entries(Option<Vec<LiveEntry>>),
}

/// An object, as far as its status is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`: whatever is written is written to this version.
    pub version: String,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// What it says.
    pub said: Said,
}

/// A route or a policy as it is watched.
pub type WatchedEntries = Object<NotUsed, WatchedEntriesStatus>;
/// An XMesh as it is watched.
pub type WatchedMesh = Object<WatchedMeshSpec, WatchedMeshStatus>;
/// A GatewayClass as it is watched.
pub type WatchedClass = Object<NotUsed, WatchedMeshStatus>;
/// A Gateway or a ListenerSet as it is watched.
pub type WatchedListeners = Object<NotUsed, WatchedListenersStatus>;

/// The `status` of a Gateway or a ListenerSet.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchedListenersStatus {
    #[serde(default)]
    conditions: Option<Vec<LiveCondition>>,
    #[serde(default)]
    listeners: Option<Vec<LiveListener>>,
    #[serde(default)]
    addresses: Option<Vec<Address>>,
    #[serde(default)]
    attached_listener_sets: Option<i32>,
}

/// The `status` of a route or of a policy.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct WatchedEntriesStatus {
    #[serde(default, alias = "ancestors")]
    parents: Option<Vec<WatchedEntry>>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct WatchedEntry {
    controller_name: String,
    #[serde(alias = "ancestorRef")]
    parent_ref: ParentRef,
    #[serde(default)]
    conditions: Vec<LiveCondition>,
}

/// The `spec` of an XMesh.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchedMeshSpec {
    controller_name: String,
    #[serde(default)]
    parameters_ref: Option<NotUsed>,
}

/// The `status` of an XMesh or a GatewayClass.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchedMeshStatus {
    #[serde(default)]
    conditions: Option<Vec<LiveCondition>>,
    #[serde(default)]
    supported_features: Option<Vec<Feature>>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Feature {
    name: String,
}

/// What is watched for its status.
pub trait Watched:
    Resource<DynamicType = ApiResource, Scope = DynamicResourceScope>
    + Clone
    + fmt::Debug
    + DeserializeOwned
    + Send
    + 'static
{
    /// Which object this is, if it has a name.
    fn subject(&self, kind: SubjectKind) -> Option<Subject>;
    /// What of it is kept.
    fn trim(self) -> Live;
}

impl Watched for WatchedEntries {
    fn subject(&self, kind: SubjectKind) -> Option<Subject> {
        let ObjectMeta { name, namespace, .. } = &self.metadata;
        let key = ObjectKey::new(namespace.as_deref()?, name.as_deref()?);
        match kind {
            SubjectKind::BackendTlsPolicy => Some(Subject::BackendTlsPolicy(key)),
            SubjectKind::Route(kind) => Some(Subject::Route(RouteRef { kind, key })),
            SubjectKind::Gateway
            | SubjectKind::GatewayClass
            | SubjectKind::ListenerSet
            | SubjectKind::Mesh => None,
        }
    }

    fn trim(self) -> Live {
        let parents = self.status.and_then(|status| status.parents);
        let entries = parents.map(|parents| {
            let entries = parents.into_iter().map(|parent| {
                let WatchedEntry { controller_name, parent_ref, conditions } = parent;
                Role::find(&controller_name).map_or(LiveEntry::Foreign, |role| LiveEntry::Own {
                    role,
                    parent_ref,
                    conditions,
                })
            });
            entries.collect()
        });
        live(self.metadata, Said::Entries(entries))
    }
}

impl Watched for WatchedMesh {
    fn subject(&self, kind: SubjectKind) -> Option<Subject> {
        let name = self.metadata.name.as_deref()?;
        (kind == SubjectKind::Mesh).then(|| Subject::Mesh(name.into()))
    }

    fn trim(self) -> Live {
        let said = Said::Mesh {
            is_own: self.spec.controller_name == CONTROLLER_NAME,
            has_parameters: self.spec.parameters_ref.is_some(),
            features: self.status.as_ref().and_then(WatchedMeshStatus::features),
            has_status: self.status.is_some(),
            conditions: self.status.and_then(|status| status.conditions),
        };
        live(self.metadata, said)
    }
}

impl WatchedMeshStatus {
    fn features(&self) -> Option<Vec<String>> {
        let features = self.supported_features.as_ref()?;
        Some(features.iter().map(|feature| feature.name.clone()).collect())
    }
}

impl Watched for WatchedClass {
    fn subject(&self, kind: SubjectKind) -> Option<Subject> {
        let name = self.metadata.name.as_deref()?;
        (kind == SubjectKind::GatewayClass).then(|| Subject::GatewayClass(name.into()))
    }

    fn trim(self) -> Live {
        let said = Said::Class {
            features: self.status.as_ref().and_then(WatchedMeshStatus::features),
            has_status: self.status.is_some(),
            conditions: self.status.and_then(|status| status.conditions),
        };
        live(self.metadata, said)
    }
}

impl Watched for WatchedListeners {
    fn subject(&self, kind: SubjectKind) -> Option<Subject> {
        let ObjectMeta { name, namespace, .. } = &self.metadata;
        let key = ObjectKey::new(namespace.as_deref()?, name.as_deref()?);
        match kind {
            SubjectKind::Gateway => Some(Subject::Gateway(key)),
            SubjectKind::ListenerSet => Some(Subject::ListenerSet(key)),
            SubjectKind::BackendTlsPolicy
            | SubjectKind::GatewayClass
            | SubjectKind::Mesh
            | SubjectKind::Route(_) => None,
        }
    }

    fn trim(self) -> Live {
        let has_status = self.status.is_some();
        let WatchedListenersStatus { conditions, listeners, addresses, attached_listener_sets } =
            self.status.unwrap_or_default();
        let said = Said::Listeners { has_status, conditions, listeners, addresses, attached_listener_sets };
        live(self.metadata, said)
    }
}

fn live(metadata: ObjectMeta, said: Said) -> Live {
    Live {
        uid: metadata.uid.unwrap_or_default(),
        version: metadata.resource_version.unwrap_or_default(),
        generation: metadata.generation,
        said,
    }
}

/// All statuses, as they were last seen or written.
#[derive(Debug, Default)]
pub struct Statuses {
    known: Mutex<HashMap<Subject, Live>>,
}

impl Statuses {
    /// What an object says now, if it is there.
    #[must_use]
    pub fn find(&self, subject: &Subject) -> Option<Live> {
        self.lock().get(subject).cloned()
    }

    /// Every object that is there.
    #[must_use]
    pub fn subjects(&self) -> Vec<Subject> {
        self.lock().keys().cloned().collect()
    }

    /// Every object of a kind.
    #[must_use]
    pub fn subjects_of(&self, kind: SubjectKind) -> Vec<Subject> {
        self.lock().keys().filter(|subject| subject.kind() == kind).cloned().collect()
    }

    /// Takes what was seen or written, unless something newer is known: an answer to a write may overtake the watch.
    /// Says whether it was taken.
    pub fn put(&self, subject: Subject, live: Live) -> bool {
        let mut known = self.lock();
        let is_old = known.get(&subject).is_some_and(|there| is_older(&live.version, &there.version));
        if !is_old {
            known.insert(subject, live);
        }
        !is_old
    }

    /// Forgets an object that was deleted with this version.
    pub fn remove(&self, subject: &Subject, version: &str) {
        let mut known = self.lock();
        if known.get(subject).is_some_and(|there| !is_older(version, &there.version)) {
            known.remove(subject);
        }
    }

    /// Forgets all of a kind but what `keep` says.
    pub fn retain(&self, kind: SubjectKind, keep: impl Fn(&Subject) -> bool) {
        let mut known = self.lock();
        known.retain(|subject, _| subject.kind() != kind || keep(subject));
        known.shrink_to_fit();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Subject, Live>> {
        // Whole at every step: a panic elsewhere does not spoil it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether one version came before another. Versions that are no numbers have no order, and none is old.
pub(super) fn is_older(one: &str, other: &str) -> bool {
    match (one.parse::<u64>(), other.parse::<u64>()) {
        (Ok(one), Ok(other)) => one < other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::RouteKind;
    use serde_json::json;

    fn route(version: &str) -> Live {
        let object: WatchedEntries = serde_json::from_value(json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": "web", "namespace": "shop", "resourceVersion": version, "generation": 4},
            "spec": {"parentRefs": [{"name": "a"}]},
            "status": {"parents": [
                {"controllerName": "other.io/c", "parentRef": {"name": "gateway"}, "conditions": [], "new": 1},
                {"controllerName": CONTROLLER_NAME, "parentRef": {"group": "", "kind": "Service", "name": "web", "port": 80},
                 "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
                                 "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 4}]},
            ]},
        }))
        .unwrap();
        assert_eq!(
            object.subject(SubjectKind::Route(RouteKind::Http)).unwrap().to_string(),
            "HTTPRoute shop/web"
        );
        object.trim()
    }

    #[test]
    fn of_others_entries_only_the_place_is_kept() {
        let live = route("7");
        assert_eq!((live.version.as_str(), live.generation), ("7", Some(4)));
        let Said::Entries(Some(entries)) = live.said else { panic!("a route with a status") };
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0], LiveEntry::Foreign);
        let LiveEntry::Own { role: Role::Mesh, parent_ref, conditions } = &entries[1] else {
            panic!("the second one is ours")
        };
        assert_eq!((parent_ref.port, &*conditions[0].kind), (Some(80), "Accepted"));
    }

    #[test]
    fn a_policy_has_ancestors_where_a_route_has_parents() {
        let object: WatchedEntries = serde_json::from_value(json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "BackendTLSPolicy",
            "metadata": {"name": "web", "namespace": "shop", "resourceVersion": "7"},
            "spec": {},
            "status": {"ancestors": [
                {"controllerName": "gammarus.io/gateway-controller", "ancestorRef": {"name": "front"}, "conditions": []},
            ]},
        }))
        .unwrap();
        let subject = object.subject(SubjectKind::BackendTlsPolicy).unwrap();
        assert_eq!(subject.to_string(), "BackendTLSPolicy shop/web");
        let Said::Entries(Some(entries)) = object.trim().said else { panic!("a policy with a status") };
        let LiveEntry::Own { role: Role::Gateway, parent_ref, .. } = &entries[0] else {
            panic!("it is ours")
        };
        assert_eq!(parent_ref.name, "front");
    }

    #[test]
    fn what_is_older_than_what_is_known_is_not_taken() {
        let statuses = Statuses::default();
        let subject = Subject::Mesh("m".into());
        assert!(statuses.put(subject.clone(), route("10")));
        assert!(!statuses.put(subject.clone(), route("9")), "a number, not a text");
        assert_eq!(statuses.find(&subject).unwrap().version, "10");
        statuses.remove(&subject, "9");
        assert!(statuses.find(&subject).is_some());
        statuses.remove(&subject, "11");
        assert!(statuses.find(&subject).is_none());
    }
}
