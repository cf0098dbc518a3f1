//! What a Service's port is declared to speak (design D4): by `appProtocol`, else by its name's prefix.
//!
//! Used for judging routes here and for the data path in `compile`, so that both see one declaration.

use k8s_openapi::api::core::v1::ServicePort;

/// What a port is declared to speak, by its Service alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeclaredProtocol {
    /// HTTP of any version, gRPC included.
    Http,
    /// Another protocol, as it is written.
    Other(String),
    /// Nothing is declared.
    Undeclared,
}

/// The words for HTTP in `appProtocol` (KEP-3726 and common use) and in prefixes of port names.
const HTTP_WORDS: [&str; 9] =
    ["http", "http2", "h2c", "grpc", "grpc-web", "kubernetes.io/h2c", "kubernetes.io/ws", "http1", "ws"];

/// Prefixes of port names that declare something that is not plain HTTP.
const OTHER_PREFIXES: [&str; 18] = [
    "amqp",
    "cassandra",
    "dns",
    "ftp",
    "https",
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
    "tls",
    "wss",
];

/// What `port` is declared to speak. `appProtocol` beats the name; an `appProtocol` that is not a word for
/// HTTP declares another protocol, a name that is not known declares nothing.
#[must_use]
pub fn find_declared_protocol(port: &ServicePort) -> DeclaredProtocol {
    if let Some(declared) = port.app_protocol.as_deref().filter(|text| !text.is_empty()) {
        if HTTP_WORDS.iter().any(|word| declared.eq_ignore_ascii_case(word)) {
            return DeclaredProtocol::Http;
        }
        return DeclaredProtocol::Other(declared.to_owned());
    }
    let name = port.name.as_deref().unwrap_or_default();
    let prefix = name.split('-').next().unwrap_or_default();
    if HTTP_WORDS.contains(&prefix) {
        DeclaredProtocol::Http
    } else if OTHER_PREFIXES.contains(&prefix) {
        DeclaredProtocol::Other(prefix.to_owned())
    } else {
        DeclaredProtocol::Undeclared
    }
}

/// Whether the port is a TCP port; UDP and SCTP ports are never captured.
#[must_use]
pub fn is_tcp(port: &ServicePort) -> bool {
    port.protocol.as_deref().unwrap_or("TCP") == "TCP"
}
