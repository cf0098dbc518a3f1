//! What shall become of one request, or of one opaque connection. Pure: a table of cases needs no socket.

use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;

use crate::attach::gateway::ListenerId;
use crate::error::FailureReason;
use crate::route::filter::location::Asked;
use crate::route::filter::{Preflight, Redirect};
use crate::route::{Backend, Filters, RequestHead, RouteKind, Rule, WeightedBackend};
use crate::snapshot::Snapshot;
use crate::snapshot::gateway::ConnectionListener;
use crate::snapshot::service::{Frontend, ServicePort};
use crate::snapshot::transport::Port;

/// What shall become of a request.
#[derive(Clone, Debug)]
pub struct RequestPlan {
    /// The kind of the routes that hold for this client, if there are any.
    pub kind: Option<RouteKind>,
    /// The rule that took it; none when no route holds for this client.
    pub rule: Option<Arc<Rule>>,
    /// What is done with it.
    pub action: Action,
}

/// What is done with a request.
#[derive(Clone, Debug)]
pub enum Action {
    /// Endpoints take it.
    Forward(Forwarding),
    /// The client is sent to another place.
    Redirect {
        /// The status of the answer.
        status: StatusCode,
        /// `Location`.
        location: String,
    },
    /// It asked what it may ask.
    Preflight(Preflight),
    /// Nobody takes it.
    Fail(FailureReason),
}

/// Who takes a request.
#[derive(Clone, Debug)]
pub struct Forwarding {
    /// The Service port whose endpoints take it.
    pub port: Arc<ServicePort>,
    /// What is done to it and to its answer, if anything is.
    pub filters: Option<Arc<Filters>>,
    /// Who gets a copy.
    pub mirrors: Vec<Arc<ServicePort>>,
    /// The endpoint that the client stays with, if it has a session.
    pub stays_with: Option<u64>,
}

/// What a request was made to, as far as a redirect asks for it (HTTPRequestRedirectFilter).
#[derive(Clone, Copy, Debug)]
struct Place {
    scheme: &'static str,
    port: u16,
}

/// Plans a request of a client in `namespace` to a Service port. `random` decides between weights and shares; `now` is
/// asked only where a session may have ended.
pub fn plan(
    snapshot: &Snapshot,
    frontend: &Frontend,
    namespace: &str,
    head: &impl RequestHead,
    (random, now): (u64, impl FnOnce() -> SystemTime),
) -> RequestPlan {
    let Some(routes) = frontend.find_routes(namespace) else {
        let port = Arc::clone(&frontend.port);
        let action =
            Action::Forward(Forwarding { port, filters: None, mirrors: Vec::new(), stays_with: None });
        return RequestPlan { kind: None, rule: None, action };
    };
    let kind = routes.kind();
    let Some(rule) = routes.find(head) else {
        return RequestPlan { kind, rule: None, action: Action::Fail(FailureReason::NoMatchingRule) };
    };
    // What a pod says to its Service is plain text to the proxy.
    let place = Place { scheme: "http", port: frontend.port.key.port };
    let action = decide(snapshot, place, rule, (head, random, now));
    RequestPlan { kind, rule: Some(Arc::clone(rule)), action }
}

/// Plans a request that has come to a port of a Gateway, `through` the listener that has ended TLS where one has. Routes of
/// the Services behind it are not applied.
pub fn plan_for_gateway(
    snapshot: &Snapshot,
    (port, through): (u16, Option<&ListenerId>),
    head: &impl RequestHead,
    (random, now): (u64, impl FnOnce() -> SystemTime),
) -> RequestPlan {
    let authority = head.header("host").unwrap_or_default();
    let host = find_host(&String::from_utf8_lossy(&authority));
    let found = match snapshot.gateway_ports.get(&Port::tcp(port)) {
        Some(listeners) => listeners.find_rule(through, &host, head),
        None => Err(FailureReason::NoMatchingRule),
    };
    match found {
        Ok(rule) => {
            let place = Place { scheme: if through.is_some() { "https" } else { "http" }, port };
            let action = decide(snapshot, place, rule, (head, random, now));
            RequestPlan { kind: Some(rule.route.kind), rule: Some(Arc::clone(rule)), action }
        }
        Err(reason) => RequestPlan { kind: None, rule: None, action: Action::Fail(reason) },
    }
}

/// The host of an authority, in lower case (RFC 3986 section 3.2.2).
fn find_host(authority: &str) -> String {
    let without_port = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    without_port.to_ascii_lowercase()
}

/// What shall become of an opaque connection.
#[derive(Clone, Debug)]
pub struct ConnectionPlan {
    /// The rule that took it; none when no route holds for this client.
    pub rule: Option<Arc<Rule>>,
    /// The Service port whose endpoints take it, or why nobody does.
    pub port: Result<Arc<ServicePort>, FailureReason>,
}

/// Plans an opaque connection of a client in `namespace` to a Service port. `server_name` is what its ClientHello asks
/// for, if it was looked at; `random` decides between weights.
pub fn plan_connection(
    snapshot: &Snapshot,
    frontend: &Frontend,
    namespace: &str,
    server_name: Option<&str>,
    random: u64,
) -> ConnectionPlan {
    let Some(routes) = frontend.find_routes(namespace) else {
        return ConnectionPlan { rule: None, port: Ok(Arc::clone(&frontend.port)) };
    };
    let Some(rule) = routes.find_connection(server_name) else {
        return ConnectionPlan { rule: None, port: Err(FailureReason::NoMatchingRule) };
    };
    ConnectionPlan::by_rule(snapshot, rule, random)
}

/// Plans a connection that a listener of a Gateway has taken. Routes of the Services behind it are not applied.
pub fn plan_connection_for_gateway(
    snapshot: &Snapshot,
    listener: &ConnectionListener,
    server_name: Option<&str>,
    random: u64,
) -> ConnectionPlan {
    match listener.find_rule(server_name) {
        Some(rule) => ConnectionPlan::by_rule(snapshot, rule, random),
        None => ConnectionPlan { rule: None, port: Err(FailureReason::NoMatchingRule) },
    }
}

impl ConnectionPlan {
    fn by_rule(snapshot: &Snapshot, rule: &Arc<Rule>, random: u64) -> Self {
        let port = match rule.backends.pick(random).map(|picked| &picked.backend) {
            Some(Backend::Service(key)) => {
                snapshot.find_service_port(key).cloned().ok_or(FailureReason::InvalidBackend)
            }
            Some(Backend::Failing(reason)) => Err(*reason),
            None => Err(FailureReason::InvalidBackend),
        };
        Self { rule: Some(Arc::clone(rule)), port }
    }
}

fn decide(
    snapshot: &Snapshot,
    place: Place,
    rule: &Rule,
    (head, random, now): (&impl RequestHead, u64, impl FnOnce() -> SystemTime),
) -> Action {
    if let Some(answered) = answer(&rule.filters, place, head) {
        return answered;
    }
    // A rule without a backend that could be picked answers 500 (HTTPRouteRule.backendRefs).
    let (session, stays_with) = find_session(rule, head, now);
    let Some(picked) = session.or_else(|| rule.backends.pick(random)) else {
        return Action::Fail(FailureReason::InvalidBackend);
    };
    let key = match &picked.backend {
        Backend::Service(key) => key,
        Backend::Failing(reason) => return Action::Fail(*reason),
    };
    let Some(port) = snapshot.find_service_port(key).cloned() else {
        return Action::Fail(FailureReason::InvalidBackend);
    };
    if picked.filters.is_empty() {
        return Action::Forward(Forwarding { port, filters: None, mirrors: Vec::new(), stays_with });
    }
    if let Some(answered) = answer(&picked.filters, place, head) {
        return answered;
    }
    let mirrors = find_mirrors(snapshot, &picked.filters, random);
    Action::Forward(Forwarding { port, filters: Some(Arc::clone(&picked.filters)), mirrors, stays_with })
}

/// The backend that the client of a request stays with, and the endpoint there: a session "takes precedence over traffic
/// split" (GEP-1619), a weight of zero included.
fn find_session<'r>(
    rule: &'r Rule,
    head: &impl RequestHead,
    now: impl FnOnce() -> SystemTime,
) -> (Option<&'r WeightedBackend>, Option<u64>) {
    let found = rule.terms.session.as_ref().and_then(|persistence| {
        let session = persistence.find(head, now())?;
        let is_its = |backend: &&WeightedBackend| match &backend.backend {
            Backend::Service(key) => persistence.backend_id(key) == session.backend,
            Backend::Failing(_) => false,
        };
        Some((rule.backends.backends().iter().find(is_its)?, session.endpoint))
    });
    found.unzip()
}

/// What filters answer themselves.
fn answer(filters: &Filters, place: Place, head: &impl RequestHead) -> Option<Action> {
    if let Some(preflight) = filters.cors.as_ref().and_then(|cors| cors.preflight(head)) {
        return Some(Action::Preflight(preflight));
    }
    let redirect = filters.redirect.as_ref()?;
    Some(Action::Redirect { status: redirect.status, location: locate(redirect, place, head) })
}

fn locate(redirect: &Redirect, place: Place, head: &impl RequestHead) -> String {
    let authority = head.header("host").unwrap_or_default();
    redirect.location(&Asked {
        scheme: place.scheme,
        authority: &String::from_utf8_lossy(&authority),
        path: head.path(),
        query: head.query(),
        port: place.port,
    })
}

fn find_mirrors(snapshot: &Snapshot, filters: &Filters, random: u64) -> Vec<Arc<ServicePort>> {
    let mut seed = random;
    let taken = filters.mirrors.iter().filter_map(|mirror| {
        seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let Backend::Service(key) = &mirror.backend else { return None };
        mirror.takes(scramble(seed)).then(|| snapshot.find_service_port(key).cloned())?
    });
    taken.collect()
}

/// Another number, which tells nothing of the first (the finalizer of SplitMix64): the share of one mirror has nothing
/// to do with another's, or with weights.
const fn scramble(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "gateway_plan_tests.rs"]
mod gateway_tests;
