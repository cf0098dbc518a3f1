//! Endpoints: from slices, from pods, and which of them may be chosen.

use std::sync::atomic::Ordering;

use super::*;

/// A Service `shop/s` with these lines of its spec besides its one port.
fn service(spec: &str) -> String {
    format!(
        "---\nkind: Service\nmetadata: {{name: s}}\n\
         spec: {{clusterIP: 10.96.0.1{spec}, ports: [{{name: web, port: 80, targetPort: 8080}}]}}\n"
    )
}

fn slice(name: &str, endpoints: &str) -> String {
    format!(
        "---\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: s}}}}\n\
         addressType: IPv4\nports: [{{name: web, port: 9090, protocol: TCP}}, {{name: other, port: 1}}]\n\
         endpoints: [{endpoints}]\n"
    )
}

fn pod(name: &str, metadata: &str, spec: &str, status: &str) -> String {
    format!(
        "---\nkind: Pod\nmetadata: {{name: {name}, uid: uid-{name}, labels: {{app: s}}{metadata}}}\n\
         spec: {{nodeName: a, containers: [{{name: c, ports: [{{name: web, containerPort: 7070}}]}}]{spec}}}\n\
         status: {{{status}}}\n"
    )
}

#[track_caller]
fn check(documents: &[&str], expected: &[&str]) {
    let snapshot = snapshot_of(&documents.concat());
    assert_eq!(addresses(port(&snapshot, "shop/s", 80)), expected);
}

#[test]
fn slices_give_the_endpoints_with_the_port_of_the_same_name() {
    let one =
        slice("one", "{addresses: [10.0.0.2, 10.0.0.9]}, {addresses: [10.0.0.1], conditions: {ready: true}}");
    let two = slice("two", "{addresses: [10.0.0.3]}, {addresses: [10.0.0.1]}");
    check(&[&service(""), &one, &two], &["10.0.0.1:9090", "10.0.0.2:9090", "10.0.0.3:9090"]);
}

#[test]
fn serving_and_terminating_endpoints_are_taken_only_when_none_is_ready() {
    let terminating = "{addresses: [10.0.0.1], conditions: {ready: false, serving: true, terminating: true}}";
    let gone = "{addresses: [10.0.0.2], conditions: {ready: false, serving: false, terminating: true}}";
    let not_ready = "{addresses: [10.0.0.3], conditions: {ready: false, serving: false}}";
    let ready = "{addresses: [10.0.0.4], conditions: {ready: true}}";
    let v6_terminating =
        "{addresses: ['fd00::1'], conditions: {ready: false, serving: true, terminating: true}}";
    let s = service("");
    check(&[&s, &slice("x", &[terminating, gone, not_ready].join(","))], &["10.0.0.1:9090"]);
    check(&[&s, &slice("x", &[terminating, gone, not_ready, ready].join(","))], &["10.0.0.4:9090"]);
    check(&[&s, &slice("x", &[ready, v6_terminating].join(","))], &["10.0.0.4:9090", "[fd00::1]:9090"]);
    check(&[&s, &slice("x", &[gone, not_ready].join(","))], &[]);
}

#[test]
fn a_pods_endpoint_is_used_once_its_pod_is_known_with_that_uid_and_address() {
    let to = |uid: &str| {
        format!("{{addresses: [10.0.0.1], targetRef: {{kind: Pod, namespace: shop, name: p, uid: {uid}}}}}")
    };
    let (s, p) = (service(""), pod("p", "", "", "podIP: 10.0.0.1"));
    check(&[&s, &slice("x", &to("uid-p"))], &[]);
    check(&[&s, &slice("x", &to("uid-p")), &p], &["10.0.0.1:9090"]);
    check(&[&s, &slice("x", &to("uid-older")), &p], &[]);
    check(&[&s, &slice("x", &to("uid-p")), &pod("p", "", "", "phase: Pending")], &[]);
    check(&[&s, &slice("x", &to("uid-p")), &pod("p", "", "", "phase: Failed, podIP: 10.0.0.1")], &[]);
}

#[test]
fn an_endpoint_carries_its_pod_and_a_pod_of_the_host_network_carries_none() {
    let yaml = [
        service(""),
        slice(
            "x",
            "{addresses: [10.0.0.1]}, {addresses: [192.168.0.1], targetRef: {kind: Pod, name: h, uid: uid-h}}, {addresses: [10.9.9.9]}",
        ),
        pod("p", "", "", "podIP: 10.0.0.1"),
        pod("h", "", ", hostNetwork: true", "podIP: 192.168.0.1"),
    ];
    let snapshot = snapshot_of(&yaml.concat());
    let endpoints = &port(&snapshot, "shop/s", 80).endpoints.endpoints;
    let pods: Vec<Option<&str>> = endpoints
        .iter()
        .map(|endpoint| endpoint.workload.as_ref().map(|workload| &*workload.pod.name))
        .collect();
    assert_eq!(pods, [Some("p"), None, None]);
}

#[test]
fn without_slices_a_selector_finds_the_pods_that_are_ready() {
    let s = service(", selector: {app: s}");
    let condition =
        |status: &str| format!("conditions: [{{type: Ready, status: '{status}'}}], podIP: 10.0.0.1");
    check(&[&s, &pod("p", "", "", "podIP: 10.0.0.1")], &["10.0.0.1:8080"]);
    check(&[&s, &pod("p", "", "", &condition("True"))], &["10.0.0.1:8080"]);
    check(&[&s, &pod("p", "", "", &condition("False"))], &[]);
    check(&[&s, &pod("p", "", "", "phase: Succeeded, podIP: 10.0.0.1")], &[]);
    check(&[&s, &pod("p", ", namespace: other", "", "podIP: 10.0.0.1")], &[]);
    check(&[&service(", selector: {app: other}"), &pod("p", "", "", "podIP: 10.0.0.1")], &[]);
    check(&[&service(""), &pod("p", "", "", "podIP: 10.0.0.1")], &[]);
    let publishing = service(", selector: {app: s}, publishNotReadyAddresses: true");
    check(&[&publishing, &pod("p", "", "", &condition("False"))], &["10.0.0.1:8080"]);
}

#[test]
fn without_slices_a_pod_whose_address_is_anothers_by_now_is_no_endpoint() {
    let born = |year: u32| format!(", creationTimestamp: '{year}-01-01T00:00:00Z'");
    let old = pod("old", &born(2025), "", "podIP: 10.0.0.1");
    let new = pod("new", &born(2026), "", "podIP: 10.0.0.1").replace("app: s", "app: other");
    check(&[&service(", selector: {app: s}"), &old], &["10.0.0.1:8080"]);
    check(&[&service(", selector: {app: s}"), &old, &new], &[]);
    check(&[&service(", selector: {app: other}"), &old, &new], &["10.0.0.1:8080"]);
}

#[test]
fn without_slices_a_leaving_pod_is_taken_only_when_no_other_is_left() {
    let s = service(", selector: {app: s}");
    let leaving = pod("p", ", deletionTimestamp: '2026-01-01T00:00:00Z'", "", "podIP: 10.0.0.1");
    check(&[&s, &leaving], &["10.0.0.1:8080"]);
    check(&[&s, &leaving, &pod("q", "", "", "podIP: 10.0.0.2")], &["10.0.0.2:8080"]);
}

#[test]
fn a_slice_of_the_service_stands_even_when_it_is_empty() {
    let s = service(", selector: {app: s}");
    check(&[&s, &slice("x", ""), &pod("p", "", "", "podIP: 10.0.0.1")], &[]);
}

#[test]
fn a_target_port_may_be_a_name_a_number_or_absent() {
    let s = |target: &str| {
        format!(
            "---\nkind: Service\nmetadata: {{name: s}}\n\
             spec: {{clusterIP: 10.96.0.1, selector: {{app: s}}, ports: [{{port: 80{target}}}]}}\n"
        )
    };
    let p = pod("p", "", "", "podIP: 10.0.0.1");
    check(&[&s(", targetPort: web"), &p], &["10.0.0.1:7070"]);
    check(&[&s(", targetPort: 81"), &p], &["10.0.0.1:81"]);
    check(&[&s(""), &p], &["10.0.0.1:80"]);
    check(&[&s(", targetPort: none"), &p], &[]);
    let sidecar =
        ", initContainers: [{name: i, restartPolicy: Always, ports: [{name: side, containerPort: 5}]}]";
    check(&[&s(", targetPort: side"), &pod("p", "", sidecar, "podIP: 10.0.0.1")], &["10.0.0.1:5"]);
}

#[test]
fn endpoints_made_from_pods_have_the_services_address_families() {
    let p = pod("p", "", "", "podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]");
    check(&[&service(", selector: {app: s}"), &p], &["10.0.0.1:8080"]);
    check(&[&service(", selector: {app: s}, ipFamilies: [IPv6]"), &p], &["[fd00::1]:8080"]);
    check(
        &[&service(", selector: {app: s}, clusterIPs: [10.96.0.1, 'fd96::1']"), &p],
        &["10.0.0.1:8080", "[fd00::1]:8080"],
    );
}

#[test]
fn internal_traffic_policy_local_keeps_to_the_own_node() {
    let local = service(", internalTrafficPolicy: Local, selector: {app: s}");
    let endpoints =
        "{addresses: [10.0.0.1], nodeName: a}, {addresses: [10.0.0.2], nodeName: b}, {addresses: [10.0.0.3]}";
    check(&[&local, &slice("x", endpoints)], &["10.0.0.1:9090"]);
    check(&[&local, &slice("x", "{addresses: [10.0.0.2], nodeName: b}")], &[]);
    check(&[&local, &pod("p", "", "", "podIP: 10.0.0.1")], &["10.0.0.1:8080"]);
}

#[test]
fn internal_traffic_policy_is_of_cluster_addresses_alone() {
    let yaml = service(", internalTrafficPolicy: Local, externalIPs: [198.51.100.1]")
        .replace("port: 80,", "port: 80, nodePort: 30080,")
        + &slice("x", "{addresses: [10.0.0.1], nodeName: a}, {addresses: [10.0.0.2], nodeName: b}")
        + "---\nkind: Node\nmetadata: {name: a}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.1}]}\n";
    let snapshot = snapshot_of(&yaml);
    let behind = |destination: &str| {
        let frontend = snapshot.find_frontend(destination.parse().unwrap()).expect("it leads to the Service");
        addresses(&frontend.port)
    };
    assert_eq!(behind("10.96.0.1:80"), ["10.0.0.1:9090"]);
    for destination in ["198.51.100.1:80", "192.0.2.1:30080"] {
        assert_eq!(behind(destination), ["10.0.0.1:9090", "10.0.0.2:9090"], "{destination}");
    }
    assert_eq!(addresses(port(&snapshot, "shop/s", 80)), ["10.0.0.1:9090"], "as a backend");
}

#[test]
fn session_affinity_has_its_time() {
    let affinity =
        |spec: &str| port(&snapshot_of(&service(spec)), "shop/s", 80).affinity.map(|time| time.as_secs());
    assert_eq!(affinity(""), None);
    assert_eq!(affinity(", sessionAffinity: None"), None);
    assert_eq!(affinity(", sessionAffinity: ClientIP"), Some(10_800));
    let timed = ", sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 7}}";
    assert_eq!(affinity(timed), Some(7));
}

/// Nodes `a`, which is the own one, and `b` in one zone, `c` in another, `d` in none.
const NODES: &str = "---\nkind: Node\nmetadata: {name: a, labels: {topology.kubernetes.io/zone: one}}\n\
                     ---\nkind: Node\nmetadata: {name: b, labels: {topology.kubernetes.io/zone: one}}\n\
                     ---\nkind: Node\nmetadata: {name: c, labels: {topology.kubernetes.io/zone: two}}\n\
                     ---\nkind: Node\nmetadata: {name: d}\n";

#[test]
fn hints_of_slices_count_where_every_ready_endpoint_has_one() {
    let one = "{addresses: [10.0.0.1], hints: {forZones: [{name: one}]}}";
    let two = "{addresses: [10.0.0.2], hints: {forZones: [{name: two}]}}";
    let both = "{addresses: [10.0.0.3], hints: {forZones: [{name: two}, {name: one}]}}";
    let none = "{addresses: [10.0.0.4]}";
    let unready = "{addresses: [10.0.0.5], conditions: {ready: false}}";
    let here = "{addresses: [10.0.0.6], hints: {forZones: [{name: two}], forNodes: [{name: a}]}}";
    let there = "{addresses: [10.0.0.7], hints: {forZones: [{name: one}], forNodes: [{name: b}]}}";
    let s = service("");
    let check = |endpoints: &[&str], expected: &[&str]| {
        check(&[&s, NODES, &slice("x", &endpoints.join(", "))], expected);
    };
    check(&[one, two, both], &["10.0.0.1:9090", "10.0.0.3:9090"]);
    check(&[one, two, both, unready], &["10.0.0.1:9090", "10.0.0.3:9090"]);
    check(&[one, two, none], &["10.0.0.1:9090", "10.0.0.2:9090", "10.0.0.4:9090"]);
    check(&[two], &["10.0.0.2:9090"]);
    check(&[here, there], &["10.0.0.6:9090"]);
    // Not all say nodes: zones it is.
    check(&[here, there, one], &["10.0.0.1:9090", "10.0.0.7:9090"]);
    check(&[there, two], &["10.0.0.7:9090"]);
}

#[test]
fn without_slices_traffic_distribution_is_made_of_the_nodes_zones() {
    let on = |node: &str, last: u8| {
        pod(node, "", "", &format!("podIP: 10.0.0.{last}"))
            .replace("nodeName: a", &format!("nodeName: {node}"))
    };
    let (a, b, c, d) = (on("a", 1), on("b", 2), on("c", 3), on("d", 4));
    let s =
        |distribution: &str| service(&format!(", selector: {{app: s}}, trafficDistribution: {distribution}"));
    for distribution in ["PreferClose", "PreferSameZone"] {
        check(&[NODES, &s(distribution), &a, &b, &c], &["10.0.0.1:8080", "10.0.0.2:8080"]);
        check(&[NODES, &s(distribution), &c], &["10.0.0.3:8080"]);
        // Nobody knows where `d` is.
        check(&[NODES, &s(distribution), &a, &c, &d], &["10.0.0.1:8080", "10.0.0.3:8080", "10.0.0.4:8080"]);
    }
    check(&[NODES, &s("PreferSameNode"), &a, &b, &c], &["10.0.0.1:8080"]);
    check(&[NODES, &s("PreferSameNode"), &b, &c], &["10.0.0.2:8080"]);
    check(&[NODES, &service(", selector: {app: s}"), &a, &c], &["10.0.0.1:8080", "10.0.0.3:8080"]);
}

#[test]
fn a_node_that_moves_to_another_zone_changes_who_is_near() {
    let s = service(", selector: {app: s}, trafficDistribution: PreferClose");
    let pods = pod("p", "", "", "podIP: 10.0.0.1")
        + &pod("q", "", "", "podIP: 10.0.0.2").replace("nodeName: a", "nodeName: c");
    let mut cluster = Cluster::new();
    let near = |cluster: &mut Cluster, nodes: &str| {
        addresses(port(&cluster.become_these(objects(&[nodes, &s, &pods].concat())), "shop/s", 80))
    };
    assert_eq!(near(&mut cluster, NODES), ["10.0.0.1:8080"]);
    assert_eq!(near(&mut cluster, &NODES.replace("two", "one")), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    assert_eq!(near(&mut cluster, NODES), ["10.0.0.1:8080"]);
}

#[test]
fn an_endpoint_that_no_service_has_any_more_says_so() {
    let (s, p) = (service(", selector: {app: s}"), pod("p", "", "", "podIP: 10.0.0.1"));
    let leaving = pod("p", ", deletionTimestamp: '2026-01-01T00:00:00Z'", "", "podIP: 10.0.0.1");
    let other = pod("q", "", "", "podIP: 10.0.0.2");
    let mut cluster = Cluster::new();
    let first = cluster.become_these(objects(&[&*s, &p, &other].concat()));
    let loads: Vec<_> =
        port(&first, "shop/s", 80).endpoints.endpoints.iter().map(|it| Arc::clone(&it.load)).collect();
    let left = || loads.iter().map(|load| load.has_left.load(Ordering::Relaxed)).collect::<Vec<_>>();
    assert_eq!(left(), [false, false]);
    cluster.become_these(objects(&[&*s, &leaving, &other].concat()));
    assert_eq!(left(), [true, false], "it is being drained");
    cluster.become_these(objects(&s));
    assert_eq!(left(), [true, true]);
}

#[test]
fn load_outlives_snapshots_and_belongs_to_one_pod_at_one_address() {
    let yaml = |pods: &str| objects(&format!("{}{pods}", service(", selector: {app: s}")));
    let mut cluster = Cluster::new();
    let first = cluster.become_these(yaml(&pod("p", "", "", "podIP: 10.0.0.1")));
    let load = Arc::clone(&port(&first, "shop/s", 80).endpoints.endpoints[0].load);
    load.in_flight.store(3, Ordering::Relaxed);

    let mut objects = yaml(&pod("p", "", "", "podIP: 10.0.0.1"));
    mark(&mut objects, "shop/p", "uid-p", &["10.0.0.1"]);
    let marked = cluster.become_these(objects);
    let endpoint = &port(&marked, "shop/s", 80).endpoints.endpoints[0];
    assert!(Arc::ptr_eq(&endpoint.load, &load), "the same pod, changed");

    let reused = cluster.become_these(yaml(&pod("q", "", "", "podIP: 10.0.0.1")));
    let endpoint = &port(&reused, "shop/s", 80).endpoints.endpoints[0];
    assert_eq!(endpoint.load.in_flight.load(Ordering::Relaxed), 0, "a reused address is a new workload");
}

#[test]
fn two_services_share_the_load_of_one_pod() {
    let yaml = [
        service(", selector: {app: s}"),
        service(", selector: {app: s}").replace("name: s}", "name: t}").replace("10.96.0.1", "10.96.0.2"),
        pod("p", "", "", "podIP: 10.0.0.1"),
    ];
    let snapshot = snapshot_of(&yaml.concat());
    let endpoint = |service| &port(&snapshot, service, 80).endpoints.endpoints[0];
    assert!(Arc::ptr_eq(endpoint("shop/s"), endpoint("shop/t")));
}
