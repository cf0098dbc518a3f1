//! Whatever happens, in whatever order: what follows from the changes is what follows from what there is in the end.

use std::collections::HashMap;
use std::net::SocketAddr;

use serde_json::Value;

use super::*;
use crate::attach::fixture::applied;
use crate::cluster::objects::{Kind, Mark, Object, ObjectId};
use crate::dice::Dice;
use crate::snapshot::service::{Endpoint, FrontendKind};

const NAMESPACES: [&str; 3] = ["shop", "client", "other"];
const SERVICES: [&str; 4] = ["s", "t", "u", "v"];
const APPS: [&str; 3] = ["a", "b", "c"];
const ADDRESSES: [&str; 6] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "'fd00::1'", "'fd00::2'", "192.168.0.1"];
/// Few, so that Services, their external addresses and nodes meet in them.
const VIPS: [&str; 5] = ["10.96.0.1", "10.96.0.2", "10.96.0.3", "'fd96::1'", "192.168.0.1"];
const KINDS: [Kind; 13] = [
    Kind::EndpointSlice,
    Kind::GrpcRoute,
    Kind::HttpRoute,
    Kind::HttpRoute,
    Kind::Mark,
    Kind::Namespace,
    Kind::Node,
    Kind::Pod,
    Kind::Pod,
    Kind::Service,
    Kind::TcpRoute,
    Kind::TcpRoute,
    Kind::TlsRoute,
];

fn random_change(dice: &mut Dice) -> Vec<Change> {
    let kind = KINDS[dice.below(KINDS.len())];
    let namespace = NAMESPACES[dice.below(if kind == Kind::Namespace { 3 } else { 2 })];
    let name = match kind {
        Kind::Service => dice.of(&SERVICES),
        Kind::Namespace => namespace,
        Kind::Node => dice.of(&["a", "b"]),
        _ => dice.of(&["o1", "o2", "o3", "o4"]),
    };
    let key = ObjectKey::new(if kind.is_cluster_scoped() { "" } else { namespace }, name);
    if dice.below(4) == 0 {
        return vec![Change::Deleted(ObjectId { kind, key })];
    }
    let (what, body) = match kind {
        Kind::EndpointSlice => ("EndpointSlice", slice(dice)),
        Kind::GrpcRoute => ("GRPCRoute", route(dice, "{method: {service: s}}")),
        Kind::HttpRoute => ("HTTPRoute", route(dice, "{path: {type: Exact, value: /x}}")),
        Kind::Mark => {
            let addresses = vec![ip(ADDRESSES[0]), ip(ADDRESSES[dice.below(3)])];
            let mark = Mark::of_captured(dice.of(&["u1", "u2"]), addresses);
            return vec![Change::Applied(key, Object::Mark(Box::new(mark)))];
        }
        Kind::Namespace => ("Namespace", namespace_labels(dice)),
        Kind::Node => ("Node", node(dice)),
        Kind::Pod => ("Pod", pod(dice)),
        Kind::Service => ("Service", service(dice)),
        Kind::TcpRoute => ("TCPRoute", plain_route(dice, "")),
        Kind::TlsRoute => {
            let names = dice.of(&["hostnames: [a.test], ", "hostnames: ['*.test', a.test], "]);
            ("TLSRoute", plain_route(dice, names))
        }
        _ => unreachable!("not among the kinds"),
    };
    let yaml = format!("kind: {what}\nmetadata: {{namespace: {namespace}, name: {name}{body}");
    let applied = applied(&yaml);
    assert_eq!(applied.len(), 1, "{yaml}");
    applied
}

fn namespace_labels(dice: &mut Dice) -> String {
    let (mesh, mtls) = (dice.of(&["enabled", "disabled"]), dice.of(&["strict", "permissive", "typo"]));
    format!(", labels: {{gammarus.io/mesh: {mesh}, gammarus.io/mtls: {mtls}}}}}")
}

fn node(dice: &mut Dice) -> String {
    let (range, address) = (dice.below(3), dice.of(&["192.168.0.1", "192.168.0.2"]));
    let zone = dice.of(&[
        "",
        ", labels: {topology.kubernetes.io/zone: z1}",
        ", labels: {topology.kubernetes.io/zone: z2}",
    ]);
    format!(
        "{zone}}}\nspec: {{podCIDR: 10.244.{range}.0/24}}\n\
         status: {{addresses: [{{type: InternalIP, address: {address}}}]}}"
    )
}

fn pod(dice: &mut Dice) -> String {
    let deleting = dice.of(&["", "", ", deletionTimestamp: '2026-01-01T00:00:00Z'"]);
    let created = dice.of(&["", ", creationTimestamp: '2026-01-01T00:00:00Z'"]);
    let annotation = dice.of(&["", ", annotations: {gammarus.io/plaintext-ports: '80, x'}"]);
    let (uid, app, tier) = (dice.of(&["u1", "u2"]), dice.of(&APPS), dice.of(&["x1", "x2"]));
    let (host, account) = (dice.of(&["", "", ", hostNetwork: true"]), dice.of(&["one", "two"]));
    let (phase, node) = (dice.of(&["Running", "Running", "Failed"]), dice.of(&["a", "b"]));
    let (first, second) = (dice.of(&ADDRESSES), dice.of(&ADDRESSES));
    let ready = dice.of(&["True", "False"]);
    format!(
        ", uid: {uid}{deleting}{created}{annotation}, labels: {{app: {app}, tier: {tier}}}}}\n\
         spec: {{nodeName: {node}, serviceAccountName: {account}{host}, \
         containers: [{{name: c, ports: [{{name: web, containerPort: 7070}}]}}]}}\n\
         status: {{phase: {phase}, podIPs: [{{ip: {first}}}, {{ip: {second}}}], \
         conditions: [{{type: Ready, status: '{ready}'}}]}}"
    )
}

fn service(dice: &mut Dice) -> String {
    let kind = dice.of(&["", "", "", ", type: ExternalName", ", internalTrafficPolicy: Local"]);
    let (vip, external) = (dice.of(&VIPS), dice.of(&VIPS));
    let vip = if dice.below(5) == 0 { "None" } else { vip };
    let selector = match dice.below(4) {
        0 => String::new(),
        1 => format!(", selector: {{app: {}, tier: x1}}", dice.of(&APPS)),
        _ => format!(", selector: {{app: {}}}", dice.of(&APPS)),
    };
    let (first, second) = (dice.of(&["http", "tcp-x", "web"]), dice.of(&["", ", {name: z, port: 81}"]));
    let node_port = dice.of(&["", ", nodePort: 80", ", nodePort: 30001"]);
    let affinity = dice.of(&["", ", sessionAffinity: ClientIP"]);
    let target = dice.of(&["web", "8080"]);
    let near = dice.of(&["", ", trafficDistribution: PreferClose", ", trafficDistribution: PreferSameNode"]);
    format!(
        "}}\nspec: {{clusterIP: {vip}, externalIPs: [{external}]{selector}{kind}{affinity}{near}, \
         ports: [{{name: {first}, port: 80, targetPort: {target}{node_port}}}{second}]}}"
    )
}

fn slice(dice: &mut Dice) -> String {
    let owner = match dice.below(5) {
        0 => String::new(),
        _ => format!(", labels: {{kubernetes.io/service-name: {}}}", dice.of(&SERVICES)),
    };
    let endpoints = (0..dice.below(4)).map(|_| {
        let (address, ready) = (dice.of(&ADDRESSES), dice.of(&["true", "false"]));
        let (name, uid) = (dice.of(&["o1", "o2", "o3", "o4"]), dice.of(&["", ", uid: u1"]));
        let target = match dice.below(3) {
            0 => String::new(),
            _ => format!(", targetRef: {{kind: Pod, name: {name}{uid}}}"),
        };
        let hints = dice.of(&["", ", hints: {forZones: [{name: z1}]}", ", hints: {forZones: [{name: z2}], forNodes: [{name: a}]}"]);
        format!(
            "{{addresses: [{address}], nodeName: a, conditions: {{ready: {ready}, terminating: true}}{target}{hints}}}"
        )
    });
    let endpoints = endpoints.collect::<Vec<_>>().join(", ");
    let port = dice.of(&["http", "web"]);
    format!("{owner}}}\naddressType: IPv4\nports: [{{name: {port}, port: 9090}}]\nendpoints: [{endpoints}]")
}

fn route(dice: &mut Dice, matching: &str) -> String {
    let parents = parents(dice);
    let rules = (0..=dice.below(2)).map(|_| {
        let matches = if dice.below(2) == 0 { format!("matches: [{matching}], ") } else { String::new() };
        let session = dice.of(&["", "", "", "sessionPersistence: {sessionName: x}, "]);
        let (name, port) = (dice.of(&SERVICES), dice.of(&["80", "80", "81", "9"]));
        let namespace = dice.of(&["", ", namespace: shop"]);
        format!("{{{matches}{session}backendRefs: [{{name: {name}{namespace}, port: {port}}}]}}")
    });
    let rules = rules.collect::<Vec<_>>().join(", ");
    let created = dice.of(&["", ", creationTimestamp: '2026-01-01T00:00:00Z'"]);
    format!("{created}}}\nspec: {{parentRefs: [{parents}], rules: [{rules}]}}")
}

fn parents(dice: &mut Dice) -> String {
    let parents = (0..=dice.below(2)).map(|_| {
        let (name, port) = (dice.of(&SERVICES), dice.of(&["", ", port: 80", ", port: 81", ", port: 7"]));
        let namespace = dice.of(&["", ", namespace: shop", ", namespace: client"]);
        let group = dice.of(&["''", "''", "''", "gateway.networking.k8s.io"]);
        format!("{{group: {group}, kind: Service, name: {name}{namespace}{port}}}")
    });
    parents.collect::<Vec<_>>().join(", ")
}

/// A route with nothing in its rule but backends.
fn plain_route(dice: &mut Dice, names: &str) -> String {
    let created = dice.of(&["", "1", "2"]);
    let created = match created {
        "" => String::new(),
        second => format!(", creationTimestamp: '2026-01-01T00:00:0{second}Z'"),
    };
    let (parents, name, port) = (parents(dice), dice.of(&SERVICES), dice.of(&["80", "80", "81", "9"]));
    format!(
        "{created}}}\nspec: {{{names}parentRefs: [{parents}], rules: [{{backendRefs: [{{name: {name}, port: {port}}}]}}]}}"
    )
}

/// Everything that a snapshot says, without what belongs to its process.
fn describe(snapshot: &Snapshot) -> Value {
    let mut dump = snapshot.dump();
    dump["generation"] = Value::Null;
    let mut nodes: Vec<_> = snapshot.node_addresses.iter().map(|entry| format!("{entry:?}")).collect();
    nodes.sort();
    dump["nodes"] = nodes.into();
    dump
}

/// Every endpoint by the pod's uid and the address.
fn endpoints(snapshot: &Snapshot) -> HashMap<(Option<Arc<str>>, SocketAddr), Arc<Endpoint>> {
    let mut found = HashMap::new();
    let ports = snapshot.service_ports.values().flat_map(|port| port.external.iter().chain([port]));
    for endpoint in ports.flat_map(|port| &port.endpoints.endpoints) {
        let uid = endpoint.workload.as_ref().map(|workload| Arc::clone(&workload.uid));
        let other = found.insert((uid, endpoint.address), Arc::clone(endpoint));
        assert!(other.is_none_or(|other| Arc::ptr_eq(&other, endpoint)), "one endpoint, one load");
    }
    found
}

fn describe_port(port: &ServicePort) -> String {
    let tables = port.producer.iter().chain(port.consumers.values());
    let rules: Vec<_> = tables.flat_map(|table| table.entries()).collect();
    let mut consumers: Vec<_> = port.consumers.keys().collect();
    consumers.sort();
    let external = port.external.as_ref().map(|external| &external.endpoints);
    format!(
        "{:?} {:?} {:?} {external:?} {consumers:?} {rules:?}",
        port.protocol, port.affinity, port.endpoints
    )
}

/// What a change did not touch is the very same as before.
fn check_sharing(before: &Snapshot, after: &Snapshot) {
    let known = endpoints(before);
    for (identity, endpoint) in endpoints(after) {
        if let Some(known) = known.get(&identity) {
            assert!(Arc::ptr_eq(&known.load, &endpoint.load), "{identity:?} lost its load");
        }
    }
    for (key, port) in after.service_ports.iter() {
        let Some(old) = before.find_service_port(key) else { continue };
        let is_same = port.consumers.len() < 2 && describe_port(old) == describe_port(port);
        assert!(!is_same || Arc::ptr_eq(old, port), "{key:?} was copied");
    }
    for frontend in after.frontends.values().chain(after.node_ports.values()) {
        let port = after.find_service_port(&frontend.port.key).expect("it leads somewhere");
        let port = port.external.as_ref().filter(|_| frontend.kind == FrontendKind::External).unwrap_or(port);
        assert!(Arc::ptr_eq(port, &frontend.port), "an address leads to a port as it was");
    }
}

fn play(seed: u64, steps: usize) -> [usize; 3] {
    let mut dice = Dice(seed);
    let mut cluster = Cluster::new();
    let mut before = Snapshot::default();
    let mut seen = [0; 3];
    for step in 0..steps {
        let changes: Vec<Change> = (0..=dice.below(3)).flat_map(|_| random_change(&mut dice)).collect();
        let told = format!("seed {seed:x}, step {step}: {changes:#?}");
        let after = cluster.apply(changes);
        let whole = compile_once(&cluster.objects);
        pretty_assert(&describe(&after), &describe(&whole), &told);
        let judged = Attachments::new(&cluster.objects);
        let json = |attachments: &Attachments| serde_json::to_value(attachments).unwrap();
        pretty_assert(&json(&cluster.attachments), &json(&judged), &told);
        check_sharing(&before, &after);
        let tables = after.service_ports.values().filter(|port| port.producer.is_some());
        seen = [seen[0] + tables.count(), seen[1] + endpoints(&after).len(), seen[2] + after.frontends.len()];
        before = after;
    }
    seen
}

#[track_caller]
fn pretty_assert(found: &Value, expected: &Value, told: &str) {
    if found == expected {
        return;
    }
    for (field, wanted) in expected.as_object().unwrap() {
        assert_eq!(&found[field], wanted, "{field} after {told}");
    }
}

#[test]
fn after_any_changes_the_snapshot_is_that_of_the_objects_there_are() {
    let mut seen = [0; 3];
    for seed in 1..=12_u64 {
        let of_one = play(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), 120);
        seen = std::array::from_fn(|at| seen[at] + of_one[at]);
    }
    // Tables, endpoints and addresses came and went, or the story shows nothing.
    assert!(seen.iter().all(|count| *count > 500), "{seen:?}");
}
