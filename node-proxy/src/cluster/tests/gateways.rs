//! The kinds that an ingress is made of, from files: what is read back, filled in, refused.

use serde_json::{Map, Value, json};

use super::super::objects::{Kind, ObjectKey};
use super::*;

/// What stands for itself in the files beside this: a refused object and what is said of it.
#[derive(serde::Deserialize)]
struct Refused {
    kind: String,
    spec: Value,
    field: String,
    here: String,
}

/// The objects of a file, with what it says of each.
fn documents(text: &str) -> Vec<(Object, Value)> {
    let Content { outcomes, reports } = read(text);
    assert_eq!(reports, []);
    let objects = outcomes.into_iter().map(|outcome| match outcome {
        Outcome::Good(_, object) => *object,
        other => panic!("{other:?}"),
    });
    let said: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    objects.zip(said.into_iter().filter(|document| !document.is_null())).collect()
}

/// An object of the API as its type has it.
fn value(object: &Object) -> Value {
    let value = match object {
        Object::BackendTlsPolicy(policy) => serde_json::to_value(policy),
        Object::Gateway(gateway) => serde_json::to_value(gateway),
        Object::GatewayClass(class) => serde_json::to_value(class),
        Object::ListenerSet(set) => serde_json::to_value(set),
        Object::UdpRoute(route) => serde_json::to_value(route),
        other => panic!("{other:?}"),
    };
    value.unwrap()
}

#[test]
fn every_field_is_read_as_it_was_written() {
    let documents = documents(include_str!("whole.yaml"));
    assert_eq!(documents.len(), 6);
    for (object, said) in documents {
        assert_eq!(value(&object), said);
    }
}

/// The defaults of `bare.yaml`, by object and place.
#[test]
fn what_is_left_out_is_filled_in_as_the_crds_say() {
    let gateway_api = json!("gateway.networking.k8s.io");
    let same = json!({"namespaces": {"from": "Same"}});
    let mut defaults = Map::from_iter([
        ("Gateway bare /listeners/0/allowedRoutes".to_owned(), same.clone()),
        ("Gateway half /addresses/0/type".to_owned(), json!("IPAddress")),
        ("Gateway half /addresses/1".to_owned(), json!({"type": "IPAddress"})),
        ("Gateway half /allowedListeners".to_owned(), json!({"namespaces": {"from": "None"}})),
        ("Gateway half /infrastructure".to_owned(), json!({"labels": {"b": "c"}})),
        ("Gateway half /listeners/0/allowedRoutes".to_owned(), same.clone()),
        ("Gateway half /listeners/1/allowedRoutes/namespaces".to_owned(), same["namespaces"].clone()),
        ("Gateway half /listeners/1/allowedRoutes/kinds/0/group".to_owned(), gateway_api.clone()),
        ("Gateway half /listeners/2/tls/mode".to_owned(), json!("Terminate")),
        ("UDPRoute bare /parentRefs/0/group".to_owned(), gateway_api.clone()),
        ("UDPRoute bare /parentRefs/0/kind".to_owned(), json!("Gateway")),
        ("ListenerSet bare /parentRef/group".to_owned(), gateway_api),
        ("ListenerSet bare /parentRef/kind".to_owned(), json!("Gateway")),
        ("ListenerSet bare /listeners/0/allowedRoutes".to_owned(), same),
        ("ListenerSet bare /listeners/0/tls/mode".to_owned(), json!("Terminate")),
    ]);
    for (place, name) in [
        ("Gateway half /listeners/2/tls/certificateRefs/0", "cert"),
        ("Gateway half /tls/backend/clientCertificateRef", "client"),
        ("ListenerSet bare /listeners/0/tls/certificateRefs/0", "cert"),
    ] {
        defaults.insert(place.to_owned(), json!({"group": "", "kind": "Secret", "name": name}));
    }
    let backend = json!({"group": "", "kind": "Service", "name": "dns", "port": 53, "weight": 1});
    defaults.insert("UDPRoute bare /rules/0/backendRefs/0".to_owned(), backend);
    for validation in ["default/validation", "perPort/0/tls/validation"] {
        defaults.insert(format!("Gateway half /tls/frontend/{validation}/mode"), json!("AllowValidOnly"));
    }
    for (object, said) in documents(include_str!("bare.yaml")) {
        let value = value(&object);
        assert_eq!(value.get("status"), None, "what is judged of an object is not its own");
        let label = |field: &str| said[field].as_str().unwrap().to_owned();
        let prefix = format!("{} {} ", label("kind"), said["metadata"]["name"].as_str().unwrap());
        defaults.retain(|place, expected| {
            let Some(pointer) = place.strip_prefix(&prefix) else { return true };
            assert_eq!(value["spec"].pointer(pointer), Some(&*expected), "{place}\n{value:#}");
            false
        });
    }
    assert!(defaults.is_empty(), "no object has {defaults:?}");
}

#[test]
fn what_the_crds_refuse_is_named_by_object_and_field() {
    let cases: Vec<Refused> = serde_saphyr::from_str(include_str!("refused.yaml")).unwrap();
    assert!(cases.len() > 40, "{}", cases.len());
    for Refused { kind, spec, field, here } in cases {
        let is_global = kind == "GatewayClass";
        let metadata =
            if is_global { json!({"name": "r"}) } else { json!({"name": "r", "namespace": "shop"}) };
        let api_version = "gateway.networking.k8s.io/v1";
        let object = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec});
        let Content { outcomes, reports } = read(&object.to_string());
        assert!(matches!(&outcomes[..], [Outcome::Broken(_)]), "{object}: {outcomes:?}");
        let name = if is_global { "r" } else { "shop/r" };
        // A key of a map goes on from the map's own name.
        let separator = if here.starts_with('[') { "" } else { ": " };
        let line = format!("a.yaml: {kind} {name}: {field}{separator}{here}");
        let lines: Vec<String> = reports.iter().map(ToString::to_string).collect();
        assert!(lines.iter().any(|said| said.starts_with(&line)), "{line:?} is not in {lines:#?}");
    }
}

#[test]
fn a_class_is_in_no_namespace_and_all_else_in_one() {
    let class = "{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, \
                 metadata: {name: c, namespace: x}, spec: {controllerName: a.test/b}}";
    check(class, &["good GatewayClass c"], &[]);
    let mut content = read(include_str!("bare.yaml"));
    let Outcome::Good(id, _) = content.outcomes.remove(1) else { panic!("{content:?}") };
    assert_eq!((id.kind, id.key), (Kind::Gateway, ObjectKey::new("shop", "bare")));
}

#[test]
fn older_versions_are_read_as_far_as_they_are_the_same() {
    let object = |kind: &str, version: &str, spec: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/{version}, kind: {kind}, metadata: {{name: o}}, spec: {spec}}}"
        )
    };
    let gateway = "{gatewayClassName: c, listeners: [{name: a, port: 80, protocol: HTTP}]}";
    let set = "{parentRef: {name: g}, listeners: [{name: a, port: 80, protocol: HTTP}]}";
    let policy = "{targetRefs: [{group: '', kind: Service, name: s}], \
                  validation: {hostname: a.test, wellKnownCACertificates: System}}";
    let route = "{rules: [{backendRefs: [{name: b, port: 1}]}]}";
    for (kind, versions, spec) in [
        ("BackendTLSPolicy", &["v1", "v1alpha3"][..], policy),
        ("Gateway", &["v1", "v1beta1"], gateway),
        ("GatewayClass", &["v1", "v1beta1"], "{controllerName: a.test/b}"),
        ("ListenerSet", &["v1"], set),
        ("UDPRoute", &["v1", "v1alpha2"], route),
    ] {
        let id = if kind == "GatewayClass" { format!("{kind} o") } else { format!("{kind} default/o") };
        for version in versions {
            check(&object(kind, version, spec), &[&format!("good {id}")], &[]);
        }
        let read: Vec<String> =
            versions.iter().map(|version| format!("gateway.networking.k8s.io/{version}")).collect();
        let refused = format!("a.yaml: {id}: apiVersion: must be {}, is", read.join(" or "));
        check(&object(kind, "v1alpha1", spec), &[&format!("broken {id}")], &[&refused]);
    }
}

#[test]
fn another_apis_gateway_is_not_ours() {
    check(
        "{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: g, namespace: x}}",
        &[],
        &["a.yaml: Gateway x/g: kind Gateway of networking.istio.io/v1 is not read yet"],
    );
    check(
        "{apiVersion: v1, kind: Gateway, metadata: {name: g, namespace: x}}",
        &["broken Gateway x/g"],
        &["a.yaml: Gateway x/g: apiVersion: must be gateway.networking.k8s.io/v1 or"],
    );
}
