//! With few and with many routes: from a change of one to the first answer that has it, and what proxy and controller
//! hold.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::api::{Api, Asked};
use crate::chain::{Chain, List, NODE};
use crate::counters::Memory;
use crate::figures::{Report, Times, mib};
use crate::probe::{FIELD, Probe};
use crate::process::{PATIENCE, Running, program};
use crate::relay::Relay;

/// Between two edits while others are edited, too.
const CHURN: Duration = Duration::from_millis(50);

const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes";
const SERVICES: &str = "/api/v1/namespaces/shop/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";

/// A client and a server in the mesh, and a route between them that is edited.
struct Scene {
    chain: Chain,
    controller: Running,
    controller_way: Relay,
    probe: Probe,
    /// The edited route as a watch beside the proxy's sees it.
    watch: Receiver<(Instant, Value)>,
    edits: u32,
    /// How long nothing is done before memory is read.
    rest: Duration,
    server: Child,
}

pub(crate) fn run(is_quick: bool, report: &mut Report) {
    let (few, many, edits) = if is_quick { (10, 60, 10) } else { (10, 3_000, 100) };
    let rest = Duration::from_secs(if is_quick { 1 } else { 8 });
    let mut scene = Scene::set(rest);
    scene.add_routes(1..few);
    report.section(&format!("A route is changed, among {few} and among {many}"));
    scene.edit_times(&format!("{few} routes"), edits, report);
    scene.say_memory(few, report);
    let begun = Instant::now();
    scene.add_routes(few..many);
    let made = begun.elapsed().as_secs();
    scene.wait_for_status(many);
    let (of, then) = (many - few, begun.elapsed().as_secs() - made);
    report.line(
        &format!("{of} more, with a Service and endpoints each"),
        format!("made in {made} s, every status right {then} s later"),
    );
    scene.edit_times(&format!("{many} routes"), edits, report);
    scene.say_memory(many, report);
    let has_ended = AtomicBool::new(false);
    let api = Api::new(&scene.chain.installed.server.kubeconfig());
    thread::scope(|scope| {
        let _at_last = Ending(&has_ended);
        scope.spawn(|| churn(&api, many, &has_ended));
        scene.edit_times(&format!("{many} routes, others edited 20 times a second"), edits, report);
    });
    let (answers, not_good) = scene.probe.counts();
    scene.probe.stop();
    report.line("answers meanwhile", format!("{answers}, {not_good} of them not 200"));
    scene.say_memory_anew(many, report);
}

/// Says that it is over, however that comes.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Edits routes other than the one that is looked at.
fn churn(api: &Api, routes: usize, has_ended: &AtomicBool) {
    for edit in 1.. {
        if has_ended.load(Ordering::SeqCst) {
            return;
        }
        let number = 1 + edit * 389 % (routes - 1);
        api.send(Asked::patch(
            format!("{ROUTES}/other-{number}"),
            json!({ "spec": other_rules(number, edit) }),
        ));
        thread::sleep(CHURN);
    }
}

impl Scene {
    fn set(rest: Duration) -> Self {
        let mut chain = Chain::start();
        let [server, client] = ["server", "client"].map(|name| chain.sandbox("shop", name));
        let [address, _] = [&server, &client].map(|pod| {
            let (_, result) = chain.add(pod, List { is_meshed: true, is_dual: false });
            chain.run(pod, &result)
        });
        let application = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "ip", "netns", "exec"])
            .arg(server.netns.file_name().unwrap())
            .arg(program("node-proxy"))
            .args(["demo-app", "--name", "web", "--listen", "[::]:8080"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let api = &chain.installed.api;
        let target = json!({ "kind": "Pod", "namespace": "shop", "name": "server", "uid": server.uid });
        let endpoint = json!({ "addresses": [address], "nodeName": NODE, "targetRef": target });
        let made = api.send(Asked::create(SERVICES, service("web")));
        api.send(Asked::create(SLICES, slice("web", &[endpoint])));
        api.send(Asked::create(ROUTES, route("web", &edited_rules(0))));
        let address = format!("{}:80", made["spec"]["clusterIP"].as_str().unwrap());
        let watch = api.watch(&format!("{ROUTES}?watch=1&fieldSelector=metadata.name%3Dweb"));
        let controller_way = chain.installed.relay();
        let controller = Running::controller(&chain.installed.controller(controller_way.address()));
        let probe = Probe::start(&client.netns, &address);
        let scene =
            Self { chain, controller, controller_way, probe, watch, edits: 0, rest, server: application };
        scene.wait_for_answer(0);
        let log = || scene.chain.world.access_log(NODE).unwrap();
        let is_meshed = node_proxy::demo::command::until(PATIENCE, || log().contains("mtls=yes"));
        assert!(is_meshed, "requests are not encrypted: {}", log());
        scene
    }

    /// When the first answer was there that had been made by this edit.
    fn wait_for_answer(&self, edit: u32) -> Instant {
        let seen = |_| self.probe.seen.recv_timeout(PATIENCE).expect("an answer");
        (0..).map(seen).find(|(_, value)| *value == edit.to_string()).unwrap().0
    }

    fn wait_for_event(&self, edit: u32) -> Instant {
        let value = "/object/spec/rules/0/filters/0/responseHeaderModifier/set/0/value";
        let seen = |_| self.watch.recv_timeout(PATIENCE).expect("an event");
        let wanted = json!(edit.to_string());
        (0..).map(seen).find(|(_, event)| event.pointer(value) == Some(&wanted)).unwrap().0
    }

    fn edit_times(&mut self, among: &str, edits: u32, report: &mut Report) {
        let (mut from_edit, mut from_event) = (Times::default(), Times::default());
        for _ in 0..edits {
            self.edits += 1;
            let begun = Instant::now();
            let spec = json!({ "spec": edited_rules(self.edits) });
            self.chain.installed.api.send(Asked::patch(format!("{ROUTES}/web"), spec));
            let answered = self.wait_for_answer(self.edits);
            from_edit.push(answered - begun);
            from_event.push(answered.saturating_duration_since(self.wait_for_event(self.edits)));
            thread::sleep(Duration::from_millis(30));
        }
        report.line(&format!("{among}: from the edit to the first answer by it"), &from_edit);
        report.line(&format!("{among}: from the watch event to that answer"), &from_event);
    }

    /// Makes other routes, each with a Service that has two endpoints.
    fn add_routes(&self, numbers: std::ops::Range<usize>) {
        let api = &self.chain.installed.api;
        let name = |number: usize| format!("other-{number}");
        api.send_all(numbers.clone().map(|number| Asked::create(SERVICES, service(&name(number)))));
        api.send_all(numbers.clone().map(|number| {
            let address = |last| json!({ "addresses": [format!("10.99.{}.{}", number / 100, number % 100 * 2 + last)] });
            Asked::create(SLICES, slice(&name(number), &[address(1), address(2)]))
        }));
        api.send_all(
            numbers.map(|number| Asked::create(ROUTES, route(&name(number), &other_rules(number, 0)))),
        );
    }

    /// Waits until the controller has said of each route whether it holds.
    fn wait_for_status(&self, routes: usize) {
        let begun = Instant::now();
        loop {
            let list = self.chain.installed.api.get(ROUTES);
            let is_judged = |route: &&Value| route["status"]["parents"][0]["conditions"].is_array();
            let judged = list["items"].as_array().unwrap().iter().filter(is_judged).count();
            if judged == routes {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{judged} of {routes} routes have a status");
            thread::sleep(Duration::from_secs(1));
        }
    }

    fn say_memory(&mut self, routes: usize, report: &mut Report) {
        self.wait_for_status(routes);
        thread::sleep(self.rest);
        let proxy = self.chain.world.proxy(NODE).unwrap().id();
        report.line(&format!("{routes} routes, the node proxy"), Memory::of(proxy));
        report.line(&format!("{routes} routes, the controller"), self.controller.memory());
    }

    /// The same of processes that find all of it.
    fn say_memory_anew(&mut self, routes: usize, report: &mut Report) {
        let proxy = self.chain.world.proxy(NODE).unwrap();
        proxy.stop(Signal::SIGTERM, Duration::from_secs(10)).unwrap();
        let state = self.chain.world.running_node(NODE).unwrap().plugin_state().join("cluster.jsonl");
        let state = fs::metadata(state).unwrap().len() as f64;
        report.line(&format!("{routes} routes, the state on the node's disk"), mib(state));
        let before = self.chain.relay.passed();
        self.chain.world.restart_proxy(NODE).unwrap();
        let read = mib(self.chain.relay.passed().since(before).received as f64);
        report.line(&format!("{routes} routes, what a proxy that starts reads"), read);
        let before = self.controller_way.passed();
        self.controller =
            Running::controller(&self.chain.installed.controller(self.controller_way.address()));
        thread::sleep(self.rest * 3);
        let passed = self.controller_way.passed().since(before);
        let read = mib(passed.received as f64);
        report.line(&format!("{routes} routes, what a controller that starts reads"), read);
        self.wait_for_status(routes);
        thread::sleep(self.rest);
        let proxy = self.chain.world.proxy(NODE).unwrap().id();
        report.line(&format!("{routes} routes, a proxy that was started then"), Memory::of(proxy));
        report
            .line(&format!("{routes} routes, a controller that was started then"), self.controller.memory());
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _has_ended_before = self.server.kill();
        let _its_status = self.server.wait();
    }
}

fn service(name: &str) -> Value {
    let ports = json!([{ "name": "http", "port": 80, "targetPort": 8080 }]);
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": { "ports": ports } })
}

fn slice(service: &str, endpoints: &[Value]) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": format!("{service}-1"), "labels": { "kubernetes.io/service-name": service } },
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }], "endpoints": endpoints,
    })
}

fn route(name: &str, rules: &Value) -> Value {
    let mut route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": { "name": name }, "spec": rules,
    });
    route["spec"]["parentRefs"] = json!([{ "group": "", "kind": "Service", "name": name, "port": 80 }]);
    route
}

/// The rules of the route that is looked at, as an edit of this number leaves them.
fn edited_rules(edit: u32) -> Value {
    let set = json!([{ "name": FIELD, "value": edit.to_string() }]);
    let filter = json!({ "type": "ResponseHeaderModifier", "responseHeaderModifier": { "set": set } });
    json!({ "rules": [{ "filters": [filter], "backendRefs": [{ "name": "web", "port": 80 }] }] })
}

/// Those of another one.
fn other_rules(number: usize, edit: usize) -> Value {
    let set = json!([{ "name": "x-by", "value": edit.to_string() }]);
    let filter = json!({ "type": "RequestHeaderModifier", "requestHeaderModifier": { "set": set } });
    let backends = json!([{ "name": format!("other-{number}"), "port": 80 }]);
    json!({ "rules": [
        { "matches": [{ "path": { "value": format!("/{number}") }, "headers": [{ "name": "version", "value": "new" }] }],
          "filters": [filter], "backendRefs": backends },
        { "backendRefs": backends },
    ] })
}
