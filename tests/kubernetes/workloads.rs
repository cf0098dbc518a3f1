//! Every kind of pod that clusters have.

use std::collections::BTreeSet;
use std::net::IpAddr;

use node_proxy::demo::command::until;

use super::rig::{NODES, Namespace, PATIENCE, host_of};
use super::stage::spread;

#[test]
fn stateful_peers_find_each_other_by_name_and_by_address() {
    let namespace = Namespace::enrolled("peers");
    namespace.script();
    namespace.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: peer}, spec: {clusterIP: None, publishNotReadyAddresses: true,
           selector: {app: peer}, ports: [{name: http, port: 8080}]}}",
    );
    let (place, spec) = (spread("peer"), Namespace::server_spec());
    namespace.apply(&format!(
        "{{apiVersion: apps/v1, kind: StatefulSet, metadata: {{name: peer}}, spec: {{serviceName: peer, replicas: 3,
          podManagementPolicy: Parallel, selector: {{matchLabels: {{app: peer}}}}, template: {{
          metadata: {{labels: {{app: peer}}}}, spec: {{{place}, {spec}}}}}}}}}"
    ));
    namespace.wait_for_rollout("statefulset/peer");
    let ask =
        "import json,sys,urllib.request as r; print(json.load(r.urlopen(sys.argv[1], timeout=10))['pod'])";
    for from in 0..3 {
        let from = format!("peer-{from}");
        for to in 0..3 {
            let to = format!("peer-{to}");
            let by_name = format!("http://{to}.peer.{}.svc.cluster.local:8080/", namespace.name);
            let address = namespace.pod_now(&to).addresses[0];
            for url in [by_name, format!("http://{address}:8080/")] {
                let mut last = String::new();
                let answers = until(PATIENCE, || {
                    let said = namespace.exec(&from, &["python3", "-c", ask, &url]);
                    last = said.said();
                    said.stdout.trim() == to
                });
                assert!(answers, "{from} asks {url}: {last}");
            }
        }
    }
}

#[test]
fn a_pod_reaches_its_own_service_and_itself() {
    let namespace = Namespace::enrolled("self");
    namespace.server("server", NODES[0], 1);
    let pod = namespace.kubectl(&["get", "pods", "-l", "app=server", "-o", "name"]).output();
    let address = namespace.pods_of("server").remove(0).addresses[0];
    let ask =
        "import json,sys,urllib.request as r; print(json.load(r.urlopen(sys.argv[1], timeout=10))['pod'])";
    for url in
        ["http://server/".to_owned(), format!("http://{address}:8080/"), "http://127.0.0.1:8080/".to_owned()]
    {
        let mut last = String::new();
        let answers = until(PATIENCE, || {
            let said = namespace.exec(&pod, &["python3", "-c", ask, &url]);
            last = said.said();
            pod.ends_with(said.stdout.trim()) && !said.stdout.trim().is_empty()
        });
        assert!(answers, "{url}: {last}");
    }
}

#[test]
fn a_job_with_an_init_container_asks_from_both_and_ends() {
    let namespace = Namespace::enrolled("job");
    namespace.server("server", NODES[1], 1);
    namespace.apply(&format!(
        "{{apiVersion: batch/v1, kind: Job, metadata: {{name: once}}, spec: {{backoffLimit: 0, template: {{spec: {{
          nodeName: {}, restartPolicy: Never,
          initContainers: [{{name: first, image: 'curlimages/curl:8.17.0',
            command: [curl, -sS, --fail, --max-time, '10', 'http://server/init']}}],
          containers: [{{name: then, image: 'curlimages/curl:8.17.0',
            command: [curl, -sS, --fail, --max-time, '10', 'http://server/main']}}]}}}}}}}}",
        NODES[0]
    ));
    namespace.wait("Complete", "job/once");
    for (container, target) in [("first", "/init"), ("then", "/main")] {
        let said = namespace.kubectl(&["logs", "job/once", "-c", container]).output();
        assert!(said.contains(&format!("\"target\": \"{target}\"")), "{said}");
    }
}

#[test]
fn requests_of_one_connection_are_spread_over_all_pods() {
    let namespace = Namespace::enrolled("spread");
    namespace.server("server", NODES[1], 3);
    namespace.client("client", NODES[0]);
    let pods = |said: &str| -> BTreeSet<String> {
        let pod = |line: &str| {
            Some(serde_json::from_str::<serde_json::Value>(line).ok()?["pod"].as_str()?.to_owned())
        };
        said.lines().filter_map(pod).collect()
    };
    let spreads = || {
        let said = namespace
            .exec("client", &["curl", "-sS", "-w", "\n", "--max-time", "20", "http://server/[1-30]"]);
        pods(&said.stdout).len() == 3
    };
    assert!(until(PATIENCE, spreads));
}

#[test]
fn both_families_lead_to_the_same_servers() {
    let namespace = Namespace::enrolled("families");
    namespace.server("server", NODES[1], 1);
    namespace.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: both}, spec: {ipFamilyPolicy: RequireDualStack,
           selector: {app: server}, ports: [{name: http, port: 80, targetPort: 8080}]}}",
    );
    namespace.client("client", NODES[0]);
    namespace.wait_for_mark("client");
    let own = namespace.pod_now("client").addresses;
    for (flag, is_six) in [("-4", false), ("-6", true)] {
        let seen = namespace.ask("client", &[flag, "http://both/"]);
        assert_eq!((seen.client.is_ipv6(), own.contains(&seen.client)), (is_six, true), "{seen:?}");
        let address: IpAddr = *namespace.pods_of("server")[0]
            .addresses
            .iter()
            .find(|address| address.is_ipv6() == is_six)
            .unwrap();
        let host = host_of(&address.to_string());
        let seen = namespace.ask("client", &[&format!("http://{host}:8080/")]);
        assert!(own.contains(&seen.client), "{seen:?}");
    }
}

#[test]
fn hand_written_endpoints_are_followed() {
    let namespace = Namespace::enrolled("written");
    namespace.server("server", NODES[1], 1);
    namespace.client("client", NODES[0]);
    let address = namespace.pods_of("server").remove(0).addresses[0];
    namespace.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: written}, spec: {ports: [{name: http, port: 80}]}}",
    );
    namespace.apply(&format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: written-1,
           labels: {{kubernetes.io/service-name: written}}}}, addressType: IPv4,
           ports: [{{name: http, port: 8080}}], endpoints: [{{addresses: ['{address}']}}]}}"
    ));
    assert!(namespace.ask("client", &["http://written/"]).is_of("server"));
}

#[test]
fn a_service_without_endpoints_is_refused_in_words() {
    let namespace = Namespace::enrolled("empty");
    namespace.client("client", NODES[0]);
    namespace.wait_for_mark("client");
    namespace.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: empty}, spec: {selector: {app: nobody},
           ports: [{name: http, port: 80, appProtocol: http}]}}",
    );
    namespace.expect_status("client", &["http://empty/"], "503");
}
