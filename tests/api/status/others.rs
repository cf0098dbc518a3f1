//! Other controllers: what they say stays, and who undoes what we say is not fought with.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use kube::api::{Patch, PatchParams, WatchEvent, WatchParams};
use serde_json::{Value, json};

use super::{Cluster, OURS, conditions, describe, own_entries, said_of};

const GOOD: &str = "Accepted=True Accepted; ResolvedRefs=True ResolvedRefs";
const WEB: &str = "kind: Service\nmetadata: {name: web}\nspec: {ports: [{name: http, port: 80}]}\n";

fn route(name: &str, parents: &[&str]) -> String {
    let parents: Vec<_> =
        parents.iter().map(|parent| format!("{{group: \"\", kind: Service, name: {parent}}}")).collect();
    format!(
        "kind: HTTPRoute\nmetadata: {{name: {name}}}\n\
         spec: {{parentRefs: [{}, {{name: gateway}}], rules: [{{backendRefs: [{{name: web, port: 80}}]}}]}}\n",
        parents.join(", ")
    )
}

fn foreign(controller: &str, message: &str) -> Value {
    json!({
        "controllerName": controller,
        "parentRef": { "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gateway" },
        "conditions": [condition("Accepted", message)],
    })
}

fn condition(kind: &str, message: &str) -> Value {
    json!({ "type": kind, "status": "True", "reason": "Any", "message": message,
            "lastTransitionTime": "2020-01-01T00:00:00Z", "observedGeneration": 1 })
}

fn entries(route: &Value) -> Vec<Value> {
    route["status"]["parents"].as_array().cloned().unwrap_or_default()
}

#[tokio::test]
async fn what_others_say_is_kept_with_its_order_and_what_is_no_longer_ours_goes() {
    let cluster = Cluster::start().await;
    cluster.apply(WEB).await;
    let _controller = cluster.leader().await;

    // A route of Gateways alone is nobody's of ours, and one entry of ours that is left over goes.
    cluster
        .apply("kind: HTTPRoute\nmetadata: {name: gateways}\nspec: {parentRefs: [{name: gateway}]}\n")
        .await;
    let mut stale = foreign(OURS, "ours, of another time");
    stale["parentRef"] = json!({ "group": "", "kind": "Service", "name": "web" });
    let others = [foreign("other.io/a", "a"), foreign("other.io/b", "b")];
    cluster.write_status("HTTPRoute", "gateways", &json!({ "parents": [others[0], stale, others[1]] })).await;
    let object = ("HTTPRoute", "shop", "gateways");
    let found = cluster.when(object, "without ours", |route| own_entries(route).is_empty()).await;
    assert_eq!(entries(&found), others);

    // Ours come behind those of others.
    cluster.apply(&route("both", &["web", "web2"])).await;
    let first = cluster.says(("HTTPRoute", "both"), "web", GOOD).await;
    let own: Vec<Value> = own_entries(&first).into_iter().cloned().collect();
    assert_eq!((own.len(), entries(&first).len()), (2, 2));

    // Others come between and before, and put a condition into ours.
    let mut between = own.clone();
    between[0]["conditions"].as_array_mut().unwrap().insert(0, condition("other.io/seen", "kept"));
    let written = json!({ "parents": [others[0], between[0], others[1], between[1]] });
    cluster.write_status("HTTPRoute", "both", &written).await;
    cluster.apply("kind: Service\nmetadata: {name: web2}\nspec: {ports: [{name: http, port: 80}]}\n").await;
    let found = cluster.says(("HTTPRoute", "both"), "web2", GOOD).await;
    let now = entries(&found);
    assert_eq!((&now[0], &now[1], &now[2]), (&others[0], &between[0], &others[1]), "nothing else is touched");

    // A parent goes, and its entry with it.
    cluster.apply(&route("both", &["web2"])).await;
    let found =
        cluster.when(("HTTPRoute", "shop", "both"), "without web", |route| said_of(route, "web").is_empty());
    let found = found.await;
    let now = entries(&found);
    assert_eq!((now.len(), &now[0], &now[1]), (3, &others[0], &others[1]));

    room_is_never_made_at_the_cost_of_others(&cluster).await;
    a_message_has_an_end(&cluster).await;
}

/// The conditions of a status or of an entry by others' types, and ours as `TYPE=STATUS REASON`.
fn told(of: &Value) -> (Vec<Value>, Vec<String>) {
    let is_foreign = |own: &Value| own["type"].as_str().unwrap().contains('/');
    let (foreign, own): (Vec<Value>, Vec<Value>) = conditions(of).iter().cloned().partition(is_foreign);
    (foreign, own.iter().map(describe).collect())
}

/// Puts a condition of another type before and behind all others.
fn put_in(of: &mut Value) -> [Value; 2] {
    let ours = of["conditions"].as_array_mut().unwrap();
    let [first, last] = ["other.io/first", "other.io/last"].map(|kind| condition(kind, "kept"));
    ours.insert(0, first.clone());
    ours.push(last.clone());
    [first, last]
}

/// Whether a class, a Gateway or a ListenerSet is accepted, or a route somewhere, by both of our controllers.
fn is_accepted(object: &Value) -> bool {
    let entries = entries(object);
    let all: Vec<&Value> = entries.iter().chain([&object["status"]]).flat_map(conditions).collect();
    entries.len() != 1 && all.iter().any(|own| own["type"] == "Accepted" && own["status"] == "True")
}

/// The class `gammarus` with more in its `spec`.
fn class(more: &str) -> String {
    format!(
        "{{kind: GatewayClass, metadata: {{name: gammarus}}, spec: {{controllerName: gammarus.io/gateway-controller{more}}}}}"
    )
}

/// The Gateway `gateway`, which asks for this address.
fn gateway(address: &str) -> String {
    format!(
        "{{kind: Gateway, metadata: {{name: gateway}}, spec: {{gatewayClassName: gammarus, addresses: [{address}],
           allowedListeners: {{namespaces: {{from: Same}}}}, listeners: [{{name: http, port: 80, protocol: HTTP}}]}}}}"
    )
}

const SET: &str = "{kind: ListenerSet, metadata: {name: set}, spec: {parentRef: {name: gateway},
  listeners: [{name: more, port: 81, protocol: HTTP}]}}";
/// By kind, namespace and name.
const OBJECTS: [(&str, &str, &str); 4] = [
    ("GatewayClass", "", "gammarus"),
    ("Gateway", "shop", "gateway"),
    ("ListenerSet", "shop", "set"),
    ("HTTPRoute", "shop", "both"),
];

/// Puts conditions of others into all statuses of these objects, once they are accepted.
async fn put_in_all(cluster: &Cluster) -> Vec<Value> {
    let mut put = Vec::new();
    for object in OBJECTS {
        let mut status = cluster.when(object, "accepted", is_accepted).await["status"].clone();
        if let Some(parents) = status["parents"].as_array_mut() {
            put = parents.iter_mut().map(put_in).next_back().unwrap().to_vec();
        } else {
            put = put_in(&mut status).to_vec();
        }
        for listener in status["listeners"].as_array_mut().into_iter().flatten() {
            put_in(listener);
        }
        cluster.write_status(object.0, object.2, &status).await;
    }
    put
}

#[tokio::test]
async fn conditions_of_others_stay_in_all_that_gateways_are_made_of() {
    let cluster = Cluster::start().await;
    cluster.apply(&[&class(""), &gateway(""), SET, WEB, &route("both", &["web"])].join("\n---\n")).await;
    let controller = cluster.leader().await;
    let put = put_in_all(&cluster).await;
    // Each says something else now: the class last, since a Gateway of none that is accepted stays as it was made.
    let refused = |object: &Value| !is_accepted(object);
    let all_kept = |of: &Value| told(of).0 == put;
    for (kind, namespace, name) in [OBJECTS[1], OBJECTS[2], OBJECTS[0]] {
        if kind == "Gateway" {
            cluster.apply(&gateway("{type: Hostname, value: a.example}")).await;
        } else if kind == "GatewayClass" {
            let none = ", parametersRef: {group: '', kind: ConfigMap, name: none, namespace: shop}";
            cluster.apply(&class(none)).await;
        }
        let found = cluster.when((kind, namespace, name), "refused", refused).await;
        let listeners = found["status"]["listeners"].as_array().cloned().unwrap_or_default();
        assert!(
            [&found["status"]].into_iter().chain(&listeners).all(all_kept),
            "{kind}: {:#}",
            found["status"]
        );
        assert!(
            told(&found["status"]).1.iter().any(|own| own.starts_with("Accepted=False ")),
            "{kind}: {:#}",
            found["status"]
        );
    }
    cluster.apply(&route("both", &["missing"])).await;
    let is_other = |route: &Value| said_of(route, "missing").contains("Accepted=False");
    let found = cluster.when(("HTTPRoute", "shop", "both"), "without its Service", is_other).await;
    let on_gateway =
        entries(&found).into_iter().find(|entry| entry["controllerName"] == "gammarus.io/gateway-controller");
    assert!(on_gateway.as_ref().is_some_and(all_kept), "{:#}", found["status"]);
    assert_eq!(controller.metric("gammarus_status_writes_total{result=\"refused\"}"), 0.0);
}

async fn room_is_never_made_at_the_cost_of_others(cluster: &Cluster) {
    let full: Vec<Value> = (0..31).map(|number| foreign(&format!("other.io/{number}"), "full")).collect();
    cluster.apply("kind: HTTPRoute\nmetadata: {name: full}\nspec: {parentRefs: [{name: gateway}]}\n").await;
    cluster.write_status("HTTPRoute", "full", &json!({ "parents": full })).await;
    cluster.apply(&route("full", &["web", "web2"])).await;
    let found = cluster.says(("HTTPRoute", "full"), "web", GOOD).await;
    assert_eq!((entries(&found)[..31].to_vec(), entries(&found).len()), (full.clone(), 32));
    // As soon as there is room, the other one is there, too.
    let fewer: Vec<Value> = full[1..].iter().chain(own_entries(&found)).cloned().collect();
    cluster.write_status("HTTPRoute", "full", &json!({ "parents": fewer })).await;
    cluster.says(("HTTPRoute", "full"), "web2", GOOD).await;
}

async fn a_message_has_an_end(cluster: &Cluster) {
    let long = "x".repeat(60);
    let name = format!("{long}.{long}.{long}.{long}");
    let backend = format!("{{name: {name}, namespace: {long}, port: 80}}");
    let rule = format!("{{backendRefs: [{}]}}", vec![backend; 16].join(", "));
    let rules = vec![rule; 16].join(", ");
    cluster
        .apply(&format!(
            "kind: HTTPRoute\nmetadata: {{name: long}}\n\
             spec: {{parentRefs: [{{group: \"\", kind: Service, name: web}}], rules: [{rules}]}}\n"
        ))
        .await;
    let bad = "Accepted=True Accepted; ResolvedRefs=False BackendNotFound";
    let found = cluster.says(("HTTPRoute", "long"), "web", bad).await;
    let message = own_entries(&found)[0]["conditions"][1]["message"].as_str().unwrap();
    assert!(message.len() > 32_000 && message.ends_with("more bytes)"), "{}", message.len());
}

/// Everything that is seen of a route for some time.
async fn versions(cluster: &Cluster, name: &str, long: Duration) -> Vec<Value> {
    let api = cluster.api("HTTPRoute", "shop");
    let params = WatchParams::default().fields(&format!("metadata.name={name}"));
    let mut events = Box::pin(api.watch(&params, "0").await.unwrap());
    let (mut seen, end) = (Vec::new(), tokio::time::Instant::now() + long);
    while let Ok(Some(event)) = tokio::time::timeout_at(end, events.next()).await {
        if let WatchEvent::Added(route) | WatchEvent::Modified(route) = event.unwrap() {
            seen.push(serde_json::to_value(route).unwrap());
        }
    }
    seen
}

#[tokio::test]
async fn who_undoes_what_is_written_is_answered_less_and_less_often() {
    let cluster = Cluster::start().await;
    cluster.apply(WEB).await;
    let controller = cluster.leader().await;
    cluster.apply(&route("fought", &["web"])).await;
    cluster.says(("HTTPRoute", "fought"), "web", GOOD).await;

    let long = Duration::from_secs(12);
    let api = cluster.api("HTTPRoute", "shop");
    // It writes as fast as it can, and always without us.
    let fight = async {
        let (begun, mut rounds) = (Instant::now(), 0_u32);
        while begun.elapsed() < long {
            rounds += 1;
            let parents = json!({ "status": { "parents": [foreign("other.io/rude", &rounds.to_string())] } });
            api.patch_status("fought", &PatchParams::default(), &Patch::Merge(&parents)).await.unwrap();
        }
        rounds
    };
    let (rounds, seen) = tokio::join!(fight, versions(&cluster, "fought", long));
    let answers =
        seen.windows(2).filter(|pair| own_entries(&pair[0]).is_empty() && !own_entries(&pair[1]).is_empty());
    let answers = answers.count();
    assert!(rounds > 100, "{rounds}: that was no fight");
    // After 0.25, 0.5, 1, 2, 4 and 8 seconds, and once at the beginning.
    assert!((2..=8).contains(&answers), "{answers} answers to {rounds} rounds");
    assert!(controller.log().contains("somebody keeps changing"), "{}", controller.log());
    // In the end, what is said is right, and what the other one said last is there.
    let found = cluster.says(("HTTPRoute", "fought"), "web", GOOD).await;
    assert_eq!(entries(&found)[0], foreign("other.io/rude", &rounds.to_string()));

    // Who changes only what is his is no reason to write, however often; and what is to be written comes through.
    let versions_before = controller.metric("gammarus_status_writes_total{result=\"written\"}");
    let busy = async {
        let begun = Instant::now();
        let mut round = 0_u32;
        while begun.elapsed() < Duration::from_secs(4) {
            round += 1;
            if round == 50 {
                cluster.apply(&route("fought", &["web", "missing"])).await;
            }
            let current = cluster.get("HTTPRoute", "shop", "fought").await;
            let version = &current["metadata"]["resourceVersion"];
            let mut now = entries(&current);
            now[0] = foreign("other.io/rude", &format!("busy {round}"));
            let patch = json!({ "metadata": { "resourceVersion": version }, "status": { "parents": now } });
            // As polite as we are: who comes too late looks again.
            let _conflict = api.patch_status("fought", &PatchParams::default(), &Patch::Merge(&patch)).await;
        }
        round
    };
    let rounds = busy.await;
    assert!(rounds > 50, "{rounds}");
    let missing = "Accepted=False NoMatchingParent; ResolvedRefs=True ResolvedRefs";
    let found = cluster.says(("HTTPRoute", "fought"), "missing", missing).await;
    assert_eq!((said_of(&found, "web"), entries(&found).len()), (GOOD.to_owned(), 3));
    let written = controller.metric("gammarus_status_writes_total{result=\"written\"}") - versions_before;
    assert!((1.0..=2.0).contains(&written), "{written} writes for one change");
}
