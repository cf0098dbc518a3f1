//! One stage for these tests: a client and servers on two nodes, each server with a mood of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use node_proxy::demo::command::{Process, until};
use node_proxy::demo::world::World;
use serde_json::Value;

/// How long anything here may take that should be quick.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

const SERVICES: &str = "
{apiVersion: v1, kind: Service, metadata: {name: moody}, spec: {selector: {app: moody}, ports: [
  {name: http, port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: moody-too}, spec: {selector: {app: moody}, ports: [
  {name: http, port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: gloomy}, spec: {selector: {app: gloomy}, ports: [
  {name: http, port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: rude}, spec: {selector: {app: rude}, ports: [
  {name: http, port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: part}, spec: {selector: {app: part}, ports: [
  {name: http, port: 80, targetPort: 8081}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: erring}, spec: {selector: {app: erring}, ports: [
  {name: http, port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: fickle}, spec: {selector: {app: fickle}, ports: [
  {name: http, port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: drained}, spec: {ports: [
  {name: http, port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: loyal}, spec: {selector: {app: loyal}, sessionAffinity: ClientIP,
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 3}}, ports: [{name: http, port: 80, targetPort: 8080}]}}
";

/// Each server's pod: its app, and how many there are.
const SERVERS: [(&str, usize); 8] = [
    ("moody", 3),
    ("gloomy", 3),
    ("rude", 3),
    ("part", 3),
    ("drained", 2),
    ("loyal", 4),
    ("erring", 2),
    ("fickle", 3),
];

static SHARED: Mutex<Weak<Stage>> = Mutex::new(Weak::new());

/// The world with everything on it.
pub(crate) struct Stage {
    pub(crate) world: Mutex<World>,
    /// Servers beside the pods' own, stopped with the stage.
    _servers: Vec<Process>,
}

/// The stage, made now if no other test has it.
pub(crate) fn stage() -> Arc<Stage> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(stage) = shared.upgrade() {
        return stage;
    }
    let stage = Arc::new(Stage::make());
    *shared = Arc::downgrade(&stage);
    stage
}

/// A file beside this one.
pub(crate) fn tool(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/balance").join(name).display().to_string()
}

/// Starts a server whose mood a file of the world says.
pub(crate) fn start_server(world: &mut World, name: &str, app: &str, node: &str) {
    let (script, mood) = (tool("moody.py"), mood_file(world, name).display().to_string());
    let program = ["/usr/bin/python3", &script, name, "8080", &mood];
    let pod = world.pod(name).namespace("shop").service_account(app).on(node);
    pod.labels(&[("app", app)]).program(&program).start().unwrap();
}

fn mood_file(world: &World, server: &str) -> PathBuf {
    world.dir().join(format!("{server}.mood"))
}

/// The statuses and bodies that curl in a pod gets for so many requests to one URL, one after another.
#[track_caller]
pub(crate) fn ask(
    world: &World,
    pod: &str,
    url: &str,
    arguments: &[&str],
    count: usize,
) -> Vec<(String, String)> {
    let url = format!("{url}?n=[1-{count}]");
    let full = [&["curl", "-s", "--max-time", "60", "-w", "|%{http_code}\n"], arguments, &[&url]].concat();
    let done = world.exec(pod, &full).unwrap();
    let mut answers = Vec::new();
    let mut body = String::new();
    for line in done.stdout.lines() {
        match line.split_once('|') {
            Some((rest, status)) => {
                body.push_str(rest);
                answers.push((status.to_owned(), std::mem::take(&mut body)));
            }
            None => body.push_str(line),
        }
    }
    assert_eq!(answers.len(), count, "{} {}", done.stdout, done.stderr);
    answers
}

/// How many of the answers have a status.
pub(crate) fn count(answers: &[(String, String)], status: &str) -> usize {
    answers.iter().filter(|(found, _)| found == status).count()
}

/// How many of the answers are of a server.
pub(crate) fn of(answers: &[(String, String)], server: &str) -> usize {
    answers.iter().filter(|(_, body)| body == server).count()
}

impl Stage {
    fn make() -> Self {
        // Whoever was dialled in vain is told at this level.
        let mut world = World::builder().log_level("info,node_proxy::outbound=debug").start().unwrap();
        world.node("node-a").unwrap();
        world.node("node-b").unwrap();
        world.namespace("shop", &[("gammarus.io/mesh", "enabled")]).unwrap();
        for name in ["client", "client-2"] {
            let pod = world.pod(name).namespace("shop").service_account(name).on("node-a");
            pod.program(&["sleep", "infinity"]).start().unwrap();
        }
        for (app, pods) in SERVERS {
            for number in 1..=pods {
                start_server(&mut world, &format!("{app}-{number}"), app, "node-b");
            }
        }
        world.apply_in("shop", "services", SERVICES).unwrap();
        let more = |name: &str| {
            let (script, mood) = (tool("moody.py"), mood_file(&world, name).display().to_string());
            world.spawn(name, "more", &["/usr/bin/python3", &script, name, "8081", &mood]).unwrap()
        };
        // One of the three pods of `part` has nobody on this port.
        let servers = vec![more("part-2"), more("part-3")];
        let stage = Self { world: Mutex::new(world), _servers: servers };
        stage.endpoints("drained", &[("drained-1", "ready: true"), ("drained-2", "ready: true")]);
        for service in ["moody", "gloomy", "rude", "part", "drained", "loyal", "erring", "fickle"] {
            let answers = || count(&stage.ask(&format!("http://{service}/settle"), 1), "200") == 1;
            assert!(until(PATIENCE, answers), "{service} does not answer");
        }
        stage
    }

    /// Runs something on the world. Only short: other tests wait.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        work(&mut self.world.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// See [`ask`], from the client pod.
    #[track_caller]
    pub(crate) fn ask(&self, url: &str, count: usize) -> Vec<(String, String)> {
        self.with(|world| ask(world, "client", url, &[], count))
    }

    /// Writes the one slice of a Service: pods with their conditions.
    pub(crate) fn endpoints(&self, service: &str, pods: &[(&str, &str)]) {
        self.with(|world| {
            let endpoints = pods.iter().map(|(name, conditions)| {
                let pod = world.running_pod(name).unwrap();
                format!(
                    "{{addresses: ['{}'], nodeName: {}, conditions: {{{conditions}}}, \
                     targetRef: {{kind: Pod, name: {name}, namespace: shop, uid: {}}}}}",
                    pod.addresses[0], pod.node, pod.uid
                )
            });
            let endpoints = endpoints.collect::<Vec<_>>().join(", ");
            let slice = format!(
                "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
                 metadata: {{name: {service}-1, labels: {{kubernetes.io/service-name: {service}}}}}, \
                 ports: [{{name: http, port: 8080, protocol: TCP}}], endpoints: [{endpoints}]}}"
            );
            world.apply_in("shop", "slice", &slice).unwrap();
        });
    }

    /// Puts a server into a mood.
    pub(crate) fn mood(&self, server: &str, mood: &str) {
        self.with(|world| fs::write(mood_file(world, server), mood).unwrap());
    }

    /// How many lines of a server's log begin with a word.
    pub(crate) fn logged(&self, server: &str, word: &str) -> usize {
        let log = self.with(|world| world.running_pod(server).unwrap().app.as_ref().map(Process::log));
        log.unwrap_or_default().lines().filter(|line| line.starts_with(word)).count()
    }

    /// The metric of ejections of a Service on the client's node.
    pub(crate) fn ejections(&self, service: &str) -> f64 {
        let text = self.with(|world| world.admin("node-a", "/metrics").unwrap());
        let name = "gammarus_endpoint_ejections_total{";
        let label = format!("service=\"{service}\"");
        let mut samples = text.lines().filter(|line| line.starts_with(name) && line.contains(&label));
        samples.next().and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    }

    /// How many endpoints of a Service's port 80 the client's node spares at the moment.
    pub(crate) fn spared(&self, service: &str) -> usize {
        let text = self.with(|world| world.admin("node-a", "/snapshot").unwrap());
        let snapshot: Value = serde_json::from_str(&text).unwrap();
        let ports = find_ports(&snapshot, service);
        let endpoints = ports.iter().flat_map(|port| port["endpoints"].as_array().unwrap());
        endpoints.filter(|endpoint| endpoint["ejected"] == true).count()
    }
}

/// The ports of a Service wherever the dump has them.
fn find_ports<'a>(dump: &'a Value, service: &str) -> Vec<&'a Value> {
    match dump {
        Value::Array(items) => items.iter().flat_map(|item| find_ports(item, service)).collect(),
        Value::Object(fields) if fields.contains_key("endpoints") => {
            let is_his = fields["service"] == format!("shop/{service}");
            if is_his { vec![dump] } else { Vec::new() }
        }
        Value::Object(fields) => fields.values().flat_map(|item| find_ports(item, service)).collect(),
        _ => Vec::new(),
    }
}
