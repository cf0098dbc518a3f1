//! What an operator says of a Gateway's pods and Service: applied in place, taken away again, and never torn down by a slip.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::provision::{CLASS, HTTP, NAME, bundle, managers_of_replicas, programmed};
use super::{Cluster, PATIENCE, TICK, conditions};

const AUTOSCALING: &str = "autoscaling: {minReplicas: 2, maxReplicas: 6}
podDisruptionBudget: {minAvailable: 1}
resources: {requests: {cpu: 100m}, limits: {memory: 1Gi}}
service: {type: ClusterIP}";
const OWN: &str = "infrastructure: {parametersRef: {group: '', kind: ConfigMap, name: own}},";

/// The Gateway `web` with this beside its listener.
fn gateway(more: &str) -> String {
    format!(
        "{{kind: Gateway, metadata: {{name: web}}, spec: {{gatewayClassName: gammarus, {more} listeners: [{HTTP}]}}}}"
    )
}

/// The ConfigMap of this name with this document.
fn document(name: &str, text: &str) -> String {
    json!({"kind": "ConfigMap", "metadata": {"name": name}, "data": {"gateway.yaml": text}}).to_string()
}

/// `Accepted` of a Gateway: `STATUS REASON: MESSAGE`.
fn accepted(gateway: &Value) -> String {
    let said = conditions(&gateway["status"]).iter().find(|own| own["type"] == "Accepted");
    let text = |field: &str| said.map_or("", |said| said[field].as_str().unwrap());
    format!("{} {}: {}", text("status"), text("reason"), text("message"))
}

fn addresses(gateway: &Value) -> Vec<&str> {
    let all = gateway["status"]["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().map(|own| own["value"].as_str().unwrap()).collect()
}

fn container(deployment: &Value) -> &Value {
    &deployment["spec"]["template"]["spec"]["containers"][0]
}

impl Cluster {
    /// The Gateway `web`, once it says this of being accepted.
    #[track_caller]
    fn accepted<'a>(&'a self, what: &'a str) -> impl Future<Output = Value> + 'a {
        self.when(("Gateway", "shop", "web"), what, move |gateway| accepted(gateway) == what)
    }

    /// Waits until an object of the Gateway `web` has gone.
    async fn gone(&self, kind: &str) {
        let begun = std::time::Instant::now();
        while self.api(kind, "shop").get_opt(NAME).await.unwrap().is_some() {
            assert!(begun.elapsed() < PATIENCE, "{kind} is still there");
            tokio::time::sleep(TICK).await;
        }
    }

    async fn scale(&self, replicas: i32) {
        let scale = json!({"spec": {"replicas": replicas}});
        let params = PatchParams::default();
        self.api("Deployment", "shop").patch_scale(NAME, &params, &Patch::Merge(&scale)).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_said_of_pods_and_service_is_applied_in_place_and_taken_back() {
    let (cluster, controller) = Cluster::start_providing().await;
    cluster.apply(&format!("{}\n---\n{}", document("own", "replicas: 3"), gateway(OWN))).await;
    let is_three = |deployment: &Value| {
        deployment["spec"]["replicas"] == 3 && managers_of_replicas(deployment) == ["gammarus-controller"]
    };
    let deployment = cluster.part("Deployment", "of three replicas", is_three).await;
    let service = cluster.part("Service", "made", |own| own["spec"]["type"] == "LoadBalancer").await;
    cluster.scale(5).await;
    cluster.part("Deployment", "scaled back", is_three).await;

    cluster.apply(&document("own", AUTOSCALING)).await;
    let autoscaler = cluster.part("HorizontalPodAutoscaler", "made", |_| true).await;
    assert_eq!(
        autoscaler["spec"]["scaleTargetRef"],
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME})
    );
    let numbers = |own: &Value| (own["spec"]["minReplicas"].clone(), own["spec"]["maxReplicas"].clone());
    assert_eq!(numbers(&autoscaler), (json!(2), json!(6)));
    let budget = cluster.part("PodDisruptionBudget", "made", |_| true).await;
    assert_eq!(budget["spec"]["minAvailable"], 1);
    assert_eq!(budget["spec"]["selector"], deployment["spec"]["selector"]);
    for own in [&autoscaler, &budget] {
        assert_eq!(own["metadata"]["ownerReferences"], deployment["metadata"]["ownerReferences"]);
    }
    let is_left = |own: &Value| {
        managers_of_replicas(own) == ["gammarus-controller-replicas"]
            && container(own)["resources"]
                == json!({"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}})
    };
    let changed = cluster.part("Deployment", "left to the autoscaler", is_left).await;
    assert_eq!(
        (&changed["spec"]["replicas"], &changed["metadata"]["uid"]),
        (&json!(3), &deployment["metadata"]["uid"])
    );
    let inside = cluster.part("Service", "of the cluster", |own| own["spec"]["type"] == "ClusterIP").await;
    assert_eq!(inside["metadata"]["uid"], service["metadata"]["uid"]);
    let own: Vec<&str> =
        inside["spec"]["clusterIPs"].as_array().unwrap().iter().map(|ip| ip.as_str().unwrap()).collect();
    cluster.when(("Gateway", "shop", "web"), "at its cluster IP", |gateway| addresses(gateway) == own).await;

    // Somebody else's hand is put right, but for what an autoscaler does.
    cluster.scale(4).await;
    cluster.edit("HorizontalPodAutoscaler", json!({"spec": {"maxReplicas": 9}})).await;
    cluster.part("HorizontalPodAutoscaler", "put right", |own| numbers(own) == (json!(2), json!(6))).await;
    cluster.delete("PodDisruptionBudget", NAME).await;
    let is_another = |own: &Value| own["metadata"]["uid"] != budget["metadata"]["uid"];
    cluster.part("PodDisruptionBudget", "made again", is_another).await;
    assert_eq!(cluster.get("Deployment", "shop", NAME).await["spec"]["replicas"], 4);

    cluster.apply(&document("own", "# as it is without")).await;
    cluster.gone("HorizontalPodAutoscaler").await;
    cluster.gone("PodDisruptionBudget").await;
    cluster.part("Service", "a balancer's again", |own| own["spec"]["type"] == "LoadBalancer").await;
    let is_plain =
        |own: &Value| container(own)["resources"] == json!({"requests": {"cpu": "50m", "memory": "64Mi"}});
    let plain = cluster.part("Deployment", "plain again", is_plain).await;
    assert_eq!(
        (&plain["spec"]["replicas"], &plain["metadata"]["uid"]),
        (&json!(4), &deployment["metadata"]["uid"])
    );
    assert!(!controller.log().contains("not everything could be made"), "{}", controller.log());
}

#[tokio::test]
async fn none_at_all_become_some_for_an_autoscaler() {
    let (cluster, _controller) = Cluster::start_providing().await;
    cluster.apply(&format!("{}\n---\n{}", document("own", "replicas: 0"), gateway(OWN))).await;
    cluster.part("Deployment", "of none", |own| own["spec"]["replicas"] == 0).await;
    cluster.apply(&document("own", "autoscaling: {minReplicas: 3, maxReplicas: 6}")).await;
    let is_left = |own: &Value| {
        own["spec"]["replicas"] == 3 && managers_of_replicas(own) == ["gammarus-controller-replicas"]
    };
    cluster.part("Deployment", "of some", is_left).await;
}

#[tokio::test]
async fn a_broken_change_is_said_and_leaves_what_was_made() {
    let (cluster, controller) = Cluster::start_providing().await;
    cluster.apply(&format!("{}\n---\n{}", document("own", AUTOSCALING), gateway(OWN))).await;
    let kinds = ["Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"];
    for kind in kinds {
        cluster.part(kind, "made", |_| true).await;
    }
    let is_left = |own: &Value| managers_of_replicas(own) == ["gammarus-controller-replicas"];
    cluster.part("Deployment", "left to the autoscaler", is_left).await;
    let specs = async || {
        let mut specs = Vec::new();
        for kind in kinds {
            let object = cluster.get(kind, "shop", NAME).await;
            specs.push((object["metadata"]["uid"].clone(), object["spec"].clone()));
        }
        specs
    };
    let before = specs().await;
    let refused = |why: &str| {
        format!("False InvalidParameters: spec.infrastructure.parametersRef: ConfigMap shop/own{why}")
    };
    let read = ", gateway.yaml: ";
    for (text, why) in [
        ("replicas: [", "line 1"),
        ("service: {kind: ClusterIP}", "service.kind: is not a field"),
        ("{replicas: 1, autoscaling: {maxReplicas: 2}}", "replicas: cannot be given with autoscaling"),
    ] {
        cluster.apply(&document("own", text)).await;
        let begins = refused(&format!("{read}{why}"));
        cluster.when(("Gateway", "shop", "web"), &begins, |own| accepted(own).starts_with(&begins)).await;
    }
    cluster.apply("{kind: ConfigMap, metadata: {name: own}, data: {gateway.yml: 'replicas: 1'}}").await;
    cluster.accepted(&refused(" has no key gateway.yaml")).await;
    cluster.delete("ConfigMap", "own").await;
    let gateway_now = cluster.accepted(&refused(" does not exist")).await;
    assert!(programmed(&gateway_now).starts_with("False Invalid: "), "{gateway_now}");
    // The trust bundle goes on being the mesh's.
    cluster.apply(&bundle("two")).await;
    cluster.part("ConfigMap", "the new bundle", |own| own["data"]["ca.crt"] == "two").await;
    // What has none yet gets nothing.
    let fresh = gateway(OWN).replace("name: web}", "name: fresh}");
    cluster.apply(&fresh).await;
    let is_refused = |own: &Value| accepted(own) == refused(" does not exist");
    cluster.when(("Gateway", "shop", "fresh"), "refused", is_refused).await;
    assert_eq!(specs().await, before);
    cluster.apply(&document("own", "replicas: 1")).await;
    cluster.accepted("True Accepted: ").await;
    cluster.part("Deployment", "of one", |own| own["spec"]["replicas"] == 1).await;
    cluster.gone("HorizontalPodAutoscaler").await;
    let is_there = |own: &Value| own["spec"]["replicas"] == 1;
    cluster.when(("Deployment", "shop", "fresh-gammarus"), "made, too", is_there).await;
    let log = controller.log();
    let first_try = log.find("shop/fresh-gammarus is made").unwrap();
    assert!(log[..first_try].contains("HorizontalPodAutoscaler shop/web-gammarus is made"), "{log}");
}

#[tokio::test]
async fn a_classs_word_is_for_all_its_gateways_that_say_nothing_else() {
    let (cluster, _controller) = Cluster::start_providing().await;
    cluster.apply(&gateway("")).await;
    cluster.part("Deployment", "made", |own| own["spec"]["replicas"] == 2).await;
    let class = CLASS.replace(
        "gateway-controller",
        "gateway-controller, parametersRef: {group: '', kind: ConfigMap, name: all, namespace: shop}",
    );
    let all =
        document("all", "replicas: 3\nnodeSelector: {pool: edge}\nservice: {externalTrafficPolicy: Local}");
    cluster.apply(&format!("{all}\n---\n{class}")).await;
    let of_class = |own: &Value| {
        own["spec"]["replicas"] == 3 && own["spec"]["template"]["spec"]["nodeSelector"]["pool"] == "edge"
    };
    cluster.part("Deployment", "as the class says", of_class).await;
    let is_local = |own: &Value| own["spec"]["externalTrafficPolicy"] == "Local";
    cluster.part("Service", "as the class says", is_local).await;
    cluster.apply(&format!("{}\n---\n{}", document("own", "replicas: 4"), gateway(OWN))).await;
    let of_both = |own: &Value| {
        own["spec"]["replicas"] == 4 && own["spec"]["template"]["spec"]["nodeSelector"]["pool"] == "edge"
    };
    cluster.part("Deployment", "as both say", of_both).await;
    // A slip in the class's is said by all, and undoes nothing.
    cluster.apply(&document("all", "replica: 3")).await;
    let why = "False InvalidParameters: GatewayClass gammarus is not accepted: spec.parametersRef: ConfigMap shop/all, gateway.yaml: replica: is not a field";
    cluster.accepted(why).await;
    assert!(of_both(&cluster.get("Deployment", "shop", NAME).await));
}

#[tokio::test]
async fn an_address_that_is_asked_for_is_had_or_named() {
    let (cluster, controller) = Cluster::start_providing().await;
    let ready = json!({"replicas": 1, "readyReplicas": 1, "availableReplicas": 1});
    let says = async |what: &str| {
        let is_said = |own: &Value| programmed(own) == what;
        cluster.when(("Gateway", "shop", "web"), what, is_said).await
    };
    let give = async |address: &str| {
        let status = json!({"loadBalancer": {"ingress": [{"ip": address}]}});
        cluster.write_status("Service", NAME, &status).await;
    };
    cluster.apply(&gateway("")).await;
    cluster.part("Deployment", "made", |_| true).await;
    cluster.write_status("Deployment", NAME, &ready).await;
    let before = cluster.part("Service", "made", |_| true).await;
    says("False AddressNotAssigned: Service shop/web-gammarus has not been given an address yet").await;
    give("192.0.2.9").await;
    says("True Programmed: ").await;

    let asked = "addresses: [{type: IPAddress, value: 198.51.100.1}, {type: IPAddress, value: 192.0.2.7}],";
    cluster.apply(&gateway(asked)).await;
    let asks = |address: &'static str| {
        move |own: &Value| {
            own["spec"]["loadBalancerIP"] == address && own["spec"]["ipFamilies"] == json!(["IPv4"])
        }
    };
    let service = cluster.part("Service", "asking for the first", asks("198.51.100.1")).await;
    assert_eq!(service["spec"]["ipFamilyPolicy"], "SingleStack");
    assert_eq!(service["metadata"]["uid"], before["metadata"]["uid"]);
    says("False AddressNotUsable: spec.addresses: it was not given 198.51.100.1, 192.0.2.7; a Service asks for one address, which is 198.51.100.1").await;
    cluster.apply(&gateway("addresses: [{value: 192.0.2.7}],")).await;
    cluster.part("Service", "asking for the other", asks("192.0.2.7")).await;
    says("False AddressNotUsable: spec.addresses: it was not given 192.0.2.7").await;
    give("192.0.2.7").await;
    let gateway_now = says("True Programmed: ").await;
    assert_eq!(addresses(&gateway_now), ["192.0.2.7"]);

    cluster.apply(&gateway("addresses: [{type: Hostname, value: a.example}],")).await;
    let refused = "False UnsupportedAddress: spec.addresses[0]: type Hostname is not supported: IPAddress is";
    cluster.accepted(refused).await;
    // Asking for none again is no more than that.
    cluster.apply(&gateway("")).await;
    let is_free = |own: &Value| own["spec"]["loadBalancerIP"].is_null();
    let free = cluster.part("Service", "asking for none", is_free).await;
    assert_eq!(free["spec"]["ipFamilyPolicy"], "PreferDualStack");
    says("True Programmed: ").await;
    assert!(!controller.log().contains("not everything could be made"), "{}", controller.log());
}
