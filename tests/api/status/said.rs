//! Every reason that the spec has for Service parents, what is said of an edit, and what of a change around a route.

use super::{Cluster, own_entries};

/// Parents and backends of all sorts.
const SERVICES: &str = r#"
---
kind: Service
metadata: {name: web}
spec: {ports: [{name: http, port: 80}, {name: any, port: 9000}, {name: postgres, port: 5432}]}
---
kind: Service
metadata: {name: db}
spec: {ports: [{name: postgres, port: 5432}]}
---
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: example.com, ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: other, namespace: checkout}
spec: {ports: [{name: http, port: 80}]}
"#;

const GOOD: &str = "Accepted=True Accepted; ResolvedRefs=True ResolvedRefs";

/// A route's kind, its spec without `parentRefs` behind `kind: Service`, and what it is to say.
const REASONS: [(&str, &str, &str, &str); 20] = [
    ("HTTPRoute", "web, port: 80", "backendRefs: [{name: web, port: 80}]", GOOD),
    ("GRPCRoute", "web, port: 9000", "backendRefs: [{name: web, port: 80}]", GOOD),
    (
        "TLSRoute",
        "web, port: 9000",
        "backendRefs: [{name: web, port: 9000}]",
        "Accepted=False Conflicted; ResolvedRefs=True ResolvedRefs",
    ),
    ("TCPRoute", "db, port: 5432", "backendRefs: [{name: db, port: 5432}]", GOOD),
    // Every port that is left: of `web` that is not the database's.
    ("HTTPRoute", "web", "backendRefs: [{name: web, port: 80}]", GOOD),
    (
        "HTTPRoute",
        "missing",
        "backendRefs: [{name: web, port: 80}]",
        "Accepted=False NoMatchingParent; ResolvedRefs=True ResolvedRefs",
    ),
    (
        "HTTPRoute",
        "web, port: 81",
        "backendRefs: [{name: web, port: 80}]",
        "Accepted=False NoMatchingParent; ResolvedRefs=True ResolvedRefs",
    ),
    (
        "HTTPRoute",
        "headless",
        "backendRefs: [{name: web, port: 80}]",
        "Accepted=False NoMatchingParent; ResolvedRefs=True ResolvedRefs",
    ),
    (
        "HTTPRoute",
        "elsewhere",
        "backendRefs: [{name: web, port: 80}]",
        "Accepted=False NoMatchingParent; ResolvedRefs=True ResolvedRefs",
    ),
    (
        "HTTPRoute",
        "db",
        "backendRefs: [{name: web, port: 80}]",
        "Accepted=False NoMatchingParent; ResolvedRefs=True ResolvedRefs",
    ),
    (
        "HTTPRoute",
        "web, port: 80",
        "backendRefs: [{name: gone, port: 80}]",
        "Accepted=True Accepted; ResolvedRefs=False BackendNotFound",
    ),
    (
        "HTTPRoute",
        "web, port: 80",
        "backendRefs: [{name: web, port: 81}]",
        "Accepted=True Accepted; ResolvedRefs=False BackendNotFound",
    ),
    (
        "GRPCRoute",
        "web, port: 9000",
        "backendRefs: [{name: web, port: 81}]",
        "Accepted=True Accepted; ResolvedRefs=False BackendNotFound",
    ),
    (
        "HTTPRoute",
        "web, port: 80",
        "backendRefs: [{name: a, group: example.com, kind: Thing}]",
        "Accepted=True Accepted; ResolvedRefs=False InvalidKind",
    ),
    (
        "HTTPRoute",
        "web, port: 80",
        "backendRefs: [{name: elsewhere, port: 80}]",
        "Accepted=True Accepted; ResolvedRefs=False InvalidKind",
    ),
    (
        "HTTPRoute",
        "web, port: 80",
        "backendRefs: [{name: db, port: 5432}]",
        "Accepted=True Accepted; ResolvedRefs=False UnsupportedProtocol",
    ),
    // A route of a Service needs no ReferenceGrant (GEP-1294): RefNotPermitted is never said.
    ("HTTPRoute", "web, port: 80", "backendRefs: [{name: other, namespace: checkout, port: 80}]", GOOD),
    (
        "HTTPRoute",
        "web, port: 80",
        "filters: [{type: ExtensionRef, extensionRef: {group: example.com, kind: Thing, name: a}}]",
        "Accepted=False UnsupportedValue; ResolvedRefs=True ResolvedRefs",
    ),
    (
        "HTTPRoute",
        "web, port: 80",
        "backendRefs: [{name: web, port: 80}]}, {filters: [{type: ExtensionRef, extensionRef: {group: example.com, kind: Thing, name: a}}]",
        "Accepted=True Accepted; PartiallyInvalid=True UnsupportedValue; ResolvedRefs=True ResolvedRefs",
    ),
    (
        "GRPCRoute",
        "missing",
        "backendRefs: [{name: gone, port: 80}]",
        "Accepted=False NoMatchingParent; ResolvedRefs=False BackendNotFound",
    ),
];

fn route(kind: &str, name: &str, parent: &str, rule: &str) -> String {
    let hostnames = if kind == "TLSRoute" { "hostnames: [a.example.com], " } else { "" };
    format!(
        "---\nkind: {kind}\nmetadata: {{name: {name}}}\n\
         spec: {{parentRefs: [{{group: \"\", kind: Service, name: {parent}}}], {hostnames}rules: [{{{rule}}}]}}\n"
    )
}

#[tokio::test]
async fn every_reason_is_said_and_said_of_the_version_that_was_judged() {
    let cluster = Cluster::start().await;
    cluster.apply(SERVICES).await;
    let _controller = cluster.leader().await;
    for (number, (kind, parent, rule, _)) in REASONS.iter().enumerate() {
        cluster.apply(&route(kind, &format!("route-{number}"), parent, rule)).await;
    }
    for (number, (kind, parent, _, said)) in REASONS.iter().enumerate() {
        let parent = parent.split(',').next().unwrap();
        let found = cluster.says((kind, &format!("route-{number}")), parent, said).await;
        let entry = own_entries(&found)[0];
        assert_eq!(entry["parentRef"], found["spec"]["parentRefs"][0], "as it is written");
        if said.contains("PartiallyInvalid") {
            let invalid =
                entry["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "PartiallyInvalid");
            assert!(invalid.unwrap()["message"].as_str().unwrap().starts_with("Dropped Rule"));
        }
    }
    // Kind Service in the Gateway API's group, the default: almost always a forgotten `group: ""`.
    cluster
        .apply(
            "kind: HTTPRoute\nmetadata: {name: mistaken}\nspec: {parentRefs: [{kind: Service, name: web}]}\n",
        )
        .await;
    let mistaken = "Accepted=False NoMatchingParent; ResolvedRefs=True ResolvedRefs";
    let found = cluster.says(("HTTPRoute", "mistaken"), "web", mistaken).await;
    assert!(own_entries(&found)[0]["conditions"].to_string().contains("write group"));

    an_edit_is_said_with_its_generation_and_without_a_transition(&cluster).await;
    what_changes_around_a_route_is_said(&cluster).await;
}

async fn an_edit_is_said_with_its_generation_and_without_a_transition(cluster: &Cluster) {
    let before = cluster.get("HTTPRoute", "shop", "route-0").await;
    assert_eq!(before["metadata"]["generation"], 1);
    let times = |route: &serde_json::Value| -> Vec<String> {
        let conditions = own_entries(route)[0]["conditions"].as_array().unwrap();
        conditions.iter().map(|condition| condition["lastTransitionTime"].to_string()).collect()
    };
    // A transition would be seen: times are in whole seconds.
    let old: k8s_openapi::jiff::Timestamp = times(&before)[0].trim_matches('"').parse().unwrap();
    while k8s_openapi::jiff::Timestamp::now().as_second() <= old.as_second() {
        tokio::time::sleep(super::TICK).await;
    }
    cluster
        .apply(&route("HTTPRoute", "route-0", "web, port: 80", "backendRefs: [{name: web, port: 9000}]"))
        .await;
    let edited = cluster.when(("HTTPRoute", "shop", "route-0"), "of generation 2", |route| {
        route["metadata"]["generation"] == 2
            && super::is_current(route)
            && super::said_of(route, "web") == GOOD
    });
    assert_eq!(times(&edited.await), times(&before));
    cluster
        .apply(&route("HTTPRoute", "route-0", "web, port: 80", "backendRefs: [{name: gone, port: 80}]"))
        .await;
    let broken = "Accepted=True Accepted; ResolvedRefs=False BackendNotFound";
    let found = cluster.says(("HTTPRoute", "route-0"), "web", broken).await;
    let (now, then) = (times(&found), times(&before));
    assert_eq!(
        (now[0] == then[0], now[1] == then[1]),
        (true, false),
        "only what has turned has another time"
    );
}

async fn what_changes_around_a_route_is_said(cluster: &Cluster) {
    let table = "Accepted=False NoMatchingParent; ResolvedRefs=False BackendNotFound";
    cluster
        .apply(&route("HTTPRoute", "early", "late, port: 80", "backendRefs: [{name: late, port: 80}]"))
        .await;
    cluster.says(("HTTPRoute", "early"), "late", table).await;
    let late = |port: &str| format!("kind: Service\nmetadata: {{name: late}}\nspec: {{ports: [{port}]}}\n");
    // The Service comes, changes its port and what it declares, and goes.
    cluster.apply(&late("{name: http, port: 80}")).await;
    cluster.says(("HTTPRoute", "early"), "late", GOOD).await;
    cluster.apply(&late("{name: http, port: 81}")).await;
    cluster.says(("HTTPRoute", "early"), "late", table).await;
    cluster.apply(&late("{name: http, port: 80, appProtocol: kubernetes.io/wss}")).await;
    let protocol = "Accepted=False NoMatchingParent; ResolvedRefs=False UnsupportedProtocol";
    cluster.says(("HTTPRoute", "early"), "late", protocol).await;
    cluster.apply(&late("{name: http, port: 80}")).await;
    let right = cluster.says(("HTTPRoute", "early"), "late", GOOD).await;

    // Neither a grant nor a namespace's labels decide on a Service's route: nothing is written for them.
    cluster.apply("kind: ReferenceGrant\nmetadata: {name: g, namespace: checkout}\nspec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: \"\", kind: Service}]}\n").await;
    cluster.says(("HTTPRoute", "route-16"), "web", GOOD).await;
    cluster.apply("kind: Namespace\nmetadata: {name: shop, labels: {gammarus.io/mesh: enabled}}\n").await;
    cluster.delete("Service", "late").await;
    cluster.says(("HTTPRoute", "early"), "late", table).await;
    let other = cluster.get("HTTPRoute", "shop", "route-16").await;
    cluster.api("ReferenceGrant", "checkout").delete("g", &Default::default()).await.unwrap();
    cluster.apply(&late("{name: http, port: 80}")).await;
    let again = cluster.says(("HTTPRoute", "early"), "late", GOOD).await;
    assert_ne!(again["metadata"]["resourceVersion"], right["metadata"]["resourceVersion"]);
    let after = cluster.get("HTTPRoute", "shop", "route-16").await;
    assert_eq!(after["metadata"]["resourceVersion"], other["metadata"]["resourceVersion"]);

    // A stronger kind takes the port of another one, and leaves it.
    cluster
        .apply(&route("GRPCRoute", "stronger", "late, port: 80", "backendRefs: [{name: late, port: 80}]"))
        .await;
    cluster
        .says(("HTTPRoute", "early"), "late", "Accepted=False Conflicted; ResolvedRefs=True ResolvedRefs")
        .await;
    cluster.delete("GRPCRoute", "stronger").await;
    cluster.says(("HTTPRoute", "early"), "late", GOOD).await;
}
