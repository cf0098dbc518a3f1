//! What a Gateway's pods serve: its ports, and which routes hold there for which names.
//!
//! A connection belongs to one listener of its port from its ClientHello on, a request on a port without TLS from its
//! authority on: to the listener whose hostname fits best, and to no other (GatewaySpec.listeners).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

use crate::attach::gateway::ListenerId;
use crate::error::FailureReason;
use crate::route::hostname::Hostnames;
use crate::route::{HostTable, RequestHead, RouteTable, Rule};
use crate::snapshot::service::ServicePortKey;
use crate::snapshot::transport::Port;

/// The ports of one Gateway.
pub type GatewayPorts = BTreeMap<Port, Arc<GatewayPort>>;

/// What is spoken on a port of a Gateway, and by which listeners.
#[derive(Clone, Debug)]
pub enum GatewayPort {
    /// HTTP in plain text: the authority of a request leads to its listener.
    Http(Hostnames<Arc<RequestListener>>),
    /// Bytes: one listener has them all.
    Tcp(Arc<ConnectionListener>),
    /// TLS: the server name of the ClientHello leads to a listener.
    Tls(Hostnames<TlsListener>),
    /// Datagrams: one listener has them all.
    Udp(Arc<ConnectionListener>),
}

/// A listener whose requests are routed one by one.
#[derive(Clone, Debug)]
pub struct RequestListener {
    /// Which one.
    pub id: Arc<ListenerId>,
    /// Its routes by the names for which they hold.
    pub hosts: HostTable,
}

/// A listener whose connections, or sessions of datagrams, are routed as they are.
#[derive(Clone, Debug)]
pub struct ConnectionListener {
    /// Which one.
    pub id: Arc<ListenerId>,
    /// Its routes, a table for each kind, in the order in which kinds beat each other.
    pub tables: Box<[Arc<RouteTable>]>,
}

/// A listener for TLS.
#[derive(Clone, Debug)]
pub enum TlsListener {
    /// Connections go on as they are.
    Passthrough(Arc<ConnectionListener>),
    /// TLS ends here, and what is in it is HTTP.
    Requests(Arc<ServerConfig>, Arc<RequestListener>),
    /// TLS ends here, and what is in it goes on as it is.
    Connections(Arc<ServerConfig>, Arc<ConnectionListener>),
}

/// How a port of a Service is spoken to by a Gateway: in TLS (BackendTLSPolicy).
#[derive(Clone, Debug)]
pub struct BackendTls {
    /// Differs where anything of the handshake does.
    pub id: u64,
    /// The handshake; without one, nobody is spoken to there.
    pub handshake: Option<BackendHandshake>,
}

/// The handshake with a backend, by what is spoken in it.
#[derive(Clone, Debug)]
pub struct BackendHandshake {
    /// The server name that is asked for.
    pub name: ServerName<'static>,
    /// For HTTP/1.1.
    pub version1: Arc<ClientConfig>,
    /// For HTTP/2.
    pub version2: Arc<ClientConfig>,
    /// For anything else.
    pub bytes: Arc<ClientConfig>,
}

/// The ports that are spoken to so.
pub type BackendTlsPorts = HashMap<ServicePortKey, Arc<BackendTls>>;

impl TlsListener {
    /// Which one.
    #[must_use]
    pub fn id(&self) -> &Arc<ListenerId> {
        match self {
            Self::Passthrough(listener) | Self::Connections(_, listener) => &listener.id,
            Self::Requests(_, listener) => &listener.id,
        }
    }
}

impl GatewayPort {
    /// Finds the rule for a request to `host`, in lower case and without a port. `through` is the listener that has ended
    /// TLS, where one has.
    ///
    /// # Errors
    /// `MisdirectedRequest` when another listener of the port is for this host (RFC 9110 section 15.5.20),
    /// `NoMatchingRule` when no rule takes it.
    pub fn find_rule(
        &self,
        through: Option<&ListenerId>,
        host: &str,
        head: &impl RequestHead,
    ) -> Result<&Arc<Rule>, FailureReason> {
        let listener = match (self, through) {
            (Self::Http(listeners), None) => listeners.find(host),
            (Self::Tls(listeners), Some(through)) => match listeners.find(host) {
                Some(best) if **best.id() != *through => return Err(FailureReason::MisdirectedRequest),
                Some(TlsListener::Requests(_, listener)) => Some(listener),
                Some(TlsListener::Passthrough(_) | TlsListener::Connections(..)) | None => None,
            },
            // The port has become another one since the connection was made.
            (Self::Http(_) | Self::Tcp(_) | Self::Tls(_) | Self::Udp(_), _) => None,
        };
        listener
            .and_then(|listener| listener.hosts.find_rule(host, head))
            .ok_or(FailureReason::NoMatchingRule)
    }
}

impl ConnectionListener {
    /// The rule that takes a connection; `server_name` is what its ClientHello asks for, in lower case.
    #[must_use]
    pub fn find_rule(&self, server_name: Option<&str>) -> Option<&Arc<Rule>> {
        self.tables.iter().find_map(|table| table.find_connection(server_name))
    }
}
