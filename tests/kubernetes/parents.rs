//! Whose routes they are: the Services that a route's parentRefs lead to, and no others.

use node_proxy::demo::command::until;
use serde_json::Value;

use super::rig::{NODES, Namespace, PATIENCE};
use super::routes::stage;

/// A Service as a parent.
fn service(name: &str) -> String {
    format!("{{group: '', kind: Service, name: {name}}}")
}

/// A route that sends everything to `v1` with its own name as the header `x-route`; `more` comes before its rules.
fn marking(name: &str, parents: &[String], more: &str) -> String {
    let parents = parents.join(", ");
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: {name}}}, spec: {{
           parentRefs: [{parents}], {more} rules: [{{filters: [{{type: RequestHeaderModifier,
             requestHeaderModifier: {{set: [{{name: x-route, value: {name}}}]}}}}],
             backendRefs: [{{name: v1, port: 80}}]}}]}}}}"
    )
}

/// Waits until the requests to a Service are under this route, or under none.
#[track_caller]
fn expect_route(namespace: &Namespace, url: &str, route: Option<&str>) {
    namespace.ask_until("client", &[url], |seen| seen.header("x-route").as_deref() == route);
}

/// What our controller has said of a route: its parents with the reason that each is accepted for, or not.
#[track_caller]
fn parents(namespace: &Namespace, route: &str) -> Vec<String> {
    let route = namespace.get(&format!("httproute/{route}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let said = route["status"]["parents"].as_array().cloned().unwrap_or_default();
    let ours = said.iter().filter(|entry| entry["controllerName"] == "gammarus.io/mesh-controller");
    let describe = |entry: &Value| {
        let conditions = entry["conditions"].as_array().cloned().unwrap_or_default();
        let accepted = conditions.iter().find(|condition| condition["type"] == "Accepted");
        let reason = accepted.map(|condition| text(&condition["reason"])).unwrap_or_default();
        format!("{} {}: {reason}", text(&entry["parentRef"]["kind"]), text(&entry["parentRef"]["name"]))
    };
    ours.map(describe).collect()
}

#[track_caller]
fn expect_parents(namespace: &Namespace, route: &str, expected: &[&str]) {
    let said = || parents(namespace, route);
    assert!(until(PATIENCE, || said() == expected), "{route}: {:?}, not {expected:?}", said());
}

/// More Services over the servers of `web`.
#[track_caller]
fn services(namespace: &Namespace, names: &[&str]) {
    for name in names {
        namespace.apply(&format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{selector: {{app: v1}},
               ports: [{{name: http, port: 80, targetPort: 8080}}]}}}}"
        ));
    }
}

#[test]
fn the_core_group_is_the_empty_one() {
    let namespace = stage("core");
    namespace.apply(&marking("core", &["{group: core, kind: Service, name: web}".to_owned()], ""));
    expect_route(&namespace, "http://web/", Some("core"));
    expect_parents(&namespace, "core", &["Service web: Accepted"]);
}

#[test]
fn a_gateway_of_a_services_name_is_another_parent() {
    let namespace = stage("names");
    namespace.apply(
        "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: web}, spec: {
           gatewayClassName: of-somebody-else, listeners: [{name: http, port: 80, protocol: HTTP}]}}",
    );
    let gateway = "{name: web}".to_owned();
    namespace.apply(&marking("for-gateway", std::slice::from_ref(&gateway), ""));
    namespace.apply(&marking("for-both", &[gateway, service("web")], ""));
    // The first one is older: it would be this one that holds.
    expect_route(&namespace, "http://web/", Some("for-both"));
    expect_parents(&namespace, "for-both", &["Service web: Accepted"]);
    assert!(parents(&namespace, "for-gateway").is_empty(), "{:?}", parents(&namespace, "for-gateway"));
    namespace.kubectl(&["delete", "httproute/for-both"]).assert_success();
    expect_route(&namespace, "http://web/", None);
}

#[test]
fn a_route_of_several_services_holds_on_each_and_nowhere_else() {
    let namespace = stage("several");
    services(&namespace, &["second", "third"]);
    namespace.apply(&marking("many", &["web", "second", "nobody"].map(service), ""));
    let accepted = ["Service web: Accepted", "Service second: Accepted", "Service nobody: NoMatchingParent"];
    expect_parents(&namespace, "many", &accepted);
    for name in ["web", "second"] {
        expect_route(&namespace, &format!("http://{name}/"), Some("many"));
    }
    assert_eq!(namespace.ask("client", &["http://third/"]).header("x-route"), None);
    // One that is taken from it is let go, and the other is not.
    namespace.apply(&marking("many", &[service("web")], ""));
    expect_route(&namespace, "http://second/", None);
    expect_parents(&namespace, "many", &["Service web: Accepted"]);
    assert_eq!(namespace.ask("client", &["http://web/"]).header("x-route").as_deref(), Some("many"));
}

#[test]
fn a_refused_route_of_another_namespace_holds_for_nobody() {
    let (producer, consumer) = (stage("refusing"), Namespace::enrolled("refused"));
    consumer.client("client", NODES[0]);
    services(&consumer, &["v1"]);
    let url = format!("http://web.{}/", producer.name);
    let parent = |port: u16| {
        format!("{{group: '', kind: Service, name: web, namespace: {}, port: {port}}}", producer.name)
    };
    let good = marking("mine", &[parent(80)], "");
    let unsupported = good.replace(
        "filters: [",
        "filters: [{type: ExtensionRef, extensionRef: {group: example.com, kind: Thing, name: a}}, ",
    );
    for (broken, reason) in
        [(marking("mine", &[parent(81)], ""), "NoMatchingParent"), (unsupported, "UnsupportedValue")]
    {
        consumer.apply(&good);
        // Its backend has no pods in this namespace, which is how its clients see that it holds.
        consumer.expect_status("client", &[&url], "503");
        consumer.apply(&broken);
        expect_parents(&consumer, "mine", &[&format!("Service web: {reason}")]);
        expect_route(&consumer, &url, None);
        expect_route(&producer, &url, None);
    }
}

#[test]
fn hostnames_have_no_effect_and_the_status_says_so() {
    let namespace = stage("hostnames");
    namespace.apply(&marking("named", &[service("web")], "hostnames: [other.example],"));
    expect_route(&namespace, "http://web/", Some("named"));
    let message = || {
        let conditions = ".status.parents[*].conditions[?(@.type==\"Accepted\")]";
        namespace.field("httproute/named", &format!("{conditions}.message"))
    };
    let said = || message().contains("spec.hostnames has no effect on a Service parent");
    assert!(until(PATIENCE, said), "{}", message());
    assert_eq!(namespace.condition("httproute/named", "Accepted"), "True Accepted");
}

#[test]
fn parents_that_cannot_have_routes_are_refused_in_status() {
    let namespace = stage("parents");
    namespace.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: headless}, spec: {clusterIP: None, selector: {app: v1},
           ports: [{name: http, port: 80, targetPort: 8080}]}}",
    );
    for (name, parent, wanted) in [
        ("headless", "{group: '', kind: Service, name: headless}", "False NoMatchingParent"),
        ("nobody", "{group: '', kind: Service, name: nobody}", "False NoMatchingParent"),
        ("port", "{group: '', kind: Service, name: web, port: 81}", "False NoMatchingParent"),
    ] {
        namespace.apply(&format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: {name}}},
              spec: {{parentRefs: [{parent}], rules: [{{backendRefs: [{{name: v1, port: 80}}]}}]}}}}"
        ));
        let said = || namespace.condition(&format!("httproute/{name}"), "Accepted");
        assert!(until(PATIENCE, || said() == wanted), "{name}: {}, not {wanted}", said());
    }
    namespace.ask("client", &["http://web/"]);
}
