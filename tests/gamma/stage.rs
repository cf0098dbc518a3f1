//! The stage of every test: two nodes, two versions of a server on the far one, clients of three namespaces on the
//! near one, and a way to know that a change has been taken in.

use std::collections::BTreeMap;
use std::time::Duration;

use node_proxy::demo::command::until;
use node_proxy::demo::objects::Applied;
use node_proxy::demo::world::World;
use serde_json::Value;

/// The node of the clients, whose proxy applies the routes.
pub(crate) const NEAR: &str = "node-a";
/// How long a change may take to be seen: far more than it does, on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Both wires, as `curl` is told.
pub(crate) const WIRES: [&str; 2] = ["--http1.1", "--http2-prior-knowledge"];
/// What `curl` prints of an answer.
const PRINT: &str = "%{http_code} %header{x-app}%header{gammarus-reason}\\n";

const NAMESPACES: [&str; 3] = ["checkout", "other", "shop"];
const SERVICES: &str = "
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: v1}, spec: {selector: {version: v1}, ports: [{name: http, port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: v2}, spec: {selector: {version: v2}, ports: [{name: http, port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: empty}, spec: {selector: {app: nobody}, ports: [{name: http, port: 80, targetPort: 8080}]}}
";

/// The parentRef of the Service `web`.
pub(crate) const WEB: &str = "{group: '', kind: Service, name: web}";
/// Rules that send everything to one version.
pub(crate) const ALL_TO_V1: &str = "{backendRefs: [{name: v1, port: 80}]}";
pub(crate) const ALL_TO_V2: &str = "{backendRefs: [{name: v2, port: 80}]}";

/// A world in which routes can be tried.
pub(crate) struct Stage {
    pub(crate) world: World,
    barriers: u32,
}

impl Stage {
    /// Service `web` with the pods `v1` and `v2`, each also a Service of its own; `client` in `shop`, `buyer` in
    /// `checkout`, `guest` in `other`; Service `empty` without endpoints.
    #[track_caller]
    pub(crate) fn set() -> Self {
        let mut world = World::builder().start().unwrap();
        world.node(NEAR).unwrap();
        world.node("node-b").unwrap();
        for namespace in NAMESPACES {
            world.namespace(namespace, &[("gammarus.io/mesh", "enabled")]).unwrap();
        }
        world.apply_in("shop", "the stage", SERVICES).unwrap();
        for version in ["v1", "v2"] {
            let labels = [("app", "web"), ("version", version)];
            let pod = world.pod(version).namespace("shop").labels(&labels).on("node-b");
            pod.app(version).unwrap().start().unwrap();
        }
        for (client, namespace) in [("client", "shop"), ("buyer", "checkout"), ("guest", "other")] {
            world.pod(client).namespace(namespace).on(NEAR).start().unwrap();
        }
        let mut stage = Self { world, barriers: 0 };
        stage.settle();
        for service in ["v1", "v2"] {
            let url = format!("http://{service}");
            let answer = format!("200 {service}");
            assert!(until(PATIENCE, || stage.ask("client", &[&url]) == answer), "{service} does not answer");
        }
        stage
    }

    /// Applies objects, in `shop` unless they say otherwise, and waits until the near proxy goes by them.
    #[track_caller]
    pub(crate) fn apply(&mut self, yaml: &str) -> Vec<Applied> {
        let applied = self.world.apply_in("shop", "a test's YAML", yaml).unwrap();
        self.settle();
        assert_eq!(self.status()["problems"], serde_json::json!([]), "{yaml}");
        applied
    }

    /// Deletes objects, and waits until the near proxy goes without them.
    #[track_caller]
    pub(crate) fn delete(&mut self, objects: &[Applied]) {
        for object in objects {
            self.world.delete(object).unwrap();
        }
        self.settle();
    }

    /// Waits until everything that was written before has been taken in: files are read in order, so once a new
    /// namespace is known, all that came before it is, too.
    #[track_caller]
    pub(crate) fn settle(&mut self) {
        self.barriers += 1;
        let name = format!("barrier-{}", self.barriers);
        self.world.namespace(&name, &[]).unwrap();
        let seen =
            || self.snapshot()["namespaces"].as_array().unwrap().iter().any(|known| known["name"] == *name);
        assert!(until(PATIENCE, seen), "{name} was not taken in");
        let object = Applied { kind: "Namespace".to_owned(), namespace: String::new(), name };
        self.world.delete(&object).unwrap();
    }

    /// What the near proxy's data path knows.
    pub(crate) fn snapshot(&self) -> Value {
        serde_json::from_str(&self.world.admin(NEAR, "/snapshot").unwrap()).unwrap()
    }

    /// What the near proxy says of routes and files.
    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.world.admin(NEAR, "/status").unwrap()).unwrap()
    }

    /// The conditions of a route (`HTTPRoute shop/web`) on each of its parents, one text for each.
    #[track_caller]
    pub(crate) fn conditions(&self, route: &str) -> Vec<String> {
        let status = self.status();
        let routes = status["routes"]["routes"].as_array().unwrap();
        let found = routes.iter().find(|known| known["route"] == route);
        let parents =
            found.unwrap_or_else(|| panic!("no {route} in {status:#}"))["parents"].as_array().unwrap();
        let text = |condition: &Value| {
            let part = |key: &str| condition[key].as_str().unwrap().to_owned();
            format!("{}={} {} {}", part("type"), part("status"), part("reason"), part("message"))
        };
        let join = |parent: &Value| {
            parent["conditions"].as_array().unwrap().iter().map(text).collect::<Vec<_>>().join("\n")
        };
        parents.iter().map(join).collect()
    }

    /// The conditions of a route on its only parent contain each of these texts.
    #[track_caller]
    pub(crate) fn check_conditions(&self, route: &str, expected: &[&str]) {
        let conditions = self.conditions(route).join("\n--- the next parent\n");
        for text in expected {
            assert!(conditions.contains(text), "{text:?} is not in the conditions of {route}:\n{conditions}");
        }
    }

    /// A line of the near proxy's log contains each of these texts.
    #[track_caller]
    pub(crate) fn check_log(&mut self, expected: &[&str]) {
        let log = self.world.proxy(NEAR).unwrap().log();
        let found = log.lines().any(|line| expected.iter().all(|text| line.contains(text)));
        assert!(found, "no line with {expected:?} in\n{log}");
    }

    /// Who answered `curl ARGUMENTS`, as `200 v1`, or why nobody did, as `404 no_matching_rule`; one line for each
    /// request.
    #[track_caller]
    pub(crate) fn ask(&self, pod: &str, arguments: &[&str]) -> String {
        let curl = ["curl", "-sS", "--max-time", "10", "-o", "/dev/null", "-w", PRINT];
        let ended = self.world.exec(pod, &[&curl, arguments].concat()).unwrap();
        if ended.success() { ended.stdout.trim_end().to_owned() } else { ended.stderr.trim_end().to_owned() }
    }

    #[track_caller]
    pub(crate) fn check(&self, pod: &str, arguments: &[&str], expected: &str) {
        let answer = self.ask(pod, arguments);
        let log = self.world.access_log(NEAR).unwrap();
        let last = log.lines().last().unwrap_or_default();
        assert_eq!(answer, expected, "{pod}: curl {arguments:?}; the last line of the access log: {last}");
    }

    /// How often each answer came to `count` requests of one connection.
    #[track_caller]
    pub(crate) fn count(&self, pod: &str, url: &str, count: u32) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::new();
        for line in self.ask(pod, &[&format!("{url}?n=[1-{count}]")]).lines() {
            *counts.entry(line.to_owned()).or_default() += 1;
        }
        assert_eq!(counts.values().sum::<u32>(), count, "{counts:?}");
        counts
    }
}

/// An HTTPRoute `namespace/name`; parents and rules are lists in YAML's flow style without their brackets.
pub(crate) fn http_route(key: &str, parents: &str, rules: &str) -> String {
    route("HTTPRoute", key, parents, rules)
}

/// A route of any kind.
pub(crate) fn route(kind: &str, key: &str, parents: &str, rules: &str) -> String {
    let (namespace, name) = key.split_once('/').unwrap();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  parentRefs: [{parents}]\n  rules: [{rules}]\n---\n"
    )
}

/// A rule for a path prefix.
pub(crate) fn under(prefix: &str, rest: &str) -> String {
    format!("{{matches: [{{path: {{type: PathPrefix, value: {prefix}}}}}], {rest}}}")
}

/// `backendRefs` with one Service of `shop`.
pub(crate) fn to(service: &str) -> String {
    format!("backendRefs: [{{name: {service}, namespace: shop, port: 80}}]")
}
