//! One shape for all kinds of route: what judging needs of each, and what it may not ignore.
//!
//! Every field that asks for something that is not applied is listed here by its path, so that it is
//! refused by name. A field of the API that this file does not know is a bug of this file.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::backend::BackendRef;
use super::filters::{FilterView, view_filters};
use super::matches::{self, CompiledMatches};
use super::parent::ParentRef;
use super::session::view_session;
use crate::cluster::api::grpc_route::{GrpcRouteRules, GrpcRouteUseDefaultGateways};
use crate::cluster::api::http_route::{
    HttpRouteRules, HttpRouteRulesMatchesPathType, HttpRouteUseDefaultGateways,
};
use crate::cluster::api::tcp_route::TcpRouteUseDefaultGateways;
use crate::cluster::api::tls_route::TlsRouteUseDefaultGateways;
use crate::cluster::api::udp_route::UdpRouteUseDefaultGateways;
use crate::cluster::api::{GrpcRoute, HttpRoute, TcpRoute, TlsRoute, UdpRoute};
use crate::cluster::objects::{ObjectKey, Objects};
use crate::route::terms::parse_duration;
use crate::route::{HostnameMatch, Retry, RouteKind, RouteRef, RuleMatches, Terms};

/// Tries after the first, and the pause before each, where a route asks for retries and says no more.
const DEFAULT_ATTEMPTS: i64 = 1;
const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);

/// A route of any kind.
#[derive(Debug)]
pub(super) struct RouteView {
    pub(super) route: Arc<RouteRef>,
    pub(super) generation: Option<i64>,
    /// `metadata.creationTimestamp` in Unix seconds, where the source gives one.
    pub(super) created: Option<i64>,
    pub(super) parents: Vec<ParentRef>,
    /// On a Gateway's listener it holds for these only; none for all.
    pub(super) hostnames: Vec<HostnameMatch>,
    pub(super) rules: Vec<RuleView>,
    /// What has no effect, and is said so.
    pub(super) remarks: Vec<String>,
    /// What has none on a Service parent.
    pub(super) remarks_on_services: Vec<String>,
}

/// A rule of any kind.
#[derive(Debug)]
pub(super) struct RuleView {
    pub(super) name: Option<Arc<str>>,
    pub(super) terms: Terms,
    pub(super) filters: FilterView,
    pub(super) backends: Vec<BackendView>,
    pub(super) matches: CompiledMatches,
    /// Paths of fields that ask for what is not applied.
    pub(super) unsupported: Vec<String>,
}

/// A backendRef of any kind.
#[derive(Debug)]
pub(super) struct BackendView {
    pub(super) backend: BackendRef,
    pub(super) filters: FilterView,
}

impl RuleView {
    /// Every Service that is named: by backends and by mirrors of all levels.
    pub(super) fn named_backends(&self) -> impl Iterator<Item = &BackendRef> {
        let filters = self.backends.iter().map(|backend| &backend.filters).chain([&self.filters]);
        let mirrors = filters.flat_map(|filters| &filters.mirrors).map(|mirror| &mirror.backend);
        self.backends.iter().map(|backend| &backend.backend).chain(mirrors)
    }
}

/// Copies the fields that all kinds' generated parentRefs have.
macro_rules! parent_refs {
    ($spec:expr) => {
        $spec
            .parent_refs
            .iter()
            .flatten()
            .map(|parent| ParentRef {
                group: parent.group.clone(),
                kind: parent.kind.clone(),
                name: parent.name.clone(),
                namespace: parent.namespace.clone(),
                port: parent.port,
                section_name: parent.section_name.clone(),
            })
            .collect()
    };
}

/// The parentRefs of a route, if it is there.
pub(super) fn view_parents(objects: &Objects, route: &RouteRef) -> Option<Vec<ParentRef>> {
    let key = &route.key;
    Some(match route.kind {
        RouteKind::Grpc => parent_refs!(objects.grpc_routes.get(key)?.spec),
        RouteKind::Http => parent_refs!(objects.http_routes.get(key)?.spec),
        RouteKind::Tcp => parent_refs!(objects.tcp_routes.get(key)?.spec),
        RouteKind::Tls => parent_refs!(objects.tls_routes.get(key)?.spec),
        RouteKind::Udp => parent_refs!(objects.udp_routes.get(key)?.spec),
    })
}

/// Copies the fields that all kinds' generated backendRefs have.
macro_rules! backend_ref {
    ($backend:expr) => {
        BackendRef {
            group: $backend.group.clone(),
            kind: $backend.kind.clone(),
            name: $backend.name.clone(),
            namespace: $backend.namespace.clone(),
            port: $backend.port,
            weight: $backend.weight.map_or(1, |weight| u32::try_from(weight).unwrap_or(0)),
        }
    };
}

/// Looks at the rules of a kind that has nothing in them but backends, all of which match the same.
macro_rules! view_plain_rules {
    ($spec:expr, $matches:expr) => {
        $spec
            .rules
            .iter()
            .map(|rule| RuleView {
                name: rule.name.as_deref().map(Into::into),
                terms: Terms::default(),
                filters: FilterView::default(),
                backends: rule
                    .backend_refs
                    .iter()
                    .map(|backend| BackendView {
                        backend: backend_ref!(backend),
                        filters: FilterView::default(),
                    })
                    .collect(),
                matches: CompiledMatches { compiled: Some($matches), refused: Vec::new() },
                unsupported: Vec::new(),
            })
            .collect()
    };
}

/// Looks at what HTTPRoutes' and GRPCRoutes' generated rules have: filters, and backendRefs with filters of their own. What is not
/// applied goes to `unsupported`.
macro_rules! view_backends {
    ($rule:expr, $path:expr, $prefix:expr, $unsupported:expr) => {{
        let mut see = |filters: FilterView| {
            $unsupported.extend(filters.unsupported.iter().cloned());
            filters
        };
        let filters = see(view_filters($path, $rule.filters.as_deref().unwrap_or_default(), $prefix));
        let backends = $rule.backend_refs.iter().flatten().enumerate().map(|(index, backend)| {
            let path = format!("{}.backendRefs[{index}]", $path);
            BackendView {
                filters: see(view_filters(&path, backend.filters.as_deref().unwrap_or_default(), $prefix)),
                backend: backend_ref!(backend),
            }
        });
        let backends: Vec<BackendView> = backends.collect();
        (filters, backends)
    }};
}

/// Looks at `sessionPersistence`, which both kinds' generated rules have.
macro_rules! view_session {
    ($rule:expr, $route:expr, $index:expr, $unsupported:expr) => {{
        let place = $index.to_string();
        let this = ($route, $rule.name.as_deref().unwrap_or(&place));
        match $rule.session_persistence.as_ref().map(|session| view_session(this, session)) {
            Some(Ok(session)) => Some(Arc::new(session)),
            Some(Err(unsupported)) => {
                $unsupported.push(format!("spec.rules[{place}].{unsupported}"));
                None
            }
            None => None,
        }
    }};
}

pub(super) fn view_http_route(key: &ObjectKey, route: &HttpRoute) -> RouteView {
    let spec = &route.spec;
    let wants_gateways = matches!(spec.use_default_gateways, Some(HttpRouteUseDefaultGateways::All));
    let this = Arc::new(RouteRef { kind: RouteKind::Http, key: key.clone() });
    RouteView {
        route: Arc::clone(&this),
        generation: route.metadata.generation,
        created: route.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
        parents: parent_refs!(spec),
        hostnames: view_hostnames(spec.hostnames.as_deref()),
        rules: spec
            .rules
            .iter()
            .flatten()
            .enumerate()
            .map(|(index, rule)| view_http_rule(&this, index, rule))
            .collect(),
        remarks: Vec::new(),
        remarks_on_services: remarks_on_services(
            spec.hostnames.as_deref().unwrap_or_default(),
            wants_gateways,
        ),
    }
}

fn view_http_rule(route: &RouteRef, index: usize, rule: &HttpRouteRules) -> RuleView {
    let path = format!("spec.rules[{index}]");
    let mut unsupported = Vec::new();
    let (filters, backends) = view_backends!(rule, &path, only_prefix(rule), unsupported);
    let mut terms = view_terms(&path, rule, &mut unsupported);
    terms.session = view_session!(rule, route, index, unsupported);
    let matches = matches::compile_http_matches(&path, rule.matches.as_deref().unwrap_or_default());
    unsupported.extend(matches.refused.iter().cloned());
    RuleView { name: rule.name.as_deref().map(Into::into), terms, filters, backends, matches, unsupported }
}

pub(super) fn view_grpc_route(key: &ObjectKey, route: &GrpcRoute) -> RouteView {
    let spec = &route.spec;
    let wants_gateways = matches!(spec.use_default_gateways, Some(GrpcRouteUseDefaultGateways::All));
    let this = Arc::new(RouteRef { kind: RouteKind::Grpc, key: key.clone() });
    RouteView {
        route: Arc::clone(&this),
        generation: route.metadata.generation,
        created: route.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
        parents: parent_refs!(spec),
        hostnames: view_hostnames(spec.hostnames.as_deref()),
        rules: spec
            .rules
            .iter()
            .flatten()
            .enumerate()
            .map(|(index, rule)| view_grpc_rule(&this, index, rule))
            .collect(),
        remarks: Vec::new(),
        remarks_on_services: remarks_on_services(
            spec.hostnames.as_deref().unwrap_or_default(),
            wants_gateways,
        ),
    }
}

fn view_grpc_rule(route: &RouteRef, index: usize, rule: &GrpcRouteRules) -> RuleView {
    let path = format!("spec.rules[{index}]");
    let mut unsupported = Vec::new();
    let (filters, backends) = view_backends!(rule, &path, None, unsupported);
    let terms = Terms { session: view_session!(rule, route, index, unsupported), ..Terms::default() };
    let matches = matches::compile_grpc_matches(&path, rule.matches.as_deref().unwrap_or_default());
    unsupported.extend(matches.refused.iter().cloned());
    RuleView { name: rule.name.as_deref().map(Into::into), terms, filters, backends, matches, unsupported }
}

/// Looks at a route of a kind that takes all that comes.
macro_rules! view_plain_route {
    ($kind:expr, $key:expr, $route:expr, $all_gateways:pat) => {{
        let spec = &$route.spec;
        let wants_gateways = matches!(spec.use_default_gateways, Some($all_gateways));
        RouteView {
            route: Arc::new(RouteRef { kind: $kind, key: $key.clone() }),
            generation: $route.metadata.generation,
            created: $route.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
            parents: parent_refs!(spec),
            hostnames: Vec::new(),
            rules: view_plain_rules!(spec, RuleMatches::Everything),
            remarks: remark_unreached(spec.rules.len()).collect(),
            remarks_on_services: remarks_on_services(&[], wants_gateways),
        }
    }};
}

pub(super) fn view_tcp_route(key: &ObjectKey, route: &TcpRoute) -> RouteView {
    view_plain_route!(RouteKind::Tcp, key, route, TcpRouteUseDefaultGateways::All)
}

pub(super) fn view_udp_route(key: &ObjectKey, route: &UdpRoute) -> RouteView {
    view_plain_route!(RouteKind::Udp, key, route, UdpRouteUseDefaultGateways::All)
}

/// Its hostnames decide on a Service, too: without them it could only do what a TCPRoute does.
pub(super) fn view_tls_route(key: &ObjectKey, route: &TlsRoute) -> RouteView {
    let spec = &route.spec;
    let wants_gateways = matches!(spec.use_default_gateways, Some(TlsRouteUseDefaultGateways::All));
    let names = view_hostnames(Some(&spec.hostnames));
    RouteView {
        route: Arc::new(RouteRef { kind: RouteKind::Tls, key: key.clone() }),
        generation: route.metadata.generation,
        created: route.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
        parents: parent_refs!(spec),
        hostnames: names.clone(),
        rules: view_plain_rules!(spec, RuleMatches::Tls(names.clone())),
        remarks: remark_unreached(spec.rules.len()).collect(),
        remarks_on_services: remarks_on_services(&[], wants_gateways),
    }
}

fn view_hostnames(hostnames: Option<&[String]>) -> Vec<HostnameMatch> {
    hostnames.unwrap_or_default().iter().map(|name| HostnameMatch::new(name)).collect()
}

/// Rules that match what the first one takes: v1 allows none, older versions did.
fn remark_unreached(count: usize) -> impl Iterator<Item = String> {
    (1..count)
        .map(|index| format!("spec.rules[{index}] is never reached: spec.rules[0] takes all that it would"))
}

/// The prefix of a rule's only match, where it has one: what `replacePrefixMatch` replaces.
fn only_prefix(rule: &HttpRouteRules) -> Option<&str> {
    let [only] = rule.matches.as_deref()? else { return None };
    let path = only.path.as_ref()?;
    let is_prefix = matches!(path.r#type, Some(HttpRouteRulesMatchesPathType::PathPrefix) | None);
    is_prefix.then(|| path.value.as_deref().unwrap_or("/"))
}

/// A timeout of zero is none ("0s" disables it), and so are no attempts.
fn view_terms(path: &str, rule: &HttpRouteRules, unsupported: &mut Vec<String>) -> Terms {
    let mut read = |field: &str, text: Option<&str>| {
        let parsed = parse_duration(text?);
        if parsed.is_none() {
            unsupported.push(format!("{path}.{field} (no duration: GEP-2257)"));
        }
        parsed
    };
    let timeouts = rule.timeouts.as_ref();
    let request = read("timeouts.request", timeouts.and_then(|timeouts| timeouts.request.as_deref()));
    let each =
        read("timeouts.backendRequest", timeouts.and_then(|timeouts| timeouts.backend_request.as_deref()));
    let retry = rule.retry.as_ref().and_then(|retry| {
        let attempts = u32::try_from(retry.attempts.unwrap_or(DEFAULT_ATTEMPTS)).unwrap_or(0);
        let codes = retry.codes.iter().flatten().filter_map(|code| u16::try_from(*code).ok()).collect();
        let backoff = read("retry.backoff", retry.backoff.as_deref()).unwrap_or(DEFAULT_BACKOFF);
        (attempts > 0).then_some(Retry { codes, attempts, backoff })
    });
    let limit = |timeout: Option<Duration>| timeout.filter(|timeout| !timeout.is_zero());
    Terms { request: limit(request), backend_request: limit(each), retry, session: None }
}

fn remarks_on_services(hostnames: &[String], wants_gateways: bool) -> Vec<String> {
    let mut remarks = Vec::new();
    if !hostnames.is_empty() {
        remarks.push("spec.hostnames has no effect on a Service parent".to_owned());
    }
    if wants_gateways {
        remarks.push("spec.useDefaultGateways has no effect on a Service parent".to_owned());
    }
    remarks
}

/// The name of an enum's variant as the API writes it.
pub(super) fn wire_name(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => "unknown".to_owned(),
    }
}
