//! Which rule of a Service's routes a request or a connection matches. Pure: no runtime, no Kubernetes types.
//!
//! `compile` builds a [`RouteTable`] from the attached routes of one kind; the data path asks it with
//! [`RouteTable::find`] and [`RouteTable::find_connection`]. The order of the table is the Gateway API's precedence.

mod describe;
pub mod filter;
pub mod grpc;
pub mod hostname;
mod index;
mod literal;
pub mod matcher;
pub mod precedence;
mod query;
pub mod session;
pub mod split;
pub mod terms;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::cluster::objects::ObjectKey;
use crate::error::FailureReason;
use crate::snapshot::service::ServicePortKey;
use crate::snapshot::transport::Transport;

/// The kinds of route that are applied, in the order in which they beat each other (GEP-1294, route types).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    /// GRPCRoute.
    #[default]
    Grpc,
    /// HTTPRoute.
    Http,
    /// TLSRoute.
    Tls,
    /// TCPRoute.
    Tcp,
    /// UDPRoute, which holds on Gateways alone.
    Udp,
}

impl RouteKind {
    /// The kind as manifests write it, and as logs and labels say it.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Grpc => "GRPCRoute",
            Self::Http => "HTTPRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
            Self::Udp => "UDPRoute",
        }
    }

    /// What carries that which it routes.
    #[must_use]
    pub const fn transport(self) -> Transport {
        match self {
            Self::Grpc | Self::Http | Self::Tls | Self::Tcp => Transport::Tcp,
            Self::Udp => Transport::Udp,
        }
    }

    /// Whether each request is routed by itself; else it is the connection that is.
    #[must_use]
    pub const fn is_of_requests(self) -> bool {
        matches!(self, Self::Grpc | Self::Http)
    }
}

/// Which route object. Prints as `HTTPRoute shop/my-server`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteRef {
    /// Its kind.
    pub kind: RouteKind,
    /// Its namespace and name.
    pub key: ObjectKey,
}

impl fmt::Display for RouteRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_label(), self.key)
    }
}

/// What a matcher may ask of a request head. Implemented by both HTTP wires.
pub trait RequestHead {
    /// The method, as sent (case-sensitive, RFC 9110 section 9.1).
    fn method(&self) -> &str;
    /// The path exactly as it will be forwarded, without the query.
    fn path(&self) -> &str;
    /// The query, without the question mark.
    fn query(&self) -> Option<&str>;
    /// The value of a field by its lower-case name; several lines are joined with `, ` (RFC 9110 section 5.3).
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>>;
}

/// Where a share of a rule's requests or connections goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// To the endpoints of a Service's port (never to the routes of that Service again).
    Service(ServicePortKey),
    /// Nowhere: this share is answered by the proxy.
    Failing(FailureReason),
}

/// One rule of one route, as the data path applies it.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The route it is of.
    pub route: Arc<RouteRef>,
    /// Its place in the route's `rules`.
    pub index: usize,
    /// Its `name`, if it has one.
    pub name: Option<Arc<str>>,
    /// How long its requests may take, and how often they are tried.
    pub terms: Terms,
    /// What is done to a request before a backend is chosen for it. Each backend has what follows with its own.
    pub filters: Arc<Filters>,
    /// Where matching requests go, by weight.
    pub backends: split::Split,
}

pub use filter::{FieldEdit, Filters};
pub use grpc::{GrpcMatch, is_grpc};
pub use hostname::{HostTable, HostnameMatch};
pub use matcher::{HeaderMatch, MatchError, PathMatch, QueryMatch, RouteMatch, StringMatch};
pub use precedence::{Age, RouteInput, RouteTable, RuleMatches};
pub use session::SessionPersistence;
pub use split::WeightedBackend;
pub use terms::{Retry, Terms};
