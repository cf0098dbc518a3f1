//! Many routes under churn, from the API server to the snapshot.

use std::path::Path;
use std::time::{Duration, Instant};

use node_proxy::cluster::kubernetes::connect;
use node_proxy::snapshot::service::ServicePortKey;
use serde_json::{Value, json};

use crate::follower::Follower;
use crate::source::{apply, http_route, key, server, service, wanted_version};

/// Makes requests of one kind, without the rests that `kubectl` takes.
pub(crate) struct Editor {
    runtime: tokio::runtime::Runtime,
    client: kube::Client,
}

impl Editor {
    pub(crate) fn new(kubeconfig: &Path) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = runtime.block_on(connect(Some(kubeconfig))).unwrap();
        Self { runtime, client }
    }

    pub(crate) fn send(&self, method: &str, path: &str, kind: &str, body: &Value) {
        let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
        let request = request.body(body.to_string().into_bytes()).unwrap();
        self.runtime.block_on(self.client.request_text(request)).unwrap();
    }
}

const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes";

fn name(index: usize) -> String {
    format!("route-{index:04}")
}

fn route(index: usize, version: &str) -> Value {
    http_route(&name(index), &format!("web-{}", index % 10), version)
}

impl Editor {
    fn create(&self, index: usize, version: &str) {
        self.send("POST", ROUTES, "application/json", &route(index, version));
    }

    fn change(&self, index: usize, version: &str) {
        let spec = json!({"spec": route(index, version)["spec"]});
        self.send("PATCH", &format!("{ROUTES}/{}", name(index)), "application/merge-patch+json", &spec);
    }

    fn delete(&self, index: usize) {
        self.send("DELETE", &format!("{ROUTES}/{}", name(index)), "application/json", &json!({}));
    }

    /// Edits, deletions and additions at many places, as fast as the server takes them; gives what each route wants then.
    fn churn(&self) -> Vec<Option<String>> {
        let mut expected: Vec<Option<String>> = vec![Some("first".to_owned()); 1000];
        let mut place = 1;
        for edit in 0..500 {
            place = place * 389 % 1009;
            let index = place % 1000;
            let version = format!("edit-{edit}");
            match (&expected[index], edit % 3) {
                (Some(_), 0) => {
                    self.delete(index);
                    expected[index] = None;
                    continue;
                }
                (Some(_), _) => self.change(index, &version),
                (None, _) => self.create(index, &version),
            }
            expected[index] = Some(version);
        }
        expected
    }

    /// From the answer to an edit until it is in the snapshot.
    fn time_change(&self, follower: &Follower, index: usize, version: &str) -> Duration {
        let mut generations = follower.view.generations();
        self.change(index, version);
        let begun = Instant::now();
        let wait = async {
            loop {
                generations.borrow_and_update();
                if wanted_version(&follower.view.objects(), &name(index)).as_deref() == Some(version) {
                    return;
                }
                generations.changed().await.unwrap();
            }
        };
        self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(5), wait).await.unwrap() });
        begun.elapsed()
    }
}

/// The first route that the snapshot's Services do not have as it should be: with its last version, or not at all.
fn find_wrong(follower: &Follower, expected: &[Option<String>]) -> Option<String> {
    let snapshot = follower.view.snapshot().load_full();
    (0..10).find_map(|service| {
        let port = ServicePortKey::tcp(key("shop", &format!("web-{service}")), 80);
        let table = format!("{:?}", snapshot.find_service_port(&port).unwrap().producer);
        let is_wrong = |route: &usize| match &expected[*route] {
            Some(version) => !table.contains(&name(*route)) || !table.contains(version.as_str()),
            None => table.contains(&name(*route)),
        };
        (service..1000).step_by(10).find(is_wrong).map(name)
    })
}

#[test]
fn a_thousand_routes_under_churn_are_right_in_the_snapshot() {
    let server = server();
    let services: Vec<Value> = (0..10).map(|index| service(&format!("web-{index}"), None)).collect();
    apply(&server, &services);
    let editor = Editor::new(&server.kubeconfig());
    (0..1000).for_each(|index| editor.create(index, "first"));
    let follower = Follower::ready(&server.kubeconfig(), None);
    assert_eq!(follower.view.objects().http_routes.len(), 1000);
    let expected = editor.churn();
    let begun = Instant::now();
    follower.see("every route as it was last edited", |objects| {
        (0..1000).all(|index| wanted_version(objects, &name(index)) == expected[index])
    });
    // The snapshot is made of the objects, and so a moment later.
    while let Some(wrong) = find_wrong(&follower, &expected) {
        assert!(begun.elapsed() < Duration::from_secs(5), "{wrong} in the snapshot");
    }
    let settled = begun.elapsed();
    assert!(settled < Duration::from_secs(5), "right only after {settled:?}");
    let there = (0..1000).filter(|index| expected[*index].is_some()).step_by(7);
    let times = there.take(50).enumerate();
    let mut delays: Vec<Duration> =
        times.map(|(turn, index)| editor.time_change(&follower, index, &format!("alone-{turn}"))).collect();
    delays.sort();
    let (median, most) = (delays[25], delays[48]);
    eprintln!(
        "1,000 routes: 500 edits right after {settled:?}; one edit after {median:?} (p50), {most:?} (p98)"
    );
}
