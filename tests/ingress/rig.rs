//! One stage for all of these tests: a Gateway's pod, the servers behind it, and a client outside.
//!
//! Tests that run at the same time share it; the last one takes it down.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use node_proxy::demo::command::{Process, until, within};
use node_proxy::demo::world::World;
use node_proxy::pod::netns::NetnsFd;
use serde_json::{Value, json};

pub(crate) use crate::certificate::{make_certificate, secret};

/// How long anything here may take that should be quick.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// The pod of the Gateway.
pub(crate) const GATEWAY: &str = "front";

static SHARED: Mutex<Weak<Stage>> = Mutex::new(Weak::new());

/// The world with everything on it.
pub(crate) struct Stage {
    world: Mutex<World>,
    servers: Mutex<Vec<Process>>,
    /// What only some tests want, and is there by now.
    added: Mutex<BTreeSet<&'static str>>,
}

/// What curl has seen.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: BTreeMap<String, String>,
    pub(crate) body: String,
    /// All that was printed.
    pub(crate) printed: String,
    /// What curl says of a failure.
    pub(crate) error: String,
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

/// So many bytes that differ from place to place.
pub(crate) fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|index| u8::try_from(index * 7 % 251).unwrap_or_default()).collect()
}

/// A Gateway of its own, so that what is done to it is nobody else's concern.
pub(crate) fn gateway(name: &str, listeners: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: {name}, namespace: edge}}, \
         spec: {{gatewayClassName: gammarus, listeners: [{listeners}]}}}}"
    )
}

/// A route for everything that comes to such a Gateway.
pub(crate) fn route(name: &str, gateway: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: {name}, namespace: plain}}, \
         spec: {{parentRefs: [{{name: {gateway}, namespace: edge}}], \
         rules: [{{backendRefs: [{{name: open, port: 80}}]}}]}}}}"
    )
}

/// A listener that takes routes from everywhere.
pub(crate) const ALL: &str = "allowedRoutes: {namespaces: {from: All}}";

impl Stage {
    fn make() -> Self {
        let mut world = World::builder().start().unwrap();
        for node in ["node-a", "node-b"] {
            world.node(node).unwrap();
        }
        world.namespace("shop", &[("gammarus.io/mesh", "enabled"), ("gammarus.io/mtls", "strict")]).unwrap();
        world.namespace("buyers", &[("gammarus.io/mesh", "enabled")]).unwrap();
        for namespace in ["edge", "plain", "outside"] {
            world.namespace(namespace, &[]).unwrap();
        }
        let dir = world.dir().to_owned();
        let mut objects = vec![include_str!("stage.yaml").to_owned()];
        for (name, host) in [
            ("secure", "secure.example.com"),
            ("below", "*.example.com"),
            ("special", "special.example.com"),
            ("ended", "ended.example.com"),
            ("bytes", "bytes.example.com"),
            ("passed", "passed.example.com"),
        ] {
            make_certificate(&dir, name, &[host]);
            objects.push(secret(&dir, name, ("edge", name)));
        }
        for (name, namespace, node) in [("client", "outside", "node-a"), ("buyer", "buyers", "node-b")] {
            let pod = world.pod(name).namespace(namespace).service_account(name).on(node);
            pod.program(&["sleep", "infinity"]).start().unwrap();
        }
        for (name, namespace, node) in [("inside", "shop", "node-b"), ("open", "plain", "node-b")] {
            let pod = world.pod(name).namespace(namespace).service_account(name).on(node);
            pod.labels(&[("app", name)]).app(name).unwrap().start().unwrap();
        }
        let origin = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/mesh/origin.py");
        let greeter = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/ingress/greeter.py");
        let (key, certificate) = (dir.join("passed.key"), dir.join("passed.pem"));
        let (key, certificate) = (key.display().to_string(), certificate.display().to_string());
        let web =
            ["openssl", "s_server", "-accept", "8443", "-key", &key, "-cert", &certificate, "-www", "-quiet"];
        let pages = dir.join("pages").display().to_string();
        fs::create_dir(&pages).unwrap();
        fs::write(format!("{pages}/page"), "a page over HTTP/2\n").unwrap();
        let servers = vec![
            world.spawn("open", "tcp", &["/usr/bin/python3", origin, "tcp", "9000"]).unwrap(),
            world.spawn("open", "greeter", &["/usr/bin/python3", greeter, "9001"]).unwrap(),
            world.spawn("open", "tls", &web).unwrap(),
            world.spawn("open", "version1", &["/usr/bin/python3", origin, "http", "8081"]).unwrap(),
            world.spawn("open", "version2", &["nghttpd", "--no-tls", "-d", &pages, "8082"]).unwrap(),
        ];
        world.apply_in("edge", "the stage", &objects.join("\n---\n")).unwrap();
        Self::wait_listening(&world, "open", &[8080, 8081, 8082, 8443, 9000, 9001]);
        world.gateway_pod(GATEWAY, ("edge", "front"), "node-a").unwrap();
        let stage = Self { world: Mutex::new(world), servers: Mutex::new(servers), added: Mutex::default() };
        stage.wait_status("conditions of its objects", |status| status["problems"] == json!([]));
        stage
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what several tests want and the others do not, unless it is there. The processes stay as long as the stage.
    #[track_caller]
    pub(crate) fn add_once(&self, what: &'static str, add: impl FnOnce(&mut World) -> Vec<Process>) {
        let mut added = self.added.lock().unwrap_or_else(PoisonError::into_inner);
        if added.insert(what) {
            let started = add(&mut self.world());
            self.servers.lock().unwrap_or_else(PoisonError::into_inner).extend(started);
        }
    }

    /// Adds a Service `origin` of `shop`, of the mesh, whose only pod is `inside`: HTTP/1.1 at 80, bytes at 9000.
    #[track_caller]
    pub(crate) fn add_origins(&self) {
        self.add_once("origins", |world| {
            let origin = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/mesh/origin.py");
            let service = "{apiVersion: v1, kind: Service, metadata: {name: origin}, spec: {selector: {app: inside}, \
                           ports: [{name: http, port: 80, targetPort: 8081}, {name: tcp-bytes, port: 9000}]}}";
            world.apply_in("shop", "origins", service).unwrap();
            let servers = ["http", "tcp"].map(|kind| {
                let port = if kind == "http" { "8081" } else { "9000" };
                world.spawn("inside", kind, &["/usr/bin/python3", origin, kind, port]).unwrap()
            });
            Self::wait_listening(world, "inside", &[8081, 9000]);
            servers.into()
        });
    }

    /// Runs a program in a pod that may take long: others have the world meanwhile.
    #[track_caller]
    pub(crate) fn run(&self, pod: &str, command: &[&str]) -> String {
        let netns = self.world().running_pod(pod).unwrap().netns.clone();
        let done = within(&netns, &[&["timeout", "60"], command].concat()).output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{command:?}: {said} {}", String::from_utf8_lossy(&done.stderr));
        said
    }

    /// The network namespace of a pod.
    #[track_caller]
    pub(crate) fn netns(&self, pod: &str) -> NetnsFd {
        let path = Path::new("/run/netns").join(&self.world().running_pod(pod).unwrap().netns);
        NetnsFd::open(&path).unwrap()
    }

    /// Waits until somebody in a pod listens on each of these ports of TCP.
    #[track_caller]
    pub(crate) fn wait_listening(world: &World, pod: &str, ports: &[u16]) {
        for port in ports {
            let listens = || world.exec(pod, &["ss", "-Hltn"]).unwrap().stdout.contains(&format!(":{port} "));
            assert!(until(PATIENCE, listens), "nobody listens on {port} of {pod}");
        }
    }

    /// Waits until `/status` of the Gateway's pod says this.
    #[track_caller]
    pub(crate) fn wait_status(&self, what: &str, says: impl Fn(&Value) -> bool) {
        let probe = ["curl", "-s", "http://127.0.0.1:15000/status"];
        let mut last = Value::Null;
        let said = until(PATIENCE, || {
            let text = self.world().exec(GATEWAY, &probe).unwrap().stdout;
            last = serde_json::from_str(&text).unwrap_or_default();
            says(&last)
        });
        assert!(said, "{what}: {last:#}");
    }

    /// The first address of the Gateway's pod.
    pub(crate) fn gateway(&self) -> String {
        self.address(GATEWAY)
    }

    /// The first address of a pod.
    pub(crate) fn address(&self, pod: &str) -> String {
        self.world().running_pod(pod).unwrap().addresses[0].to_string()
    }

    /// Runs curl in the client's pod; every name leads to the Gateway.
    #[track_caller]
    pub(crate) fn curl(&self, arguments: &[&str]) -> Answer {
        self.curl_at(&self.gateway(), arguments)
    }

    /// The same, and every name leads to this address.
    #[track_caller]
    pub(crate) fn curl_at(&self, host: &str, arguments: &[&str]) -> Answer {
        let to_gateway = format!("::{host}:");
        let fixed = ["curl", "-s", "-S", "-i", "--max-time", "10", "--connect-to", &to_gateway];
        let done = self.world().exec("client", &[&fixed[..], arguments].concat()).unwrap();
        let (head, body) = done.stdout.split_once("\r\n\r\n").unwrap_or((&done.stdout, ""));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
        let field = |line: &str| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_ascii_lowercase(), value.to_owned()))
        };
        Answer {
            status,
            fields: lines.filter_map(field).collect(),
            body: body.to_owned(),
            printed: done.stdout.clone(),
            error: done.stderr,
        }
    }

    /// As [`Stage::curl`] to a backend that says what it was asked.
    #[track_caller]
    pub(crate) fn ask(&self, arguments: &[&str]) -> Value {
        self.ask_at(&self.gateway(), arguments)
    }

    /// The same at this address.
    #[track_caller]
    pub(crate) fn ask_at(&self, host: &str, arguments: &[&str]) -> Value {
        let answer = self.curl_at(host, &[arguments, &["-H", "accept: application/json"]].concat());
        assert_eq!(answer.status, 200, "{arguments:?}: {answer:?}");
        serde_json::from_str(&answer.body).unwrap()
    }

    /// A file of this stage.
    pub(crate) fn file(&self, name: &str) -> String {
        self.world().dir().join(name).display().to_string()
    }

    /// The access lines of the Gateway's pod that have all of these texts in them.
    pub(crate) fn lines(&self, texts: &[&str]) -> Vec<String> {
        self.lines_of(GATEWAY, texts)
    }

    /// Those of another Gateway's.
    pub(crate) fn lines_of(&self, pod: &str, texts: &[&str]) -> Vec<String> {
        let log = fs::read_to_string(self.world().gateway_access_log(pod)).unwrap_or_default();
        log.lines().filter(|line| texts.iter().all(|text| line.contains(text))).map(str::to_owned).collect()
    }

    /// Waits for an access line with all of these texts.
    #[track_caller]
    pub(crate) fn wait_line(&self, texts: &[&str]) -> String {
        self.wait_line_of(GATEWAY, texts)
    }

    /// One of another Gateway's.
    #[track_caller]
    pub(crate) fn wait_line_of(&self, pod: &str, texts: &[&str]) -> String {
        let mut lines = Vec::new();
        let found = until(PATIENCE, || {
            lines = self.lines_of(pod, texts);
            !lines.is_empty()
        });
        assert!(found, "no line with {texts:?} in {:#?}", self.lines_of(pod, &[]));
        lines.remove(0)
    }
}
