//! The controller: says in the status of routes, and of what they hold on, what was judged, and leads nobody's traffic.
//!
//! Of several controllers one writes, the one that holds a Lease ([`lease`]); the others see the same and stand by. What should be
//! said comes from the same judgement as the data path's ([`judged`], [`gateways`]), what is said from watches of its own ([`follow`],
//! [`live`]). Any change of either puts the object into a queue ([`work`]); what differs becomes a patch of our own entries
//! alone ([`plan`], [`mod@write`]). What Gateways need beside a status is made for them ([`provision`]). Which CRDs there are is looked at and
//! told of ([`crds`]), never changed.

pub mod crds;
pub mod features;
pub mod follow;
pub mod gateways;
pub mod judged;
pub mod lease;
pub mod live;
pub mod metrics;
pub mod plan;
pub mod provision;
mod queue;
pub mod subject;
pub mod taint;
pub mod work;
pub mod write;

use crate::cluster::objects::Kind;

/// The name of the Lease, of the Deployment and of the service account.
pub const NAME: &str = "gammarus-controller";

/// What is judged by, and what the proxies of Gateways are fed with beside that: endpoints and pods, of which there are most,
/// and nodes.
pub const KINDS: [Kind; 17] = [
    Kind::Namespace,
    Kind::Service,
    Kind::HttpRoute,
    Kind::GrpcRoute,
    Kind::TcpRoute,
    Kind::TlsRoute,
    Kind::UdpRoute,
    Kind::ReferenceGrant,
    // With one, a route may lead to a port of TLS.
    Kind::BackendTlsPolicy,
    Kind::GatewayClass,
    Kind::Gateway,
    Kind::ListenerSet,
    // Certificates of listeners, the authorities of their clients, and parameters.
    Kind::Secret,
    Kind::ConfigMap,
    Kind::EndpointSlice,
    Kind::Pod,
    Kind::Node,
];
