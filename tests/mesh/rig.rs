//! One stage for all of these tests: its pods, Services and routes, and what can be asked on it.
//!
//! Tests that run at the same time share it; the last one takes it down. Nothing on it changes, so each test marks
//! its requests by paths of its own and finds their access lines by these.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use node_proxy::demo::command::{Process, until};
use node_proxy::demo::world::World;
use serde_json::Value;

use crate::grpc_programs::grpc_tool;

/// Debian's Python, which has Debian's aiosmtpd; another one on the path would not.
pub(crate) const PYTHON: &str = "/usr/bin/python3";
/// Debian's Node, the only HTTP/2 in Debian with extended CONNECT at both ends.
pub(crate) const NODE: &str = "/usr/bin/node";
/// How long anything here may take that should be quick.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

static SHARED: Mutex<Weak<Stage>> = Mutex::new(Weak::new());

/// The world with everything on it.
pub(crate) struct Stage {
    pub(crate) world: World,
    /// The process of each node's proxy.
    pub(crate) proxies: BTreeMap<&'static str, u32>,
    /// Servers beside the pods' own, stopped with the stage.
    _servers: Vec<Process>,
}

/// What `client.py` saw.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) text: String,
    pub(crate) length: u64,
    pub(crate) hash: String,
    pub(crate) end: String,
    pub(crate) times: Vec<f64>,
}

/// One access line, taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Line(BTreeMap<String, String>);

impl Line {
    /// A field of the line, empty where it is absent.
    pub(crate) fn at(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    #[track_caller]
    pub(crate) fn check(&self, expected: &[(&str, &str)]) {
        for (key, value) in expected {
            assert_eq!(self.at(key), *value, "{key} of {self:?}");
        }
    }
}

/// A file beside this one.
pub(crate) fn tool(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/mesh").join(name).display().to_string()
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

/// A program that takes no connection and refuses none.
const DROP_ALL: &str = "nft 'add table inet test; add chain inet test in { type filter hook input priority 0; }; \
                        add rule inet test in tcp dport 8080 drop' && exec sleep infinity";

impl Stage {
    fn make() -> Self {
        let mut world = World::builder().start().unwrap();
        let mut proxies = BTreeMap::new();
        for node in ["node-a", "node-b"] {
            world.node(node).unwrap();
            proxies.insert(node, world.proxy(node).unwrap().id());
        }
        world.namespace("shop", &[("gammarus.io/mesh", "enabled")]).unwrap();
        world.namespace("outside", &[]).unwrap();
        let origin = tool("origin.py");
        let (go, mail) = (grpc_tool("grpc-server"), tool("mail.py"));
        let http = [PYTHON, &origin, "http", "8080"];
        for (name, node, labels, program) in [
            ("client", "node-a", vec![], vec!["sleep", "infinity"]),
            ("raw", "node-b", vec![("app", "raw")], http.to_vec()),
            ("near", "node-a", vec![("app", "near")], http.to_vec()),
            ("go-1", "node-b", vec![("app", "go"), ("version", "1")], vec![&go, "-name", "go-1"]),
            ("go-2", "node-a", vec![("app", "go"), ("version", "2")], vec![&go, "-name", "go-2"]),
            ("crowded", "node-b", vec![("app", "crowded")], vec![&go, "-name", "crowded"]),
            ("patient", "node-b", vec![("app", "patient")], vec![&go, "-name", "patient"]),
            (
                "silent",
                "node-b",
                vec![("app", "silent"), ("gammarus.io/mesh", "disabled")],
                vec!["sh", "-c", DROP_ALL],
            ),
            ("fast", "node-b", vec![("app", "uneven")], http.to_vec()),
            ("slow", "node-b", vec![("app", "uneven")], [&http[..], &["0.2"]].concat()),
            ("mail", "node-b", vec![("app", "mail")], vec![PYTHON, "-u", &mail, "2525"]),
        ] {
            let pod = world.pod(name).namespace("shop").service_account(name).on(node);
            pod.labels(&labels).program(&program).start().unwrap();
        }
        for (name, namespace) in [("stranger", "outside"), ("visitor", "outside")] {
            world.pod(name).namespace(namespace).on("node-b").program(&http).start().unwrap();
        }
        world.apply_in("shop", "stage.yaml", include_str!("stage.yaml")).unwrap();
        let servers = vec![
            world.spawn("raw", "tcp", &[PYTHON, &origin, "tcp", "9000"]).unwrap(),
            world.spawn("raw", "websocket", &[PYTHON, &tool("websocket.py"), "serve", "7000"]).unwrap(),
            world.spawn("raw", "tunnel", &[NODE, &tool("tunnel.mjs"), "serve", "7001"]).unwrap(),
            world.spawn("raw", "plain", &[NODE, &tool("tunnel.mjs"), "plain", "7002"]).unwrap(),
            world.spawn("stranger", "tcp", &[PYTHON, &origin, "tcp", "9000"]).unwrap(),
            // One of the two pods of `uneven` has nobody on this port.
            world.spawn("fast", "half", &[PYTHON, &origin, "http", "8081"]).unwrap(),
        ];
        let stage = Self { world, proxies, _servers: servers };
        stage.settle();
        stage
    }

    /// Waits until every server answers and the routes hold on the client's node.
    #[track_caller]
    fn settle(&self) {
        for (pod, ports) in [
            ("raw", &["7000", "7001", "7002", "8080", "9000"][..]),
            ("near", &["8080"]),
            ("go-1", &["8080", "50051"]),
            ("go-2", &["8080", "50051"]),
            ("crowded", &["50051"]),
            ("patient", &["50051"]),
            ("fast", &["8080", "8081"]),
            ("slow", &["8080"]),
            ("mail", &["2525"]),
            ("stranger", &["8080", "9000"]),
        ] {
            let listens = || {
                let sockets = self.world.exec(pod, &["ss", "-Hltn"]).unwrap().stdout;
                ports.iter().all(|port| sockets.contains(&format!(":{port} ")))
            };
            assert!(until(PATIENCE, listens), "{pod} does not listen on {ports:?}");
        }
        let holds = |path: &str, status: &str| {
            let url = format!("http://routed{path}");
            until(PATIENCE, || self.status(&[&url]) == status)
        };
        assert!(
            holds("/settle/ok", "200") && holds("/settle", "404"),
            "{}",
            self.world.admin("node-a", "/").unwrap_or_default()
        );
        for service in ["raw", "near", "go", "uneven", "half"] {
            let url = format!("http://{service}/settle");
            assert!(until(PATIENCE, || self.status(&[&url]) == "200"), "{service} does not answer");
        }
    }

    /// What curl in the client pod prints.
    #[track_caller]
    pub(crate) fn curl(&self, arguments: &[&str]) -> String {
        let full = [&["curl", "-sS", "--max-time", "30"], arguments].concat();
        let done = self.world.exec("client", &full).unwrap();
        assert!(done.success(), "{}: {} {}", done.command, done.stdout, done.stderr);
        done.stdout
    }

    /// The status that curl gets.
    pub(crate) fn status(&self, arguments: &[&str]) -> String {
        let full = [&["curl", "-s", "--max-time", "30", "-o", "/dev/null", "-w", "%{http_code}"], arguments]
            .concat();
        self.world.exec("client", &full).unwrap().stdout
    }

    /// Runs `client.py` in the client pod. Bytes are given as text with [`hex`].
    #[track_caller]
    pub(crate) fn speak(&self, host: &str, port: u16, steps: &[&str]) -> Seen {
        self.speak_from("client", host, port, steps)
    }

    /// As [`Stage::speak`], in any pod.
    #[track_caller]
    pub(crate) fn speak_from(&self, pod: &str, host: &str, port: u16, steps: &[&str]) -> Seen {
        let (script, port) = (tool("client.py"), port.to_string());
        let full = [&[PYTHON, &script, host, &port], steps].concat();
        let done = self.world.exec(pod, &full).unwrap().checked().unwrap();
        let seen: Value = serde_json::from_str(&done.stdout).unwrap();
        let text = |key: &str| seen[key].as_str().unwrap().to_owned();
        let times = seen["times"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
        let length = seen["length"].as_u64().unwrap();
        Seen { text: text("text"), length, hash: text("hash"), end: text("end"), times }
    }

    /// The access lines of a node that have all of these texts in them.
    pub(crate) fn lines(&self, node: &str, texts: &[&str]) -> Vec<Line> {
        let log = self.world.access_log(node).unwrap();
        let found = log.lines().filter(|line| texts.iter().all(|text| line.contains(text)));
        found.map(|line| Line(take_apart(line))).collect()
    }

    /// The access lines of these texts, once there is one: a line is written when both ends have been told.
    #[track_caller]
    pub(crate) fn some_lines(&self, node: &str, texts: &[&str]) -> Vec<Line> {
        assert!(until(PATIENCE, || !self.lines(node, texts).is_empty()), "no line of {node} with {texts:?}");
        self.lines(node, texts)
    }

    /// The access lines of these texts, once there are `count`; and there are never more.
    #[track_caller]
    pub(crate) fn wait_lines(&self, node: &str, texts: &[&str], count: usize) -> Vec<Line> {
        let enough = until(PATIENCE, || self.lines(node, texts).len() >= count);
        let lines = self.lines(node, texts);
        assert!(enough && lines.len() == count, "{count} lines of {node} with {texts:?}: {lines:#?}");
        lines
    }

    /// The sum of all samples of a metric on the client's node that have all of these labels, `name="value"`.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.world.admin("node-a", "/metrics").unwrap();
        let of_name = |line: &&str| line.starts_with(&format!("{name}{{"));
        let samples =
            text.lines().filter(of_name).filter(|line| labels.iter().all(|label| line.contains(label)));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// What the own program of a pod has logged.
    pub(crate) fn app_log(&self, pod: &str) -> String {
        self.world.running_pod(pod).unwrap().app.as_ref().map(Process::log).unwrap_or_default()
    }

    /// What a program has logged that was started beside the pod's own.
    pub(crate) fn side_log(&self, pod: &str, name: &str) -> String {
        fs::read_to_string(self.world.dir().join(format!("{pod}.{name}.log"))).unwrap_or_default()
    }

    /// The requests that a pod's `origin.py` has seen with `marker` in them: their lines.
    pub(crate) fn requests(&self, pod: &str, marker: &str) -> Vec<Value> {
        let log = self.app_log(pod);
        let heads = log.lines().filter_map(|line| line.strip_prefix("REQUEST "));
        heads.filter(|head| head.contains(marker)).map(|head| serde_json::from_str(head).unwrap()).collect()
    }

    /// Whether a text is one of a pod's addresses.
    pub(crate) fn is_address(&self, pod: &str, text: &str) -> bool {
        self.world.running_pod(pod).unwrap().addresses.iter().any(|address| address.to_string() == text)
    }

    /// A pod's first address.
    pub(crate) fn address(&self, pod: &str) -> String {
        self.world.running_pod(pod).unwrap().addresses[0].to_string()
    }

    /// A path to a file that goes with the world.
    pub(crate) fn file(&self, name: &str) -> String {
        self.world.dir().join(name).display().to_string()
    }
}

/// Bytes for [`Stage::speak`].
pub(crate) fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// `count` bytes of the pattern that the scripts use.
pub(crate) fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|index| u8::try_from(index % 65536 * 7 % 251).unwrap()).collect()
}

/// The SHA-256 of a file.
#[track_caller]
pub(crate) fn sha256(path: &str) -> String {
    let done = std::process::Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(done.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

/// `key=value key="a value"` as a map.
fn take_apart(line: &str) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let mut rest = line;
    while let Some((key, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(' ').unwrap_or((after, "")),
        };
        fields.insert(key.trim().to_owned(), value.to_owned());
        rest = next;
    }
    fields
}
