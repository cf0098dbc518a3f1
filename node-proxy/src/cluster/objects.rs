//! What the cluster says, as plain maps by kind: the input of `attach` and `compile`.
//!
//! A source hands over [`Change`]s; only the writer applies them, and what they touched goes along as [`Changed`].

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service};
use serde::{Deserialize, Serialize};

use super::api::{
    BackendTlsPolicy, Gateway, GatewayClass, GrpcRoute, HttpRoute, ListenerSet, ReferenceGrant, TcpRoute,
    TlsRoute, UdpRoute,
};
pub use super::kind::Kind;
use super::trimmed::{EndpointSlice, Node, Pod};

/// The namespace and name of an object; cluster-scoped kinds have an empty namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
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

/// The annotation of a Pod that holds its [`Mark`], as JSON.
pub const MARK_ANNOTATION: &str = "gammarus.io/enrolled";
/// The key of a ConfigMap in which the parameters of Gateways are: a file as one has it in a folder beside the Gateway's own.
pub(crate) const PARAMETERS_KEY: &str = "gateway.yaml";
/// `status.ancestors` of a policy takes no more.
pub(crate) const MOST_ANCESTORS: usize = 16;

/// The mark of an enrolled pod (design D7): other nodes use mTLS towards it exactly while this is there.
///
/// A mark that names another uid or other addresses than the Pod has is ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mark {
    /// The pod's `metadata.uid`.
    pub uid: String,
    /// The addresses that were proven to be captured; of a pod of a Gateway, those at which its listeners take the hop.
    pub addresses: Vec<IpAddr>,
    /// Of a pod of a Gateway, which is not captured: the ports that take the hop. Of any other pod none, and it does at all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
}

impl Mark {
    /// Of a pod whose capture was proven at these addresses.
    #[must_use]
    pub fn of_captured(uid: impl Into<String>, addresses: Vec<IpAddr>) -> Self {
        Self { uid: uid.into(), addresses, ports: Vec::new() }
    }
}

/// All Nodes: one map for all who keep it, and the same one until a Node changes. Each Gateway's proxy is told of all of
/// them, and to compare thousands for each would be more than all the rest of its objects.
pub type Nodes = Arc<BTreeMap<ObjectKey, Arc<Node>>>;

/// Every object that is read, by kind and key.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// BackendTLSPolicies.
    pub backend_tls_policies: BTreeMap<ObjectKey, Arc<BackendTlsPolicy>>,
    /// ConfigMaps.
    pub config_maps: BTreeMap<ObjectKey, Arc<ConfigMap>>,
    /// EndpointSlices.
    pub endpoint_slices: BTreeMap<ObjectKey, Arc<EndpointSlice>>,
    /// GatewayClasses (cluster-scoped).
    pub gateway_classes: BTreeMap<ObjectKey, Arc<GatewayClass>>,
    /// Gateways.
    pub gateways: BTreeMap<ObjectKey, Arc<Gateway>>,
    /// GRPCRoutes.
    pub grpc_routes: BTreeMap<ObjectKey, Arc<GrpcRoute>>,
    /// HTTPRoutes.
    pub http_routes: BTreeMap<ObjectKey, Arc<HttpRoute>>,
    /// ListenerSets.
    pub listener_sets: BTreeMap<ObjectKey, Arc<ListenerSet>>,
    /// The marks of enrolled pods, by the Pod's key.
    pub marks: BTreeMap<ObjectKey, Mark>,
    /// Namespaces (cluster-scoped).
    pub namespaces: BTreeMap<ObjectKey, Arc<Namespace>>,
    /// Nodes (cluster-scoped).
    pub nodes: Nodes,
    /// Pods.
    pub pods: BTreeMap<ObjectKey, Arc<Pod>>,
    /// ReferenceGrants.
    pub reference_grants: BTreeMap<ObjectKey, Arc<ReferenceGrant>>,
    /// Secrets.
    pub secrets: BTreeMap<ObjectKey, Arc<Secret>>,
    /// Services.
    pub services: BTreeMap<ObjectKey, Arc<Service>>,
    /// TCPRoutes.
    pub tcp_routes: BTreeMap<ObjectKey, Arc<TcpRoute>>,
    /// TLSRoutes.
    pub tls_routes: BTreeMap<ObjectKey, Arc<TlsRoute>>,
    /// UDPRoutes.
    pub udp_routes: BTreeMap<ObjectKey, Arc<UdpRoute>>,
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
    /// A BackendTLSPolicy.
    BackendTlsPolicy(Arc<BackendTlsPolicy>),
    /// A ConfigMap.
    ConfigMap(Arc<ConfigMap>),
    /// An EndpointSlice.
    EndpointSlice(Arc<EndpointSlice>),
    /// A Gateway.
    Gateway(Arc<Gateway>),
    /// A GatewayClass.
    GatewayClass(Arc<GatewayClass>),
    /// A GRPCRoute.
    GrpcRoute(Arc<GrpcRoute>),
    /// An HTTPRoute.
    HttpRoute(Arc<HttpRoute>),
    /// A ListenerSet.
    ListenerSet(Arc<ListenerSet>),
    /// A mark; boxed, as there are many objects of other kinds.
    Mark(Box<Mark>),
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
    /// A TCPRoute.
    TcpRoute(Arc<TcpRoute>),
    /// A TLSRoute.
    TlsRoute(Arc<TlsRoute>),
    /// A UDPRoute.
    UdpRoute(Arc<UdpRoute>),
}

impl Object {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::BackendTlsPolicy(_) => Kind::BackendTlsPolicy,
            Self::ConfigMap(_) => Kind::ConfigMap,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Gateway(_) => Kind::Gateway,
            Self::GatewayClass(_) => Kind::GatewayClass,
            Self::GrpcRoute(_) => Kind::GrpcRoute,
            Self::HttpRoute(_) => Kind::HttpRoute,
            Self::ListenerSet(_) => Kind::ListenerSet,
            Self::Mark(_) => Kind::Mark,
            Self::Namespace(_) => Kind::Namespace,
            Self::Node(_) => Kind::Node,
            Self::Pod(_) => Kind::Pod,
            Self::ReferenceGrant(_) => Kind::ReferenceGrant,
            Self::Secret(_) => Kind::Secret,
            Self::Service(_) => Kind::Service,
            Self::TcpRoute(_) => Kind::TcpRoute,
            Self::TlsRoute(_) => Kind::TlsRoute,
            Self::UdpRoute(_) => Kind::UdpRoute,
        }
    }
}

/// What a source says has changed about one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It is there, and is this.
    Applied(ObjectKey, Object),
    /// It is not there any more.
    Deleted(ObjectId),
}

/// What objects of one kind were before an update that touched them; `None` for those that were not there.
pub type Before<T> = BTreeMap<ObjectKey, Option<T>>;

/// What an update touched, by kind, with what was there before: whatever is not in here is as it was.
///
/// What is there now is in [`Objects`].
#[derive(Clone, Debug, Default)]
pub struct Changed {
    /// BackendTLSPolicies.
    pub backend_tls_policies: Before<Arc<BackendTlsPolicy>>,
    /// ConfigMaps.
    pub config_maps: Before<Arc<ConfigMap>>,
    /// EndpointSlices.
    pub endpoint_slices: Before<Arc<EndpointSlice>>,
    /// GatewayClasses.
    pub gateway_classes: Before<Arc<GatewayClass>>,
    /// Gateways.
    pub gateways: Before<Arc<Gateway>>,
    /// GRPCRoutes.
    pub grpc_routes: Before<Arc<GrpcRoute>>,
    /// HTTPRoutes.
    pub http_routes: Before<Arc<HttpRoute>>,
    /// ListenerSets.
    pub listener_sets: Before<Arc<ListenerSet>>,
    /// Marks.
    pub marks: Before<Mark>,
    /// Namespaces.
    pub namespaces: Before<Arc<Namespace>>,
    /// Nodes.
    pub nodes: Before<Arc<Node>>,
    /// Pods.
    pub pods: Before<Arc<Pod>>,
    /// ReferenceGrants.
    pub reference_grants: Before<Arc<ReferenceGrant>>,
    /// Secrets.
    pub secrets: Before<Arc<Secret>>,
    /// Services.
    pub services: Before<Arc<Service>>,
    /// TCPRoutes.
    pub tcp_routes: Before<Arc<TcpRoute>>,
    /// TLSRoutes.
    pub tls_routes: Before<Arc<TlsRoute>>,
    /// UDPRoutes.
    pub udp_routes: Before<Arc<UdpRoute>>,
}

impl Changed {
    /// Everything that there is, as if nothing had been there before.
    #[must_use]
    pub fn everything(objects: &Objects) -> Self {
        Self {
            backend_tls_policies: all_new(&objects.backend_tls_policies),
            config_maps: all_new(&objects.config_maps),
            endpoint_slices: all_new(&objects.endpoint_slices),
            gateway_classes: all_new(&objects.gateway_classes),
            gateways: all_new(&objects.gateways),
            grpc_routes: all_new(&objects.grpc_routes),
            http_routes: all_new(&objects.http_routes),
            listener_sets: all_new(&objects.listener_sets),
            marks: all_new(&objects.marks),
            namespaces: all_new(&objects.namespaces),
            nodes: all_new(&objects.nodes),
            pods: all_new(&objects.pods),
            reference_grants: all_new(&objects.reference_grants),
            secrets: all_new(&objects.secrets),
            services: all_new(&objects.services),
            tcp_routes: all_new(&objects.tcp_routes),
            tls_routes: all_new(&objects.tls_routes),
            udp_routes: all_new(&objects.udp_routes),
        }
    }
}

fn all_new<T>(objects: &BTreeMap<ObjectKey, T>) -> Before<T> {
    objects.keys().map(|key| (key.clone(), None)).collect()
}

impl Objects {
    /// The object that is named, if it is there.
    #[must_use]
    pub fn find(&self, ObjectId { kind, key }: &ObjectId) -> Option<Object> {
        Some(match kind {
            Kind::BackendTlsPolicy => {
                Object::BackendTlsPolicy(Arc::clone(self.backend_tls_policies.get(key)?))
            }
            Kind::ConfigMap => Object::ConfigMap(Arc::clone(self.config_maps.get(key)?)),
            Kind::EndpointSlice => Object::EndpointSlice(Arc::clone(self.endpoint_slices.get(key)?)),
            Kind::Gateway => Object::Gateway(Arc::clone(self.gateways.get(key)?)),
            Kind::GatewayClass => Object::GatewayClass(Arc::clone(self.gateway_classes.get(key)?)),
            Kind::GrpcRoute => Object::GrpcRoute(Arc::clone(self.grpc_routes.get(key)?)),
            Kind::HttpRoute => Object::HttpRoute(Arc::clone(self.http_routes.get(key)?)),
            Kind::ListenerSet => Object::ListenerSet(Arc::clone(self.listener_sets.get(key)?)),
            Kind::Mark => Object::Mark(Box::new(self.marks.get(key)?.clone())),
            Kind::Namespace => Object::Namespace(Arc::clone(self.namespaces.get(key)?)),
            Kind::Node => Object::Node(Arc::clone(self.nodes.get(key)?)),
            Kind::Pod => Object::Pod(Arc::clone(self.pods.get(key)?)),
            Kind::ReferenceGrant => Object::ReferenceGrant(Arc::clone(self.reference_grants.get(key)?)),
            Kind::Secret => Object::Secret(Arc::clone(self.secrets.get(key)?)),
            Kind::Service => Object::Service(Arc::clone(self.services.get(key)?)),
            Kind::TcpRoute => Object::TcpRoute(Arc::clone(self.tcp_routes.get(key)?)),
            Kind::TlsRoute => Object::TlsRoute(Arc::clone(self.tls_routes.get(key)?)),
            Kind::UdpRoute => Object::UdpRoute(Arc::clone(self.udp_routes.get(key)?)),
        })
    }

    /// Applies one change and notes what it touched.
    pub fn apply(&mut self, change: Change, changed: &mut Changed) {
        match change {
            Change::Applied(key, object) => self.insert(key, object, changed),
            Change::Deleted(id) => self.remove(id, changed),
        }
    }

    fn insert(&mut self, key: ObjectKey, object: Object, changed: &mut Changed) {
        match object {
            Object::BackendTlsPolicy(new) => {
                set(&mut self.backend_tls_policies, &mut changed.backend_tls_policies, key, Some(new))
            }
            Object::ConfigMap(new) => set(&mut self.config_maps, &mut changed.config_maps, key, Some(new)),
            Object::EndpointSlice(new) => {
                set(&mut self.endpoint_slices, &mut changed.endpoint_slices, key, Some(new));
            }
            Object::Gateway(new) => set(&mut self.gateways, &mut changed.gateways, key, Some(new)),
            Object::GatewayClass(new) => {
                set(&mut self.gateway_classes, &mut changed.gateway_classes, key, Some(new))
            }
            Object::GrpcRoute(new) => set(&mut self.grpc_routes, &mut changed.grpc_routes, key, Some(new)),
            Object::HttpRoute(new) => set(&mut self.http_routes, &mut changed.http_routes, key, Some(new)),
            Object::ListenerSet(new) => {
                set(&mut self.listener_sets, &mut changed.listener_sets, key, Some(new))
            }
            Object::Mark(new) => set(&mut self.marks, &mut changed.marks, key, Some(*new)),
            Object::Namespace(new) => set(&mut self.namespaces, &mut changed.namespaces, key, Some(new)),
            Object::Node(new) => set(Arc::make_mut(&mut self.nodes), &mut changed.nodes, key, Some(new)),
            Object::Pod(new) => set(&mut self.pods, &mut changed.pods, key, Some(new)),
            Object::ReferenceGrant(new) => {
                set(&mut self.reference_grants, &mut changed.reference_grants, key, Some(new))
            }
            Object::Secret(new) => set(&mut self.secrets, &mut changed.secrets, key, Some(new)),
            Object::Service(new) => set(&mut self.services, &mut changed.services, key, Some(new)),
            Object::TcpRoute(new) => set(&mut self.tcp_routes, &mut changed.tcp_routes, key, Some(new)),
            Object::TlsRoute(new) => set(&mut self.tls_routes, &mut changed.tls_routes, key, Some(new)),
            Object::UdpRoute(new) => set(&mut self.udp_routes, &mut changed.udp_routes, key, Some(new)),
        }
    }

    fn remove(&mut self, ObjectId { kind, key }: ObjectId, changed: &mut Changed) {
        match kind {
            Kind::BackendTlsPolicy => {
                set(&mut self.backend_tls_policies, &mut changed.backend_tls_policies, key, None)
            }
            Kind::ConfigMap => set(&mut self.config_maps, &mut changed.config_maps, key, None),
            Kind::EndpointSlice => {
                set(&mut self.endpoint_slices, &mut changed.endpoint_slices, key, None);
            }
            Kind::Gateway => set(&mut self.gateways, &mut changed.gateways, key, None),
            Kind::GatewayClass => set(&mut self.gateway_classes, &mut changed.gateway_classes, key, None),
            Kind::GrpcRoute => set(&mut self.grpc_routes, &mut changed.grpc_routes, key, None),
            Kind::HttpRoute => set(&mut self.http_routes, &mut changed.http_routes, key, None),
            Kind::ListenerSet => set(&mut self.listener_sets, &mut changed.listener_sets, key, None),
            Kind::Mark => set(&mut self.marks, &mut changed.marks, key, None),
            Kind::Namespace => set(&mut self.namespaces, &mut changed.namespaces, key, None),
            Kind::Node => set(Arc::make_mut(&mut self.nodes), &mut changed.nodes, key, None),
            Kind::Pod => set(&mut self.pods, &mut changed.pods, key, None),
            Kind::ReferenceGrant => set(&mut self.reference_grants, &mut changed.reference_grants, key, None),
            Kind::Secret => set(&mut self.secrets, &mut changed.secrets, key, None),
            Kind::Service => set(&mut self.services, &mut changed.services, key, None),
            Kind::TcpRoute => set(&mut self.tcp_routes, &mut changed.tcp_routes, key, None),
            Kind::TlsRoute => set(&mut self.tls_routes, &mut changed.tls_routes, key, None),
            Kind::UdpRoute => set(&mut self.udp_routes, &mut changed.udp_routes, key, None),
        }
    }
}

/// Puts what is there now, or nothing, in its place. Of several changes of one object in an update, the first says
/// what was before.
fn set<T>(objects: &mut BTreeMap<ObjectKey, T>, before: &mut Before<T>, key: ObjectKey, now: Option<T>) {
    let old = match now {
        Some(now) => objects.insert(key.clone(), now),
        None => objects.remove(&key),
    };
    before.entry(key).or_insert(old);
}

#[cfg(test)]
mod tests {
    use super::super::api::ReferenceGrantSpec;
    use super::*;

    #[test]
    fn of_several_changes_of_an_object_the_first_says_what_was_before() {
        let key = ObjectKey::new("shop", "web");
        let pod = |uid: &str| Arc::new(Pod { uid: Some(uid.into()), ..Pod::default() });
        let applied = |uid| Change::Applied(key.clone(), Object::Pod(pod(uid)));
        let deleted = || Change::Deleted(ObjectId { kind: Kind::Pod, key: key.clone() });
        let mut objects = Objects::default();
        let mut play = |changes: Vec<Change>| {
            let mut changed = Changed::default();
            for change in changes {
                objects.apply(change, &mut changed);
            }
            (changed.pods[&key].clone(), objects.pods.get(&key).cloned())
        };
        assert_eq!(play(vec![applied("a"), applied("b")]), (None, Some(pod("b"))));
        assert_eq!(play(vec![deleted(), applied("c")]), (Some(pod("b")), Some(pod("c"))));
        assert_eq!(play(vec![applied("d"), deleted()]), (Some(pod("c")), None));
        assert_eq!(play(vec![deleted()]), (None, None));
    }

    #[test]
    fn what_only_an_ingress_judges_by_is_noted_too() {
        let key = ObjectKey::new("shop", "a");
        let grant = ReferenceGrant::new("a", ReferenceGrantSpec { from: Vec::new(), to: Vec::new() });
        let applied = [
            (Kind::ConfigMap, Object::ConfigMap(Arc::default())),
            (Kind::ReferenceGrant, Object::ReferenceGrant(Arc::new(grant))),
            (Kind::Secret, Object::Secret(Arc::default())),
        ];
        let counts = |changed: &Changed| {
            let Changed { config_maps, reference_grants, secrets, .. } = changed;
            (config_maps.len(), reference_grants.len(), secrets.len())
        };
        let (mut objects, mut changed) = (Objects::default(), Changed::default());
        for (_, object) in applied.clone() {
            objects.apply(Change::Applied(key.clone(), object), &mut changed);
        }
        assert_eq!((counts(&changed), counts(&Changed::everything(&objects))), ((1, 1, 1), (1, 1, 1)));
        let mut changed = Changed::default();
        for (kind, _) in applied {
            objects.apply(Change::Deleted(ObjectId { kind, key: key.clone() }), &mut changed);
        }
        assert_eq!(counts(&changed), (1, 1, 1));
        assert!(changed.secrets[&key].is_some() && objects.secrets.is_empty());
        assert_eq!(counts(&Changed::everything(&objects)), (0, 0, 0));
    }
}
