//! What the controller makes for a Gateway, with the rights that it is installed with: whole, in place, and nobody else's.

use std::time::Instant;

use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::{Cluster, Controller, PATIENCE, SYSTEM, TICK, conditions};

const FLAGS: [&str; 3] = [
    "--ingress-image=registry.example.com/gammarus:1",
    "--ca-address=gammarus-ca.gammarus-system.svc:8443",
    "--feed-address=gammarus-controller.gammarus-system.svc:8444",
];
/// The name of all objects of the Gateway `web`.
pub(super) const NAME: &str = "web-gammarus";
const PARTS: [&str; 4] = ["ServiceAccount", "ConfigMap", "Deployment", "Service"];
pub(super) const CLASS: &str = "{kind: GatewayClass, metadata: {name: gammarus}, spec: {controllerName: gammarus.io/gateway-controller}}";
pub(super) const HTTP: &str = "{name: http, port: 80, protocol: HTTP}";

/// The Gateway `web` with these listeners.
fn gateway(listeners: &str) -> String {
    format!(
        "{{kind: Gateway, metadata: {{name: web}}, spec: {{gatewayClassName: gammarus, listeners: [{listeners}],
            allowedListeners: {{namespaces: {{from: Same}}}},
            infrastructure: {{labels: {{team: edge, app.kubernetes.io/managed-by: me}}, annotations: {{note: 'yes'}}}}}}}}"
    )
}

pub(super) fn bundle(text: &str) -> String {
    format!(
        "{{kind: ConfigMap, metadata: {{name: gammarus-trust-bundle, namespace: {SYSTEM}}}, data: {{ca.crt: {text}}}}}"
    )
}

/// The ports of a Service: `NAME PORT/PROTOCOL`.
fn ports(service: &Value) -> Vec<String> {
    let ports = service["spec"]["ports"].as_array().unwrap().iter();
    ports
        .map(|port| {
            assert_eq!(port["port"], port["targetPort"], "{service}");
            format!(
                "{} {}/{}",
                port["name"].as_str().unwrap(),
                port["port"],
                port["protocol"].as_str().unwrap()
            )
        })
        .collect()
}

/// `Programmed` of a Gateway: `STATUS REASON: MESSAGE`.
pub(super) fn programmed(gateway: &Value) -> String {
    let said = conditions(&gateway["status"]).iter().find(|own| own["type"] == "Programmed");
    let text = |field: &str| said.map_or("", |said| said[field].as_str().unwrap());
    format!("{} {}: {}", text("status"), text("reason"), text("message"))
}

/// Who manages the number of replicas.
pub(super) fn managers_of_replicas(deployment: &Value) -> Vec<&str> {
    let entries = deployment["metadata"]["managedFields"].as_array().unwrap().iter();
    let own = entries.filter(|entry| !entry["fieldsV1"]["f:spec"]["f:replicas"].is_null());
    own.map(|entry| entry["manager"].as_str().unwrap()).collect()
}

impl Cluster {
    /// With a class of ours and a trust bundle, and a controller that provides.
    pub(super) async fn start_providing() -> (Self, Controller) {
        let cluster = Self::start().await;
        cluster.apply(&format!("{CLASS}\n---\n{}", bundle("one"))).await;
        let controller = cluster.controller_with(&FLAGS).await;
        controller.when("leads", || controller.leads()).await;
        (cluster, controller)
    }

    /// An object of the Gateway `web`, once it is so.
    #[track_caller]
    pub(super) fn part<'a>(
        &'a self,
        kind: &'a str,
        what: &'a str,
        is: impl Fn(&Value) -> bool + 'a,
    ) -> impl Future<Output = Value> + 'a {
        self.when((kind, "shop", NAME), what, is)
    }

    pub(super) async fn edit(&self, kind: &str, patch: Value) {
        let params = PatchParams { field_manager: Some("somebody".to_owned()), ..PatchParams::default() };
        self.api(kind, "shop").patch(NAME, &params, &Patch::Merge(&patch)).await.unwrap();
    }
}

#[tokio::test]
async fn a_gateway_has_its_four_objects_with_owner_labels_and_ports() {
    let (cluster, _controller) = Cluster::start_providing().await;
    cluster.apply(&gateway(HTTP)).await;
    let web = cluster.get("Gateway", "shop", "web").await;
    for kind in PARTS {
        let object = cluster.part(kind, "made", |_| true).await;
        let metadata = &object["metadata"];
        let owner = json!([{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": "web",
            "uid": web["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true}]);
        assert_eq!(metadata["ownerReferences"], owner, "{kind}");
        let labels = json!({"team": "edge", "app.kubernetes.io/managed-by": "gammarus", "gammarus.io/gateway": NAME,
            "gateway.networking.k8s.io/gateway-name": "web", "gateway.networking.k8s.io/gateway-class-name": "gammarus"});
        assert_eq!(metadata["labels"], labels, "{kind}");
        assert_eq!(metadata["annotations"]["note"], "yes", "{kind}");
    }
    assert_eq!(cluster.get("ConfigMap", "shop", NAME).await["data"], json!({"ca.crt": "one"}));
    let service = cluster.get("Service", "shop", NAME).await;
    assert_eq!(
        (&service["spec"]["type"], ports(&service)),
        (&json!("LoadBalancer"), vec!["tcp-80 80/TCP".to_owned()])
    );
    let whole = |deployment: &Value| managers_of_replicas(deployment) == ["gammarus-controller-replicas"];
    let deployment = cluster.part("Deployment", "whole", whole).await;
    assert_eq!(deployment["spec"]["replicas"], 2);
    let pod = &deployment["spec"]["template"];
    assert_eq!(pod["metadata"]["labels"]["gammarus.io/mesh"], "disabled");
    assert_eq!(pod["spec"]["serviceAccountName"], NAME);
    let proxy = &pod["spec"]["containers"][0];
    assert_eq!(proxy["image"], "registry.example.com/gammarus:1");
    let variable = |name: &str| {
        let all = proxy["env"].as_array().unwrap();
        all.iter().find(|own| own["name"] == name).unwrap()["value"].as_str().unwrap().to_owned()
    };
    assert_eq!(variable("GAMMARUS_GATEWAY"), "shop/web");
    assert_eq!(variable("GAMMARUS_SERVICE_ACCOUNT"), NAME);
    assert_eq!(variable("GAMMARUS_FEED_SERVICE_ACCOUNT"), "gammarus-system/gammarus-controller");
    assert_eq!(variable("GAMMARUS_FEED_ADDRESS"), "gammarus-controller.gammarus-system.svc:8444");

    // Its address is said once there is one, and that it serves once a proxy is available.
    let address = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}});
    cluster.write_status("Service", NAME, &address).await;
    let waits = |gateway: &Value| {
        programmed(gateway)
            == format!("False Pending: Deployment shop/{NAME} has no replica that is available yet")
    };
    let gateway = cluster.when(("Gateway", "shop", "web"), "waiting for a replica", waits).await;
    assert_eq!(gateway["status"]["addresses"], json!([{"type": "IPAddress", "value": "192.0.2.7"}]));
    let ready = json!({"replicas": 1, "readyReplicas": 1, "availableReplicas": 1});
    cluster.write_status("Deployment", NAME, &ready).await;
    cluster
        .when(("Gateway", "shop", "web"), "programmed", |gateway| programmed(gateway).starts_with("True "))
        .await;
}

#[tokio::test]
async fn listeners_and_the_trust_bundle_change_the_objects_in_place() {
    let (cluster, controller) = Cluster::start_providing().await;
    cluster.apply(&gateway(HTTP)).await;
    let before = cluster.part("Service", "made", |_| true).await;
    let whole = |deployment: &Value| managers_of_replicas(deployment) == ["gammarus-controller-replicas"];
    let pods = cluster.part("Deployment", "whole", whole).await["spec"].clone();
    cluster.apply(&gateway(&format!("{HTTP}, {{name: more, port: 8080, protocol: HTTP}}"))).await;
    cluster
        .apply("{kind: ListenerSet, metadata: {name: set}, spec: {parentRef: {name: web}, listeners: [{name: raw, port: 9000, protocol: TCP}]}}")
        .await;
    let all = ["tcp-80 80/TCP", "tcp-8080 8080/TCP", "tcp-9000 9000/TCP"];
    let service = cluster.part("Service", "of all listeners", |service| ports(service) == all).await;
    assert_eq!(service["metadata"]["uid"], before["metadata"]["uid"]);
    cluster.apply(&gateway(HTTP)).await;
    cluster
        .part("Service", "without the port that has gone", |service| ports(service) == [all[0], all[2]])
        .await;
    cluster.apply(&bundle("two")).await;
    cluster.part("ConfigMap", "the new bundle", |own| own["data"]["ca.crt"] == "two").await;
    let sent = controller.log().matches("is applied").count();
    // A change that concerns none of them: nothing is sent.
    cluster.apply("{kind: HTTPRoute, metadata: {name: any}, spec: {parentRefs: [{name: web}]}}").await;
    cluster
        .when(("Gateway", "shop", "web"), "told of the route", |gateway| {
            gateway["status"]["listeners"][0]["attachedRoutes"] == 1
        })
        .await;
    assert_eq!(controller.log().matches("is applied").count(), sent, "{}", controller.log());
    // Nor was any pod started anew.
    assert_eq!(cluster.get("Deployment", "shop", NAME).await["spec"], pods);
}

#[tokio::test]
async fn what_somebody_changes_or_deletes_is_put_right_but_for_the_scale() {
    let (cluster, _controller) = Cluster::start_providing().await;
    cluster.apply(&gateway(HTTP)).await;
    let before = cluster.part("Service", "made", |_| true).await;
    let whole = |deployment: &Value| managers_of_replicas(deployment) == ["gammarus-controller-replicas"];
    cluster.part("Deployment", "whole", whole).await;
    cluster.delete("Service", NAME).await;
    let is_another = |service: &Value| service["metadata"]["uid"] != before["metadata"]["uid"];
    cluster.part("Service", "made again", is_another).await;

    let scale = json!({"spec": {"replicas": 5}});
    let params = PatchParams::default();
    cluster.api("Deployment", "shop").patch_scale(NAME, &params, &Patch::Merge(&scale)).await.unwrap();
    let container = json!({"name": "proxy", "image": "other:1"});
    cluster.edit("Deployment", json!({"spec": {"template": {"spec": {"containers": [container]}}}})).await;
    let is_right = |deployment: &Value| {
        let proxy = &deployment["spec"]["template"]["spec"]["containers"][0];
        proxy["image"] == "registry.example.com/gammarus:1"
            && proxy["command"] == json!(["/node-proxy", "ingress"])
    };
    let deployment = cluster.part("Deployment", "put right", is_right).await;
    assert_eq!(deployment["spec"]["replicas"], 5);
    // Nor does a change of the Gateway undo it.
    cluster.apply(&gateway(&format!("{HTTP}, {{name: more, port: 8080, protocol: HTTP}}"))).await;
    let both = ["tcp-80 80/TCP", "tcp-8080 8080/TCP"];
    cluster.part("Service", "of both ports", |service| ports(service) == both).await;
    assert_eq!(cluster.get("Deployment", "shop", NAME).await["spec"]["replicas"], 5);

    // The port of a Service, beside one that somebody has added, and the words of a ConfigMap are as they were, too.
    let port = json!({"name": "tcp-80", "port": 8081, "targetPort": 8081, "protocol": "TCP"});
    let theirs = json!({"name": "theirs", "port": 9, "targetPort": 9, "protocol": "TCP"});
    cluster.edit("Service", json!({"spec": {"ports": [port, theirs]}})).await;
    let has = |wanted: &[&str]| {
        let mut wanted: Vec<String> = wanted.iter().map(|port| (*port).to_owned()).collect();
        wanted.sort();
        move |service: &Value| {
            let mut own = ports(service);
            own.sort();
            own == wanted
        }
    };
    cluster
        .part("Service", "on its own ports", has(&["tcp-80 80/TCP", "tcp-8080 8080/TCP", "theirs 9/TCP"]))
        .await;
    // And what is put back goes with its listener as before.
    cluster.apply(&gateway("{name: more, port: 8080, protocol: HTTP}")).await;
    cluster.part("Service", "without port 80", has(&["tcp-8080 8080/TCP", "theirs 9/TCP"])).await;
    cluster.edit("ConfigMap", json!({"data": {"ca.crt": "another", "more": "theirs"}})).await;
    let is_right = |own: &Value| own["data"] == json!({"ca.crt": "one", "more": "theirs"});
    cluster.part("ConfigMap", "put right", is_right).await;

    // Without our label it is seen no more, and still ours.
    cluster
        .edit("ServiceAccount", json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": null}}}))
        .await;
    let is_labelled =
        |account: &Value| account["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "gammarus";
    cluster.part("ServiceAccount", "labelled again", is_labelled).await;
}

#[tokio::test]
async fn labels_and_annotations_of_a_gateway_that_is_there_follow_it() {
    let (cluster, _controller) = Cluster::start_providing().await;
    let whole = gateway(HTTP);
    let (start, _) = whole.split_once("infrastructure: ").unwrap();
    let labels_of = |metadata: &Value, names: [&str; 2]| names.map(|name| metadata["labels"][name].clone());
    let has = |object: &Value, wanted: &[Value; 2], note: &Value| {
        let is_so = |metadata: &Value| {
            labels_of(metadata, ["team", "zone"]) == *wanted && metadata["annotations"]["note"] == *note
        };
        let is_ours = |metadata: &Value| {
            labels_of(metadata, ["gammarus.io/gateway", "gateway.networking.k8s.io/gateway-name"])
                == [json!(NAME), json!("web")]
        };
        let template = &object["spec"]["template"]["metadata"];
        [&object["metadata"], template]
            .into_iter()
            .filter(|own| !own.is_null())
            .all(|own| is_so(own) && is_ours(own))
    };
    for (what, wanted, note) in [
        ("{labels: {team: edge}, annotations: {note: 'yes'}}", [json!("edge"), Value::Null], json!("yes")),
        (
            "{labels: {team: core, zone: a}, annotations: {note: 'no'}}",
            [json!("core"), json!("a")],
            json!("no"),
        ),
        ("{labels: {zone: a}}", [Value::Null, json!("a")], Value::Null),
        ("null", [Value::Null, Value::Null], Value::Null),
    ] {
        let infrastructure = if what == "null" { String::new() } else { format!("infrastructure: {what}") };
        cluster.apply(&format!("{start}{infrastructure}}}}}")).await;
        for kind in PARTS {
            cluster.part(kind, what, |object| has(object, &wanted, &note)).await;
        }
    }
}

#[tokio::test]
async fn a_gateway_that_changes_its_class_has_the_objects_and_the_address_of_the_new_one() {
    let (cluster, _controller) = Cluster::start_providing().await;
    cluster
        .apply(&format!("{}\n---\n{}", CLASS.replace("name: gammarus}", "name: second}"), gateway(HTTP)))
        .await;
    let serve = async |name: &str, address: &str| {
        cluster.when(("Service", "shop", name), "made", |_| true).await;
        cluster.when(("Deployment", "shop", name), "made", |_| true).await;
        let ready = json!({"replicas": 1, "readyReplicas": 1, "availableReplicas": 1});
        cluster.write_status("Deployment", name, &ready).await;
        cluster.write_status("Service", name, &json!({"loadBalancer": {"ingress": [{"ip": address}]}})).await;
    };
    let says = async |what: &str, addresses: &[&str]| {
        let addresses: Vec<Value> =
            addresses.iter().map(|own| json!({"type": "IPAddress", "value": own})).collect();
        let is_so = |gateway: &Value| {
            programmed(gateway) == what && gateway["status"]["addresses"] == json!(addresses)
        };
        cluster.when(("Gateway", "shop", "web"), what, is_so).await
    };
    serve(NAME, "192.0.2.7").await;
    let before = says("True Programmed: ", &["192.0.2.7"]).await;

    cluster.apply(&gateway(HTTP).replace("gatewayClassName: gammarus", "gatewayClassName: second")).await;
    let after =
        says("False AddressNotAssigned: Service shop/web-second has not been given an address yet", &[])
            .await;
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    for kind in PARTS {
        let object = cluster.when((kind, "shop", "web-second"), "made", |_| true).await;
        let metadata = &object["metadata"];
        assert_eq!(metadata["labels"]["gateway.networking.k8s.io/gateway-class-name"], "second", "{kind}");
        assert_eq!(metadata["labels"]["gammarus.io/gateway"], "web-second", "{kind}");
        assert_eq!(metadata["ownerReferences"][0]["uid"], after["metadata"]["uid"], "{kind}");
    }
    let service = cluster.get("Service", "shop", "web-second").await;
    assert_eq!(service["spec"]["selector"], json!({"gammarus.io/gateway": "web-second"}));
    serve("web-second", "192.0.2.8").await;
    says("True Programmed: ", &["192.0.2.8"]).await;
    // What it had stays until somebody deletes it.
    for kind in PARTS {
        cluster.part(kind, "there still", |_| true).await;
    }
}

#[tokio::test]
async fn what_is_somebody_elses_is_left_alone_and_said() {
    let (cluster, controller) = Cluster::start_providing().await;
    cluster
        .apply(&format!("{{kind: Service, metadata: {{name: {NAME}}}, spec: {{selector: {{a: b}}, ports: [{{port: 7}}]}}}}"))
        .await;
    let before = cluster.get("Service", "shop", NAME).await;
    cluster.apply(&gateway(HTTP)).await;
    let said = format!(
        "False NoResources: Service shop/{NAME} is there already and not of this Gateway: it is left alone"
    );
    cluster.when(("Gateway", "shop", "web"), "told of it", |gateway| programmed(gateway) == said).await;
    cluster.part("Deployment", "made all the same", |_| true).await;
    assert_eq!(cluster.get("Service", "shop", NAME).await, before);
    let told = controller.log().matches("not everything could be made").count();
    assert_eq!(told, 1, "{}", controller.log());
    // Once it has gone, the way is free.
    cluster.delete("Service", NAME).await;
    cluster.part("Service", "the Gateway's", |service| ports(service) == ["tcp-80 80/TCP"]).await;
}

#[tokio::test]
async fn what_the_server_refuses_is_said_with_its_words() {
    let (cluster, _controller) = Cluster::start_providing().await;
    let quota = "{kind: ResourceQuota, apiVersion: v1, metadata: {name: none, namespace: shop}, spec: {hard: {services.loadbalancers: 0}}}";
    cluster.server.apply(quota);
    // As its controller would, who is not here.
    let status =
        json!({"status": {"hard": {"services.loadbalancers": "0"}, "used": {"services.loadbalancers": "0"}}});
    let patch = [
        "patch",
        "resourcequota",
        "none",
        "--namespace=shop",
        "--subresource=status",
        "--type=merge",
        "--patch",
    ];
    cluster.server.kubectl(&[&patch[..], &[&status.to_string()]].concat()).output();
    // Quotas hold once the API server has read them.
    let try_service =
        ["create", "service", "loadbalancer", "tried", "--tcp=80", "--namespace=shop", "--dry-run=server"];
    let begun = Instant::now();
    while cluster.server.kubectl(&try_service).success {
        assert!(begun.elapsed() < PATIENCE, "the quota does not hold");
        tokio::time::sleep(TICK).await;
    }
    cluster.apply(&gateway(HTTP)).await;
    let is_said = |gateway: &Value| {
        let said = programmed(gateway);
        said.starts_with(&format!("False NoResources: Service shop/{NAME}: "))
            && said.contains("exceeded quota: none")
    };
    cluster.when(("Gateway", "shop", "web"), "refused", is_said).await;
    cluster.part("Deployment", "made", |_| true).await;
    // Where there is room again it is made, without anybody's help.
    cluster.server.kubectl(&["delete", "resourcequota", "none", "--namespace=shop"]).output();
    cluster.part("Service", "made", |_| true).await;
}

#[tokio::test]
async fn its_pods_are_admitted_where_pods_are_restricted() {
    let (cluster, _controller) = Cluster::start_providing().await;
    cluster.apply(&gateway(HTTP)).await;
    let deployment = cluster.part("Deployment", "made", |_| true).await;
    let enforce = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    cluster
        .apply(&json!({"kind": "Namespace", "metadata": {"name": "shop", "labels": enforce}}).to_string())
        .await;
    let template = &deployment["spec"]["template"];
    let try_pod = async |spec: Value| {
        let metadata =
            json!({"name": "tried", "namespace": "shop", "labels": template["metadata"]["labels"]});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        let pod: DynamicObject = serde_json::from_value(pod).unwrap();
        let params = PostParams { dry_run: true, ..PostParams::default() };
        cluster.api("Pod", "shop").create(&params, &pod).await.map_err(|error| error.to_string())
    };
    try_pod(template["spec"].clone()).await.unwrap();
    let mut more = template["spec"].clone();
    more["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true);
    let refused = try_pod(more).await.unwrap_err();
    assert!(refused.contains("violates PodSecurity \"restricted"), "{refused}");
}

#[tokio::test]
async fn without_another_image_the_proxies_are_of_the_controllers_own() {
    let cluster = Cluster::start().await;
    cluster.apply(&format!("{CLASS}\n---\n{}\n---\n{}", bundle("one"), gateway(HTTP))).await;
    let kubeconfig = cluster.server.kubeconfig_of(SYSTEM, "gammarus-controller");
    let controller = Controller::start(&kubeconfig, &[&["--pod=controller-1"][..], &FLAGS[1..]].concat());
    controller
        .when("says what it misses", || controller.log().contains("of Pod gammarus-system/controller-1"))
        .await;
    cluster
        .apply(&format!(
            "{{kind: Pod, metadata: {{name: controller-1, namespace: {SYSTEM}}}, spec: {{serviceAccountName: gammarus-controller, containers: [
               {{name: beside, image: other:1}}, {{name: controller, image: 'example.org/mesh:v7'}}]}}}}"
        ))
        .await;
    let deployment = cluster.part("Deployment", "made", |_| true).await;
    assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["image"], "example.org/mesh:v7");
}

#[tokio::test]
async fn without_an_image_nothing_is_made_and_the_gateway_says_so() {
    let cluster = Cluster::start().await;
    let _controller = cluster.leader().await;
    cluster.apply(&format!("{CLASS}\n---\n{}", gateway(HTTP))).await;
    let is_said = |gateway: &Value| {
        let said = programmed(gateway);
        said.starts_with("False AddressNotAssigned: ")
            && said.ends_with("it was given neither --ingress-image nor --pod")
    };
    cluster.when(("Gateway", "shop", "web"), "told", is_said).await;
    for kind in PARTS {
        assert!(cluster.api(kind, "shop").get_opt(NAME).await.unwrap().is_none(), "{kind}");
    }
}
