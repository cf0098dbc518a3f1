//! Namespaces, nodes and pods.

use super::*;
use crate::snapshot::workload::{Enrolment, MtlsMode};

const NAMESPACES: &str = "
kind: Namespace
metadata: {name: shop, labels: {gammarus.io/mesh: enabled, gammarus.io/mtls: strict}}
---
kind: Namespace
metadata: {name: plain}
";

fn pod(namespace: &str, name: &str, more: &str, spec: &str, status: &str) -> String {
    format!(
        "---\nkind: Pod\nmetadata: {{namespace: {namespace}, name: {name}, uid: uid-{name}{more}}}\n\
         spec: {{containers: [], nodeName: a{spec}}}\nstatus: {{{status}}}\n"
    )
}

#[test]
fn namespaces_carry_their_labels() {
    let snapshot = snapshot_of(NAMESPACES);
    let shop = snapshot.find_namespace("shop").unwrap();
    assert!(shop.enrolled);
    assert_eq!(shop.mtls, MtlsMode::Strict);
    let plain = snapshot.find_namespace("plain").unwrap();
    assert!(!plain.enrolled);
    assert_eq!(plain.mtls, MtlsMode::Permissive);
}

#[test]
fn a_pod_has_the_identity_of_its_service_account_at_all_its_addresses() {
    let pods = [
        pod(
            "shop",
            "p",
            "",
            ", serviceAccountName: web",
            "podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]",
        ),
        pod("shop", "q", "", "", "podIP: 10.0.0.2"),
    ];
    let snapshot = snapshot_of(&format!("{NAMESPACES}{}", pods.concat()));
    let p = workload(&snapshot, "10.0.0.1");
    assert_eq!(p.identity.to_string(), "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(p.addresses, [ip("10.0.0.1"), ip("fd00::1")]);
    assert_eq!((&*p.uid, p.node.as_deref(), p.mtls), ("uid-p", Some("a"), MtlsMode::Strict));
    assert!(Arc::ptr_eq(p, workload(&snapshot, "fd00::1")));
    assert_eq!(
        workload(&snapshot, "10.0.0.2").identity.to_string(),
        "spiffe://cluster.local/ns/shop/sa/default"
    );
}

#[test]
fn finished_pods_and_pods_of_the_host_network_have_no_address_of_their_own() {
    let pods = [
        pod("shop", "done", "", "", "phase: Succeeded, podIP: 10.0.0.1"),
        pod("shop", "failed", "", "", "phase: Failed, podIP: 10.0.0.2"),
        pod("shop", "host", "", ", hostNetwork: true", "phase: Running, podIP: 192.168.0.1"),
        pod("shop", "runs", "", "", "phase: Running, podIP: 10.0.0.3"),
    ];
    let mut objects = objects(&format!("{NAMESPACES}{}", pods.concat()));
    mark(&mut objects, "shop/host", "uid-host", &["192.168.0.1"]);
    let snapshot = compile_once(&objects);
    assert_eq!(snapshot.workloads.keys().collect::<Vec<_>>(), [&ip("10.0.0.3")]);
}

#[test]
fn of_two_pods_with_one_address_the_living_and_then_the_younger_has_it() {
    let at = |time: &str| format!(", creationTimestamp: '{time}'");
    let leaving = format!("{}, deletionTimestamp: '2026-01-03T00:00:00Z'", at("2026-01-03T00:00:00Z"));
    let pods = [
        pod("shop", "a-young", &at("2026-01-02T00:00:00Z"), "", "podIP: 10.0.0.1"),
        pod("shop", "b-old", &at("2026-01-01T00:00:00Z"), "", "podIP: 10.0.0.1"),
        pod("shop", "c-leaving", &leaving, "", "podIP: 10.0.0.1"),
    ];
    let snapshot = snapshot_of(&pods.concat());
    assert_eq!(&*workload(&snapshot, "10.0.0.1").pod.name, "a-young");
}

#[track_caller]
fn check_enrolment(namespace: &str, labels: &str, marked: Option<(&str, &[&str])>, expected: [Enrolment; 2]) {
    let status = "podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]";
    let pod = pod(namespace, "p", &format!(", labels: {{{labels}}}"), "", status);
    let mut objects = objects(&format!("{NAMESPACES}{pod}"));
    if let Some((uid, addresses)) = marked {
        mark(&mut objects, &format!("{namespace}/p"), uid, addresses);
    }
    let snapshot = compile_once(&objects);
    let found = ["10.0.0.1", "fd00::1"].map(|address| workload(&snapshot, address).enrolment);
    assert_eq!(found, expected);
}

#[test]
fn only_a_mark_of_this_pod_and_address_means_mtls() {
    use Enrolment::{Expected, Marked, None as Plain};
    let (v4, both): (&[&str], &[&str]) = (&["10.0.0.1"], &["fd00::1", "10.0.0.1"]);
    check_enrolment("shop", "", Some(("uid-p", both)), [Marked, Marked]);
    check_enrolment("shop", "", Some(("uid-p", v4)), [Marked, Expected]);
    check_enrolment("shop", "", Some(("uid-other", both)), [Expected, Expected]);
    check_enrolment("shop", "", Some(("uid-p", &["10.0.0.9"])), [Expected, Expected]);
    check_enrolment("shop", "", None, [Expected, Expected]);
    check_enrolment("shop", "gammarus.io/mesh: disabled", None, [Plain, Plain]);
    check_enrolment("plain", "", None, [Plain, Plain]);
    check_enrolment("plain", "gammarus.io/mesh: enabled", None, [Plain, Plain]);
    check_enrolment("nowhere", "", None, [Plain, Plain]);
    // At release the mark goes first: until then peers keep to mTLS.
    check_enrolment("plain", "", Some(("uid-p", v4)), [Marked, Plain]);
}

#[test]
fn a_mark_of_ports_means_mtls_there_and_captures_nothing() {
    let mut objects = objects(&format!("{NAMESPACES}{}", pod("plain", "p", "", "", "podIP: 10.0.0.1")));
    mark(&mut objects, "plain/p", "uid-p", &["10.0.0.1"]);
    let of_all = compile_once(&objects);
    let captured = workload(&of_all, "10.0.0.1");
    assert!(captured.is_captured() && captured.enrolment_at(15021) == Enrolment::Marked);
    let key = ObjectKey::new("plain", "p");
    objects.marks.entry(key).and_modify(|mark| mark.ports = vec![80, 443]);
    let of_ports = compile_once(&objects);
    let found = [80, 443, 15021].map(|port| workload(&of_ports, "10.0.0.1").enrolment_at(port));
    assert_eq!(found, [Enrolment::Marked, Enrolment::Marked, Enrolment::None]);
    assert!(!workload(&of_ports, "10.0.0.1").is_captured());
}

#[test]
fn plaintext_ports_are_read_once_each_and_what_is_no_port_opens_nothing() {
    let annotation = ", annotations: {gammarus.io/plaintext-ports: '9090, 80,x,0,70000,80'}";
    let snapshot = snapshot_of(&pod("shop", "p", annotation, "", "podIP: 10.0.0.1"));
    assert_eq!(workload(&snapshot, "10.0.0.1").plaintext_ports, [80, 9090]);
}

#[test]
fn nodes_give_pod_ranges_and_their_own_addresses() {
    let snapshot = snapshot_of(
        "
kind: Node
metadata: {name: a}
spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24, 'fd00:1::/64']}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}, {type: Hostname, address: a}, {type: ExternalIP, address: '2001:db8::1'}]}
---
kind: Node
metadata: {name: b}
spec: {podCIDR: 10.244.2.0/24}
---
kind: Node
metadata: {name: within}
spec: {podCIDR: 10.244.2.128/25}
---
kind: Node
metadata: {name: not-by-its-first-address}
spec: {podCIDR: 10.244.4.9/23}
",
    );
    assert_eq!(snapshot.pod_ranges.len(), 4);
    for (address, expected) in [
        ("10.244.1.9", true),
        ("10.244.2.9", true),
        ("10.244.2.200", true),
        ("10.244.3.9", false),
        ("10.244.4.1", true),
        ("10.244.5.255", true),
        ("10.244.6.0", false),
        ("0.0.0.0", false),
        ("fd00:1::9", true),
        ("fd00:2::9", false),
    ] {
        assert_eq!(snapshot.is_pod_address(ip(address)), expected, "{address}");
    }
    assert_eq!(snapshot.node_addresses.len(), 2);
    assert_eq!(snapshot.node_addresses[&ip("2001:db8::1")].as_ref(), "a");
}

#[test]
fn a_pod_that_did_not_change_keeps_its_workload() {
    let unchanged = pod("shop", "p", "", "", "podIP: 10.0.0.1");
    let mut cluster = Cluster::new();
    let other = pod("shop", "q", "", "", "podIP: 10.0.0.2");
    let before = cluster.become_these(objects(&format!("{NAMESPACES}{unchanged}{other}")));
    let changed = pod("shop", "q", "", ", serviceAccountName: other", "podIP: 10.0.0.2");
    let after = cluster.become_these(objects(&format!("{NAMESPACES}{unchanged}{changed}")));
    assert_eq!(after.generation, before.generation + 1);
    assert!(Arc::ptr_eq(workload(&before, "10.0.0.1"), workload(&after, "10.0.0.1")));
    assert_eq!(workload(&after, "10.0.0.2").identity.service_account(), "other");
}
