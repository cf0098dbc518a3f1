//! The world that all contenders share, and one round of one of them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread::available_parallelism;
use std::time::Duration;

use node_proxy::demo::command::{Finished, until};
use node_proxy::demo::world::World;

use crate::contender::{Contender, HopVersion};
use crate::envoy;
use crate::haproxy;
use crate::nginx;
use crate::pki::Pki;
use crate::work::{Figures, Work, read_wrk};

/// Where the servers answer that are behind every contender.
pub(crate) const BACKEND_PORT: u16 = 8090;
/// The core of whatever asks and answers, and the core of whoever stands between.
const LOAD_CORE: &str = "0";
const PROXY_CORE: &str = "1";
/// How long a contender may take to answer for the first time.
const PATIENCE: Duration = Duration::from_secs(20);

const OBJECTS: &str = "
{apiVersion: v1, kind: Service, metadata: {name: server}, spec: {selector: {app: server}, ports: [
  {name: http, port: 80, targetPort: 8090}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: server}
spec:
  parentRefs: [{group: '', kind: Service, name: server}]
  rules:
    - matches: [{headers: [{name: version, value: new}]}]
      backendRefs: [{name: server, port: 80}]
    - backendRefs: [{name: server, port: 80}]
";

/// The nodes and pods, before anybody stands between them.
#[derive(Debug)]
pub(crate) struct Bare {
    pub(crate) world: World,
    pub(crate) pki: Pki,
    dir: PathBuf,
}

impl Bare {
    /// A file of the contenders' own.
    pub(crate) fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// Writes such a file.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.dir.join(name), text).unwrap();
        self.file(name)
    }

    /// Where the contenders' server side is, over the network between the nodes.
    pub(crate) fn server_address(&self) -> std::net::IpAddr {
        self.world.running_pod(Stage::PEER_SERVER).unwrap().addresses[0]
    }

    fn exec(&self, contender: &Contender, argv: &[&str]) -> Result<Finished, String> {
        self.world.exec(contender.client, argv).map_err(|error| error.to_string())
    }

    /// The first line of what a program says of itself.
    pub(crate) fn version(&self, argv: &[&str]) -> String {
        let done = self.world.exec(Stage::PEER_CLIENT, argv).unwrap();
        let said = done.stdout + &done.stderr;
        let line = said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        line.rsplit("version: ").next().unwrap_or_default().to_owned()
    }
}

/// Everybody in place.
#[derive(Debug)]
pub(crate) struct Stage {
    bare: Bare,
    pub(crate) contenders: Vec<Contender>,
}

impl Stage {
    /// The pods of the contenders, which are in no mesh.
    pub(crate) const PEER_CLIENT: &str = "peer-client";
    pub(crate) const PEER_SERVER: &str = "peer-server";

    /// Makes the world and starts everybody.
    pub(crate) fn set() -> Self {
        let mut world = World::builder().start().unwrap();
        world.node("node-a").unwrap();
        world.node("node-b").unwrap();
        world.namespace("bench", &[("gammarus.io/mesh", "enabled"), ("gammarus.io/mtls", "strict")]).unwrap();
        world.namespace("outside", &[]).unwrap();
        for (pod, namespace, node) in [
            ("client", "bench", "node-a"),
            ("server", "bench", "node-b"),
            (Self::PEER_CLIENT, "outside", "node-a"),
            (Self::PEER_SERVER, "outside", "node-b"),
        ] {
            let pod =
                world.pod(pod).namespace(namespace).service_account(pod).on(node).labels(&[("app", pod)]);
            pod.program(&["sleep", "infinity"]).start().unwrap();
        }
        world.apply_in("bench", "the benchmark's objects", OBJECTS).unwrap();
        let dir = world.dir().join("bench");
        let pki = Pki::make(&dir);
        let mut bare = Bare { world, pki, dir };
        let backends = ["server", Self::PEER_SERVER].map(|pod| nginx::start_backend(&bare, pod));
        for backend in &backends {
            pin(backend.id(), LOAD_CORE);
        }
        let [to_server, to_client] = ["node-b", "node-a"].map(|node| bare.world.proxy(node).unwrap().id());
        let ours = Contender {
            name: "gammarus",
            version: env!("CARGO_PKG_VERSION").to_owned(),
            client: "client",
            origin: "http://server".to_owned(),
            processes: vec![to_client, to_server],
            _running: backends.into(),
        };
        let direct = Contender {
            name: "no proxy",
            version: String::new(),
            client: Self::PEER_CLIENT,
            origin: format!("http://{}:{BACKEND_PORT}", bare.server_address()),
            processes: Vec::new(),
            _running: Vec::new(),
        };
        let mut contenders = vec![ours, nginx::contend(&bare)];
        let hops = [HopVersion::Http1, HopVersion::Http2];
        contenders.extend(hops.map(|version| haproxy::contend(&bare, version)));
        if let Ok(program) = std::env::var("ENVOY") {
            contenders.extend(hops.map(|version| envoy::contend(&bare, &program, version)));
        }
        contenders.push(direct);
        for process in contenders.iter().flat_map(|contender| &contender.processes) {
            pin(*process, PROXY_CORE);
        }
        let stage = Self { bare, contenders };
        stage.settle();
        stage
    }

    #[track_caller]
    fn settle(&self) {
        for contender in &self.contenders {
            let mut last = Ok(());
            let answers = until(PATIENCE, || {
                last = self.probe(contender, &crate::WORKS[0]);
                last.is_ok()
            });
            assert!(answers, "{} does not answer: {last:?}", contender.name);
        }
    }

    /// What was run, on what.
    pub(crate) fn describe(&self, rounds: usize, seconds: u32) -> Vec<String> {
        let machine = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = machine.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cores = available_parallelism().unwrap();
        let mut lines = vec![
            format!("{rounds} rounds of {seconds} s each, every contender in every round"),
            format!(
                "{cores} cores of {}, Linux {}",
                model.trim_start_matches([' ', '\t', ':']),
                kernel.trim()
            ),
            format!(
                "wrk with one thread and the servers on core {LOAD_CORE}, all proxies on core {PROXY_CORE}, one worker each"
            ),
            "CPU is of both proxies of a pair; access logs are on; mTLS by TLS 1.3 with P-256 certificates"
                .to_owned(),
        ];
        let versions = self.contenders.iter().filter(|contender| !contender.version.is_empty());
        lines.extend(versions.map(|contender| format!("{}: {}", contender.name, contender.version)));
        lines
    }

    /// Whether the contender does the work at all: the right answer to one request.
    fn probe(&self, contender: &Contender, work: &Work) -> Result<(), String> {
        let url = format!("{}{}", contender.origin, work.path);
        let form = "%{http_code} %{size_download}";
        let asks = ["curl", "-s", "-o", "/dev/null", "-m", "5", "-w", form, "-H", "version: new", &url];
        let answer = self.bare.exec(contender, &asks)?.stdout;
        let expected = format!("200 {}", work.bytes);
        if answer == expected { Ok(()) } else { Err(format!("{url}: {answer:?} is not {expected:?}")) }
    }

    /// One round of one contender.
    ///
    /// # Errors
    /// When it does not count, and why.
    pub(crate) fn measure(
        &self,
        contender: &Contender,
        work: &Work,
        seconds: u32,
    ) -> Result<Figures, String> {
        self.probe(contender, work)?;
        let url = format!("{}{}", contender.origin, work.path);
        let (connections, duration) = (work.connections.to_string(), format!("{seconds}s"));
        let mut argv = vec!["taskset", "-c", LOAD_CORE, "wrk", "-t1", "-c", &connections, "-d", &duration];
        argv.extend(["--latency", "-H", "version: new"]);
        if !work.keep_alive {
            argv.extend(["-H", "Connection: close"]);
        }
        argv.push(&url);
        let before = contender.cpu_seconds();
        let said = self.bare.exec(contender, &argv)?.checked();
        let after = contender.cpu_seconds();
        let (answers, per_second, p50_us, p99_us) =
            read_wrk(&said.map_err(|error| error.to_string())?.stdout)?;
        let cpu_us = (after - before) * 1e6 / answers;
        Ok(Figures { per_second, cpu_us, p50_us, p99_us, resident_mib: contender.resident_mib() })
    }
}

/// Binds all threads of a process to a core.
fn pin(process: u32, core: &str) {
    let status =
        Command::new("taskset").args(["-a", "-c", "-p", core, &process.to_string()]).output().unwrap();
    assert!(status.status.success(), "{status:?}");
}
