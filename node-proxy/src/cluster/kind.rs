//! The kinds of object that are read.

/// The kinds that [`Objects`](super::objects::Objects) holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// BackendTLSPolicy.
    BackendTlsPolicy,
    /// ConfigMap.
    ConfigMap,
    /// EndpointSlice.
    EndpointSlice,
    /// Gateway.
    Gateway,
    /// GatewayClass.
    GatewayClass,
    /// GRPCRoute.
    GrpcRoute,
    /// HTTPRoute.
    HttpRoute,
    /// ListenerSet.
    ListenerSet,
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
    /// TCPRoute.
    TcpRoute,
    /// TLSRoute.
    TlsRoute,
    /// UDPRoute.
    UdpRoute,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 18] = [
        Self::BackendTlsPolicy,
        Self::ConfigMap,
        Self::EndpointSlice,
        Self::Gateway,
        Self::GatewayClass,
        Self::GrpcRoute,
        Self::HttpRoute,
        Self::ListenerSet,
        Self::Mark,
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::ReferenceGrant,
        Self::Secret,
        Self::Service,
        Self::TcpRoute,
        Self::TlsRoute,
        Self::UdpRoute,
    ];

    /// The kind as manifests write it.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::BackendTlsPolicy => "BackendTLSPolicy",
            Self::ConfigMap => "ConfigMap",
            Self::EndpointSlice => "EndpointSlice",
            Self::Gateway => "Gateway",
            Self::GatewayClass => "GatewayClass",
            Self::GrpcRoute => "GRPCRoute",
            Self::HttpRoute => "HTTPRoute",
            Self::ListenerSet => "ListenerSet",
            Self::Mark => "Mark",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::Secret => "Secret",
            Self::Service => "Service",
            Self::TcpRoute => "TCPRoute",
            Self::TlsRoute => "TLSRoute",
            Self::UdpRoute => "UDPRoute",
        }
    }

    /// Whether objects of this kind live in no namespace.
    #[must_use]
    pub const fn is_cluster_scoped(self) -> bool {
        matches!(self, Self::GatewayClass | Self::Namespace | Self::Node)
    }
}
