//! A Gateway as one `kubectl apply` makes it: its proxies, its address, and the mesh behind it.

use node_proxy::demo::command::until;
use serde_json::json;

use super::rig::{NODES, Namespace, PATIENCE, host_of};
use super::stage::Seen;

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: front}
spec:
  gatewayClassName: gammarus
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{name: front}]
  rules:
    - matches: [{path: {value: /old}}]
      filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /new}}}]
    - backendRefs: [{name: web, port: 80}]
";

/// What the host, which is outside the cluster, is answered.
fn ask(namespace: &Namespace, url: &str) -> String {
    let flags = ["--silent", "--show-error", "--max-time", "5", "--dump-header", "-", url];
    namespace.cluster.run("curl", &flags, "").stdout
}

#[test]
fn a_gateway_is_served_at_its_address_by_proxies_of_its_own_that_speak_mtls_with_the_mesh() {
    let namespace = Namespace::enrolled("gateway");
    namespace.server("web", NODES[1], 1);
    let pod = namespace.field("pods", ".items[0].metadata.name");
    namespace.wait_for_mark(&pod);
    namespace.apply(GATEWAY);
    namespace.wait("Programmed", "gateway/front");
    let address = host_of(&namespace.field("gateway/front", ".status.addresses[0].value"));

    let answers = |path: &str, expected: &[&str]| {
        let mut last = String::new();
        let comes = until(PATIENCE, || {
            last = ask(&namespace, &format!("http://{address}{path}")).to_lowercase();
            expected.iter().all(|expected| last.contains(expected))
        });
        assert!(comes, "{path}: {last}");
    };
    answers("/", &["http/1.1 200"]);
    answers("/old", &["http/1.1 302", "/new"]);
    let log = || {
        let own = ["logs", "--selector", "gammarus.io/gateway=front-gammarus", "--tail=-1"];
        namespace.kubectl(&own).output()
    };
    let identity = format!("dst.identity=spiffe://cluster.local/ns/{}/sa/default mtls=yes", namespace.name);
    let is_said = || log().lines().any(|line| line.contains("direction=ingress") && line.contains(&identity));
    assert!(until(PATIENCE, is_said), "{}", log());

    // Its pods are in a namespace of the mesh, and are never redirected themselves: their marks are of their listeners alone,
    // where pods of the mesh are known.
    namespace.wait_for_rollout("deployment/front-gammarus");
    let own = ["get", "pods", "--selector", "gammarus.io/gateway=front-gammarus", "--output", "name"];
    for pod in namespace.kubectl(&own).output().lines() {
        let pod = pod.trim_start_matches("pod/");
        namespace.wait_for_mark(pod);
        let mark = namespace.pod_now(pod).mark;
        assert_eq!(mark.as_ref().map(|mark| &mark["ports"]), Some(&json!([80])), "{pod}: {mark:?}");
    }
    namespace.client("client", NODES[0]);
    namespace.wait_for_mark("client");
    let service = format!("http://front-gammarus.{}", namespace.name);
    let client = format!("src.identity=spiffe://cluster.local/ns/{}/sa/default", namespace.name);
    let is_known = || {
        namespace.ask("client", &[&format!("{service}/from-a-pod")]);
        log().lines().any(|line| line.contains("path=/from-a-pod ") && line.contains(&client))
    };
    assert!(until(PATIENCE, is_known), "{}", log());
    let metrics = namespace.curl("client", &[&format!("{service}:15021/metrics")]);
    assert!(!metrics.success, "the Service of a Gateway has a port that is no listener's");

    // An edit of the listeners is one of the Service, and all goes with the Gateway.
    let add = r#"[{"op": "add", "path": "/spec/listeners/-", "value": {"name": "other", "port": 8080, "protocol": "HTTP"}}]"#;
    namespace.kubectl(&["patch", "gateway", "front", "--type", "json", "--patch", add]).output();
    answers(":8080/", &["http/1.1 200"]);
    namespace.kubectl(&["delete", "gateway", "front"]).output();
    let left = || {
        let kinds = "deployments,services,serviceaccounts,configmaps";
        let own = ["get", kinds, "--selector", "gammarus.io/gateway=front-gammarus", "--output", "name"];
        namespace.kubectl(&own).output()
    };
    assert!(until(PATIENCE, || left().is_empty()), "{}", left());
}

#[test]
fn with_the_local_policy_backends_are_told_the_clients_own_address() {
    let namespace = Namespace::enrolled("local");
    namespace.server("web", NODES[1], 1);
    // What comes from outside comes to one node, which has to have a pod.
    let local = "{apiVersion: v1, kind: ConfigMap, metadata: {name: front}, data: {gateway.yaml: '{
      topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule}],
      replicas: 2, service: {externalTrafficPolicy: Local}}'}}";
    let named = GATEWAY.replace(
        "gatewayClassName: gammarus",
        "gatewayClassName: gammarus\n  infrastructure: {parametersRef: {group: '', kind: ConfigMap, name: front}}",
    );
    assert_ne!(named, GATEWAY);
    namespace.apply(&[local, &named].join("\n---\n"));
    namespace.wait("Programmed", "gateway/front");
    namespace.wait_for_rollout("deployment/front-gammarus");
    let address = host_of(&namespace.field("gateway/front", ".status.addresses[0].value"));
    let seen = || {
        let answer =
            namespace.cluster.run("curl", &["-s", "--max-time", "5", &format!("http://{address}/")], "");
        serde_json::from_str::<Seen>(&answer.stdout).ok()?.header("x-forwarded-for")
    };
    // This machine, as the nodes know it.
    assert!(until(PATIENCE, || seen().as_deref() == Some("172.30.0.1")), "{:?}", seen());
    // The control: where any node takes it, the client is the node that did.
    let cluster = local.replace("Local", "Cluster");
    namespace.apply(&cluster);
    let is_a_node = |client: String| client != "172.30.0.1";
    assert!(until(PATIENCE, || seen().is_some_and(is_a_node)), "{:?}", seen());
}
