//! What is said of BackendTLSPolicies at the Gateways that send to what they are for, and what changes around them.

use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use super::{Cluster, Controller, TICK, conditions, describe};

const GATEWAY: &str = "gammarus.io/gateway-controller";
/// How soon a ConfigMap that comes late, or changes, is seen in a status.
const SOON: Duration = Duration::from_secs(5);
const GOOD: &str = "Accepted=True Accepted; ResolvedRefs=True ResolvedRefs";
const WITHOUT: &str = "Accepted=False NoValidCACertificate; ResolvedRefs=False InvalidCACertificateRef";
const CONFLICTED: &str = "Accepted=False Conflicted; ResolvedRefs=True ResolvedRefs";
const NOTHING: &str = "";
const OBJECTS: &str = "
{kind: GatewayClass, metadata: {name: gammarus}, spec: {controllerName: gammarus.io/gateway-controller}}
---
{kind: Service, metadata: {name: web}, spec: {ports: [{name: https, port: 443}, {name: more, port: 8443}]}}
---
{kind: Service, metadata: {name: other}, spec: {ports: [{name: https, port: 443}]}}
---
{kind: Gateway, metadata: {name: front}, spec: {gatewayClassName: gammarus, listeners: [{name: http, port: 80, protocol: HTTP}]}}
";

fn route(backend: &str) -> String {
    format!(
        "{{kind: HTTPRoute, metadata: {{name: r}}, spec: {{parentRefs: [{{name: front}}],
           rules: [{{backendRefs: [{{name: {backend}, port: 443}}]}}]}}}}"
    )
}

fn policy(name: &str, target: &str, hostname: &str, authorities: &str) -> String {
    format!(
        "{{kind: BackendTLSPolicy, metadata: {{name: {name}}}, spec: {{targetRefs: [{{group: '', kind: Service, {target}}}],
           validation: {{hostname: {hostname}, caCertificateRefs: [{authorities}]}}}}}}"
    )
}

/// A policy for the whole Service `web`, or one port of it.
fn of_web(name: &str, section: &str) -> String {
    policy(name, &format!("name: web{section}"), "web.example.com", CA)
}

const CA: &str = "{group: '', kind: ConfigMap, name: ca}";

fn config_map(name: &str, text: &str) -> String {
    json!({"kind": "ConfigMap", "metadata": {"name": name}, "data": {"ca.crt": text}}).to_string()
}

fn authority() -> String {
    let key = KeyPair::generate().unwrap();
    CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap().pem()
}

fn ancestors(policy: &Value) -> &[Value] {
    policy["status"]["ancestors"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn own(policy: &Value) -> Vec<&Value> {
    ancestors(policy).iter().filter(|entry| entry["controllerName"] == GATEWAY).collect()
}

/// What a policy says of a Gateway, all of it of its last generation.
fn said_at(policy: &Value, gateway: &str) -> Option<String> {
    let reference = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "shop", "name": gateway});
    let own = own(policy);
    let all: Vec<&Value> = own
        .iter()
        .filter(|entry| entry["ancestorRef"] == reference)
        .flat_map(|entry| conditions(entry))
        .collect();
    let generation = &policy["metadata"]["generation"];
    let is_current = all.iter().all(|condition| condition["observedGeneration"] == *generation);
    let mut said: Vec<String> = all.into_iter().map(describe).collect();
    said.sort();
    is_current.then(|| said.join("; "))
}

impl Cluster {
    /// A policy, once it says this at the Gateway `front`.
    #[track_caller]
    fn policy<'a>(&'a self, name: &'a str, what: &'a str) -> impl Future<Output = Value> + 'a {
        self.when(("BackendTLSPolicy", "shop", name), what, move |policy| {
            said_at(policy, "front").as_deref() == Some(what)
        })
    }

    /// That a policy comes to say this soon.
    async fn soon(&self, name: &str, what: &str) {
        let begun = Instant::now();
        self.policy(name, what).await;
        assert!(begun.elapsed() < SOON, "{name} says {what} after {:?}", begun.elapsed());
    }
}

/// A cluster with the policy `p`, which is accepted, and the controller that says so.
async fn accepted() -> (Cluster, Controller, Value) {
    let cluster = Cluster::start().await;
    cluster.apply(OBJECTS).await;
    cluster.apply(&config_map("ca", &authority())).await;
    cluster.apply(&route("web")).await;
    cluster.apply(&of_web("p", "")).await;
    let controller = cluster.leader().await;
    let found = cluster.policy("p", GOOD).await;
    (cluster, controller, found)
}

#[tokio::test]
async fn a_policy_says_at_each_gateway_what_it_does_there_and_follows_its_authorities() {
    let cluster = Cluster::start().await;
    cluster.apply(OBJECTS).await;
    cluster.apply(&route("web")).await;
    cluster.apply(&of_web("p", "")).await;
    let foreign = json!({"controllerName": "example.com/other", "ancestorRef": {"name": "foreign"}, "conditions": [
        {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    let written = cluster.write_status("BackendTLSPolicy", "p", &json!({"ancestors": [foreign]})).await;
    let foreign = ancestors(&written)[0].clone();
    let controller = cluster.leader().await;
    let found = cluster.policy("p", WITHOUT).await;
    assert_eq!((&ancestors(&found)[0], ancestors(&found).len()), (&foreign, 2));
    let message = own(&found)[0]["conditions"].to_string();
    assert!(
        message.contains("validation.caCertificateRefs[0]: ConfigMap shop/ca: does not exist"),
        "{message}"
    );

    // The authorities come, are emptied, come again, and go.
    let authorities = authority();
    for (text, what) in
        [(&*authorities, GOOD), ("", WITHOUT), ("no certificate", WITHOUT), (&authorities, GOOD)]
    {
        cluster.apply(&config_map("ca", text)).await;
        cluster.soon("p", what).await;
    }
    cluster.delete("ConfigMap", "ca").await;
    cluster.soon("p", WITHOUT).await;
    cluster.apply(&config_map("ca", &authorities)).await;
    let good = cluster.policy("p", GOOD).await;
    let status = controller.get("/status").unwrap();
    assert!(status.contains("BackendTLSPolicy shop/p at Gateway shop/front: Accepted"), "{status}");

    an_edit_is_said_without_a_transition(&cluster, &good).await;
    others_for_the_same_say_why_they_do_not_hold(&cluster).await;
}

async fn an_edit_is_said_without_a_transition(cluster: &Cluster, good: &Value) {
    // A transition would be seen: times are in whole seconds.
    let times = |policy: &Value| -> Vec<String> {
        conditions(own(policy)[0])
            .iter()
            .map(|condition| condition["lastTransitionTime"].to_string())
            .collect()
    };
    let old: Timestamp = times(good)[0].trim_matches('"').parse().unwrap();
    while Timestamp::now().as_second() <= old.as_second() {
        tokio::time::sleep(TICK).await;
    }
    cluster.apply(&policy("p", "name: web", "foo.example.com", CA)).await;
    let edited = cluster
        .when(("BackendTLSPolicy", "shop", "p"), "of another generation", |policy| {
            policy["metadata"]["generation"] != good["metadata"]["generation"]
                && said_at(policy, "front").as_deref() == Some(GOOD)
        })
        .await;
    assert_eq!(times(&edited), times(good));
}

async fn others_for_the_same_say_why_they_do_not_hold(cluster: &Cluster) {
    let tables = [
        ("q", of_web("q", ""), CONFLICTED),
        ("port", of_web("port", ", sectionName: https"), GOOD),
        ("port-too", of_web("port-too", ", sectionName: https"), CONFLICTED),
        (
            "lost",
            of_web("lost", ", sectionName: none"),
            "Accepted=False TargetNotFound; ResolvedRefs=True ResolvedRefs",
        ),
        (
            "kind",
            policy(
                "kind",
                "name: web, sectionName: more",
                "a.example",
                "{group: invalid.io, kind: Kind, name: ca}",
            ),
            "Accepted=False NoValidCACertificate; ResolvedRefs=False InvalidKind",
        ),
        (
            "more-half",
            policy(
                "more-half",
                "name: web, sectionName: more",
                "a.example",
                &format!("{CA}, {{group: '', kind: ConfigMap, name: gone}}"),
            ),
            "Accepted=False Conflicted; ResolvedRefs=False InvalidCACertificateRef",
        ),
    ];
    for (name, object, what) in &tables {
        cluster.apply(object).await;
        cluster.soon(name, what).await;
    }
    cluster.delete("BackendTLSPolicy", "p").await;
    cluster.soon("q", GOOD).await;
}

#[tokio::test]
async fn what_a_gateway_does_not_send_to_any_more_says_nothing_of_it_and_the_others_stay() {
    let (cluster, controller, found) = accepted().await;
    let entry = own(&found)[0].clone();
    let foreign = json!({"controllerName": "example.com/other", "ancestorRef": {"name": "front"}, "conditions": [
        {"type": "Accepted", "status": "False", "reason": "Invalid", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    let stale = json!({"controllerName": GATEWAY, "ancestorRef": {"name": "gone"}, "conditions": entry["conditions"]});
    let all = json!({"ancestors": [stale, entry, foreign]});
    cluster.write_status("BackendTLSPolicy", "p", &all).await;
    let without_stale = |policy: &Value| ancestors(policy).len() == 2;
    let found = cluster
        .when(("BackendTLSPolicy", "shop", "p"), "without a Gateway that is gone", without_stale)
        .await;
    assert_eq!(
        (own(&found).len(), &ancestors(&found)[1]["controllerName"]),
        (1, &json!("example.com/other"))
    );
    let foreign = ancestors(&found)[1].clone();
    let only_foreign = async |why: &str| {
        let found = cluster.policy("p", NOTHING).await;
        assert_eq!(ancestors(&found), std::slice::from_ref(&foreign), "{why}");
    };
    cluster.apply(&policy("p", "name: other", "web.example.com", CA)).await;
    only_foreign("it is for another Service").await;
    cluster.apply(&route("other")).await;
    cluster.soon("p", GOOD).await;
    cluster.delete("Service", "other").await;
    cluster.soon("p", "Accepted=False TargetNotFound; ResolvedRefs=True ResolvedRefs").await;
    cluster.delete("HTTPRoute", "r").await;
    only_foreign("its route has gone").await;
    cluster.apply(&of_web("p", "")).await;
    cluster.apply(&route("web")).await;
    cluster.soon("p", GOOD).await;
    cluster.delete("Gateway", "front").await;
    only_foreign("the Gateway has gone").await;
    assert_eq!(controller.metric("gammarus_status_writes_total{result=\"refused\"}"), 0.0);
}

#[tokio::test]
async fn what_a_former_controller_said_is_taken_away_where_there_is_no_class_of_ours() {
    let (cluster, controller, _) = accepted().await;
    let (stopped, log) = controller.terminate().await;
    assert!(stopped.success(), "{log}");
    cluster.delete("GatewayClass", "gammarus").await;
    let _next = cluster.leader().await;
    cluster.policy("p", NOTHING).await;
}

#[tokio::test]
async fn a_gateway_that_a_policys_status_has_no_room_for_says_so_until_there_is() {
    let (cluster, controller, found) = accepted().await;
    let other = |number: u32| {
        let reference = json!({"name": format!("other-{number}")});
        json!({"controllerName": "example.com/other", "ancestorRef": reference, "conditions": own(&found)[0]["conditions"]})
    };
    // Fifteen of others and one of ours leave none for a second Gateway, which sends there, too.
    let full: Vec<Value> = (0..15).map(other).chain([own(&found)[0].clone()]).collect();
    let written = cluster.write_status("BackendTLSPolicy", "p", &json!({ "ancestors": full })).await;
    let full = ancestors(&written);
    let late = "
{kind: Gateway, metadata: {name: late}, spec: {gatewayClassName: gammarus, listeners: [{name: http, port: 80, protocol: HTTP}]}}
---
{kind: HTTPRoute, metadata: {name: late}, spec: {parentRefs: [{name: late}], rules: [{backendRefs: [{name: web, port: 443}]}]}}
";
    cluster.apply(late).await;
    let accepted = |gateway: &Value| {
        let said = conditions(&gateway["status"]).iter().find(|own| own["type"] == "Accepted");
        let text = |field: &str| said.map_or("", |said| said[field].as_str().unwrap());
        format!("{} {}: {}", text("status"), text("reason"), text("message"))
    };
    let says_so = |gateway: &Value| {
        accepted(gateway).starts_with(
            "True Accepted: BackendTLSPolicy shop/p: status.ancestors has no room for this Gateway",
        )
    };
    cluster.when(("Gateway", "shop", "late"), "told of it", says_so).await;
    assert_eq!(accepted(&cluster.get("Gateway", "shop", "front").await), "True Accepted: ", "it is named");
    let now = cluster.get("BackendTLSPolicy", "shop", "p").await;
    assert_eq!(ancestors(&now), full, "and nobody is driven out");
    controller.when("counts it", || controller.metric("gammarus_status_left_out") == 1.0).await;
    let status = controller.get("/status").unwrap();
    assert!(status.contains("Accepted=False Invalid: status.ancestors has no room"), "{status}");
    assert!(controller.log().contains("the status has no room for all entries"), "{}", controller.log());

    cluster.write_status("BackendTLSPolicy", "p", &json!({ "ancestors": full[1..] })).await;
    let is_named = |policy: &Value| said_at(policy, "late").as_deref() == Some(GOOD);
    cluster.when(("BackendTLSPolicy", "shop", "p"), "of the second Gateway, too", is_named).await;
    cluster
        .when(("Gateway", "shop", "late"), "as before", |gateway| accepted(gateway) == "True Accepted: ")
        .await;
    assert_eq!(controller.metric("gammarus_status_left_out"), 0.0);
}
