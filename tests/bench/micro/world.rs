//! A made-up cluster of any size: namespaces, Services with slices and Pods, and HTTPRoutes on them.
//!
//! Per Service there are two routes and ten endpoints, and a hundred Services share a namespace.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, Namespace, Pod, PodIP, PodSpec, PodStatus, Service, ServicePort, ServiceSpec,
};
use k8s_openapi::api::core::v1::{ObjectReference, PodCondition};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use node_proxy::cluster::objects::{Change, Object, ObjectKey};
use serde_json::json;

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

    /// Every object, as a source first tells them.
    pub(crate) fn everything(self) -> Vec<Change> {
        let namespaces = (0..self.services().div_ceil(SERVICES_PER_NAMESPACE)).map(namespace);
        let services = (0..self.services()).map(service);
        let pods = (0..self.endpoints()).map(|at| pod(at, "True"));
        let slices = (0..self.services()).map(|at| slice(at, true));
        let routes = (0..self.routes).map(|at| route(at, 90));
        namespaces.chain(services).chain(pods).chain(slices).chain(routes).collect()
    }
}

fn home(service: usize) -> String {
    format!("ns-{}", service / SERVICES_PER_NAMESPACE)
}

fn metadata(namespace: &str, name: &str, labels: &[(&str, &str)]) -> ObjectMeta {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()).filter(|text| !text.is_empty()),
        uid: Some(format!("uid-{namespace}-{name}")),
        labels: Some(labels.collect::<BTreeMap<_, _>>()),
        ..ObjectMeta::default()
    }
}

fn namespace(at: usize) -> Change {
    let name = format!("ns-{at}");
    let object = Namespace {
        metadata: metadata("", &name, &[("gammarus.io/mesh", "enabled")]),
        ..Namespace::default()
    };
    Change::Applied(ObjectKey::new("", &name), Object::Namespace(Arc::new(object)))
}

fn service(at: usize) -> Change {
    let (namespace, name) = (home(at), format!("svc-{at}"));
    let port = ServicePort {
        name: Some("http".to_owned()),
        port: 80,
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    };
    let spec = ServiceSpec {
        cluster_ip: Some(address(10, 96, at)),
        cluster_ips: Some(vec![address(10, 96, at)]),
        ports: Some(vec![port]),
        selector: Some(BTreeMap::from([("app".to_owned(), name.clone())])),
        ..ServiceSpec::default()
    };
    let object = Service { metadata: metadata(&namespace, &name, &[]), spec: Some(spec), status: None };
    Change::Applied(ObjectKey::new(&namespace, &name), Object::Service(Arc::new(object)))
}

fn address(first: u8, second: u8, at: usize) -> String {
    let base = u32::from(Ipv4Addr::new(first, second, 0, 1));
    Ipv4Addr::from(base + u32::try_from(at).unwrap()).to_string()
}

fn pod_name(at: usize) -> String {
    format!("svc-{}-{}", at / ENDPOINTS, at % ENDPOINTS)
}

/// A Pod with a condition Ready of this status.
pub(crate) fn pod(at: usize, ready: &str) -> Change {
    let namespace = home(at / ENDPOINTS);
    let name = pod_name(at);
    let ip = address(10, 244, at);
    let port = ContainerPort { container_port: 8080, ..ContainerPort::default() };
    let container = Container { name: "app".to_owned(), ports: Some(vec![port]), ..Container::default() };
    let condition =
        PodCondition { type_: "Ready".to_owned(), status: ready.to_owned(), ..PodCondition::default() };
    let object = Pod {
        metadata: metadata(&namespace, &name, &[("app", &format!("svc-{}", at / ENDPOINTS))]),
        spec: Some(PodSpec {
            containers: vec![container],
            node_name: Some(format!("node-{}", at % 100)),
            service_account_name: Some(format!("svc-{}", at / ENDPOINTS)),
            ..PodSpec::default()
        }),
        status: Some(PodStatus {
            phase: Some("Running".to_owned()),
            pod_ip: Some(ip.clone()),
            pod_ips: Some(vec![PodIP { ip }]),
            conditions: Some(vec![condition]),
            ..PodStatus::default()
        }),
    };
    Change::Applied(ObjectKey::new(&namespace, &name), Object::Pod(Arc::new((&object).into())))
}

/// The slice of a Service, with its last endpoint ready or not.
pub(crate) fn slice(at: usize, is_last_ready: bool) -> Change {
    let (namespace, service) = (home(at), format!("svc-{at}"));
    let name = format!("{service}-x");
    let endpoints = (0..ENDPOINTS).map(|place| {
        let pod = at * ENDPOINTS + place;
        let name = pod_name(pod);
        Endpoint {
            addresses: vec![address(10, 244, pod)],
            conditions: Some(EndpointConditions {
                ready: Some(is_last_ready || place + 1 < ENDPOINTS),
                ..EndpointConditions::default()
            }),
            node_name: Some(format!("node-{}", pod % 100)),
            target_ref: Some(ObjectReference {
                kind: Some("Pod".to_owned()),
                namespace: Some(namespace.clone()),
                uid: Some(format!("uid-{namespace}-{name}")),
                name: Some(name),
                ..ObjectReference::default()
            }),
            ..Endpoint::default()
        }
    });
    let port = EndpointPort {
        name: Some("http".to_owned()),
        port: Some(8080),
        protocol: Some("TCP".to_owned()),
        ..EndpointPort::default()
    };
    let object = EndpointSlice {
        address_type: "IPv4".to_owned(),
        endpoints: endpoints.collect(),
        metadata: metadata(&namespace, &name, &[("kubernetes.io/service-name", &service)]),
        ports: Some(vec![port]),
    };
    Change::Applied(ObjectKey::new(&namespace, &name), Object::EndpointSlice(Arc::new((&object).into())))
}

/// A route with a weight that goes to the next Service of the namespace.
pub(crate) fn route(at: usize, weight: u32) -> Change {
    let service = at / ROUTES;
    let (namespace, name) = (home(service), format!("route-{at}"));
    let first = service / SERVICES_PER_NAMESPACE * SERVICES_PER_NAMESPACE;
    let other = first + (service - first + 1) % SERVICES_PER_NAMESPACE.min(service - first + 1);
    let object = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": namespace, "generation": 1},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": format!("svc-{service}"), "port": 80}],
            "rules": [{
                "matches": [{
                    "path": {"type": "PathPrefix", "value": format!("/{}", at % ROUTES)},
                    "headers": [{"name": "version", "value": "new"}],
                }],
                "backendRefs": [
                    {"name": format!("svc-{service}"), "port": 80, "weight": weight},
                    {"name": format!("svc-{other}"), "port": 80, "weight": 100 - weight},
                ],
            }],
        },
    });
    let object = Object::HttpRoute(Arc::new(serde_json::from_value(object).unwrap()));
    Change::Applied(ObjectKey::new(&namespace, &name), object)
}
