//! One shape for HTTPRoute and GRPCRoute: what judging needs of either, and what it may not ignore.
//!
//! Every field that asks for something that is not applied is listed here by its path, so that it is
//! refused by name. A field of the API that this file does not know is a bug of this file.

use std::sync::Arc;

use serde::Serialize;

use super::backend::BackendRef;
use super::matches::{self, CompiledMatches};
use super::parent::ParentRef;
use crate::cluster::api::grpc_route::{GrpcRouteRules, GrpcRouteUseDefaultGateways};
use crate::cluster::api::http_route::{HttpRouteRules, HttpRouteRulesTimeouts, HttpRouteUseDefaultGateways};
use crate::cluster::api::{GrpcRoute, HttpRoute};
use crate::cluster::objects::ObjectKey;
use crate::route::{RouteKind, RouteRef};

/// A route of either kind.
#[derive(Debug)]
pub(super) struct RouteView {
    pub(super) route: Arc<RouteRef>,
    pub(super) generation: Option<i64>,
    /// `metadata.creationTimestamp` in Unix seconds, where the source gives one.
    pub(super) created: Option<i64>,
    pub(super) parents: Vec<ParentRef>,
    pub(super) rules: Vec<RuleView>,
    /// What has no effect on a Service parent, and is said so.
    pub(super) remarks: Vec<String>,
}

/// A rule of either kind.
#[derive(Debug)]
pub(super) struct RuleView {
    pub(super) name: Option<Arc<str>>,
    pub(super) backends: Vec<BackendRef>,
    pub(super) matches: CompiledMatches,
    /// Paths of fields that ask for what is not applied.
    pub(super) unsupported: Vec<String>,
}

/// Copies the fields that both kinds' generated parentRefs have.
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

/// Copies the fields that both kinds' generated backendRefs have.
macro_rules! backend_refs {
    ($rule:expr) => {
        $rule
            .backend_refs
            .iter()
            .flatten()
            .map(|backend| BackendRef {
                group: backend.group.clone(),
                kind: backend.kind.clone(),
                name: backend.name.clone(),
                namespace: backend.namespace.clone(),
                port: backend.port,
                weight: backend.weight.map_or(1, |weight| u32::try_from(weight).unwrap_or(0)),
            })
            .collect()
    };
}

/// Lists the filters of a rule and of its backends, by their paths.
macro_rules! filter_paths {
    ($rule:expr, $path:expr) => {{
        let mut paths = Vec::new();
        for (place, filter) in $rule.filters.iter().flatten().enumerate() {
            paths.push(format!("{}.filters[{place}] ({})", $path, wire_name(&filter.r#type)));
        }
        for (index, backend) in $rule.backend_refs.iter().flatten().enumerate() {
            for (place, filter) in backend.filters.iter().flatten().enumerate() {
                let name = wire_name(&filter.r#type);
                paths.push(format!("{}.backendRefs[{index}].filters[{place}] ({name})", $path));
            }
        }
        paths
    }};
}

pub(super) fn view_http_route(key: &ObjectKey, route: &HttpRoute) -> RouteView {
    let spec = &route.spec;
    let wants_gateways = matches!(spec.use_default_gateways, Some(HttpRouteUseDefaultGateways::All));
    RouteView {
        route: Arc::new(RouteRef { kind: RouteKind::Http, key: key.clone() }),
        generation: route.metadata.generation,
        created: route.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
        parents: parent_refs!(spec),
        rules: spec
            .rules
            .iter()
            .flatten()
            .enumerate()
            .map(|(index, rule)| view_http_rule(index, rule))
            .collect(),
        remarks: remarks(spec.hostnames.as_deref().unwrap_or_default(), wants_gateways),
    }
}

fn view_http_rule(index: usize, rule: &HttpRouteRules) -> RuleView {
    let path = format!("spec.rules[{index}]");
    let mut unsupported = filter_paths!(rule, path);
    if rule.retry.as_ref().is_some_and(|retry| retry.attempts != Some(0)) {
        unsupported.push(format!("{path}.retry"));
    }
    if rule.session_persistence.is_some() {
        unsupported.push(format!("{path}.sessionPersistence"));
    }
    if let Some(timeouts) = &rule.timeouts {
        unsupported.extend(unsupported_timeouts(&path, timeouts));
    }
    let matches = matches::compile_http_matches(&path, rule.matches.as_deref().unwrap_or_default());
    unsupported.extend(matches.refused.iter().cloned());
    RuleView {
        name: rule.name.as_deref().map(Into::into),
        backends: backend_refs!(rule),
        matches,
        unsupported,
    }
}

pub(super) fn view_grpc_route(key: &ObjectKey, route: &GrpcRoute) -> RouteView {
    let spec = &route.spec;
    let wants_gateways = matches!(spec.use_default_gateways, Some(GrpcRouteUseDefaultGateways::All));
    RouteView {
        route: Arc::new(RouteRef { kind: RouteKind::Grpc, key: key.clone() }),
        generation: route.metadata.generation,
        created: route.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
        parents: parent_refs!(spec),
        rules: spec
            .rules
            .iter()
            .flatten()
            .enumerate()
            .map(|(index, rule)| view_grpc_rule(index, rule))
            .collect(),
        remarks: remarks(spec.hostnames.as_deref().unwrap_or_default(), wants_gateways),
    }
}

fn view_grpc_rule(index: usize, rule: &GrpcRouteRules) -> RuleView {
    let path = format!("spec.rules[{index}]");
    let mut unsupported = filter_paths!(rule, path);
    if rule.session_persistence.is_some() {
        unsupported.push(format!("{path}.sessionPersistence"));
    }
    let matches = matches::compile_grpc_matches(&path, rule.matches.as_deref().unwrap_or_default());
    unsupported.extend(matches.refused.iter().cloned());
    RuleView {
        name: rule.name.as_deref().map(Into::into),
        backends: backend_refs!(rule),
        matches,
        unsupported,
    }
}

/// A duration of zero asks for no limit, which is what the proxy does anyway.
fn unsupported_timeouts(path: &str, timeouts: &HttpRouteRulesTimeouts) -> Vec<String> {
    let fields = [("request", &timeouts.request), ("backendRequest", &timeouts.backend_request)];
    let asked = fields.into_iter().filter(|(_, value)| {
        value.as_deref().is_some_and(|text| text.chars().any(|c| c.is_ascii_digit() && c != '0'))
    });
    asked.map(|(name, _)| format!("{path}.timeouts.{name}")).collect()
}

fn remarks(hostnames: &[String], wants_gateways: bool) -> Vec<String> {
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
