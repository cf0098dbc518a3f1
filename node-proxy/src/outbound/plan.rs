//! What shall become of one request. Pure: a table of cases needs no socket.

use std::sync::Arc;

use crate::error::FailureReason;
use crate::route::{Backend, RequestHead, RouteKind, Rule};
use crate::snapshot::Snapshot;
use crate::snapshot::service::{Frontend, FrontendKind, ServicePort};

/// Where a request goes.
#[derive(Clone, Debug)]
pub struct RequestPlan {
    /// The kind of the routes that hold for this client, if there are any.
    pub kind: Option<RouteKind>,
    /// The rule that took it; none when no route holds for this client.
    pub rule: Option<Arc<Rule>>,
    /// The Service port whose endpoints take it, or why none does.
    pub backend: Result<Arc<ServicePort>, FailureReason>,
}

/// Plans a request of a client in `namespace` to a Service port. `random` decides between weights.
pub fn plan(
    snapshot: &Snapshot,
    frontend: &Frontend,
    namespace: &str,
    head: &impl RequestHead,
    random: u64,
) -> RequestPlan {
    let routes = match frontend.kind {
        FrontendKind::ClusterIp => frontend.port.find_routes(namespace),
        FrontendKind::External => None,
    };
    let Some(routes) = routes else {
        return RequestPlan { kind: None, rule: None, backend: Ok(Arc::clone(&frontend.port)) };
    };
    let kind = routes.kind();
    let Some(rule) = routes.find(head) else {
        return RequestPlan { kind, rule: None, backend: Err(FailureReason::NoMatchingRule) };
    };
    let backend = match rule.backends.pick(random) {
        // A rule without a backend that could be picked answers 500 (HTTPRouteRule.backendRefs).
        None => Err(FailureReason::InvalidBackend),
        Some(Backend::Failing(reason)) => Err(*reason),
        Some(Backend::Service(key)) => {
            snapshot.find_service_port(key).cloned().ok_or(FailureReason::InvalidBackend)
        }
    };
    RequestPlan { kind, rule: Some(Arc::clone(rule)), backend }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
