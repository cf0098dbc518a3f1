//! Which of several controllers writes: by real processes, one of which is killed, one told to end, one robbed of its Lease.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use kube::api::{Patch, PatchParams, WatchEvent, WatchParams};
use serde_json::{Value, json};

use super::{Cluster, PATIENCE, own_entries, said_of};

const GOOD: &str = "Accepted=True Accepted; ResolvedRefs=True ResolvedRefs";
const BROKEN: &str = "Accepted=True Accepted; ResolvedRefs=False BackendNotFound";

fn web(port: u16) -> String {
    format!("kind: Service\nmetadata: {{name: web}}\nspec: {{ports: [{{name: http, port: {port}}}]}}\n")
}

fn route(name: &str, backend: &str) -> String {
    format!(
        "kind: HTTPRoute\nmetadata: {{name: {name}}}\n\
         spec: {{parentRefs: [{{group: \"\", kind: Service, name: web}}], rules: [{{backendRefs: [{{name: {backend}, port: 80}}]}}]}}\n"
    )
}

/// Everything that a route says under our name, version by version, from now on.
async fn record(cluster: &Cluster, name: &str, seen: &std::sync::Mutex<Vec<String>>) {
    let params = WatchParams::default().fields(&format!("metadata.name={name}")).timeout(290);
    let mut events = Box::pin(cluster.api("HTTPRoute", "shop").watch(&params, "0").await.unwrap());
    while let Some(event) = events.next().await {
        if let WatchEvent::Added(route) | WatchEvent::Modified(route) = event.unwrap() {
            let route = serde_json::to_value(route).unwrap();
            let times: Vec<Value> = own_entries(&route)
                .iter()
                .flat_map(|entry| super::conditions(entry))
                .map(|condition| condition["lastTransitionTime"].clone())
                .collect();
            let line = format!("{} {}", said_of(&route, "web"), json!(times));
            let mut seen = seen.lock().unwrap();
            if seen.last() != Some(&line) {
                seen.push(line);
            }
        }
    }
}

#[tokio::test]
async fn leadership_passes_on_and_no_status_is_lost_or_turns() {
    let cluster = Cluster::start().await;
    cluster.apply(&web(80)).await;
    cluster.apply(&route("steady", "web")).await;
    let first = cluster.leader().await;
    let second = cluster.controller().await;
    cluster.says(("HTTPRoute", "steady"), "web", GOOD).await;
    let (steady, moving) = (std::sync::Mutex::default(), std::sync::Mutex::default());
    cluster.apply(&route("moving", "web")).await;
    cluster.says(("HTTPRoute", "moving"), "web", GOOD).await;
    let play = async {
        assert!(!second.leads());
        // What changes while nobody leads is said by who leads next.
        first.signal("-KILL");
        let killed = Instant::now();
        cluster.apply(&route("moving", "gone")).await;
        second.when("leads", || second.leads()).await;
        let waited = killed.elapsed();
        assert!((Duration::from_secs(10)..Duration::from_secs(25)).contains(&waited), "{waited:?}");
        cluster.says(("HTTPRoute", "moving"), "web", BROKEN).await;

        let third = cluster.controller().await;
        let told = Instant::now();
        let (ended, log) = second.terminate().await;
        assert!(ended.success() && log.contains("the lease is given up"), "{ended}: {log}");
        cluster.apply(&route("moving", "web")).await;
        third.when("leads", || third.leads()).await;
        assert!(told.elapsed() < Duration::from_secs(10), "who goes says so: {:?}", told.elapsed());
        cluster.says(("HTTPRoute", "moving"), "web", GOOD).await;
        let lease = cluster.get("Lease", super::SYSTEM, "gammarus-controller").await;
        assert_eq!(lease["spec"]["leaseTransitions"], 2);
    };
    tokio::select! {
        () = play => {}
        () = record(&cluster, "steady", &steady) => panic!("the watch has ended"),
        () = record(&cluster, "moving", &moving) => panic!("the watch has ended"),
    }
    let steady = steady.into_inner().unwrap();
    assert_eq!(steady.len(), 1, "nothing was ever said otherwise: {steady:#?}");
    let moving: Vec<String> =
        moving.into_inner().unwrap().iter().map(|line| line.split(" [").next().unwrap().to_owned()).collect();
    assert_eq!(moving, [GOOD, BROKEN, GOOD], "and what changed was said once");
}

#[tokio::test]
async fn who_has_lost_the_lease_writes_nothing() {
    let cluster = Cluster::start().await;
    cluster.apply(&web(80)).await;
    let controller = cluster.leader().await;
    cluster.apply(&route("before", "web")).await;
    cluster.says(("HTTPRoute", "before"), "web", GOOD).await;

    // Somebody takes it by force, and goes on renewing it.
    let leases = cluster.api("Lease", super::SYSTEM);
    let rob = || async {
        let now = k8s_openapi::jiff::Timestamp::now();
        let spec = json!({ "spec": { "holderIdentity": "robber", "renewTime": format!("{now:.6}") } });
        leases.patch("gammarus-controller", &PatchParams::default(), &Patch::Merge(&spec)).await.unwrap();
    };
    rob().await;
    controller.when("notices", || !controller.leads()).await;
    cluster.apply(&route("meanwhile", "web")).await;
    let has_judged = || controller.get("/status").is_some_and(|status| status.contains("shop/meanwhile"));
    controller.when("judges", has_judged).await;
    let held = Instant::now();
    while held.elapsed() < Duration::from_secs(17) {
        rob().await;
        let found = cluster.get("HTTPRoute", "shop", "meanwhile").await;
        assert_eq!(own_entries(&found), Vec::<&Value>::new());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // It is not renewed any more: in its own time somebody else takes it.
    let left = Instant::now();
    cluster.says(("HTTPRoute", "meanwhile"), "web", GOOD).await;
    let waited = left.elapsed();
    assert!((Duration::from_secs(12)..Duration::from_secs(25)).contains(&waited), "{waited:?}");

    // The API server is away: who cannot renew stops by itself, before another one could take over.
    cluster.server.set_answering(false);
    let away = Instant::now();
    while controller.leads() {
        assert!(away.elapsed() < PATIENCE);
        tokio::time::sleep(super::TICK).await;
    }
    let waited = away.elapsed();
    cluster.server.set_answering(true);
    assert!((Duration::from_secs(6)..Duration::from_secs(14)).contains(&waited), "{waited:?}");
    controller.when("leads again", || controller.leads()).await;
    cluster.apply(&route("before", "gone")).await;
    cluster.says(("HTTPRoute", "before"), "web", BROKEN).await;
}
