//! The Gateway API v1.6.3 types, all generated from the same CRD files that validate a directory of YAML.
//!
//! The experimental channel is used because it is a superset: a field that is not applied yet is still
//! seen, and refused by name in the route's conditions, instead of being lost in parsing.
#![allow(missing_docs, reason = "generated; the CRDs carry the documentation")]
#![allow(unreachable_pub, clippy::use_self, clippy::derivable_impls, reason = "generated")]

#[rustfmt::skip]
pub mod backend_tls_policy;
#[rustfmt::skip]
pub mod gateway;
#[rustfmt::skip]
pub mod gateway_class;
#[rustfmt::skip]
pub mod grpc_route;
#[rustfmt::skip]
pub mod http_route;
#[rustfmt::skip]
pub mod listener_set;
#[rustfmt::skip]
pub mod reference_grant;
#[rustfmt::skip]
pub mod tcp_route;
#[rustfmt::skip]
pub mod tls_route;
#[rustfmt::skip]
pub mod udp_route;

pub use backend_tls_policy::{BackendTlsPolicy, BackendTlsPolicySpec};
pub use gateway::{Gateway, GatewaySpec};
pub use gateway_class::{GatewayClass, GatewayClassSpec};
pub use grpc_route::{GrpcRoute, GrpcRouteSpec};
pub use http_route::{HttpRoute, HttpRouteSpec};
pub use listener_set::{ListenerSet, ListenerSetSpec};
pub use reference_grant::{ReferenceGrant, ReferenceGrantSpec};
pub use tcp_route::{TcpRoute, TcpRouteSpec};
pub use tls_route::{TlsRoute, TlsRouteSpec};
pub use udp_route::{UdpRoute, UdpRouteSpec};
