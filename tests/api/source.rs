//! The API server as source of objects: what is read, what is missed and found again, what is broken, and how long the
//! server is left alone.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use node_proxy::cluster::objects::{ObjectKey, Objects};
use node_proxy::snapshot::service::ServicePortKey;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api_server::stored::Prepared;
use crate::api_server::{ApiServer, Channel};
use crate::follower::Follower;
use crate::relay::Relay;

pub(crate) fn key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::new(namespace, name)
}

static SERVERS: Prepared = Prepared::new(|server| {
    server.install_gateway_api(Channel::Standard);
    server.namespace("shop", &[("gammarus.io/mesh", "enabled")]);
    server.service_account("shop", "default");
});

/// A server of one's own, with the Gateway API, and a namespace `shop` that is in the mesh.
pub(crate) fn server() -> ApiServer {
    SERVERS.start()
}

pub(crate) fn service(name: &str, selector: Option<&str>) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": selector.map(|app| json!({"app": app})), "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}

fn slice(name: &str, service: &str, address: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": [{"addresses": [address]}], "ports": [{"name": "http", "port": 8080}],
    })
}

pub(crate) fn http_route(name: &str, service: &str, version: &str) -> Value {
    let backend = json!([{"name": service, "port": 80}]);
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": service, "port": 80}],
            "rules": [{"matches": [{"headers": [{"name": "version", "value": version}]}], "backendRefs": backend}],
        },
    })
}

pub(crate) fn apply(server: &ApiServer, objects: &[Value]) {
    server.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string());
}

fn delete(server: &ApiServer, what: &[&str]) {
    let namespace = ["--namespace", "shop", "--wait=false"];
    server.kubectl(&[&["delete"], what, &namespace[..]].concat()).output();
}

/// The value that a route wants in the header `version`.
pub(crate) fn wanted_version(objects: &Objects, route: &str) -> Option<String> {
    let route = objects.http_routes.get(&key("shop", route))?;
    let matches = route.spec.rules.as_ref()?.first()?.matches.as_ref()?;
    Some(matches.first()?.headers.as_ref()?.first()?.value.clone())
}

/// A Service and a route of every kind, called `r`.
pub(crate) fn apply_one_of_each(server: &ApiServer) {
    let route = json!({"name": "r", "namespace": "shop"});
    let parents = json!([{"group": "", "kind": "Service", "name": "web", "port": 80}]);
    let backends = json!([{"name": "web", "port": 80}]);
    let of = |kind: &str, rules: Value| json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": route, "spec": {"parentRefs": parents, "rules": rules}});
    let mut tls = of("TLSRoute", json!([{"backendRefs": backends}]));
    tls["spec"]["hostnames"] = json!(["a.example.com"]);
    let grant = json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant", "metadata": route,
        "spec": {"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop"}], "to": [{"group": "", "kind": "Service"}]},
    });
    apply(
        server,
        &[
            service("web", Some("web-1")),
            http_route("r", "web", "one"),
            of("GRPCRoute", json!([{"backendRefs": backends}])),
            of("TCPRoute", json!([{"backendRefs": backends}])),
            tls,
            grant,
        ],
    );
}

/// Changes the status of the pod `web-1`, as its kubelet and the agent of its node do.
fn patch_status(server: &ApiServer, patch: &Value) {
    let patch = patch.to_string();
    let what = ["patch", "pod", "web-1", "--namespace", "shop", "--subresource", "status"];
    server.kubectl(&[&what[..], &["--type", "strategic", "--patch", &patch]].concat()).output();
}

#[test]
fn everything_is_read_once_and_changes_are_seen_as_they_come() {
    let server = server();
    server.node("node-a");
    server.pod("shop", "web-1", "default", "node-a");
    let address =
        json!({"status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}});
    patch_status(&server, &address);
    apply_one_of_each(&server);
    let folder = TempDir::new().unwrap();
    let follower = Follower::ready(&server.kubeconfig(), Some(folder.path()));
    // What was there is there at once when anything is.
    check_one_of_each(&follower.view.objects());
    assert_eq!(follower.reports(), Vec::<String>::new());
    assert_eq!(follower.ages(), [None]);

    let before = follower.metric("gammarus_cluster_change_delay_seconds_count", "");
    apply(&server, &[http_route("r", "web", "two")]);
    follower.see("the new version", |objects| wanted_version(objects, "r").as_deref() == Some("two"));
    follower.wait_until("a delay", |follower| {
        follower.metric("gammarus_cluster_change_delay_seconds_count", "") > before
    });
    check_mark(&server, &follower);
    delete(&server, &["httproute/r", "service/web"]);
    delete(&server, &["pod/web-1", "--force"]);
    follower.see("nothing", |objects| {
        let gone = !objects.services.contains_key(&key("shop", "web"));
        objects.http_routes.is_empty() && objects.pods.is_empty() && gone
    });
    for kind in ["Pod", "HTTPRoute", "ReferenceGrant"] {
        let silence = follower.metric("gammarus_cluster_silence_seconds", &format!("\"{kind}\""));
        assert!((0.0..120.0).contains(&silence), "{kind}: {silence}");
    }
    assert!(follower.metric("gammarus_cluster_read_bytes_total", "\"Pod\"") > 500.0);
}

fn check_one_of_each(objects: &Objects) {
    assert!(
        objects.namespaces.contains_key(&key("", "shop")) && objects.nodes.contains_key(&key("", "node-a"))
    );
    assert!(objects.services.contains_key(&key("shop", "web")));
    assert_eq!(objects.pods[&key("shop", "web-1")].addresses.len(), 1);
    let routes = [
        objects.grpc_routes.len(),
        objects.tcp_routes.len(),
        objects.tls_routes.len(),
        objects.reference_grants.len(),
    ];
    assert_eq!((routes, wanted_version(objects, "r").as_deref()), ([1; 4], Some("one")));
    assert!(objects.secrets.is_empty() && objects.config_maps.is_empty(), "what is nobody's business");
}

/// A mark is of the pod that has its uid and address: with it the pod is in the mesh for others.
fn check_mark(server: &ApiServer, follower: &Follower) {
    let uid = follower.view.objects().pods[&key("shop", "web-1")].uid.clone().unwrap();
    let mark = json!({"uid": &*uid, "addresses": ["10.0.0.1"]}).to_string();
    patch_status(server, &json!({"metadata": {"annotations": {"gammarus.io/enrolled": mark}}}));
    follower.see("the mark", |objects| {
        objects.marks.get(&key("shop", "web-1")).is_some_and(|mark| mark.uid == *uid)
    });
    patch_status(server, &json!({"metadata": {"annotations": {"gammarus.io/enrolled": "{"}}}));
    let broken = "Pod shop/web-1: metadata.annotations[gammarus.io/enrolled]: EOF";
    follower.wait_until("a report", |follower| follower.has_report(broken));
    assert!(follower.view.objects().marks.contains_key(&key("shop", "web-1")), "the last good one stays");
    patch_status(server, &json!({"metadata": {"annotations": {"gammarus.io/enrolled": null}}}));
    follower.see("no mark", |objects| objects.marks.is_empty());
    assert_eq!(follower.reports(), Vec::<String>::new());
}

#[test]
fn slices_that_are_written_by_hand_and_services_without_a_selector_count() {
    let server = server();
    let follower = Follower::ready(&server.kubeconfig(), None);
    apply(&server, &[service("by-hand", None), slice("by-hand-1", "by-hand", "10.9.9.9")]);
    let by_hand = ServicePortKey::tcp(key("shop", "by-hand"), 80);
    let endpoints = |follower: &Follower| {
        let snapshot = follower.view.snapshot().load();
        let port = snapshot.find_service_port(&by_hand).cloned();
        port.map(|port| format!("{:?}", port.endpoints)).unwrap_or_default()
    };
    follower.wait_until("an endpoint by hand", |follower| endpoints(follower).contains("10.9.9.9"));
    apply(&server, &[slice("by-hand-1", "by-hand", "10.9.9.8")]);
    follower.wait_until("another one", |follower| endpoints(follower).contains("10.9.9.8"));
    delete(&server, &["endpointslice/by-hand-1"]);
    follower.wait_until("none", |follower| !endpoints(follower).contains("10.9.9"));
}

#[test]
fn what_was_missed_while_the_way_was_cut_is_found_again_as_differences() {
    let mut server = server();
    let folder = TempDir::new().unwrap();
    let relay = Relay::to(&server);
    apply(&server, &[service("web", None), http_route("a", "web", "1"), http_route("b", "web", "1")]);
    apply(&server, &[http_route("c", "web", "1"), slice("s", "web", "10.0.0.1")]);
    let follower = Follower::ready(&relay.kubeconfig(&server, folder.path()), None);
    assert_eq!(follower.view.objects().http_routes.len(), 3);
    follower.touched();

    // Missed, and told by the watch that goes on from the last version.
    relay.cut();
    follower
        .wait_until("trouble", |follower| follower.has_report("cannot be watched, what was last read stays"));
    assert_eq!(follower.view.objects().http_routes.len(), 3, "what is known stays");
    delete(&server, &["httproute/a"]);
    apply(&server, &[http_route("d", "web", "1")]);
    relay.mend();
    follower.see("a gone, d there", |objects| {
        objects.http_routes.keys().map(|key| &*key.name).eq(["b", "c", "d"])
    });
    follower.wait_until("no trouble", |follower| follower.reports().is_empty());
    assert_eq!(follower.touched(), 2, "nothing else has changed");
    assert_eq!(follower.metric("gammarus_cluster_watches_ended_total", "expired"), 0.0);

    // Missed, and the server has begun anew: it does not know the old versions any more.
    relay.cut();
    follower.wait_until("trouble", |follower| !follower.reports().is_empty());
    delete(&server, &["httproute/b", "endpointslice/s"]);
    apply(&server, &[http_route("c", "web", "2")]);
    server.restart();
    apply(&server, &[http_route("e", "web", "1")]);
    relay.mend();
    follower.see("b gone, c changed, e there", |objects| {
        let names = objects.http_routes.keys().map(|key| &*key.name);
        names.eq(["c", "d", "e"]) && wanted_version(objects, "c").as_deref() == Some("2")
    });
    follower.see("no slice", |objects| objects.endpoint_slices.keys().all(|key| &*key.namespace != "shop"));
    follower.wait_until("no trouble", |follower| follower.reports().is_empty());
    assert_eq!(follower.touched(), 4, "of all that was read again, only what is different");
    assert!(follower.metric("gammarus_cluster_watches_ended_total", "expired") > 0.0);
}

#[test]
fn a_kind_that_the_server_does_not_have_holds_nobody_up_and_is_found_when_it_comes() {
    let server = ApiServer::start();
    let follower = Follower::ready(&server.kubeconfig(), None);
    let missing = "HTTPRoute: Gateway API is not installed in this cluster: there is no HTTPRoute to read";
    assert!(follower.has_report(missing), "{:?}", follower.reports());
    assert!(follower.view.objects().namespaces.contains_key(&key("", "default")));
    server.namespace("shop", &[]);
    server.install_gateway_api(Channel::Standard);
    apply(&server, &[service("web", None), http_route("a", "web", "1")]);
    follower.see("a route", |objects| objects.http_routes.len() == 1);
    follower.wait_until("nothing is missing", |follower| follower.reports().is_empty());

    // An older Gateway API, which lacks a kind.
    server.kubectl(&["delete", "crd", "tcproutes.gateway.networking.k8s.io"]).output();
    let older = Follower::ready(&server.kubeconfig(), None);
    let missing = "TCPRoute: the Gateway API of this cluster is too old or not complete: it has no TCPRoute of version v1";
    assert!(older.has_report(missing) && older.reports().len() == 1, "{:?}", older.reports());
    assert_eq!(older.view.objects().http_routes.len(), 1);
}

#[test]
fn a_bad_object_is_named_and_its_neighbours_are_taken() {
    let server = server();
    // As if the Gateway API of this cluster were of another time: its schema lets everything pass.
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let patch =
        json!([{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema", "value": schema}]);
    let crd = ["patch", "crd", "httproutes.gateway.networking.k8s.io", "--type", "json", "--patch"];
    server.kubectl(&[&crd[..], &[&patch.to_string()]].concat()).output();
    let with_filter = |name: &str, filter: Value| {
        let mut route = http_route(name, "web", "1");
        route["spec"]["rules"][0]["filters"] = json!([{"type": filter}]);
        route
    };
    let is_taken = |bad: &Value| {
        let apply = std::panic::AssertUnwindSafe(|| apply(&server, std::slice::from_ref(bad)));
        std::panic::catch_unwind(apply).is_ok()
    };
    let bad = with_filter("bad", json!("OfTomorrow"));
    let begun = Instant::now();
    // The old schema may hold for a moment longer.
    while !is_taken(&bad) {
        assert!(begun.elapsed() < Duration::from_secs(30), "the server does not take what is bad");
        thread::sleep(Duration::from_millis(200));
    }
    apply(&server, &[http_route("good", "web", "1"), http_route("turns", "web", "1")]);
    let follower = Follower::ready(&server.kubeconfig(), None);
    let named = "HTTPRoute shop/bad: spec.rules[0].filters[0].type: unknown variant `OfTomorrow`";
    assert!(follower.has_report(named), "{:?}", follower.reports());
    assert!(follower.view.objects().http_routes.keys().map(|key| &*key.name).eq(["good", "turns"]));
    // One that becomes bad stays as it was.
    let mut turned = with_filter("turns", json!(7));
    turned["spec"]["rules"][0]["matches"][0]["headers"][0]["value"] = json!("2");
    apply(&server, &[turned, http_route("good", "web", "2")]);
    follower.wait_until("named", |follower| {
        follower.has_report("HTTPRoute shop/turns: spec.rules[0].filters[0].type: ")
    });
    follower.see("its neighbour", |objects| wanted_version(objects, "good").as_deref() == Some("2"));
    assert_eq!(wanted_version(&follower.view.objects(), "turns").as_deref(), Some("1"));
    // What is mended or gone is not spoken of any more.
    apply(&server, &[http_route("turns", "web", "3")]);
    delete(&server, &["httproute/bad"]);
    follower.wait_until("mended", |follower| follower.reports().is_empty());
    follower.see("the new one", |objects| wanted_version(objects, "turns").as_deref() == Some("3"));
}

/// Without a state there is nothing to serve from, and nothing is made up.
fn check_blind(relay: &Relay, (kubeconfig, state): (&Path, &Path)) -> Follower {
    let blind = Follower::start(kubeconfig, Some(state));
    let tries = relay.tries();
    blind.wait_until("tried again", |_| relay.tries() > tries + 20);
    assert!(!blind.is_ready() && blind.ages().is_empty());
    blind
}

/// A state on the disk: what there was before its last change, and its text.
fn write_state(server: &ApiServer, relay: &Relay, files: (&Path, &Path)) -> (Objects, String) {
    let file = files.1.join("cluster.jsonl");
    relay.cut();
    let blind = check_blind(relay, files);
    relay.mend();
    blind.wait_until("ready", Follower::is_ready);
    let whole = blind.view.objects().clone();
    // It is on the disk soon, and what came last at the end.
    blind.wait_until("on the disk", |_| file.exists());
    apply(server, &[http_route("c", "web", "1")]);
    blind.see("c", |objects| objects.http_routes.len() == 3);
    drop(blind);
    let written = fs::read_to_string(file).unwrap();
    assert!(written.contains("[\"HTTPRoute\",\"shop\",\"c\","), "{written}");
    (whole, written)
}

#[test]
fn a_proxy_that_starts_while_the_server_is_away_has_the_state_of_the_disk() {
    let server = server();
    let folder = TempDir::new().unwrap();
    let relay = Relay::to(&server);
    let kubeconfig = relay.kubeconfig(&server, folder.path());
    let state = folder.path().join("state");
    server.node("node-a");
    server.pod("shop", "web-1", "default", "node-a");
    apply(
        &server,
        &[
            service("web", None),
            slice("s", "web", "10.0.0.1"),
            http_route("a", "web", "1"),
            http_route("b", "web", "1"),
        ],
    );

    let (whole, written) = write_state(&server, &relay, (&kubeconfig, &state));

    relay.cut();
    let begun = Instant::now();
    let late = Follower::ready(&kubeconfig, Some(&state));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let age = late.ages();
    assert!(matches!(age[..], [Some(_)]), "{age:?}");
    assert!(late.has_report(
        "the API server has not told everything since this proxy started: objects are those of 20"
    ));
    assert!(late.metric("gammarus_cluster_old_state_seconds", "") > 0.0);
    {
        let now = late.view.objects();
        assert_eq!(
            (&now.pods, &now.services, &now.endpoint_slices),
            (&whole.pods, &whole.services, &whole.endpoint_slices)
        );
        assert_eq!((&now.namespaces, &now.nodes), (&whole.namespaces, &whole.nodes));
        assert!(now.http_routes.keys().map(|key| &*key.name).eq(["a", "b", "c"]));
    }
    let snapshot = late.view.snapshot().load_full();
    let web = snapshot.find_service_port(&ServicePortKey::tcp(key("shop", "web"), 80)).cloned();
    assert!(web.is_some_and(|web| web.producer.is_some()), "routes hold, too");
    late.touched();

    // Back again: what has changed meanwhile, and nothing else.
    delete(&server, &["httproute/a"]);
    apply(&server, &[http_route("b", "web", "2")]);
    relay.mend();
    late.wait_until("current", |late| late.ages() == [None]);
    late.see("b changed, a gone", |objects| {
        objects.http_routes.len() == 2 && wanted_version(objects, "b").as_deref() == Some("2")
    });
    late.wait_until("no reports", |late| late.reports().is_empty());
    assert_eq!(late.touched(), 2);
    assert_eq!(late.metric("gammarus_cluster_old_state_seconds", ""), 0.0);
    drop(late);

    // A state that is not whole is none.
    fs::write(state.join("cluster.jsonl"), &written[..written.len() / 2]).unwrap();
    relay.cut();
    check_blind(&relay, (&kubeconfig, &state));
}

#[test]
fn a_server_that_is_away_is_left_alone_more_and_more() {
    let server = server();
    let folder = TempDir::new().unwrap();
    let relay = Relay::to(&server);
    let follower = Follower::ready(&relay.kubeconfig(&server, folder.path()), None);
    relay.cut();
    let counts: Vec<usize> = (0..2)
        .map(|_| {
            let before = relay.tries();
            thread::sleep(Duration::from_secs(8));
            relay.tries() - before
        })
        .collect();
    // Ten kinds, each after up to 0.5, 1, 2, 4, 8 s: about six tries in the first eight seconds, and two in the next.
    assert!((20..=120).contains(&counts[0]), "{counts:?}");
    assert!(counts[1] < counts[0] && counts[1] <= 60, "{counts:?}");
    relay.mend();
    follower.wait_until("well again", |follower| follower.reports().is_empty());
}
