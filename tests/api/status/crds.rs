//! CRDs that are missing, late, old or gone, and the XMesh, whose CRD not every cluster has.

use std::path::PathBuf;

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::{Cluster, Controller};
use crate::api_server::Channel;
use crate::definitions::{LATE, SOON};

const GOOD: &str = "Accepted=True Accepted; ResolvedRefs=True ResolvedRefs";
const VERSION: &str = "gateway.networking.k8s.io/bundle-version";

/// What `/status` says of a CRD.
fn status_of(controller: &Controller, crd: &str) -> Value {
    let status: Value = serde_json::from_str(&controller.get("/status").unwrap()).unwrap();
    let found = status["crds"].as_array().unwrap().iter().find(|found| found["crd"] == crd).cloned();
    found.unwrap_or_default()
}

async fn annotate(cluster: &Cluster, crd: &str, version: &str) {
    let patch = json!({ "metadata": { "annotations": { VERSION: version } } });
    let api = cluster.api("CustomResourceDefinition", "");
    api.patch(crd, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

#[tokio::test]
async fn crds_are_named_when_they_are_missing_or_old_and_used_when_they_come() {
    let cluster = Cluster::without_gateway_api().await;
    let controller = cluster.leader().await;
    let routes = "httproutes.gateway.networking.k8s.io";
    let missing = status_of(&controller, routes);
    assert_eq!(missing["state"], "missing");
    assert!(missing["problem"].as_str().unwrap().contains("until somebody installs it"), "{missing}");
    assert!(controller.log().contains(&format!("the CRD {routes} is missing")), "{}", controller.log());
    let metric = |state: &str| format!("gammarus_gateway_api_crd{{crd=\"{routes}\",state=\"{state}\"}}");
    assert_eq!((controller.metric(&metric("missing")), controller.metric(&metric("current"))), (1.0, 0.0));
    let xmeshes = "xmeshes.gateway.networking.x-k8s.io";
    assert_eq!(status_of(&controller, xmeshes)["problem"], Value::Null, "nobody needs that one");

    // They come, of the channel that has no XMesh.
    cluster.server.install_gateway_api(Channel::Standard);
    controller.when("sees the CRD", || controller.metric(&metric("current")) == 1.0).await;
    cluster.apply("kind: Service\nmetadata: {name: web}\nspec: {ports: [{name: http, port: 80}]}\n").await;
    let route = "kind: HTTPRoute\nmetadata: {name: web}\nspec: {parentRefs: [{group: \"\", kind: Service, name: web}], rules: [{backendRefs: [{name: web, port: 80}]}]}\n";
    cluster.apply(route).await;
    cluster.says(("HTTPRoute", "web"), "web", GOOD).await;
    assert_eq!(status_of(&controller, routes)["channel"], "standard");

    annotate(&cluster, routes, "v1.6.1").await;
    controller.when("sees the old version", || controller.metric(&metric("older")) == 1.0).await;
    let old = status_of(&controller, routes);
    assert_eq!((&old["state"], &old["version"]), (&json!("older"), &json!("v1.6.1")));
    let words = format!("the CRD {routes} is of Gateway API v1.6.1, and v1.6.3 is what is read here");
    assert!(controller.log().contains(&words) && old["problem"].to_string().contains(&words), "{old}");
    // Nobody but its owner has changed it.
    let crd = cluster.get("CustomResourceDefinition", "", routes).await;
    assert_eq!(crd["metadata"]["annotations"][VERSION], "v1.6.1");

    // One goes, and comes back.
    let api = cluster.api("CustomResourceDefinition", "");
    api.delete(routes, &DeleteParams::default()).await.unwrap();
    controller.when("misses it", || controller.metric(&metric("missing")) == 1.0).await;
    let gone = std::time::Instant::now();
    while api.get_opt(routes).await.unwrap().is_some() {
        assert!(gone.elapsed() < super::PATIENCE, "the CRD is still there");
        tokio::time::sleep(super::TICK).await;
    }
    cluster.server.install_gateway_api(Channel::Standard);
    cluster.apply(route).await;
    cluster.says(("HTTPRoute", "web"), "web", GOOD).await;

    // The API's own policy lets nobody put the other channel over one that is there.
    let file = "experimental/gateway.networking.x-k8s.io_xmeshes.yaml";
    cluster.server.apply_path(&PathBuf::from(std::env::var_os("GATEWAY_API_CRDS").unwrap()).join(file));
    let wait = ["wait", "--for=condition=Established", "--timeout=60s", "customresourcedefinitions", xmeshes];
    cluster.server.kubectl(&wait).output();
    an_xmesh_of_ours_says_what_the_mesh_does(&cluster).await;
}

#[tokio::test]
async fn routes_are_judged_soon_when_their_crd_comes_late() {
    let cluster = Cluster::without_gateway_api().await;
    let controller = cluster.leader().await;
    tokio::time::sleep(LATE).await;
    cluster.server.install_gateway_api(Channel::Standard);
    cluster.apply("kind: Service\nmetadata: {name: web}\nspec: {ports: [{name: http, port: 80}]}\n").await;
    for kind in ["HTTPRoute", "GRPCRoute", "TCPRoute"] {
        let parents = "parentRefs: [{group: \"\", kind: Service, name: web}]";
        let rules = "rules: [{backendRefs: [{name: web, port: 80}]}]";
        cluster
            .apply(&format!("kind: {kind}\nmetadata: {{name: web}}\nspec: {{{parents}, {rules}}}\n"))
            .await;
    }
    let begun = std::time::Instant::now();
    for kind in ["HTTPRoute", "GRPCRoute", "TCPRoute"] {
        let is_judged = |route: &Value| !route["status"]["parents"].as_array().is_none_or(Vec::is_empty);
        cluster.when((kind, "shop", "web"), "judged", is_judged).await;
    }
    assert!(begun.elapsed() < SOON, "{:?}: {}", begun.elapsed(), controller.log());
}

async fn an_xmesh_of_ours_says_what_the_mesh_does(cluster: &Cluster) {
    let mesh = |name: &str, controller: &str, more: &str| {
        format!("kind: XMesh\nmetadata: {{name: {name}}}\nspec: {{controllerName: {controller}{more}}}\n")
    };
    cluster.apply(&mesh("foreign", "other.io/mesh", "")).await;
    cluster.apply(&mesh("gammarus", super::OURS, "")).await;
    let accepted = |status: &'static str| {
        move |mesh: &Value| {
            mesh["status"]["conditions"].as_array().unwrap().iter().any(|condition| {
                condition["type"] == "Accepted"
                    && condition["status"] == status
                    && condition["observedGeneration"] == 1
            })
        }
    };
    let found = cluster.when(("XMesh", "", "gammarus"), "accepted", accepted("True")).await;
    let features: Vec<&str> = found["status"]["supportedFeatures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|feature| feature["name"].as_str().unwrap())
        .collect();
    assert!(features.is_sorted() && features.contains(&"MeshConsumerRoute"), "{features:?}");
    // Others' conditions stay, and what is undone is done again.
    let other = json!({ "type": "other.io/x", "status": "True", "reason": "Any", "message": "", "lastTransitionTime": "2020-01-01T00:00:00Z" });
    cluster
        .write_status(
            "XMesh",
            "gammarus",
            &json!({ "conditions": [other], "supportedFeatures": [{ "name": "Mesh" }] }),
        )
        .await;
    let found = cluster.when(("XMesh", "", "gammarus"), "as before", accepted("True")).await;
    assert_eq!(found["status"]["conditions"][0], other);
    assert_eq!(found["status"]["supportedFeatures"].as_array().unwrap().len(), features.len());

    cluster
        .apply(&mesh(
            "with-parameters",
            super::OURS,
            ", parametersRef: {group: \"\", kind: ConfigMap, name: a, namespace: shop}",
        ))
        .await;
    let found = cluster.when(("XMesh", "", "with-parameters"), "refused", accepted("False")).await;
    let reasons = found["status"]["conditions"].to_string();
    assert!(reasons.contains("InvalidParameters"), "{reasons}");
    let foreign = cluster.get("XMesh", "", "foreign").await;
    assert_eq!(foreign["status"]["conditions"][0]["status"], "Unknown");
    assert_eq!(foreign["status"]["supportedFeatures"], Value::Null);
}
