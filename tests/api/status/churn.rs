//! 1,000 routes while routes and what they name are edited all the time.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream;
use kube::api::{ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use serde_json::{Value, json};

use super::{Cluster, is_current, own_entries, said_of};

const ROUTES: usize = 1000;
const SERVICES: usize = 20;
/// How long edits go on.
const CHURN: Duration = Duration::from_secs(15);
/// What is said has to be right after so long.
const RIGHT: Duration = Duration::from_secs(5);
const GOOD: &str = "Accepted=True Accepted; ResolvedRefs=True ResolvedRefs";
const BROKEN: &str = "Accepted=True Accepted; ResolvedRefs=False BackendNotFound";

fn name(number: usize) -> String {
    format!("route-{number:04}")
}

fn spec(number: usize, backend: &str, weight: usize) -> Value {
    json!({
        "parentRefs": [{ "group": "", "kind": "Service", "name": format!("parent-{}", number % SERVICES) }],
        "rules": [{ "matches": [{ "path": { "type": "PathPrefix", "value": format!("/{number}") } }],
                    "backendRefs": [{ "name": backend, "port": 80, "weight": weight }] }],
    })
}

/// Creates or edits a route, and gives its generation.
async fn put(cluster: &Cluster, number: usize, spec: Value) -> i64 {
    let name = name(number);
    let route = json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
                        "metadata": { "name": name, "namespace": "shop" }, "spec": spec });
    let params = PatchParams::apply("a-user").force();
    let written =
        cluster.api("HTTPRoute", "shop").patch(&name, &params, &Patch::Apply(&route)).await.unwrap();
    written.metadata.generation.unwrap()
}

/// How many routes do not say what they should.
async fn count_wrong(cluster: &Cluster, broken: impl Fn(usize) -> bool) -> usize {
    let routes = cluster.api("HTTPRoute", "shop").list(&ListParams::default()).await.unwrap();
    let routes: Vec<Value> =
        routes.items.into_iter().map(|route| serde_json::to_value(route).unwrap()).collect();
    assert_eq!(routes.len(), ROUTES);
    let wrong = routes.iter().filter(|route| {
        let number: usize = route["metadata"]["name"].as_str().unwrap()[6..].parse().unwrap();
        let said = if broken(number) { BROKEN } else { GOOD };
        said_of(route, &format!("parent-{}", number % SERVICES)) != said || !is_current(route)
    });
    wrong.count()
}

async fn wait_until_right(cluster: &Cluster, broken: impl Fn(usize) -> bool, limit: Duration) -> Duration {
    let begun = Instant::now();
    loop {
        let asked = begun.elapsed();
        let wrong = count_wrong(cluster, &broken).await;
        if wrong == 0 {
            return asked;
        }
        assert!(asked < limit, "{wrong} of {ROUTES} are not right after {asked:?}");
        tokio::time::sleep(super::TICK).await;
    }
}

/// Edits, by route and generation, with when they were made.
type Edits = std::sync::Mutex<HashMap<(String, i64), Instant>>;

/// How long it takes from an edit to the status that is of its generation, or of a later one. The API server ends a watch that it
/// gets ahead of, as it may when all of this shares two processors: there is another one from where that had come to.
async fn measure(cluster: &Cluster, edits: &Edits, delays: &std::sync::Mutex<Vec<Duration>>) -> Infallible {
    let (routes, params) = (cluster.api("HTTPRoute", "shop"), WatchParams::default().timeout(290));
    let mut version = "0".to_owned();
    let mut events = Box::pin(routes.watch(&params, &version).await.unwrap());
    loop {
        let Some(event) = events.next().await else {
            events = Box::pin(routes.watch(&params, &version).await.unwrap());
            continue;
        };
        let (WatchEvent::Added(route) | WatchEvent::Modified(route)) = event.unwrap() else { continue };
        version = route.metadata.resource_version.clone().unwrap();
        let route = serde_json::to_value(route).unwrap();
        let observed = own_entries(&route)
            .first()
            .and_then(|entry| entry["conditions"][0]["observedGeneration"].as_i64());
        let (name, observed) = (route["metadata"]["name"].as_str().unwrap(), observed.unwrap_or(0));
        let mut edits = edits.lock().unwrap();
        let done: Vec<_> =
            edits.keys().filter(|(of, generation)| of == name && *generation <= observed).cloned().collect();
        let ended = done.iter().filter_map(|edit| edits.remove(edit)).map(|at| at.elapsed());
        delays.lock().unwrap().extend(ended);
    }
}

/// Edits routes and what they name, some at once; gives how often.
async fn edit_for_a_while(cluster: &Cluster, edits: &Edits) -> usize {
    let (begun, mut round) = (Instant::now(), 0_usize);
    while begun.elapsed() < CHURN {
        round += 1;
        let lanes = stream::iter(0..4).for_each_concurrent(4, |lane| {
            let number = (round * 4 + lane) * 37 % ROUTES;
            async move {
                let backend = if number.is_multiple_of(8) { "flapping" } else { "parent-0" };
                let begun = Instant::now();
                let generation = put(cluster, number, spec(number, backend, 1 + round % 50)).await;
                edits.lock().unwrap().insert((name(number), generation), begun);
            }
        });
        lanes.await;
        // Now and then a Service that some of the routes name as backend comes or goes.
        if round % 40 == 20 {
            let ports = "ports: [{name: http, port: 80}]";
            cluster.apply(&format!("kind: Service\nmetadata: {{name: flapping}}\nspec: {{{ports}}}\n")).await;
        } else if round.is_multiple_of(40) {
            cluster.delete("Service", "flapping").await;
        }
    }
    round
}

#[tokio::test]
async fn a_thousand_routes_are_right_five_seconds_after_whatever_happens() {
    let cluster = Cluster::start().await;
    let controller = cluster.leader().await;
    for number in 0..SERVICES {
        cluster.apply(&format!("kind: Service\nmetadata: {{name: parent-{number}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n")).await;
    }
    let shared = &cluster;
    stream::iter(0..ROUTES)
        .for_each_concurrent(8, |number| async move {
            put(shared, number, spec(number, "parent-0", 1)).await;
        })
        .await;
    let created = wait_until_right(&cluster, |_| false, RIGHT).await;

    let (edits, delays) = (Edits::default(), std::sync::Mutex::default());
    let play = async {
        let rounds = edit_for_a_while(&cluster, &edits).await;
        // The last edit was a moment ago. Which routes name the backend that may not be there is read from them.
        let there = cluster.api("Service", "shop").get_opt("flapping").await.unwrap().is_some();
        let routes = cluster.api("HTTPRoute", "shop").list(&ListParams::default()).await.unwrap();
        let names: Vec<bool> = routes
            .items
            .iter()
            .map(|route| route.data["spec"]["rules"][0]["backendRefs"][0]["name"] == "flapping")
            .collect();
        let right = wait_until_right(&cluster, |number| names[number] && !there, RIGHT).await;
        (rounds, right)
    };
    let (rounds, right) = tokio::select! {
        played = play => played,
        never = measure(&cluster, &edits, &delays) => match never {},
    };
    let mut delays = delays.into_inner().unwrap();
    delays.sort_unstable();
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize];
    let (p50, p99, longest) = (at(0.5), at(0.99), at(1.0));
    let written = controller.metric("gammarus_status_writes_total{result=\"written\"}");
    let conflicts = controller.metric("gammarus_status_writes_total{result=\"conflict\"}");
    let memory = controller.memory();
    eprintln!(
        "{ROUTES} routes right {created:?} after the last was made; {rounds} rounds of edits: right {right:?} after the \
         last, from an edit to its status p50 {p50:?}, p99 {p99:?}, longest {longest:?} of {}; {written} writes, {conflicts} conflicts, {memory}",
        delays.len()
    );
    assert!(delays.len() > 100 && p99 < RIGHT, "{p99:?} of {}", delays.len());
    // Whatever it was, it has been answered: nothing is written any more.
    controller.when("is done", || controller.metric("gammarus_status_queue_length") == 0.0).await;
}
