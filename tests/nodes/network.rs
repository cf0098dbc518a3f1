//! Pods, Services and addresses of Services, in both families and between the nodes.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::rig::{NODES, Namespace, host_of, run};

/// A server on each node, each of which says its name, and a Service over both.
const SERVERS: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule,
         labelSelector: {matchLabels: {app: web}}}
      containers:
      - name: web
        image: nginx:1.29
        lifecycle: {postStart: {exec: {command: [sh, -c, hostname >/usr/share/nginx/html/index.html]}}}
        readinessProbe: {httpGet: {port: 80}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, ipFamilyPolicy: RequireDualStack, selector: {app: web}, ports: [{port: 80}]}
"#;
/// For how long an answer of both servers is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

fn serve(purpose: &str) -> Namespace {
    let namespace = Namespace::new(purpose);
    namespace.apply(SERVERS);
    namespace.wait("Available", "deployment/web");
    namespace
}

/// The names of the servers.
fn servers(namespace: &Namespace) -> Vec<String> {
    let names = namespace.kubectl(&["get", "pods", "--selector", "app=web", "--output", "name"]).output();
    names.lines().map(|line| line.trim_start_matches("pod/").to_owned()).collect()
}

/// Each server has answered at least once.
#[track_caller]
fn assert_all_answer(servers: &[String], ask: impl Fn() -> String) {
    let begun = Instant::now();
    let mut missing = servers.to_vec();
    while !missing.is_empty() {
        let answer = ask();
        assert!(servers.contains(&answer), "{answer:?} is none of {servers:?}");
        missing.retain(|server| *server != answer);
        assert!(begun.elapsed() < PATIENCE, "{missing:?} did not answer");
    }
}

#[test]
fn a_service_is_reached_in_both_families_from_both_nodes() {
    let namespace = serve("families");
    let servers = servers(&namespace);
    assert_eq!(servers.len(), 2, "{servers:?}");
    let addresses = namespace.field("service/web", ".spec.clusterIPs[*]");
    assert!(addresses.contains(':') && addresses.contains('.'), "{addresses}");
    let mut hosts: Vec<_> = addresses.split_whitespace().map(host_of).collect();
    hosts.push(format!("web.{}.svc.cluster.local", namespace.name));
    for node in NODES {
        namespace.client(node, node);
        for host in &hosts {
            let url = format!("http://{host}");
            assert_all_answer(&servers, || {
                namespace.exec(node, &["curl", "-sS", "--max-time", "5", &url]).output()
            });
        }
    }
}

#[test]
fn a_pod_reaches_itself_through_its_own_service() {
    let namespace = serve("itself");
    let servers = servers(&namespace);
    for server in &servers {
        assert_all_answer(&servers, || {
            namespace.exec(server, &["curl", "-sS", "--max-time", "5", "http://web"]).output()
        });
    }
}

#[test]
fn a_balancers_addresses_are_reached_from_outside() {
    let namespace = serve("outside");
    let servers = servers(&namespace);
    let given = || namespace.field("service/web", ".status.loadBalancer.ingress[*].ip");
    let begun = Instant::now();
    while given().split_whitespace().count() < 2 {
        assert!(begun.elapsed() < PATIENCE, "it has only {:?}", given());
        thread::sleep(Duration::from_millis(200));
    }
    for address in given().split_whitespace() {
        let url = format!("http://{}", host_of(address));
        assert_all_answer(&servers, || {
            let mut curl = Command::new("curl");
            curl.args(["-sS", "--max-time", "5", &url]);
            run(curl, "").output()
        });
    }
}

#[test]
fn pods_of_a_stateful_set_have_names() {
    let namespace = Namespace::new("names");
    let set = SERVERS
        .replace("kind: Deployment", "kind: StatefulSet")
        .replace("  replicas: 2", "  replicas: 2\n  serviceName: web\n  podManagementPolicy: Parallel")
        .replace("type: LoadBalancer,", "clusterIP: None,");
    namespace.apply(&set);
    namespace.wait_for_rollout("statefulset/web");
    for pod in ["web-0", "web-1"] {
        let peer = if pod == "web-0" { "web-1" } else { "web-0" };
        let url = format!("http://{peer}.web");
        let begun = Instant::now();
        // The name server remembers for some seconds that there was no such name.
        while namespace.exec(pod, &["curl", "-sS", "--max-time", "5", &url]).stdout.trim() != peer {
            assert!(begun.elapsed() < PATIENCE, "{pod} does not reach {url}");
            thread::sleep(Duration::from_millis(200));
        }
    }
}
