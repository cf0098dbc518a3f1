//! Objects for tests, from YAML as a user writes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cluster::core_kinds::Pod;
use crate::cluster::objects::{Change, Changed, Kind, Mark, Object, ObjectId, ObjectKey, Objects};

/// The objects of a YAML text of several documents. Panics on a kind that it does not know.
pub(crate) fn objects(yaml: &str) -> Objects {
    let mut objects = Objects::default();
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).expect("the fixture is YAML");
    for document in documents.into_iter().filter(|document| !document.is_null()) {
        add(&mut objects, document);
    }
    objects
}

/// Marks a pod as enrolled.
pub(crate) fn mark(objects: &mut Objects, pod: &str, uid: &str, addresses: &[&str]) {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    let (namespace, name) = pod.split_once('/').unwrap();
    objects.marks.insert(ObjectKey::new(namespace, name), Mark::of_captured(uid, addresses));
}

/// Has objects become others, and says what that touched.
pub(crate) fn replace(objects: &mut Objects, others: Objects) -> Changed {
    let mut changed = Changed::default();
    for change in differences(objects, others) {
        objects.apply(change, &mut changed);
    }
    changed
}

/// The changes by which the objects of a YAML text come to be there.
pub(crate) fn applied(yaml: &str) -> Vec<Change> {
    differences(&Objects::default(), objects(yaml))
}

fn differences(from: &Objects, to: Objects) -> Vec<Change> {
    let mut changes = Vec::new();
    diff(
        &mut changes,
        (&from.endpoint_slices, to.endpoint_slices),
        Kind::EndpointSlice,
        Object::EndpointSlice,
    );
    diff(&mut changes, (&from.grpc_routes, to.grpc_routes), Kind::GrpcRoute, Object::GrpcRoute);
    diff(&mut changes, (&from.http_routes, to.http_routes), Kind::HttpRoute, Object::HttpRoute);
    let mark = |mark| Object::Mark(Box::new(mark));
    diff(&mut changes, (&from.marks, to.marks), Kind::Mark, mark);
    diff(&mut changes, (&from.namespaces, to.namespaces), Kind::Namespace, Object::Namespace);
    diff(&mut changes, (&from.nodes, Arc::unwrap_or_clone(to.nodes)), Kind::Node, Object::Node);
    diff(&mut changes, (&from.pods, to.pods), Kind::Pod, Object::Pod);
    diff(&mut changes, (&from.services, to.services), Kind::Service, Object::Service);
    diff(&mut changes, (&from.tcp_routes, to.tcp_routes), Kind::TcpRoute, Object::TcpRoute);
    diff(&mut changes, (&from.tls_routes, to.tls_routes), Kind::TlsRoute, Object::TlsRoute);
    diff(&mut changes, (&from.udp_routes, to.udp_routes), Kind::UdpRoute, Object::UdpRoute);
    changes
}

fn diff<T: PartialEq>(
    changes: &mut Vec<Change>,
    (from, to): (&BTreeMap<ObjectKey, T>, BTreeMap<ObjectKey, T>),
    kind: Kind,
    wrap: fn(T) -> Object,
) {
    let gone = from.keys().filter(|key| !to.contains_key(*key));
    changes.extend(gone.map(|key| Change::Deleted(ObjectId { kind, key: key.clone() })));
    let new = to.into_iter().filter(|(key, object)| from.get(key) != Some(object));
    changes.extend(new.map(|(key, object)| Change::Applied(key, wrap(object))));
}

fn add(objects: &mut Objects, document: Value) {
    let kind = document["kind"].as_str().expect("a fixture has a kind").to_owned();
    let text = |field: &str| document["metadata"][field].as_str().unwrap_or_default().to_owned();
    let is_global = matches!(kind.as_str(), "GatewayClass" | "Namespace" | "Node");
    let namespace = match text("namespace") {
        _ if is_global => String::new(),
        empty if empty.is_empty() => "shop".to_owned(),
        namespace => namespace,
    };
    let key = ObjectKey::new(&namespace, &text("name"));
    match kind.as_str() {
        "ConfigMap" => drop(objects.config_maps.insert(key, parse(document))),
        "EndpointSlice" => drop(objects.endpoint_slices.insert(key, trim::<EndpointSlice, _>(document))),
        "BackendTLSPolicy" => drop(objects.backend_tls_policies.insert(key, parse(document))),
        "Gateway" => drop(objects.gateways.insert(key, parse(document))),
        "GatewayClass" => drop(objects.gateway_classes.insert(key, parse(document))),
        "GRPCRoute" => drop(objects.grpc_routes.insert(key, parse(document))),
        "HTTPRoute" => drop(objects.http_routes.insert(key, parse(document))),
        "ListenerSet" => drop(objects.listener_sets.insert(key, parse(document))),
        "Namespace" => drop(objects.namespaces.insert(key, parse(document))),
        "Node" => drop(Arc::make_mut(&mut objects.nodes).insert(key, trim::<Node, _>(document))),
        "Pod" => drop(objects.pods.insert(key, trim::<Pod, _>(document))),
        "ReferenceGrant" => drop(objects.reference_grants.insert(key, parse(document))),
        "Secret" => drop(objects.secrets.insert(key, parse(document))),
        "Service" => drop(objects.services.insert(key, parse(document))),
        "TCPRoute" => drop(objects.tcp_routes.insert(key, parse(document))),
        "TLSRoute" => drop(objects.tls_routes.insert(key, parse(document))),
        "UDPRoute" => drop(objects.udp_routes.insert(key, parse(document))),
        other => panic!("no fixture of kind {other}"),
    }
}

fn trim<T: DeserializeOwned, U: for<'a> From<&'a T>>(document: Value) -> Arc<U> {
    Arc::new(U::from(&*parse::<T>(document)))
}

fn parse<T: DeserializeOwned>(mut document: Value) -> Arc<T> {
    let fields = document.as_object_mut().unwrap();
    let api = match fields["kind"].as_str() {
        Some("EndpointSlice") => "discovery.k8s.io/v1",
        Some(
            "Gateway" | "GatewayClass" | "GRPCRoute" | "HTTPRoute" | "ListenerSet" | "ReferenceGrant"
            | "TCPRoute" | "TLSRoute" | "UDPRoute",
        ) => "gateway.networking.k8s.io/v1",
        _ => "v1",
    };
    fields.insert("apiVersion".to_owned(), api.into());
    Arc::new(serde_json::from_value(document).expect("the fixture is an object of its kind"))
}
