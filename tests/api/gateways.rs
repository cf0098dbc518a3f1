//! The kinds that an ingress is made of, from a real API server: it takes, fills in and refuses what a directory does.

use std::fs;
use std::path::Path;

use node_proxy::cluster::directory::Directory;
use node_proxy::cluster::kubernetes::MESH_KINDS;
use node_proxy::cluster::objects::{Change, Changed, Kind, Objects};
use node_proxy::cluster::source::ObjectSource as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api_server::{ApiServer, Channel, Ended};
use crate::follower::Follower;

const WHOLE: &str = include_str!("../../node-proxy/src/cluster/tests/whole.yaml");
const BARE: &str = include_str!("../../node-proxy/src/cluster/tests/bare.yaml");
const REFUSED: &str = include_str!("../../node-proxy/src/cluster/tests/refused.yaml");
/// What an ingress reads and the mesh does not.
const KINDS: [Kind; 5] =
    [Kind::BackendTlsPolicy, Kind::Gateway, Kind::GatewayClass, Kind::ListenerSet, Kind::UdpRoute];

/// An object that is refused, and what is said of it here and there.
#[derive(Deserialize)]
struct Refused {
    kind: String,
    spec: Value,
    field: String,
    here: String,
    server: Option<String>,
}

fn server(channel: Channel) -> ApiServer {
    let server = ApiServer::with_gateway_api(channel);
    server.namespace("shop", &[]);
    server
}

/// What a directory with one file in it has, and what it says of it.
fn from_directory(text: &str) -> (Objects, Vec<String>) {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("objects.yaml"), text).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let read = async { Directory::open(folder.path()).unwrap().next().await.unwrap() };
    let update = runtime.block_on(read);
    let (mut objects, mut changed) = (Objects::default(), Changed::default());
    let count = update.changes.len();
    for change in update.changes {
        assert!(matches!(change, Change::Applied(..)), "{change:?}");
        objects.apply(change, &mut changed);
    }
    assert_eq!(touched(&changed), count, "each is one of the five kinds, and recorded");
    (objects, update.reports.iter().map(ToString::to_string).collect())
}

fn touched(changed: &Changed) -> usize {
    let classes = changed.gateway_classes.len() + changed.gateways.len() + changed.listener_sets.len();
    classes + changed.backend_tls_policies.len() + changed.udp_routes.len()
}

/// The specs of all objects of the five kinds, by kind and name.
fn specs(objects: &Objects) -> Vec<(&'static str, String, Value)> {
    let spec = |object: serde_json::Result<Value>| object.unwrap()["spec"].take();
    let mut specs = Vec::new();
    let Objects { backend_tls_policies, gateway_classes, gateways, listener_sets, udp_routes, .. } = objects;
    for (key, object) in backend_tls_policies {
        specs.push((Kind::BackendTlsPolicy, key, spec(serde_json::to_value(object))));
    }
    for (key, object) in gateways {
        assert_eq!(object.status, None, "{key}");
        specs.push((Kind::Gateway, key, spec(serde_json::to_value(object))));
    }
    for (key, object) in gateway_classes {
        specs.push((Kind::GatewayClass, key, spec(serde_json::to_value(object))));
    }
    for (key, object) in listener_sets {
        specs.push((Kind::ListenerSet, key, spec(serde_json::to_value(object))));
    }
    for (key, object) in udp_routes {
        specs.push((Kind::UdpRoute, key, spec(serde_json::to_value(object))));
    }
    specs.into_iter().map(|(kind, key, spec)| (kind.as_label(), key.to_string(), spec)).collect()
}

#[test]
fn what_the_server_has_is_what_a_directory_has() {
    let server = server(Channel::Experimental);
    let folder = TempDir::new().unwrap();
    for objects in [WHOLE, BARE] {
        create(&server, folder.path(), objects).assert_success();
    }
    let (objects, reports) = from_directory(&format!("{WHOLE}---\n{BARE}"));
    assert_eq!(reports, Vec::<String>::new());
    let follower = Follower::ready_of(&KINDS, &server.kubeconfig(), None);
    assert_eq!(follower.reports(), Vec::<String>::new());
    let (here, there) = (specs(&objects), specs(&follower.view.objects()));
    assert_eq!(here.len(), 12);
    assert_eq!(here, there);

    let gateway = &follower.view.objects().gateways[&crate::source::key("shop", "whole")].metadata.clone();
    assert!(gateway.uid.is_some() && gateway.managed_fields.is_none() && gateway.resource_version.is_none());
    changes_are_seen(&server, &follower);

    // A proxy of the mesh has nothing to do with any of it.
    let mesh = Follower::ready_of(&MESH_KINDS, &server.kubeconfig(), None);
    assert_eq!((specs(&mesh.view.objects()), mesh.reports()), (Vec::new(), Vec::new()));
}

/// A status that is written is no change, an edit is one, and what is deleted is gone.
fn changes_are_seen(server: &ApiServer, follower: &Follower) {
    let condition = json!({
        "type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let status = json!({"status": {"conditions": [condition]}}).to_string();
    let patch = |what: &[&str], patch: &str| {
        let how = ["--namespace", "shop", "--type", "merge", "--patch", patch];
        server.kubectl(&[&["patch"], what, &how].concat()).output();
    };
    follower.touched();
    patch(&["gateway", "whole", "--subresource", "status"], &status);
    patch(&["gatewayclass", "whole", "--subresource", "status"], &status);
    patch(&["gateway", "whole"], r#"{"spec": {"gatewayClassName": "other"}}"#);
    let key = crate::source::key("shop", "whole");
    follower.see("the edit", |objects| objects.gateways[&key].spec.gateway_class_name == "other");
    let everything = ["delete", "gateways,listenersets,udproutes,backendtlspolicies", "--all"];
    server.kubectl(&[&everything[..], &["--namespace", "shop", "--wait=false"]].concat()).output();
    server.kubectl(&["delete", "gatewayclasses", "--all", "--wait=false"]).output();
    follower.see("nothing", |objects| specs(objects).is_empty());
    assert_eq!(follower.touched(), 13, "the edit and twelve that are gone");
}

#[test]
fn what_a_directory_refuses_the_server_refuses_at_the_same_field() {
    let server = server(Channel::Experimental);
    let folder = TempDir::new().unwrap();
    let cases: Vec<Refused> = serde_saphyr::from_str(REFUSED).unwrap();
    for Refused { kind, spec, field, here, server: there } in cases {
        let namespace = if kind == "GatewayClass" { Value::Null } else { json!("shop") };
        let metadata = json!({"name": "refused", "namespace": namespace});
        let api_version = "gateway.networking.k8s.io/v1";
        let object =
            json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}).to_string();
        let (objects, reports) = from_directory(&object);
        assert!(specs(&objects).is_empty(), "{object}");
        let said = reports.iter().any(|report| report.contains(&field) && report.contains(&here));
        assert!(said, "{object}\n{field} {here}\n{reports:#?}");
        let ended = create(&server, folder.path(), &object);
        ended.assert_failure(&[&field, there.as_ref().unwrap_or(&here)]);
    }
}

/// An apply by fields would refuse a null, which is otherwise as if it were not there.
fn create(server: &ApiServer, folder: &Path, objects: &str) -> Ended {
    let file = folder.join("objects.yaml");
    fs::write(&file, objects).unwrap();
    server.kubectl(&["create", "--validate=false", "--filename", file.to_str().unwrap()])
}

/// The standard channel has them, too, if not all of their fields.
#[test]
fn either_channel_will_do() {
    let server = server(Channel::Standard);
    let folder = TempDir::new().unwrap();
    create(&server, folder.path(), BARE).assert_success();
    let follower = Follower::ready_of(&KINDS, &server.kubeconfig(), None);
    assert_eq!(follower.reports(), Vec::<String>::new());
    let (objects, _) = from_directory(BARE);
    assert_eq!(specs(&follower.view.objects()), specs(&objects));
}

/// Secrets are read where somebody has chosen so; who may not read them waits for nothing.
#[test]
fn certificates_are_read_by_a_controller_with_its_own_rights_once_it_has_that_one() {
    let server = server(Channel::Standard);
    server.namespace("gammarus-system", &[]);
    server.apply(include_str!("../../manifests/install/controller.yaml"));
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": {"name": "late", "namespace": "shop"},
        "stringData": {"tls.crt": "a", "tls.key": "b"},
    });
    server.apply(&secret.to_string());
    let own = server.kubeconfig_of("gammarus-system", "gammarus-controller");
    let follower = Follower::ready_of(&[Kind::Gateway, Kind::ConfigMap, Kind::Secret], &own, None);
    assert!(follower.has_report("Secrets may not be read here"), "{:?}", follower.reports());
    assert!(follower.view.objects().secrets.is_empty());
    server.apply(include_str!("../../manifests/install/gateway-certificates.yaml"));
    follower.see("the Secret", |objects| objects.secrets.keys().any(|key| &*key.name == "late"));
    follower.wait_until("nothing is missing", |follower| follower.reports().is_empty());
}
