//! What the controller writes the status of, and where the API server has it.

use std::fmt;
use std::sync::Arc;

use kube::api::ApiResource;

use crate::cluster::api::{
    BackendTlsPolicy, Gateway, GatewayClass, GrpcRoute, HttpRoute, ListenerSet, TcpRoute, TlsRoute, UdpRoute,
};
use crate::cluster::objects::ObjectKey;
use crate::route::{RouteKind, RouteRef};

/// One object whose status is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A BackendTLSPolicy.
    BackendTlsPolicy(ObjectKey),
    /// A Gateway.
    Gateway(ObjectKey),
    /// A GatewayClass (cluster-scoped), by its name.
    GatewayClass(Arc<str>),
    /// A ListenerSet.
    ListenerSet(ObjectKey),
    /// An XMesh (cluster-scoped), by its name.
    Mesh(Arc<str>),
    /// A route.
    Route(RouteRef),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BackendTlsPolicy(key) => write!(f, "BackendTLSPolicy {key}"),
            Self::Gateway(key) => write!(f, "Gateway {key}"),
            Self::GatewayClass(name) => write!(f, "GatewayClass {name}"),
            Self::ListenerSet(key) => write!(f, "ListenerSet {key}"),
            Self::Mesh(name) => write!(f, "XMesh {name}"),
            Self::Route(route) => route.fmt(f),
        }
    }
}

/// A kind of [`Subject`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SubjectKind {
    /// BackendTLSPolicy.
    BackendTlsPolicy,
    /// Gateway.
    Gateway,
    /// GatewayClass.
    GatewayClass,
    /// ListenerSet.
    ListenerSet,
    /// XMesh.
    Mesh,
    /// A kind of route.
    Route(RouteKind),
}

impl SubjectKind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Route(RouteKind::Http),
        Self::Route(RouteKind::Grpc),
        Self::Route(RouteKind::Tls),
        Self::Route(RouteKind::Tcp),
        Self::Route(RouteKind::Udp),
        Self::GatewayClass,
        Self::Gateway,
        Self::ListenerSet,
        Self::BackendTlsPolicy,
        Self::Mesh,
    ];

    /// Where the API server has it.
    #[must_use]
    pub fn resource(self) -> ApiResource {
        match self {
            Self::BackendTlsPolicy => ApiResource::erase::<BackendTlsPolicy>(&()),
            Self::Gateway => ApiResource::erase::<Gateway>(&()),
            Self::GatewayClass => ApiResource::erase::<GatewayClass>(&()),
            Self::ListenerSet => ApiResource::erase::<ListenerSet>(&()),
            Self::Mesh => ApiResource {
                group: "gateway.networking.x-k8s.io".to_owned(),
                version: "v1alpha1".to_owned(),
                api_version: "gateway.networking.x-k8s.io/v1alpha1".to_owned(),
                kind: "XMesh".to_owned(),
                plural: "xmeshes".to_owned(),
            },
            Self::Route(RouteKind::Grpc) => ApiResource::erase::<GrpcRoute>(&()),
            Self::Route(RouteKind::Http) => ApiResource::erase::<HttpRoute>(&()),
            Self::Route(RouteKind::Tcp) => ApiResource::erase::<TcpRoute>(&()),
            Self::Route(RouteKind::Tls) => ApiResource::erase::<TlsRoute>(&()),
            Self::Route(RouteKind::Udp) => ApiResource::erase::<UdpRoute>(&()),
        }
    }

    /// The name of its CRD.
    #[must_use]
    pub fn crd(self) -> String {
        let resource = self.resource();
        format!("{}.{}", resource.plural, resource.group)
    }
}

impl Subject {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> SubjectKind {
        match self {
            Self::BackendTlsPolicy(_) => SubjectKind::BackendTlsPolicy,
            Self::Gateway(_) => SubjectKind::Gateway,
            Self::GatewayClass(_) => SubjectKind::GatewayClass,
            Self::ListenerSet(_) => SubjectKind::ListenerSet,
            Self::Mesh(_) => SubjectKind::Mesh,
            Self::Route(route) => SubjectKind::Route(route.kind),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::GatewayClass(name) | Self::Mesh(name) => name,
            Self::BackendTlsPolicy(key) | Self::Gateway(key) | Self::ListenerSet(key) => &key.name,
            Self::Route(route) => &route.key.name,
        }
    }

    /// Its namespace, if it is in one.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::GatewayClass(_) | Self::Mesh(_) => None,
            Self::BackendTlsPolicy(key) | Self::Gateway(key) | Self::ListenerSet(key) => Some(&key.namespace),
            Self::Route(route) => Some(&route.key.namespace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_crd() {
        let crds: Vec<_> = SubjectKind::ALL.into_iter().map(SubjectKind::crd).collect();
        assert_eq!(
            crds,
            [
                "httproutes.gateway.networking.k8s.io",
                "grpcroutes.gateway.networking.k8s.io",
                "tlsroutes.gateway.networking.k8s.io",
                "tcproutes.gateway.networking.k8s.io",
                "udproutes.gateway.networking.k8s.io",
                "gatewayclasses.gateway.networking.k8s.io",
                "gateways.gateway.networking.k8s.io",
                "listenersets.gateway.networking.k8s.io",
                "backendtlspolicies.gateway.networking.k8s.io",
                "xmeshes.gateway.networking.x-k8s.io",
            ]
        );
    }
}
