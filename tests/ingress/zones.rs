//! Where a Gateway's pod is, and who is near it: each pod goes by the zone of its own node.

use std::collections::BTreeSet;
use std::fs;

use node_proxy::demo::command::until;
use serde_json::{Value, json};

use crate::rig::{ALL, PATIENCE, Stage, gateway, stage};

/// Puts a node into a zone; nothing else of it changes.
fn put(stage: &Stage, node: &str, zone: &str) {
    let mut world = stage.world();
    let text = fs::read_to_string(world.objects_dir().join(format!("node.{node}.yaml"))).unwrap();
    let mut object: Value = serde_saphyr::from_str(&text).unwrap();
    assert!(object["spec"]["podCIDR"].is_string(), "{object}");
    object["metadata"]["labels"] = json!({ "topology.kubernetes.io/zone": zone });
    world.apply(&object.to_string()).unwrap();
}

/// A Service whose slice says of each endpoint whom it is for, and one of the same pods without slices.
fn services(stage: &Stage) -> String {
    let endpoint = |pod: &str, zone: &str| {
        json!({
            "addresses": [stage.address(pod)], "targetRef": {"kind": "Pod", "name": pod, "namespace": "plain"},
            "conditions": {"ready": true}, "hints": {"forZones": [{"name": zone}]},
        })
    };
    let service = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "plain"}, "spec": spec});
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    let route = |name: &str| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name, "namespace": "plain"},
            "spec": {
                "parentRefs": [{"name": "zoned", "namespace": "edge"}],
                "rules": [{"matches": [{"path": {"value": format!("/{name}")}}], "backendRefs": [{"name": name, "port": 80}]}],
            },
        })
    };
    let objects = [
        service("hinted", json!({"ports": ports})),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "hinted", "namespace": "plain", "labels": {"kubernetes.io/service-name": "hinted"}},
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [endpoint("east", "zone-east"), endpoint("west", "zone-west")],
        }),
        service(
            "close",
            json!({"ports": ports, "selector": {"tier": "zoned"}, "trafficDistribution": "PreferSameZone"}),
        ),
        service("anywhere", json!({"ports": ports, "selector": {"tier": "zoned"}})),
        route("hinted"),
        route("close"),
        route("anywhere"),
    ];
    objects.map(|object| object.to_string()).join("\n---\n")
}

/// Who answers a number of requests on this path at this pod of the Gateway.
fn answering(stage: &Stage, pod: &str, path: &str) -> BTreeSet<String> {
    let url = format!("http://{}:8006/{path}?n=[1-40]", stage.address(pod));
    let done = stage.world().exec("client", &["curl", "-s", "--max-time", "10", &url]).unwrap();
    let who = |line: &str| line.split_once(": GET ").map_or(line, |(who, _)| who).to_owned();
    done.stdout.lines().map(who).collect()
}

#[test]
fn each_pod_of_a_gateway_keeps_to_the_zone_of_its_node() {
    let stage = stage();
    put(&stage, "node-a", "zone-east");
    put(&stage, "node-b", "zone-west");
    for (name, node) in [("east", "node-a"), ("west", "node-b")] {
        let mut world = stage.world();
        let pod = world.pod(name).namespace("plain").service_account(name).on(node);
        pod.labels(&[("tier", "zoned")]).app(name).unwrap().start().unwrap();
    }
    let objects =
        [gateway("zoned", &format!("{{name: http, port: 8006, protocol: HTTP, {ALL}}}")), services(&stage)];
    {
        let mut world = stage.world();
        world.apply_in("edge", "a Gateway in two zones", &objects.join("\n---\n")).unwrap();
        for (pod, node) in [("zoned-a", "node-a"), ("zoned-b", "node-b")] {
            world.gateway_pod(pod, ("edge", "zoned"), node).unwrap();
        }
    }
    let check = |pod: &str, path: &str, expected: &[&str]| {
        let is_so = || answering(&stage, pod, path).iter().map(String::as_str).eq(expected.iter().copied());
        assert!(
            until(PATIENCE, is_so),
            "{pod} /{path}: {:?}, not {expected:?}",
            answering(&stage, pod, path)
        );
    };
    for path in ["hinted", "close"] {
        check("zoned-a", path, &["east"]);
        check("zoned-b", path, &["west"]);
    }
    // The control: who is not asked to stay near goes everywhere.
    check("zoned-a", "anywhere", &["east", "west"]);
    check("zoned-b", "anywhere", &["east", "west"]);
    // A zone that changes is another one from the next request on.
    put(&stage, "node-a", "zone-west");
    check("zoned-a", "hinted", &["west"]);
    check("zoned-a", "close", &["east", "west"]);
    // One for which there is nothing has all.
    put(&stage, "node-a", "zone-north");
    check("zoned-a", "hinted", &["east", "west"]);
    check("zoned-b", "hinted", &["west"]);
    for pod in ["zoned-a", "zoned-b", "east", "west"] {
        stage.world().remove_pod(pod).unwrap();
    }
}
