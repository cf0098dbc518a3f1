//! What the proxy of a Gateway is told of, and above all what it is not.

use super::*;

const OBJECTS: &str = "
{kind: Service, metadata: {name: v2}, spec: {clusterIP: 10.96.0.3, ports: [{port: 80}]}}
---
{kind: Service, metadata: {name: mirrored}, spec: {clusterIP: 10.96.0.4, ports: [{port: 80}]}}
---
{kind: EndpointSlice, metadata: {name: v1-a, labels: {kubernetes.io/service-name: v1}}, addressType: IPv4,
 ports: [{port: 80}], endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, namespace: shop, name: v1-1}}]}
---
{kind: EndpointSlice, metadata: {name: v2-a, labels: {kubernetes.io/service-name: v2}}, addressType: IPv4,
 ports: [{port: 80}], endpoints: [{addresses: [10.0.0.2], targetRef: {kind: Pod, namespace: shop, name: v2-1}}]}
---
{kind: EndpointSlice, metadata: {name: by-hand, labels: {kubernetes.io/service-name: mirrored}}, addressType: IPv4,
 ports: [{port: 80}], endpoints: [{addresses: [10.0.0.3]}]}
---
{kind: Pod, metadata: {name: v1-1, uid: a}, spec: {nodeName: a, containers: []}, status: {podIPs: [{ip: 10.0.0.1}]}}
---
{kind: Pod, metadata: {name: v2-1, uid: b}, spec: {nodeName: a, containers: []}, status: {podIPs: [{ip: 10.0.0.2}]}}
---
{kind: Pod, metadata: {name: behind, namespace: blog, uid: c}, spec: {nodeName: a, containers: []},
 status: {podIPs: [{ip: 10.0.0.3}]}}
---
{kind: HTTPRoute, metadata: {name: own}, spec: {parentRefs: [{name: web}], rules: [{backendRefs: [{name: v1, port: 80}],
  filters: [{type: RequestMirror, requestMirror: {backendRef: {name: mirrored, port: 80}}}]}]}}
---
{kind: HTTPRoute, metadata: {name: foreign}, spec: {parentRefs: [{name: another}], rules: [{backendRefs: [{name: v2, port: 80}]}]}}
---
{kind: Gateway, metadata: {name: another}, spec: {gatewayClassName: gammarus, listeners: [{name: https, port: 443, protocol: HTTPS,
  tls: {certificateRefs: [{name: anothers}]}}]}}
---
{kind: Secret, metadata: {name: own}, type: kubernetes.io/tls}
---
{kind: Secret, metadata: {name: anothers}, type: kubernetes.io/tls}
---
{kind: Secret, metadata: {name: wanted, namespace: blog}, type: kubernetes.io/tls}
";

/// What the proxy of the Gateway `web` is told of, without what all have.
fn told(more: &[&str]) -> Vec<String> {
    let listeners = "{name: https, port: 443, protocol: HTTPS, \
        tls: {certificateRefs: [{name: own}, {name: wanted, namespace: blog}]}}";
    let gateway = gateway(listeners);
    let text = [&[CLASSES, OBJECTS, &gateway], more].concat().join("\n---\n");
    let objects = fixture::objects(&text);
    let extent = Gateways::new(&objects).extent(&objects, &ObjectKey::new("shop", "web"));
    let there = extent.ids.into_iter().filter(|id| objects.find(id).is_some());
    there.map(|id| id.to_string()).collect()
}

const OWN: [&str; 14] = [
    "EndpointSlice shop/by-hand",
    "EndpointSlice shop/v1-a",
    "Gateway shop/web",
    "GatewayClass gammarus",
    "HTTPRoute shop/own",
    "Namespace blog",
    "Namespace shop",
    "Pod blog/behind",
    "Pod shop/v1-1",
    "ReferenceGrant blog/lets",
    "Secret blog/wanted",
    "Secret shop/own",
    "Service shop/mirrored",
    "Service shop/v1",
];

#[test]
fn it_is_told_of_its_own_objects_and_of_no_others() {
    let ungranted: Vec<&str> = OWN
        .into_iter()
        .filter(|own| !matches!(*own, "ReferenceGrant blog/lets" | "Secret blog/wanted"))
        .collect();
    assert_eq!(told(&[]), ungranted);
    let grant = |kind: &str| {
        format!(
            "{{kind: ReferenceGrant, metadata: {{name: lets, namespace: blog}}, spec: {{from: [{{group: gateway.networking.k8s.io, \
             kind: {kind}, namespace: shop}}], to: [{{group: '', kind: Secret, name: wanted}}]}}}}"
        )
    };
    assert_eq!(told(&[&grant("Gateway")]), OWN);
    let of_sets = told(&[&grant("ListenerSet")]);
    assert!(!of_sets.contains(&"Secret blog/wanted".to_owned()), "it has no ListenerSet: {of_sets:?}");
}

#[test]
fn it_is_told_of_the_policies_for_its_backends_and_of_their_authorities() {
    let policy = |namespace: &str, name: &str| {
        format!(
            "{{kind: BackendTLSPolicy, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{
               targetRefs: [{{group: '', kind: Service, name: v1}}], validation: {{hostname: a.example,
               caCertificateRefs: [{{group: '', kind: ConfigMap, name: {name}}}]}}}}}}"
        )
    };
    let config_map = |namespace: &str, name: &str| {
        format!("{{kind: ConfigMap, metadata: {{name: {name}, namespace: {namespace}}}}}")
    };
    let [own, foreign] = [policy("shop", "own"), policy("blog", "foreign")];
    let there = [config_map("shop", "own"), config_map("shop", "other"), config_map("blog", "foreign")];
    let found = told(&[&own, &foreign, &there[0], &there[1], &there[2]]);
    let more: Vec<String> = found.into_iter().filter(|id| !OWN.contains(&id.as_str())).collect();
    assert_eq!(more, ["BackendTLSPolicy shop/own", "ConfigMap shop/own"]);

    // One that is not there yet is asked for, too, and is noticed when it comes.
    let text = [CLASSES, OBJECTS, &gateway("{name: http, port: 80, protocol: HTTP}"), &own].join("\n---\n");
    let objects = fixture::objects(&text);
    let gateways = Gateways::new(&objects);
    let late = ObjectId { kind: Kind::ConfigMap, key: ObjectKey::new("shop", "own") };
    assert!(gateways.extent(&objects, &ObjectKey::new("shop", "web")).ids.contains(&late));
    let mut changed = Changed::default();
    changed.config_maps.insert(late.key, None);
    assert!(Gateways::are_concerned(&gateways.named, &changed));
}

#[test]
fn it_is_told_of_all_nodes_as_far_as_they_count() {
    let node = |name: &str, zone: &str, heard: &str| {
        format!(
            "{{kind: Node, metadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: {zone}}}}}, \
               spec: {{podCIDRs: [10.244.0.0/24]}}, status: {{images: [{{names: [a], sizeBytes: 1}}], \
               conditions: [{{type: Ready, status: 'True', lastHeartbeatTime: '2026-01-01T00:00:0{heard}Z'}}]}}}}"
        )
    };
    let mut objects = Objects::default();
    let mut extent = |nodes: &[String]| {
        let text = [&[CLASSES.to_owned(), gateway("{name: http, port: 80, protocol: HTTP}")], nodes].concat();
        let now = fixture::objects(&text.join("\n---\n"));
        let gateways = Gateways::new(&now);
        fixture::replace(&mut objects, now);
        gateways.extent(&objects, &ObjectKey::new("shop", "web"))
    };
    let zones = |extent: &Extent| {
        let zones =
            extent.nodes.iter().map(|(key, node)| format!("{key}: {}", node.zone.as_deref().unwrap()));
        zones.collect::<Vec<_>>()
    };
    let first = extent(&[node("a", "east", "1"), node("b", "west", "1")]);
    assert_eq!(zones(&first), ["a: east", "b: west"]);
    let heard = extent(&[node("a", "east", "2"), node("b", "west", "2")]);
    assert!(Arc::ptr_eq(&first.nodes, &heard.nodes), "a heartbeat is no change");
    let moved = extent(&[node("a", "east", "3"), node("b", "east", "3")]);
    assert!(moved != heard);
    assert_eq!(zones(&moved), ["a: east", "b: east"]);
    assert_eq!(zones(&heard), ["a: east", "b: west"], "what was told stays what it was");
}

#[test]
fn nobody_is_told_anything_of_a_gateway_that_is_not_ours() {
    let objects = fixture::objects(&[CLASSES, OBJECTS].join("\n---\n"));
    let gateways = Gateways::new(&objects);
    assert_eq!(gateways.extent(&objects, &ObjectKey::new("shop", "web")), Extent::default());
    let another = gateways.extent(&objects, &ObjectKey::new("shop", "another"));
    let secrets: Vec<String> =
        another.ids.iter().filter(|id| id.kind == Kind::Secret).map(ToString::to_string).collect();
    assert_eq!(secrets, ["Secret shop/anothers"]);
}
