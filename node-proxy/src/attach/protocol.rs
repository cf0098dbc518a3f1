//! What a Service's port is declared to speak (design D4): by `appProtocol`, else by its name's prefix.
//!
//! Used for judging routes here and for the data path in `compile`, so that both see one declaration.

use k8s_openapi::api::core::v1::ServicePort;

use crate::route::RouteKind;
use crate::snapshot::transport::Transport;

/// What a port is declared to speak, by its Service alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeclaredProtocol {
    /// HTTP of any version, gRPC included, as it is written.
    Http(String),
    /// Another protocol, as it is written.
    Other(String),
    /// TLS, with HTTP in it or not, as it is written.
    Tls(String),
    /// Nothing is declared.
    Undeclared,
}

impl DeclaredProtocol {
    /// The word that keeps a route of this kind from a port, if one does. Whatever is no HTTP is TCP to a TCPRoute; TLS
    /// is a TLSRoute's, which no server could speak first to.
    pub(super) fn refuse_route(&self, kind: RouteKind) -> Option<&str> {
        match (self, kind) {
            (Self::Undeclared, _)
            | (Self::Http(_), RouteKind::Grpc | RouteKind::Http)
            | (Self::Tls(_), RouteKind::Tls | RouteKind::Tcp)
            | (Self::Other(_), RouteKind::Tcp) => None,
            (Self::Http(word) | Self::Tls(word) | Self::Other(word), _) => Some(word),
        }
    }

    /// The word that keeps a backend from routes of this kind, if one does: what they send is not what is spoken there.
    /// TLS may hold any protocol but HTTP without it.
    pub(super) fn refuse_backend(&self, kind: RouteKind) -> Option<&str> {
        match (self, kind) {
            (Self::Other(_), RouteKind::Tls) | (_, RouteKind::Tcp | RouteKind::Udp) => None,
            _ => self.refuse_route(kind),
        }
    }
}

/// The words for HTTP in `appProtocol` (KEP-3726 and common use) and in prefixes of port names.
const HTTP_WORDS: [&str; 9] =
    ["http", "http2", "h2c", "grpc", "grpc-web", "kubernetes.io/h2c", "kubernetes.io/ws", "http1", "ws"];

/// Words for TLS in `appProtocol` and in prefixes of port names.
const TLS_WORDS: [&str; 4] = ["https", "kubernetes.io/wss", "tls", "wss"];

/// Prefixes of port names that declare something that is neither plain HTTP nor TLS.
const OTHER_PREFIXES: [&str; 15] = [
    "amqp",
    "cassandra",
    "dns",
    "ftp",
    "kafka",
    "ldap",
    "memcached",
    "mongo",
    "mysql",
    "nats",
    "postgres",
    "postgresql",
    "redis",
    "smtp",
    "tcp",
];

/// What `port` is declared to speak. `appProtocol` beats the name; an `appProtocol` that is not a word for
/// HTTP declares another protocol, a name that is not known declares nothing.
#[must_use]
pub fn find_declared_protocol(port: &ServicePort) -> DeclaredProtocol {
    if let Some(declared) = port.app_protocol.as_deref().filter(|text| !text.is_empty()) {
        let is_one_of = |words: &[&str]| words.iter().any(|word| declared.eq_ignore_ascii_case(word));
        let declared = declared.to_owned();
        return if is_one_of(&HTTP_WORDS) {
            DeclaredProtocol::Http(declared)
        } else if is_one_of(&TLS_WORDS) {
            DeclaredProtocol::Tls(declared)
        } else {
            DeclaredProtocol::Other(declared)
        };
    }
    let name = port.name.as_deref().unwrap_or_default();
    let prefix = name.split('-').next().unwrap_or_default();
    if HTTP_WORDS.contains(&prefix) {
        DeclaredProtocol::Http(prefix.to_owned())
    } else if TLS_WORDS.contains(&prefix) {
        DeclaredProtocol::Tls(prefix.to_owned())
    } else if OTHER_PREFIXES.contains(&prefix) {
        DeclaredProtocol::Other(prefix.to_owned())
    } else {
        DeclaredProtocol::Undeclared
    }
}

/// What carries that which is spoken on a port; `None` for SCTP, which nothing here speaks.
#[must_use]
pub fn find_transport(port: &ServicePort) -> Option<Transport> {
    Transport::find(port.protocol.as_deref())
}
