//! What README shows of objects: taken as it stands, and what may be attached to a Gateway judged as it says.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::provision::CLASS;
use super::{Cluster, conditions, describe};

const README: &str = include_str!("../../../README.md");
const GOOD: &str = "Accepted=True Accepted; ResolvedRefs=True ResolvedRefs";

/// The blocks of YAML in a text that are whole objects.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    let all = text.split("\n```yaml\n").skip(1).map(|rest| rest.split("\n```").next().unwrap());
    all.filter(|block| block.starts_with("apiVersion: "))
}

/// That on what may be attached.
fn block() -> &'static str {
    blocks(README.split("\n### What may be attached to it\n").nth(1).unwrap()).next().unwrap()
}

fn documents(block: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(block).unwrap()
}

/// The namespaces that objects are in.
fn namespaces(block: &str) -> BTreeSet<String> {
    let all = documents(block);
    all.iter().map(|object| object["metadata"]["namespace"].as_str().unwrap().to_owned()).collect()
}

fn secret(namespace: &str, name: &str) -> String {
    let made = rcgen::generate_simple_self_signed(["orders.example.com".to_owned()]).unwrap();
    let data = json!({"tls.crt": made.cert.pem(), "tls.key": made.signing_key.serialize_pem()});
    let metadata = json!({"name": name, "namespace": namespace});
    json!({"kind": "Secret", "metadata": metadata, "type": "kubernetes.io/tls", "stringData": data})
        .to_string()
}

fn said(of: &Value) -> String {
    let mut said: Vec<String> = conditions(of).iter().map(describe).collect();
    said.sort();
    said.join("; ")
}

/// What a route says of each parent, in the order of its status.
fn on_parents(route: &Value) -> Vec<String> {
    route["status"]["parents"].as_array().into_iter().flatten().map(said).collect()
}

fn listener<'a>(of: &'a Value, name: &str) -> &'a Value {
    let mut all = of["status"]["listeners"].as_array().into_iter().flatten();
    all.find(|own| own["name"] == name).unwrap_or(&Value::Null)
}

#[tokio::test]
async fn every_object_in_the_readme_is_taken_as_it_stands() {
    let cluster = Cluster::start().await;
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("block.yaml");
    let mut kinds = BTreeSet::new();
    for block in blocks(README) {
        for namespace in namespaces(block) {
            cluster.apply(&format!("{{kind: Namespace, metadata: {{name: {namespace}}}}}")).await;
        }
        std::fs::write(&file, block).unwrap();
        let path = file.to_str().unwrap();
        cluster
            .server
            .kubectl(&["apply", "--validate=strict", "--dry-run=server", "--filename", path])
            .output();
        kinds.extend(documents(block).iter().map(|object| object["kind"].as_str().unwrap().to_owned()));
    }
    for kind in ["BackendTLSPolicy", "Gateway", "HTTPRoute", "ListenerSet", "ReferenceGrant", "UDPRoute"] {
        assert!(kinds.contains(kind), "{kinds:?} without {kind}");
    }
}

#[tokio::test]
async fn what_the_readme_says_may_be_attached_is_and_the_rest_is_told_why_not() {
    let cluster = Cluster::start().await;
    cluster.apply(CLASS).await;
    for namespace in namespaces(block()) {
        let team = if namespace == "orders" { "orders" } else { "other" };
        cluster
            .apply(&format!("{{kind: Namespace, metadata: {{name: {namespace}, labels: {{team: {team}}}}}}}"))
            .await;
    }
    for namespace in ["orders", "shop"] {
        let ports = "[{name: http, port: 80}]";
        cluster
            .apply(&format!(
                "{{kind: Service, metadata: {{name: orders, namespace: {namespace}}}, spec: {{ports: {ports}}}}}"
            ))
            .await;
    }
    cluster.apply(&secret("certificates", "wildcard")).await;
    cluster.apply(&secret("orders", "partners")).await;
    let _controller = cluster.leader().await;
    let (granted, ungranted): (Vec<_>, Vec<_>) =
        documents(block()).into_iter().partition(|object| object["kind"] == "ReferenceGrant");
    let apply = async |objects: &[Value]| {
        let texts: Vec<String> = objects.iter().map(Value::to_string).collect();
        cluster.apply(&texts.join("\n---\n")).await;
    };
    apply(&ungranted).await;
    let says = |what: &'static str| move |gateway: &Value| said(listener(gateway, "teams")).contains(what);
    let shared = ("Gateway", "edge", "shared");
    cluster.when(shared, "without a grant", says("ResolvedRefs=False RefNotPermitted")).await;
    apply(&granted).await;
    cluster.when(shared, "granted", says("ResolvedRefs=True ResolvedRefs")).await;

    let route = ("HTTPRoute", "orders", "orders");
    cluster.when(route, "attached thrice", |route| on_parents(route) == [GOOD; 3]).await;
    let counts = |gateway: &Value| {
        ["own", "open", "teams"].map(|name| listener(gateway, name)["attachedRoutes"].clone())
    };
    let is_counted = |gateway: &Value| {
        counts(gateway) == [json!(0), json!(1), json!(1)] && gateway["status"]["attachedListenerSets"] == 1
    };
    cluster.when(shared, "with the route and the set", is_counted).await;
    let set = |set: &Value| listener(set, "partners")["attachedRoutes"] == 1;
    cluster.when(("ListenerSet", "orders", "orders"), "with the route", set).await;
    others_are_told_why_not(&cluster).await;
}

/// The table's reasons, for a route of a namespace that the Gateway takes from on its listener `open` alone.
async fn others_are_told_why_not(cluster: &Cluster) {
    for (kind, name, parent, hostname, reason) in [
        ("HTTPRoute", "a", "sectionName: open", "a.example.com", "Accepted"),
        ("HTTPRoute", "b", "sectionName: open", "a.example.net", "NoMatchingListenerHostname"),
        ("HTTPRoute", "c", "sectionName: open", "example.com", "NoMatchingListenerHostname"),
        ("HTTPRoute", "d", "sectionName: own", "a.example.com", "NotAllowedByListeners"),
        ("HTTPRoute", "e", "sectionName: teams", "a.example.com", "NotAllowedByListeners"),
        ("GRPCRoute", "f", "sectionName: open", "a.example.com", "NotAllowedByListeners"),
        ("HTTPRoute", "g", "sectionName: none", "a.example.com", "NoMatchingParent"),
        ("HTTPRoute", "h", "sectionName: open, port: 80", "a.example.com", "NoMatchingParent"),
        ("HTTPRoute", "i", "port: 8080", "a.example.com", "Accepted"),
        ("HTTPRoute", "j", "sectionName: partners", "a.example.com", "NoMatchingParent"),
    ] {
        cluster
            .apply(&format!(
                "{{kind: {kind}, metadata: {{name: {name}}}, spec: {{parentRefs: [{{name: shared, namespace: edge, {parent}}}],
                   hostnames: [{hostname}], rules: [{{backendRefs: [{{name: orders, port: 80}}]}}]}}}}"
            ))
            .await;
        let status = if reason == "Accepted" { "True" } else { "False" };
        let what = format!("Accepted={status} {reason}; ResolvedRefs=True ResolvedRefs");
        cluster.when((kind, "shop", name), &what, |route| on_parents(route) == [what.as_str()]).await;
    }
    let foreign =
        "{kind: ListenerSet, metadata: {name: orders}, spec: {parentRef: {name: shared, namespace: edge},
      listeners: [{name: more, port: 9000, protocol: HTTP}]}}";
    cluster.apply(foreign).await;
    let refused = |set: &Value| said(&set["status"]).starts_with("Accepted=False NotAllowed; ");
    cluster.when(("ListenerSet", "shop", "orders"), "refused", refused).await;
    // A backend elsewhere takes a grant, too.
    cluster
        .apply(
            "{kind: HTTPRoute, metadata: {name: k}, spec: {parentRefs: [{name: shared, namespace: edge, sectionName: open}],
               rules: [{backendRefs: [{name: orders, namespace: orders, port: 80}]}]}}",
        )
        .await;
    let what = "Accepted=True Accepted; ResolvedRefs=False RefNotPermitted";
    cluster.when(("HTTPRoute", "shop", "k"), what, |route| on_parents(route) == [what]).await;
}
