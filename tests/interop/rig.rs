//! One stage for all of these tests: the same servers in the mesh and outside of it, and who asks them where.
//!
//! Tests that run at the same time share it; the last one takes it down. It knows nothing of the programs that judge.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use node_proxy::demo::command::{Finished, Process, until};
use node_proxy::demo::objects::Applied;
use node_proxy::demo::world::World;
use serde_json::{Value, json};

use crate::{credentials, gateway};

/// How long anything here may take that should be quick.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Where the servers listen.
pub(crate) const HTTP: u16 = 8080;
pub(crate) const GRPC: u16 = 10000;
pub(crate) const NAMED_GRPC: u16 = 50051;
/// The page that all HTTP servers have, in bytes: more than what is asked of windows, less than one frame.
const PAGE: usize = 10_000;

static SHARED: Mutex<Weak<Stage>> = Mutex::new(Weak::new());

/// The world with everything on it.
pub(crate) struct Stage {
    pub(crate) world: World,
    _servers: [Process; 2],
}

/// Who asks, and where.
#[derive(Clone, Debug)]
pub(crate) struct Reach {
    pub(crate) pod: &'static str,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Whether the client is to begin with TLS.
    pub(crate) tls: bool,
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

/// The file that a variable of `tests/run` names, or a file in the folder that it names.
#[track_caller]
pub(crate) fn program(variable: &str, file: Option<&str>) -> String {
    let place = std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: see tests/run"));
    let path = file.map_or_else(|| PathBuf::from(&place), |file| Path::new(&place).join(file));
    path.display().to_string()
}

impl Stage {
    fn make() -> Self {
        let mut world = World::builder().start().unwrap();
        for node in ["node-a", "node-b"] {
            world.node(node).unwrap();
        }
        world.namespace("shop", &[("gammarus.io/mesh", "enabled"), ("gammarus.io/mtls", "strict")]).unwrap();
        world.namespace("outside", &[]).unwrap();
        let pages = world.dir().join("pages");
        fs::create_dir(&pages).unwrap();
        fs::write(pages.join("page"), "x".repeat(PAGE)).unwrap();
        let (pages, http) = (pages.display().to_string(), HTTP.to_string());
        let web = ["nghttpd", "--no-tls", "-d", &pages, &http];
        let (calls, named) =
            (program("GRPC_INTEROP", Some("server")), crate::grpc_programs::grpc_tool("grpc-server"));
        for (name, namespace, node, program) in [
            ("client", "shop", "node-a", &["sleep", "infinity"][..]),
            ("web", "shop", "node-b", &web),
            ("calls", "shop", "node-b", &[&calls]),
            // What it reports is of the whole server: one for each way to it.
            ("routed-calls", "shop", "node-b", &[&calls]),
            ("gated-calls", "shop", "node-b", &[&calls]),
            ("plain-calls", "shop", "node-b", &[&calls]),
            ("named", "shop", "node-b", &[&named, "-name", "named"]),
            (credentials::POD, "shop", "node-b", &["sleep", "infinity"]),
            ("stranger", "outside", "node-a", &["sleep", "infinity"]),
            ("bare-web", "outside", "node-b", &web),
            ("bare-calls", "outside", "node-b", &[&calls]),
            ("bare-named", "outside", "node-b", &[&named, "-name", "bare-named"]),
            (credentials::BARE, "outside", "node-b", &["sleep", "infinity"]),
        ] {
            let pod = world.pod(name).namespace(namespace).service_account(name).on(node);
            pod.labels(&[("app", name)]).program(program).start().unwrap();
        }
        gateway::start(&mut world);
        let servers = credentials::start(&world);
        let trusted = fs::read_to_string(world.dir().join("calls.pem")).unwrap();
        let objects = [crate::h2spec::OBJECTS, &crate::grpc::objects(), &credentials::objects(&trusted)];
        world.apply_in("shop", "the stage", &objects.join("\n---\n")).unwrap();
        let mut stage = Self { world, _servers: servers };
        stage.settle();
        stage
    }

    /// Waits until every server listens and both nodes have taken all objects in.
    #[track_caller]
    fn settle(&mut self) {
        for (pod, port) in [
            ("web", HTTP),
            ("bare-web", HTTP),
            ("calls", GRPC),
            ("routed-calls", GRPC),
            ("gated-calls", GRPC),
            ("plain-calls", GRPC),
            ("bare-calls", GRPC),
            ("named", NAMED_GRPC),
            ("bare-named", NAMED_GRPC),
            (credentials::POD, credentials::CALLS),
            (credentials::BARE, credentials::CALLS),
            (gateway::POD, gateway::CALLS),
        ] {
            let listens =
                || self.world.exec(pod, &["ss", "-Hltn"]).unwrap().stdout.contains(&format!(":{port} "));
            assert!(until(PATIENCE, listens), "{pod} does not listen on {port}");
        }
        // Files are read in order: once this one is known, all that came before it is, too.
        self.world.namespace("barrier", &[]).unwrap();
        for node in ["node-a", "node-b"] {
            let seen = || self.world.admin(node, "/snapshot").is_ok_and(|text| text.contains("\"barrier\""));
            assert!(until(PATIENCE, seen), "{node} has not taken the objects in");
        }
        let object =
            Applied { kind: "Namespace".to_owned(), namespace: String::new(), name: "barrier".to_owned() };
        self.world.delete(&object).unwrap();
        let status: Value = serde_json::from_str(&self.world.admin("node-a", "/status").unwrap()).unwrap();
        assert_eq!(status["problems"], json!([]), "{status:#}");
    }

    /// A Service, from the enrolled client: its node's outbound listener, the hop, the inbound listener of the server's. By
    /// its address: there is no cluster DNS here, and some clients ask for more than addresses.
    #[track_caller]
    pub(crate) fn service(&self, name: &str, port: u16) -> Reach {
        let found = self.world.exec("client", &["getent", "ahostsv4", name]).unwrap().checked().unwrap();
        let host = found.stdout.split_whitespace().next().unwrap().to_owned();
        Reach { pod: "client", host, port, tls: false }
    }

    /// A pod outside of the mesh, asked from one outside of it.
    pub(crate) fn bare(&self, pod: &str, port: u16) -> Reach {
        let address = self.world.running_pod(pod).unwrap().addresses[0];
        Reach { pod: "stranger", host: address.to_string(), port, tls: false }
    }

    /// A port of the Gateway, asked from outside of the mesh.
    pub(crate) fn gateway(&self, port: u16) -> Reach {
        let address = self.world.running_pod(gateway::POD).unwrap().addresses[0];
        let tls = ![gateway::PLAIN, gateway::OPEN_CALLS].contains(&port);
        Reach { pod: "stranger", host: address.to_string(), port, tls }
    }

    /// Runs a program where `reach` says.
    #[track_caller]
    pub(crate) fn run(&self, reach: &Reach, argv: &[&str]) -> Finished {
        self.world.exec(reach.pod, argv).unwrap()
    }

    /// The access lines of the client's node that have all of these texts in them.
    pub(crate) fn lines(&self, texts: &[&str]) -> Vec<String> {
        let log = self.world.access_log("node-a").unwrap();
        log.lines().filter(|line| texts.iter().all(|text| line.contains(text))).map(str::to_owned).collect()
    }

    /// At least `count` requests to a Service have these texts in their access lines.
    #[track_caller]
    pub(crate) fn check_answered(&self, service: &str, count: usize, texts: &[&str]) {
        let of_service = format!("dst.service=shop/{service} ");
        let all = [&[&*of_service], texts].concat();
        let enough = until(PATIENCE, || self.lines(&all).len() >= count);
        assert!(enough, "not {count} with {texts:?}: {:#?}", self.lines(&[&of_service]));
    }

    /// As [`Stage::check_answered`], and there are no others.
    #[track_caller]
    pub(crate) fn check_travelled(&self, service: &str, count: usize, texts: &[&str]) {
        self.check_answered(service, count, texts);
        let of_service = format!("dst.service=shop/{service} ");
        let lacks = |line: &String| texts.iter().any(|text| !line.contains(text));
        let strange: Vec<_> = self.lines(&[&of_service]).into_iter().filter(lacks).collect();
        assert!(strange.is_empty(), "{texts:?} are not in {strange:#?}");
    }
}
