//! What the cluster says, as plain maps by kind: the input of `attach` and `compile`.
//!
//! A source hands over [`Change`]s; only the writer applies them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::{Deserialize, Serialize};

use super::api::{GrpcRoute, HttpRoute, ReferenceGrant};

/// The namespace and name of an object; cluster-scoped kinds have an empty namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectKey {
    /// The object's namespace, empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// The key of a namespaced object.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// The mark of an enrolled pod (design D7): other nodes use mTLS towards it exactly while this is there.
///
/// A mark that names another uid or other addresses than the Pod has is ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mark {
    /// The pod's `metadata.uid`.
    pub uid: String,
    /// The addresses that were proven to be captured.
    pub addresses: Vec<IpAddr>,
}

/// Every object that the mesh reads, by kind and key.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// ConfigMaps.
    pub config_maps: BTreeMap<ObjectKey, Arc<ConfigMap>>,
    /// EndpointSlices.
    pub endpoint_slices: BTreeMap<ObjectKey, Arc<EndpointSlice>>,
    /// GRPCRoutes.
    pub grpc_routes: BTreeMap<ObjectKey, Arc<GrpcRoute>>,
    /// HTTPRoutes.
    pub http_routes: BTreeMap<ObjectKey, Arc<HttpRoute>>,
    /// The marks of enrolled pods, by the Pod's key.
    pub marks: BTreeMap<ObjectKey, Mark>,
    /// Namespaces (cluster-scoped).
    pub namespaces: BTreeMap<ObjectKey, Arc<Namespace>>,
    /// Nodes (cluster-scoped).
    pub nodes: BTreeMap<ObjectKey, Arc<Node>>,
    /// Pods.
    pub pods: BTreeMap<ObjectKey, Arc<Pod>>,
    /// ReferenceGrants.
    pub reference_grants: BTreeMap<ObjectKey, Arc<ReferenceGrant>>,
    /// Secrets.
    pub secrets: BTreeMap<ObjectKey, Arc<Secret>>,
    /// Services.
    pub services: BTreeMap<ObjectKey, Arc<Service>>,
}

/// The kinds that [`Objects`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// ConfigMap.
    ConfigMap,
    /// EndpointSlice.
    EndpointSlice,
    /// GRPCRoute.
    GrpcRoute,
    /// HTTPRoute.
    HttpRoute,
    /// The mark of an enrolled pod, which is not an object of its own in Kubernetes.
    Mark,
    /// Namespace.
    Namespace,
    /// Node.
    Node,
    /// Pod.
    Pod,
    /// ReferenceGrant.
    ReferenceGrant,
    /// Secret.
    Secret,
    /// Service.
    Service,
}

impl Kind {
    /// The kind as manifests write it.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::EndpointSlice => "EndpointSlice",
            Self::GrpcRoute => "GRPCRoute",
            Self::HttpRoute => "HTTPRoute",
            Self::Mark => "Mark",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::Secret => "Secret",
            Self::Service => "Service",
        }
    }

    /// Whether objects of this kind live in no namespace.
    #[must_use]
    pub const fn is_cluster_scoped(self) -> bool {
        matches!(self, Self::Namespace | Self::Node)
    }
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace and name.
    pub key: ObjectKey,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_label(), self.key)
    }
}

/// One object of any kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A ConfigMap.
    ConfigMap(Arc<ConfigMap>),
    /// An EndpointSlice.
    EndpointSlice(Arc<EndpointSlice>),
    /// A GRPCRoute.
    GrpcRoute(Arc<GrpcRoute>),
    /// An HTTPRoute.
    HttpRoute(Arc<HttpRoute>),
    /// A mark.
    Mark(Mark),
    /// A Namespace.
    Namespace(Arc<Namespace>),
    /// A Node.
    Node(Arc<Node>),
    /// A Pod.
    Pod(Arc<Pod>),
    /// A ReferenceGrant.
    ReferenceGrant(Arc<ReferenceGrant>),
    /// A Secret.
    Secret(Arc<Secret>),
    /// A Service.
    Service(Arc<Service>),
}

/// What a source says has changed about one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It is there, and is this.
    Applied(ObjectKey, Object),
    /// It is not there any more.
    Deleted(ObjectId),
}

impl Objects {
    /// Applies one change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Applied(key, object) => self.insert(key, object),
            Change::Deleted(id) => self.remove(&id),
        }
    }

    fn insert(&mut self, key: ObjectKey, object: Object) {
        match object {
            Object::ConfigMap(object) => drop(self.config_maps.insert(key, object)),
            Object::EndpointSlice(object) => drop(self.endpoint_slices.insert(key, object)),
            Object::GrpcRoute(object) => drop(self.grpc_routes.insert(key, object)),
            Object::HttpRoute(object) => drop(self.http_routes.insert(key, object)),
            Object::Mark(object) => drop(self.marks.insert(key, object)),
            Object::Namespace(object) => drop(self.namespaces.insert(key, object)),
            Object::Node(object) => drop(self.nodes.insert(key, object)),
            Object::Pod(object) => drop(self.pods.insert(key, object)),
            Object::ReferenceGrant(object) => drop(self.reference_grants.insert(key, object)),
            Object::Secret(object) => drop(self.secrets.insert(key, object)),
            Object::Service(object) => drop(self.services.insert(key, object)),
        }
    }

    fn remove(&mut self, id: &ObjectId) {
        let key = &id.key;
        match id.kind {
            Kind::ConfigMap => drop(self.config_maps.remove(key)),
            Kind::EndpointSlice => drop(self.endpoint_slices.remove(key)),
            Kind::GrpcRoute => drop(self.grpc_routes.remove(key)),
            Kind::HttpRoute => drop(self.http_routes.remove(key)),
            Kind::Mark => drop(self.marks.remove(key)),
            Kind::Namespace => drop(self.namespaces.remove(key)),
            Kind::Node => drop(self.nodes.remove(key)),
            Kind::Pod => drop(self.pods.remove(key)),
            Kind::ReferenceGrant => drop(self.reference_grants.remove(key)),
            Kind::Secret => drop(self.secrets.remove(key)),
            Kind::Service => drop(self.services.remove(key)),
        }
    }
}
