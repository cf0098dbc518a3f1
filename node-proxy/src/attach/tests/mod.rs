//! Tests of the judgement: YAML objects in, ports and conditions out.

mod backends;
mod connections;
mod filters;
mod parents;
mod rules;

use super::fixture::{objects, replace};
use super::{AttachedRule, Attachments, Clients, Condition, ConditionType, PortGroup, RouteAttachment};
use crate::cluster::objects::{ObjectKey, Objects};
use crate::route::{Backend, RouteKind};
use crate::snapshot::service::ServicePortKey;

/// The Services that most cases are about.
const SERVICES: &str = r"
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.96.0.10
  ports:
  - {name: http, port: 80}
  - {name: plain, port: 8080}
  - {name: mysql-main, port: 3306}
  - {name: dns, port: 53, protocol: UDP}
---
kind: Service
metadata: {name: v1}
spec: {clusterIP: 10.96.0.11, ports: [{port: 80}]}
---
kind: Service
metadata: {name: far, namespace: other}
spec: {clusterIP: 10.96.0.12, ports: [{port: 80}]}
";

/// An HTTPRoute `shop/r` with these lines of its spec.
fn http_route(spec: &str) -> String {
    route("HTTPRoute", "shop", "r", spec)
}

fn route(kind: &str, namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}, generation: 7}}\nspec: {{{spec}}}\n"
    )
}

fn judge(documents: &[&str]) -> Attachments {
    Attachments::new(&objects(&[SERVICES, &documents.concat()].concat()))
}

/// The lines that are told as these documents beside the Services become others, one after the other.
fn told(steps: &[&[&str]]) -> Vec<Vec<String>> {
    let (mut known, mut attachments) = (Objects::default(), Attachments::default());
    let mut told = Vec::new();
    for documents in steps {
        let changed = replace(&mut known, objects(&[SERVICES, &documents.concat()].concat()));
        told.push(attachments.update(&known, &changed).lines);
    }
    told
}

fn find<'a>(attachments: &'a Attachments, kind: RouteKind, key: &str) -> &'a RouteAttachment {
    let (namespace, name) = key.split_once('/').unwrap();
    attachments.find_route(kind, &ObjectKey::new(namespace, name)).expect("the route has a status")
}

fn find_condition(conditions: &[Condition], kind: ConditionType) -> Option<String> {
    conditions.iter().find(|condition| condition.kind == kind).map(ToString::to_string)
}

/// A rule's backends with their weights.
fn shares(rule: &AttachedRule) -> Vec<(Backend, u32)> {
    rule.backends.iter().map(|share| (share.backend.clone(), share.weight)).collect()
}

/// The names of the routes that hold on a port: producers, then consumers as `NAMESPACE:NAME`.
fn programmed(attachments: &Attachments, service: &str, port: u16) -> Vec<String> {
    let (namespace, name) = service.split_once('/').unwrap();
    let mut names = Vec::new();
    for group in attachments.groups_of(&ServicePortKey::tcp(ObjectKey::new(namespace, name), port)) {
        for route in attachments.routes_of(&group) {
            let name = &route.route.key.name;
            names.push(match &group.clients {
                Clients::All => name.to_string(),
                Clients::Of(namespace) => format!("{namespace}:{name}"),
            });
        }
    }
    names
}

/// The rules of the routes that hold on a port for clients without routes of their own.
fn producers(service: &str, port: u16) -> PortGroup {
    let (namespace, name) = service.split_once('/').unwrap();
    let port = ServicePortKey::tcp(ObjectKey::new(namespace, name), port);
    PortGroup { port, clients: Clients::All }
}
