//! A Gateway with a listener for each kind of load, and the routes behind it, which are edited.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::certificate::make_certificate;
use crate::edits::edit;
use crate::requests::HOST_IN_TLS;

/// How often the routes are edited.
pub(crate) const EDITS: u32 = 20;
/// A port of the Gateway with one listener more.
pub(crate) const MORE_PORT: u16 = 8100;
/// The certificates that the Gateway has in turn.
pub(crate) const CERTIFICATES: [&str; 2] = ["first", "second"];

/// What the Gateway is edited to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As it began.
    First,
    /// With one listener more.
    OneMore,
    /// For fewer names in TLS, and for routes of namespaces by their labels.
    Narrower,
}

impl Shape {
    /// The edits, one after the other.
    pub(crate) const EDITS: [Self; 4] = [Self::OneMore, Self::First, Self::Narrower, Self::First];
}

/// The Gateway `front`, for routes and Services of any namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Front<'n> {
    /// Where it is.
    pub(crate) namespace: &'n str,
    /// A ConfigMap there with its parameters.
    pub(crate) parameters: Option<&'n str>,
}

impl Front<'_> {
    /// The Gateway with its listeners.
    pub(crate) fn gateway(self, shape: Shape) -> String {
        let (allowed, hostname) = match shape {
            Shape::First | Shape::OneMore => ("from: All", ""),
            Shape::Narrower => (
                "from: Selector, selector: {matchExpressions: [{key: closed, operator: DoesNotExist}]}",
                "hostname: '*.example.com', ",
            ),
        };
        let allowed = format!("allowedRoutes: {{namespaces: {{{allowed}}}}}");
        let more = match shape {
            Shape::OneMore => format!(", {{name: more, port: {MORE_PORT}, protocol: HTTP}}"),
            Shape::First | Shape::Narrower => String::new(),
        };
        let parameters = self.parameters.map_or_else(String::new, |name| {
            format!("infrastructure: {{parametersRef: {{group: '', kind: ConfigMap, name: {name}}}}}, ")
        });
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: front, namespace: {}}}, \
             spec: {{gatewayClassName: gammarus, {parameters}listeners: [\
             {{name: http, port: 80, protocol: HTTP, {allowed}}}, {{name: calls, port: 50051, protocol: HTTP, {allowed}}}, \
             {{name: https, {hostname}port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: web}}]}}, {allowed}}}, \
             {{name: bytes, port: 9000, protocol: TCP, {allowed}}}, {{name: more-bytes, port: 9001, protocol: TCP, {allowed}}}{more}]}}}}",
            self.namespace
        )
    }

    fn parent(self, listener: &str) -> String {
        format!("{{name: front, namespace: {}, sectionName: {listener}}}", self.namespace)
    }

    /// The routes of requests and calls after so many edits: weights and filters.
    pub(crate) fn routes_after(self, edits: u32) -> String {
        let (split, filter) = edit(edits);
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: front}}\nspec:\n  \
             parentRefs: [{}, {}]\n  rules: [{{filters: [{filter}], {}}}]\n---\n\
             apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: front}}\nspec:\n  \
             parentRefs: [{}]\n  rules: [{{{}}}]\n",
            self.parent("http"),
            self.parent("https"),
            split(80),
            self.parent("calls"),
            split(50051)
        )
    }

    fn route_of_bytes(self, listener: &str, port: u16) -> String {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: {{name: {listener}}}\nspec:\n  \
             parentRefs: [{}]\n  rules: [{{backendRefs: [{{name: steady, port: {port}}}]}}]\n",
            self.parent(listener)
        )
    }

    /// The Gateway and all of its routes, before any edit.
    pub(crate) fn all(self) -> String {
        let bytes =
            [("bytes", 9000), ("more-bytes", 9001)].map(|(name, port)| self.route_of_bytes(name, port));
        [&bytes.join("---\n"), &self.routes_after(0), &*self.gateway(Shape::First)].join("---\n")
    }
}

/// Makes the certificates in a folder, and gives what a client of the Gateway trusts in.
#[track_caller]
pub(crate) fn make_certificates(dir: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for name in CERTIFICATES {
        make_certificate(dir, name, &[HOST_IN_TLS]);
        let made = fs::read(dir.join(format!("{name}.pem"))).unwrap();
        roots.add(CertificateDer::from_pem_slice(&made).unwrap()).unwrap();
    }
    let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let tls = tls.with_safe_default_protocol_versions().unwrap();
    Arc::new(tls.with_root_certificates(roots).with_no_client_auth())
}
