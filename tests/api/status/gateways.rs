//! What is said of GatewayClasses, Gateways, ListenerSets and their routes, and what changes around them.

use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use super::{Cluster, OURS, conditions, describe};

/// The name under which Gateways and what is attached to them get their status.
const GATEWAY: &str = "gammarus.io/gateway-controller";
/// How soon a Secret, a grant or a label that comes late is seen in a status.
const SOON: Duration = Duration::from_secs(5);
const GOOD: &str = "Accepted=True Accepted; ResolvedRefs=True ResolvedRefs";
/// Of a listener that is right, while its Gateway has no address.
const WAITING: &str = "Accepted=True Accepted; Conflicted=False NoConflicts; Programmed=False Pending; ResolvedRefs=True ResolvedRefs";
const CLASSES: &str = "
{kind: GatewayClass, metadata: {name: gammarus}, spec: {controllerName: gammarus.io/gateway-controller}}
---
{kind: GatewayClass, metadata: {name: other}, spec: {controllerName: example.com/other}}
---
{kind: Service, metadata: {name: web}, spec: {ports: [{name: http, port: 80}]}}
";

/// A Gateway `web` with these listeners.
fn gateway(more: &str, listeners: &str) -> String {
    format!(
        "{{kind: Gateway, metadata: {{name: web}}, spec: {{gatewayClassName: gammarus, {more} listeners: [{listeners}]}}}}"
    )
}

fn said(of: &Value) -> String {
    let mut said: Vec<String> = conditions(of).iter().map(describe).collect();
    said.sort();
    said.join("; ")
}

/// What a Gateway or a ListenerSet says of a listener.
fn listener<'a>(object: &'a Value, name: &str) -> &'a Value {
    let listeners = object["status"]["listeners"].as_array().map(Vec::as_slice).unwrap_or_default();
    listeners.iter().find(|listener| listener["name"] == name).unwrap_or(&Value::Null)
}

/// What a route says of a parent under the Gateways' name.
fn on_gateway(route: &Value, parent: &str) -> String {
    let entries = route["status"]["parents"].as_array().map(Vec::as_slice).unwrap_or_default();
    let own = entries.iter().filter(|entry| entry["controllerName"] == GATEWAY);
    own.filter(|entry| entry["parentRef"]["name"] == parent).map(said).collect()
}

/// Whether all conditions are of the object's last generation.
fn is_current(object: &Value) -> bool {
    let listeners = object["status"]["listeners"].as_array().map(Vec::as_slice).unwrap_or_default();
    let all = listeners.iter().chain([&object["status"]]).flat_map(conditions);
    all.filter(|condition| !condition["type"].as_str().unwrap().contains('/'))
        .all(|condition| condition["observedGeneration"] == object["metadata"]["generation"])
}

fn secret(name: &str) -> String {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["shop.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    let data = json!({ "tls.crt": certificate.pem(), "tls.key": key.serialize_pem() });
    json!({ "kind": "Secret", "metadata": { "name": name }, "type": "kubernetes.io/tls", "stringData": data })
        .to_string()
}

impl Cluster {
    /// The Gateway `web`, once it is of its last generation and is so.
    #[track_caller]
    fn gateway<'a>(
        &'a self,
        what: &'a str,
        is: impl Fn(&Value) -> bool + 'a,
    ) -> impl Future<Output = Value> + 'a {
        self.when(("Gateway", "shop", "web"), what, move |gateway| is_current(gateway) && is(gateway))
    }
}

#[tokio::test]
async fn a_class_says_whether_it_is_accepted_and_what_is_supported() {
    let cluster = Cluster::start().await;
    cluster.apply(CLASSES).await;
    let controller = cluster.leader().await;
    let is_fine = "Accepted=True Accepted; SupportedVersion=True SupportedVersion";
    let class = |name: &'static str, what: &'static str| {
        cluster.when(("GatewayClass", "", name), what, move |class| {
            said(&class["status"]) == what && is_current(class)
        })
    };
    let found = class("gammarus", is_fine).await;
    let features = found["status"]["supportedFeatures"].as_array().unwrap();
    assert!(
        features.contains(&json!({"name": "Gateway"})) && features.contains(&json!({"name": "HTTPRoute"}))
    );
    assert!(features.is_sorted_by_key(|feature| feature["name"].as_str().unwrap()), "{features:?}");

    cluster.apply("{kind: GatewayClass, metadata: {name: set}, spec: {controllerName: gammarus.io/gateway-controller,
      parametersRef: {group: '', kind: ConfigMap, name: settings, namespace: shop}}}").await;
    class("set", "Accepted=False InvalidParameters; SupportedVersion=True SupportedVersion").await;
    cluster.apply("{kind: ConfigMap, metadata: {name: settings}, data: {gateway.yaml: 'replicas: 3'}}").await;
    class("set", is_fine).await;
    cluster.apply("{kind: ConfigMap, metadata: {name: settings}, data: {gateway.yaml: 'replica: 3'}}").await;
    let broken =
        class("set", "Accepted=False InvalidParameters; SupportedVersion=True SupportedVersion").await;
    let why = "spec.parametersRef: ConfigMap shop/settings, gateway.yaml: replica: is not a field";
    assert!(broken["status"].to_string().contains(why), "{broken}");

    // An edit is said with its generation; the CRDs' versions are of all that are there.
    cluster.apply("{kind: GatewayClass, metadata: {name: gammarus}, spec: {controllerName: gammarus.io/gateway-controller, description: new}}").await;
    let edited = class("gammarus", is_fine).await;
    assert_ne!(edited["metadata"]["generation"], found["metadata"]["generation"]);
    let crd = "gateways.gateway.networking.k8s.io";
    let annotate = |version: &'static str| {
        let patch =
            json!({"metadata": {"annotations": {"gateway.networking.k8s.io/bundle-version": version}}})
                .to_string();
        cluster.server.kubectl(&["patch", "crd", crd, "--type", "merge", "--patch", &patch]).output()
    };
    annotate("v1.9.0");
    let other = class("gammarus", "Accepted=True Accepted; SupportedVersion=False UnsupportedVersion").await;
    assert!(other["status"].to_string().contains(&format!("{crd} is of v1.9.0")), "{other}");
    annotate("v1.6.3");
    class("gammarus", is_fine).await;
    let foreign = cluster.get("GatewayClass", "", "other").await;
    assert!(foreign["status"]["supportedFeatures"].is_null(), "another controller's");
    drop(controller);
}

#[tokio::test]
async fn a_gateway_says_what_became_of_its_listeners_and_follows_what_they_name() {
    let cluster = Cluster::start().await;
    cluster.apply(CLASSES).await;
    let controller = cluster.leader().await;
    let listeners = "{name: http, port: 80, protocol: HTTP},
      {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}},
      {name: granted, port: 444, protocol: HTTPS, tls: {certificateRefs: [{name: cert, namespace: checkout}]}},
      {name: other, port: 53, protocol: example.com/other},
      {name: labelled, port: 81, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: shop}}}}}";
    cluster.apply(&gateway("", listeners)).await;
    let found = cluster
        .gateway("waiting for an address", |gateway| {
            said(&gateway["status"]) == "Accepted=True ListenersNotValid; Programmed=False AddressNotAssigned"
        })
        .await;
    assert_eq!(said(listener(&found, "http")), WAITING);
    let kinds = json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"}, {"group": "gateway.networking.k8s.io", "kind": "GRPCRoute"}]);
    assert_eq!(listener(&found, "http")["supportedKinds"], kinds);
    let without = |reason: &str| {
        format!(
            "Accepted=True Accepted; Conflicted=False NoConflicts; Programmed=False Invalid; ResolvedRefs=False {reason}"
        )
    };
    assert_eq!(said(listener(&found, "https")), without("InvalidCertificateRef"));
    assert_eq!(said(listener(&found, "granted")), without("RefNotPermitted"));
    assert!(said(listener(&found, "other")).starts_with("Accepted=False UnsupportedProtocol"));
    assert_eq!(listener(&found, "other")["supportedKinds"], json!([]));

    // What listeners name comes late: a Secret, a grant with its Secret, a namespace's label, a route.
    let soon = async |what: &str, yaml: &str, name: &str, is: &dyn Fn(&Value) -> bool| {
        cluster.apply(yaml).await;
        let begun = Instant::now();
        cluster.gateway(what, |gateway| is(listener(gateway, name))).await;
        assert!(begun.elapsed() < SOON, "{what}: after {:?}", begun.elapsed());
    };
    soon("with its certificate", &secret("cert"), "https", &|listener| said(listener) == WAITING).await;
    let theirs = secret("cert").replace("\"name\":\"cert\"", "\"name\":\"cert\",\"namespace\":\"checkout\"");
    cluster.apply(&theirs).await;
    let grant = "{kind: ReferenceGrant, metadata: {name: g, namespace: checkout}, spec: {
      from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: shop}], to: [{group: '', kind: Secret}]}}";
    soon("granted", grant, "granted", &|listener| said(listener) == WAITING).await;
    let route = "{kind: HTTPRoute, metadata: {name: labelled}, spec: {parentRefs: [{name: web, sectionName: labelled}],
      rules: [{backendRefs: [{name: web, port: 80}]}]}}";
    cluster.apply(route).await;
    let refused = "Accepted=False NotAllowedByListeners; ResolvedRefs=True ResolvedRefs";
    cluster
        .when(("HTTPRoute", "shop", "labelled"), refused, |route| on_gateway(route, "web") == refused)
        .await;
    let label = "{kind: Namespace, metadata: {name: shop, labels: {team: shop}}}";
    soon("counting the route", label, "labelled", &|listener| listener["attachedRoutes"] == 1).await;
    cluster.when(("HTTPRoute", "shop", "labelled"), GOOD, |route| on_gateway(route, "web") == GOOD).await;

    // Somebody takes the Secret away again, and the class from the Gateway.
    cluster.delete("Secret", "cert").await;
    cluster
        .gateway("without its certificate", |gateway| {
            said(listener(gateway, "https")) == without("InvalidCertificateRef")
        })
        .await;
    let status = controller.get("/status").unwrap();
    assert!(status.contains("Gateway shop/web listener https: ResolvedRefs"), "{status}");
    cluster.delete("GatewayClass", "gammarus").await;
    let gone = |route: &Value| on_gateway(route, "web").is_empty();
    cluster.when(("HTTPRoute", "shop", "labelled"), "without an entry", gone).await;
}

#[tokio::test]
async fn routes_of_other_namespaces_hold_only_where_a_listener_takes_them() {
    let cluster = Cluster::start().await;
    cluster.apply(CLASSES).await;
    cluster.apply("{kind: Service, metadata: {name: web, namespace: checkout}, spec: {ports: [{name: http, port: 80}]}}").await;
    let _controller = cluster.leader().await;
    let listeners = |allowed: &str| {
        gateway(
            "",
            &format!(
                "{{name: http, port: 80, protocol: HTTP}}, {{name: more, port: 81, protocol: HTTP{allowed}}}"
            ),
        )
    };
    cluster.apply(&listeners("")).await;
    for namespace in ["shop", "checkout"] {
        cluster.apply(&format!("{{kind: HTTPRoute, metadata: {{name: r, namespace: {namespace}}}, spec: {{parentRefs: [{{name: web, namespace: shop}}],
          rules: [{{backendRefs: [{{name: web, port: 80}}]}}]}}}}")).await;
    }
    let says = async |namespace: &str, what: &str| {
        cluster.when(("HTTPRoute", namespace, "r"), what, |route| on_gateway(route, "web") == what).await
    };
    let attached = async |counts: [u32; 2]| {
        let is_so = |gateway: &Value| {
            ["http", "more"].map(|name| listener(gateway, name)["attachedRoutes"].clone())
                == counts.map(|count| json!(count))
        };
        cluster.gateway("counting", is_so).await;
    };
    // A listener that says nothing takes those of its Gateway's own namespace.
    says("shop", GOOD).await;
    let refused =
        says("checkout", "Accepted=False NotAllowedByListeners; ResolvedRefs=True ResolvedRefs").await;
    assert_eq!(refused["status"]["parents"][0]["controllerName"], GATEWAY);
    attached([1, 1]).await;
    cluster.apply(&listeners(", allowedRoutes: {namespaces: {from: All}}")).await;
    says("checkout", GOOD).await;
    attached([1, 2]).await;
    cluster.apply(&listeners(", allowedRoutes: {namespaces: {from: All}, kinds: [{kind: GRPCRoute}]}")).await;
    says("checkout", "Accepted=False NotAllowedByListeners; ResolvedRefs=True ResolvedRefs").await;
    attached([1, 0]).await;
}

#[tokio::test]
async fn udp_routes_are_judged_as_the_conformance_suite_asks() {
    let cluster = Cluster::start().await;
    cluster.apply(CLASSES).await;
    let _controller = cluster.leader().await;
    let listeners = "{name: http, port: 53, protocol: HTTP}, {name: udp, port: 53, protocol: UDP}";
    cluster.apply(&gateway("", listeners)).await;
    let ports = "[{name: udp, port: 53, protocol: UDP}, {name: tcp, port: 54}]";
    cluster.apply(&format!("{{kind: Service, metadata: {{name: dns}}, spec: {{ports: {ports}}}}}")).await;
    let udp = |name: &str, listener: &str, port: u16| {
        format!(
            "{{kind: UDPRoute, metadata: {{name: {name}}}, spec: {{parentRefs: [{{name: web, sectionName: {listener}}}],
               rules: [{{backendRefs: [{{name: dns, port: {port}}}]}}]}}}}"
        )
    };
    // Both that are on the listener count, whichever has it; a backend is a port of UDP.
    let routes = [udp("a", "udp", 53), udp("b", "udp", 54), udp("c", "http", 53)];
    cluster.apply(&routes.join("\n---\n")).await;
    let missing = "Accepted=True Accepted; ResolvedRefs=False BackendNotFound";
    let refused = "Accepted=False NotAllowedByListeners; ResolvedRefs=True ResolvedRefs";
    for (name, expected) in [("a", GOOD), ("b", missing), ("c", refused)] {
        let says = |route: &Value| on_gateway(route, "web") == expected;
        let found = cluster.when(("UDPRoute", "shop", name), expected, says).await;
        let condition = &found["status"]["parents"][0]["conditions"][0];
        assert_eq!(condition["observedGeneration"], found["metadata"]["generation"]);
    }
    let found = cluster.gateway("with both", |gateway| listener(gateway, "udp")["attachedRoutes"] == 2).await;
    let kinds = json!([{"group": "gateway.networking.k8s.io", "kind": "UDPRoute"}]);
    assert_eq!(listener(&found, "udp")["supportedKinds"], kinds);
    assert_eq!(said(listener(&found, "udp")), WAITING, "beside HTTP on the same number");
    assert_eq!(
        (said(listener(&found, "http")), &listener(&found, "http")["attachedRoutes"]),
        (WAITING.to_owned(), &json!(0))
    );
    // On a Service it does nothing, and that is said by the mesh.
    let on_service =
        udp("d", "udp", 53).replace("{name: web, sectionName: udp}", "{group: '', kind: Service, name: dns}");
    cluster.apply(&on_service).await;
    let says = |route: &Value| {
        let own = super::own_entries(route);
        own.len() == 1 && own[0].to_string().contains("the mesh leaves UDP alone")
    };
    cluster.when(("UDPRoute", "shop", "d"), "of the mesh", says).await;
}

#[tokio::test]
async fn an_address_and_the_listener_sets_come_into_the_status() {
    let cluster = Cluster::start().await;
    cluster.apply(CLASSES).await;
    let _controller = cluster.leader().await;
    let allowed = "allowedListeners: {namespaces: {from: Same}},";
    cluster.apply(&gateway(allowed, "{name: http, port: 80, protocol: HTTP}")).await;
    let set = |namespace: &str, port: u16| {
        format!(
            "{{kind: ListenerSet, metadata: {{name: more, namespace: {namespace}}}, spec: {{parentRef: {{name: web, namespace: shop}},
               listeners: [{{name: more, port: {port}, protocol: HTTP}}]}}}}"
        )
    };
    for (namespace, port) in [("shop", 81), ("checkout", 82)] {
        cluster.apply(&set(namespace, port)).await;
    }
    cluster
        .apply(
            "{kind: HTTPRoute, metadata: {name: more}, spec: {parentRefs: [{kind: ListenerSet, name: more}],
      rules: [{backendRefs: [{name: web, port: 80}]}]}}",
        )
        .await;
    let pending = "Accepted=True Accepted; Programmed=False Pending";
    let attached = |set: &Value| listener(set, "more")["attachedRoutes"] == 1;
    cluster
        .when(("ListenerSet", "shop", "more"), pending, |set| {
            said(&set["status"]) == pending && is_current(set) && attached(set)
        })
        .await;
    let refused = "Accepted=False NotAllowed; Programmed=False NotAllowed";
    cluster.when(("ListenerSet", "checkout", "more"), refused, |set| said(&set["status"]) == refused).await;
    let found =
        cluster.gateway("with one set", |gateway| gateway["status"]["attachedListenerSets"] == 1).await;
    assert_eq!(said(&found["status"]), "Accepted=True Accepted; Programmed=False AddressNotAssigned");

    // Whoever provides for it makes a Service that it owns, and somebody gives that an address.
    let owner = json!([{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": "web", "uid": found["metadata"]["uid"]}]);
    let service = json!({"kind": "Service", "metadata": {"name": "web-gammarus", "ownerReferences": owner},
        "spec": {"type": "LoadBalancer", "ports": [{"name": "http", "port": 80}]}});
    cluster.apply(&service.to_string()).await;
    let balancer = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}, {"hostname": "a.example"}]}});
    cluster.write_status("Service", "web-gammarus", &balancer).await;
    let programmed = "Accepted=True Accepted; Programmed=True Programmed";
    let found = cluster.gateway(programmed, |gateway| said(&gateway["status"]) == programmed).await;
    let addresses =
        json!([{"type": "Hostname", "value": "a.example"}, {"type": "IPAddress", "value": "192.0.2.9"}]);
    assert_eq!(found["status"]["addresses"], addresses);
    assert!(said(listener(&found, "http")).contains("Programmed=True Programmed"), "{found}");
    cluster.when(("ListenerSet", "shop", "more"), programmed, |set| said(&set["status"]) == programmed).await;
    cluster.delete("Service", "web-gammarus").await;
    let found =
        cluster.gateway("without an address", |gateway| gateway["status"]["addresses"] == json!([])).await;
    assert!(said(&found["status"]).contains("Programmed=False AddressNotAssigned"), "{found}");
    cluster
        .apply(&gateway(
            "addresses: [{type: Hostname, value: a.example}],",
            "{name: http, port: 80, protocol: HTTP}",
        ))
        .await;
    let refused = "Accepted=False UnsupportedAddress; Programmed=False Invalid";
    cluster.gateway(refused, |gateway| said(&gateway["status"]) == refused).await;
}

#[tokio::test]
async fn both_controllers_and_others_have_their_entries_on_one_route_and_nothing_is_written_twice() {
    let cluster = Cluster::start().await;
    cluster.apply(CLASSES).await;
    cluster.apply(&gateway("", "{name: http, port: 80, protocol: HTTP}")).await;
    let route = |parents: &str| {
        format!(
            "{{kind: HTTPRoute, metadata: {{name: both}}, spec: {{parentRefs: [{parents}], rules: [{{backendRefs: [{{name: web, port: 80}}]}}]}}}}"
        )
    };
    let all = "{group: '', kind: Service, name: web, port: 80}, {name: web}, {name: foreign}";
    cluster.apply(&route(all)).await;
    let foreign = json!({"controllerName": "example.com/other", "parentRef": {"name": "foreign"}, "conditions": [
        {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    cluster.write_status("HTTPRoute", "both", &json!({"parents": [foreign]})).await;
    let controller = cluster.leader().await;
    let says_both = |route: &Value| {
        super::said_of(route, "web") == GOOD && on_gateway(route, "web") == GOOD && super::is_current(route)
    };
    let found = cluster.when(("HTTPRoute", "shop", "both"), "of both", says_both).await;
    let entries = found["status"]["parents"].as_array().unwrap();
    assert_eq!((entries.len(), &entries[0]["controllerName"]), (3, &json!("example.com/other")));
    assert!(entries.iter().any(|entry| entry["controllerName"] == OURS));
    let status =
        cluster.gateway("counting", |gateway| listener(gateway, "http")["attachedRoutes"] == 1).await;

    // Nothing that changes around them is anything to say; and whoever leads next finds all said.
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    cluster.apply("{kind: Namespace, metadata: {name: checkout, labels: {a: b}}}").await;
    cluster.apply(&secret("unused")).await;
    cluster.apply("{kind: Service, metadata: {name: last}, spec: {ports: [{name: http, port: 80}]}}").await;
    let (stopped, log) = controller.terminate().await;
    assert!(stopped.success(), "{log}");
    let next = cluster.leader().await;
    cluster.apply("{kind: HTTPRoute, metadata: {name: probe}, spec: {parentRefs: [{name: web, sectionName: none}], rules: [{backendRefs: [{name: last, port: 80}]}]}}").await;
    let refused = "Accepted=False NoMatchingParent; ResolvedRefs=True ResolvedRefs";
    cluster.when(("HTTPRoute", "shop", "probe"), refused, |route| on_gateway(route, "web") == refused).await;
    let written = "gammarus_status_writes_total{result=\"written\"}";
    next.when("has written once", || next.metric(written) == 1.0).await;
    assert_eq!(version(&cluster.get("HTTPRoute", "shop", "both").await), version(&found));
    assert_eq!(version(&cluster.get("Gateway", "shop", "web").await), version(&status));

    // A parent goes: its entry goes, and the others stay as they are. Then the Gateway itself.
    cluster.apply(&route("{name: web}, {name: foreign}")).await;
    let only_gateway =
        |route: &Value| super::own_entries(route).is_empty() && on_gateway(route, "web") == GOOD;
    let found = cluster.when(("HTTPRoute", "shop", "both"), "of the Gateway alone", only_gateway).await;
    assert_eq!(found["status"]["parents"][0], entries[0]);
    cluster.delete("Gateway", "web").await;
    let begun = Instant::now();
    let none =
        |route: &Value| route["status"]["parents"].as_array().is_some_and(|entries| entries.len() == 1);
    let found = cluster.when(("HTTPRoute", "shop", "both"), "of the other one", none).await;
    assert_eq!(found["status"]["parents"][0], entries[0]);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}
