//! Many routes under churn, from the API server to the snapshot.

use std::path::Path;
use std::time::{Duration, Instant};

use node_proxy::cluster::kubernetes::connect;
use node_proxy::cluster::objects::Objects;
use node_proxy::snapshot::service::ServicePortKey;
use serde_json::{Value, json};

use crate::follower::Follower;
use crate::source::{apply, http_route, key, server, service, wanted_version};

/// Makes requests of one kind, without the rests that `kubectl` takes.
struct Editor {
    runtime: tokio::runtime::Runtime,
    client: kube::Client,
}

impl Editor {
    fn new(kubeconfig: &Path) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = runtime.block_on(connect(Some(kubeconfig))).unwrap();
        Self { runtime, client }
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: &Value) {
        let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
        let request = request.body(body.to_string().into_bytes()).unwrap();
        self.runtime.block_on(self.client.request_text(request)).unwrap();
    }
}

const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes";

#[test]
fn a_thousand_routes_under_churn_are_right_in_the_snapshot() {
    let server = server();
    let services: Vec<Value> = (0..10).map(|index| service(&format!("web-{index}"), None)).collect();
    apply(&server, &services);
    let editor = Editor::new(&server.kubeconfig());
    let name = |index: usize| format!("route-{index:04}");
    let of = |index: usize, version: &str| http_route(&name(index), &format!("web-{}", index % 10), version);
    for index in 0..1000 {
        editor.send("POST", ROUTES, "application/json", &of(index, "first"));
    }
    let follower = Follower::ready(&server.kubeconfig(), None);
    assert_eq!(follower.view.objects().http_routes.len(), 1000);
    let patch = |index: usize, version: &str| {
        let spec = json!({"spec": of(index, version)["spec"]});
        editor.send("PATCH", &format!("{ROUTES}/{}", name(index)), "application/merge-patch+json", &spec);
    };
    // Edits, deletions and additions at random places, as fast as the server takes them.
    let mut expected: Vec<Option<String>> = vec![Some("first".to_owned()); 1000];
    let mut place = 1;
    for edit in 0..500 {
        place = place * 389 % 1009;
        let index = place % 1000;
        let version = format!("edit-{edit}");
        match (&expected[index], edit % 3) {
            (Some(_), 0) => {
                editor.send("DELETE", &format!("{ROUTES}/{}", name(index)), "application/json", &json!({}));
                expected[index] = None;
            }
            (Some(_), _) => {
                patch(index, &version);
                expected[index] = Some(version);
            }
            (None, _) => {
                editor.send("POST", ROUTES, "application/json", &of(index, &version));
                expected[index] = Some(version);
            }
        }
    }
    let begun = Instant::now();
    let as_expected =
        |objects: &Objects| (0..1000).all(|index| wanted_version(objects, &name(index)) == expected[index]);
    follower.see("every route as it was last edited", as_expected);
    let settled = begun.elapsed();
    assert!(settled < Duration::from_secs(5), "right only after {settled:?}");
    // The snapshot has of each Service what its routes say, and nothing of what they once said.
    for index in 0..10 {
        let snapshot = follower.view.snapshot().load_full();
        let port = ServicePortKey { service: key("shop", &format!("web-{index}")), port: 80 };
        let table = format!("{:?}", snapshot.find_service_port(&port).unwrap().producer);
        for route in (index..1000).step_by(10) {
            let has = table.contains(&name(route));
            assert_eq!(has, expected[route].is_some(), "{} of web-{index}", name(route));
            assert!(
                expected[route].iter().all(|version| table.contains(version.as_str())),
                "{}",
                name(route)
            );
        }
    }
    // One at a time: from the answer to the edit until the snapshot has it.
    let mut delays: Vec<Duration> = (0..50)
        .map(|turn| {
            let index = (0..1000).filter(|index| expected[*index].is_some()).nth(turn * 7).unwrap();
            let version = format!("alone-{turn}");
            let mut generations = follower.view.generations();
            patch(index, &version);
            let begun = Instant::now();
            let wait = async {
                loop {
                    generations.borrow_and_update();
                    if wanted_version(&follower.view.objects(), &name(index)).as_deref() == Some(&version) {
                        return;
                    }
                    generations.changed().await.unwrap();
                }
            };
            editor
                .runtime
                .block_on(async { tokio::time::timeout(Duration::from_secs(5), wait).await.unwrap() });
            begun.elapsed()
        })
        .collect();
    delays.sort();
    eprintln!(
        "1,000 routes: 500 edits right after {settled:?}; one edit after {:?} (p50), {:?} (p98)",
        delays[25], delays[48]
    );
}
