//! Which kinds are watched, and where the API server has them.

use super::super::objects::Kind;

/// The API group of routes and grants.
pub(super) const GATEWAY_API: &str = "gateway.networking.k8s.io";

/// What a proxy of the mesh needs to know: no Secrets, no ConfigMaps.
pub const MESH_KINDS: [Kind; 10] = [
    Kind::Namespace,
    Kind::Node,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::Pod,
    Kind::HttpRoute,
    Kind::GrpcRoute,
    Kind::TcpRoute,
    Kind::TlsRoute,
    Kind::ReferenceGrant,
];

/// Where the API server has the objects of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resource {
    /// The API group, empty for the core one.
    pub(super) group: &'static str,
    /// The versions that are read, the best first; all have one shape.
    pub(super) versions: &'static [&'static str],
    plural: &'static str,
}

impl Resource {
    /// Where a kind is; `None` for what is no resource of its own.
    pub(super) const fn of(kind: Kind) -> Option<Self> {
        let (group, versions, plural): (_, &[&str], _) = match kind {
            Kind::BackendTlsPolicy => (GATEWAY_API, &["v1"], "backendtlspolicies"),
            Kind::ConfigMap => ("", &["v1"], "configmaps"),
            Kind::EndpointSlice => ("discovery.k8s.io", &["v1"], "endpointslices"),
            Kind::Gateway => (GATEWAY_API, &["v1"], "gateways"),
            Kind::GatewayClass => (GATEWAY_API, &["v1"], "gatewayclasses"),
            Kind::GrpcRoute => (GATEWAY_API, &["v1"], "grpcroutes"),
            Kind::HttpRoute => (GATEWAY_API, &["v1"], "httproutes"),
            Kind::ListenerSet => (GATEWAY_API, &["v1"], "listenersets"),
            Kind::Mark => return None,
            Kind::Namespace => ("", &["v1"], "namespaces"),
            Kind::Node => ("", &["v1"], "nodes"),
            Kind::Pod => ("", &["v1"], "pods"),
            Kind::ReferenceGrant => (GATEWAY_API, &["v1", "v1beta1"], "referencegrants"),
            Kind::Secret => ("", &["v1"], "secrets"),
            Kind::Service => ("", &["v1"], "services"),
            Kind::TcpRoute => (GATEWAY_API, &["v1"], "tcproutes"),
            Kind::TlsRoute => (GATEWAY_API, &["v1"], "tlsroutes"),
            Kind::UdpRoute => (GATEWAY_API, &["v1"], "udproutes"),
        };
        Some(Self { group, versions, plural })
    }

    /// The name of the CRD that it is there by; `None` for what the server has in itself.
    pub(super) fn definition(&self) -> Option<String> {
        (self.group == GATEWAY_API).then(|| format!("{}.{}", self.plural, self.group))
    }

    /// The path of the collection, over all namespaces, in one of its versions.
    pub(super) fn path(&self, version: &str) -> String {
        let Self { group, plural, .. } = self;
        if group.is_empty() {
            format!("/api/{version}/{plural}")
        } else {
            format!("/apis/{group}/{version}/{plural}")
        }
    }

    /// The path of the collection in one namespace; of a kind that is in none, of all.
    pub(super) fn path_in(&self, version: &str, namespace: &str) -> String {
        let all = self.path(version);
        match all.rsplit_once('/') {
            Some((api, plural)) if !namespace.is_empty() => format!("{api}/namespaces/{namespace}/{plural}"),
            _ => all,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::schema::Schemas;
    use super::*;

    #[test]
    fn paths_are_those_of_the_api_server() {
        let path = |kind| Resource::of(kind).map(|resource| resource.path(resource.versions[0]));
        assert_eq!(path(Kind::Pod).unwrap(), "/api/v1/pods");
        assert_eq!(path(Kind::EndpointSlice).unwrap(), "/apis/discovery.k8s.io/v1/endpointslices");
        assert_eq!(path(Kind::HttpRoute).unwrap(), "/apis/gateway.networking.k8s.io/v1/httproutes");
        assert_eq!(path(Kind::Mark), None);
        let path_in = |kind, namespace| Resource::of(kind).unwrap().path_in("v1", namespace);
        assert_eq!(path_in(Kind::Pod, "shop"), "/api/v1/namespaces/shop/pods");
        assert_eq!(path_in(Kind::Namespace, ""), "/api/v1/namespaces");
        let definition = |kind| Resource::of(kind).and_then(|resource| resource.definition());
        assert_eq!(definition(Kind::HttpRoute).unwrap(), "httproutes.gateway.networking.k8s.io");
        assert_eq!(definition(Kind::EndpointSlice), None);
    }

    #[test]
    fn every_version_that_is_asked_for_is_in_the_vendored_crds() {
        let schemas = Schemas::default();
        let ingress =
            [Kind::BackendTlsPolicy, Kind::Gateway, Kind::GatewayClass, Kind::ListenerSet, Kind::UdpRoute];
        for kind in MESH_KINDS.into_iter().chain(ingress) {
            let resource = Resource::of(kind).unwrap();
            for version in resource.versions.iter().filter(|_| resource.group == GATEWAY_API) {
                let full = format!("{GATEWAY_API}/{version}");
                assert!(schemas.versions(kind.as_label()).any(|known| known == full), "{kind:?} {version}");
            }
        }
    }
}
