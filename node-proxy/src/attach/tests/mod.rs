//! Tests of the judgement: YAML objects in, ports and conditions out.

mod backends;
mod parents;
mod rules;

use super::fixture::objects;
use super::{Attachments, Condition, ConditionType, RouteAttachment, attach};
use crate::cluster::objects::ObjectKey;
use crate::route::RouteKind;
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
    let mut yaml = SERVICES.to_owned();
    for document in documents {
        yaml.push_str(document);
    }
    attach(&objects(&yaml))
}

fn find<'a>(attachments: &'a Attachments, kind: RouteKind, key: &str) -> &'a RouteAttachment {
    let (namespace, name) = key.split_once('/').unwrap();
    attachments.find_route(kind, &ObjectKey::new(namespace, name)).expect("the route has a status")
}

fn find_condition(conditions: &[Condition], kind: ConditionType) -> Option<String> {
    conditions.iter().find(|condition| condition.kind == kind).map(ToString::to_string)
}

/// The names of the routes that hold on a port: producers, then consumers as `NAMESPACE:NAME`.
fn programmed(attachments: &Attachments, service: &str, port: u16) -> Vec<String> {
    let (namespace, name) = service.split_once('/').unwrap();
    let key = ServicePortKey { service: ObjectKey::new(namespace, name), port };
    let Some(routes) = attachments.find_port_routes(&key) else { return Vec::new() };
    let mut names: Vec<String> =
        routes.producer.iter().map(|route| route.route.key.name.to_string()).collect();
    for (namespace, routes) in &routes.consumers {
        names.extend(routes.iter().map(|route| format!("{namespace}:{}", route.route.key.name)));
    }
    names
}
