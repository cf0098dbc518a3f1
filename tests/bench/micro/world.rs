//! A made-up cluster of any size: namespaces, Services with slices and Pods, and HTTPRoutes on them.
//!
//! Per Service there are two routes and ten endpoints, and a hundred Services share a namespace.

use std::net::Ipv4Addr;

use node_proxy::cluster::kubernetes::read_answer;
use node_proxy::cluster::objects::{Change, Kind, ObjectKey};
use serde_json::{Value, json};

/// Endpoints of each Service.
const ENDPOINTS: usize = 10;
/// Routes of each Service.
const ROUTES: usize = 2;
/// Services of each namespace.
const SERVICES_PER_NAMESPACE: usize = 100;

/// A cluster with so many routes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World {
    pub(crate) routes: usize,
}

impl World {
    pub(crate) const fn services(self) -> usize {
        self.routes / ROUTES
    }

    pub(crate) const fn endpoints(self) -> usize {
        self.services() * ENDPOINTS
    }

    /// Every object but the routes.
    pub(crate) fn without_routes(self) -> impl Iterator<Item = Value> {
        let namespaces = (0..self.services().div_ceil(SERVICES_PER_NAMESPACE)).map(namespace);
        let services = (0..self.services()).map(service);
        let pods = (0..self.endpoints()).map(|at| pod(at, "True"));
        let slices = (0..self.services()).map(|at| slice(at, true));
        namespaces.chain(services).chain(pods).chain(slices)
    }

    /// Every object, as a source first tells them.
    pub(crate) fn everything(self) -> Vec<Change> {
        self.without_routes().chain((0..self.routes).map(|at| route(at, 90))).map(applied).collect()
    }
}

/// What a source says of an object.
pub(crate) fn applied(object: Value) -> Change {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let key = ObjectKey::new(&text("namespace"), &text("name"));
    let kind = match object["kind"].as_str().unwrap() {
        "EndpointSlice" => Kind::EndpointSlice,
        "HTTPRoute" => Kind::HttpRoute,
        "Namespace" => Kind::Namespace,
        "Pod" => Kind::Pod,
        "Service" => Kind::Service,
        other => panic!("nothing here makes a {other}"),
    };
    Change::Applied(key, read_answer(kind, object).unwrap().unwrap())
}

fn home(service: usize) -> String {
    format!("ns-{}", service / SERVICES_PER_NAMESPACE)
}

fn address(first: u8, second: u8, at: usize) -> String {
    let base = u32::from(Ipv4Addr::new(first, second, 0, 1));
    Ipv4Addr::from(base + u32::try_from(at).unwrap()).to_string()
}

fn pod_name(at: usize) -> String {
    format!("svc-{}-{}", at / ENDPOINTS, at % ENDPOINTS)
}

fn namespace(at: usize) -> Value {
    let labels = json!({"gammarus.io/mesh": "enabled"});
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": format!("ns-{at}"), "labels": labels}})
}

fn service(at: usize) -> Value {
    let (name, ip) = (format!("svc-{at}"), address(10, 96, at));
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": home(at), "name": name},
        "spec": {
            "clusterIP": ip,
            "clusterIPs": [ip],
            "selector": {"app": name},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
        },
    })
}

/// A Pod with a condition Ready of this status.
pub(crate) fn pod(at: usize, ready: &str) -> Value {
    let (name, app, ip) = (pod_name(at), format!("svc-{}", at / ENDPOINTS), address(10, 244, at));
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": home(at / ENDPOINTS),
            "name": name,
            "uid": format!("uid-{name}"),
            "labels": {"app": app},
        },
        "spec": {
            "nodeName": format!("node-{}", at % 100),
            "serviceAccountName": app,
            "containers": [{"name": "app", "ports": [{"containerPort": 8080}]}],
        },
        "status": {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": ready}],
        },
    })
}

/// The slice of a Service, with its last endpoint ready or not.
pub(crate) fn slice(at: usize, is_last_ready: bool) -> Value {
    let (namespace, service) = (home(at), format!("svc-{at}"));
    let endpoints = (0..ENDPOINTS).map(|place| {
        let pod = at * ENDPOINTS + place;
        let name = pod_name(pod);
        json!({
            "addresses": [address(10, 244, pod)],
            "conditions": {"ready": is_last_ready || place + 1 < ENDPOINTS},
            "nodeName": format!("node-{}", pod % 100),
            "targetRef": {"kind": "Pod", "namespace": namespace, "name": name, "uid": format!("uid-{name}")},
        })
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": namespace,
            "name": format!("{service}-x"),
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": endpoints.collect::<Vec<_>>(),
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })
}

/// A route with a weight, that shares its requests between its own Service and the first of the namespace.
pub(crate) fn route(at: usize, weight: u32) -> Value {
    let service = at / ROUTES;
    let first = service / SERVICES_PER_NAMESPACE * SERVICES_PER_NAMESPACE;
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": format!("route-{at}"), "namespace": home(service), "generation": 1},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": format!("svc-{service}"), "port": 80}],
            "rules": [{
                "matches": [{
                    "path": {"type": "PathPrefix", "value": format!("/{}", at % ROUTES)},
                    "headers": [{"name": "version", "value": "new"}],
                }],
                "backendRefs": [
                    {"name": format!("svc-{service}"), "port": 80, "weight": weight},
                    {"name": format!("svc-{first}"), "port": 80, "weight": 100 - weight},
                ],
            }],
        },
    })
}
