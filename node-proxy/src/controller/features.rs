//! What this mesh does of what the Gateway API's conformance tests know, by the names that they have for it.

/// The features, sorted by name as `status.supportedFeatures` of an XMesh must be. A name is taken in when the
/// suite's tests of it pass.
pub const SUPPORTED_FEATURES: [&str; 17] = [
    "GRPCRoute",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteParentRefPort",
    "HTTPRouteResponseHeaderModification",
    "Mesh",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_sorted_and_fit() {
        assert!(SUPPORTED_FEATURES.is_sorted_by(|one, other| one < other));
        assert!(SUPPORTED_FEATURES.len() <= 64, "the CRD's limit");
    }
}
