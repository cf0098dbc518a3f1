//! A node for the tests of enrolment: this process' own namespace with a cable to each pod, a registry, and
//! a stand-in for the data path that accepts on the listeners and claims proofs.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gammarus_cni::Attachment;
use node_proxy::pod::facts::PodFact;
use node_proxy::pod::host::Host;
use node_proxy::pod::registry::{Patience, PodRegistry, RegistryParts};
use node_proxy::pod::troubles::Troubles;
use node_proxy::pod::{Direction, EnrolledPod, PodEvent, PodListener};
use node_proxy::telemetry::Metrics;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::cluster::{Cluster, Crier, fact};
use crate::rig::{Namespace, run};

/// A pod's namespace with a cable to the node.
pub(crate) struct CabledPod {
    pub(crate) namespace: Namespace,
    cable: String,
    pub(crate) v4: String,
    pub(crate) v6: String,
}

impl CabledPod {
    pub(crate) fn new() -> Self {
        // From one: an address with a zero in it has a shorter text.
        static COUNT: AtomicUsize = AtomicUsize::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = Namespace::new("meshed");
        let cable = format!("gp{}x{number}", std::process::id());
        run(&format!("ip link add {cable} type veth peer name eth0 netns {}", namespace.name));
        let pod = Self { namespace, cable, v4: format!("10.76.{number}.2"), v6: format!("fd76:{number}::2") };
        let name = &pod.cable;
        run(&format!("ip addr add 10.76.{number}.1/24 dev {name}"));
        run(&format!("ip addr add fd76:{number}::1/64 dev {name} nodad"));
        run(&format!("ip link set {name} up"));
        pod.namespace.ip(&format!("addr add {}/24 dev eth0", pod.v4));
        pod.namespace.ip(&format!("addr add {}/64 dev eth0 nodad", pod.v6));
        pod.namespace.ip("link set eth0 up");
        pod.namespace.ip(&format!("route add default via 10.76.{number}.1"));
        pod.namespace.ip(&format!("-6 route add default via fd76:{number}::1"));
        pod
    }

    /// The attachment that the plugin would send.
    pub(crate) fn attachment(&self, pod: &str) -> Attachment {
        serde_json::from_value(serde_json::json!({
            "id": { "containerId": self.namespace.name, "ifname": "eth0" },
            "network": "podnet",
            "netns": self.namespace.path(),
            "pod": { "namespace": "shop", "name": pod, "uid": format!("uid-{pod}") },
            "addresses": [self.v4, self.v6],
        }))
        .expect("an attachment")
    }

    pub(crate) fn rules(&self) -> String {
        self.namespace.exec("nft list ruleset")
    }

    /// Deletes the namespace's name, and waits until the namespace itself has gone.
    pub(crate) async fn must_vanish(&mut self) {
        self.vanish_within(Duration::from_secs(10)).await;
    }

    /// As [`Self::must_vanish`], when first somebody has to find out that it has gone.
    pub(crate) async fn must_vanish_soon(&mut self) {
        self.vanish_within(Duration::from_secs(30)).await;
    }

    async fn vanish_within(&mut self, allowed: Duration) {
        self.namespace.delete();
        let deadline = Instant::now() + allowed;
        let there = |cable: &str| PathBuf::from("/sys/class/net").join(cable).exists();
        while there(&self.cable) {
            assert!(Instant::now() < deadline, "something still holds the namespace");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for CabledPod {
    fn drop(&mut self) {
        // It may have gone with its namespace.
        let _ = Command::new("ip").args(["link", "del", &self.cable]).output();
    }
}

/// Everything that the registry waits for, in the time of a test.
pub(crate) const QUICK: Patience = Patience {
    facts: Duration::from_secs(1),
    proof: Duration::from_secs(1),
    mark: Duration::from_secs(1),
    inspection: Duration::from_secs(2),
    retry: Duration::from_millis(200),
    lag: Duration::from_millis(500),
    dial: Duration::from_millis(100),
    release: Duration::from_secs(1),
    linger: Duration::from_secs(20),
};

/// A node.
pub(crate) struct Node {
    pub(crate) registry: Arc<PodRegistry>,
    pub(crate) cluster: Arc<Cluster>,
    generation: watch::Sender<u64>,
    pub(crate) captured: Arc<[AtomicUsize; 2]>,
    pub(crate) journal: Arc<Mutex<Vec<String>>>,
    pub(crate) troubles: Arc<Troubles>,
    pub(crate) herald: Arc<Crier>,
    metrics: Arc<Metrics>,
    data_path: JoinHandle<()>,
}

impl Node {
    pub(crate) fn start() -> Self {
        Self::with(None, true)
    }

    /// A node whose data path accepts nothing, if `accepts` is false.
    pub(crate) fn with(state_dir: Option<PathBuf>, accepts: bool) -> Self {
        Self::on(Host::open(Path::new("/")).expect("the host"), (state_dir, accepts))
    }

    /// As [`Self::with`], on a host of its own.
    pub(crate) fn on(host: Host, (state_dir, accepts): (Option<PathBuf>, bool)) -> Self {
        let cluster = Arc::new(Cluster::default());
        let (generation, generations) = watch::channel(1);
        let (events, received) = mpsc::channel(16);
        let captured = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let journal = Arc::new(Mutex::new(Vec::new()));
        let data_path = DataPath {
            accepts,
            captured: captured.clone(),
            journal: journal.clone(),
            cluster: cluster.clone(),
            pods: BTreeMap::new(),
        };
        let data_path = tokio::spawn(data_path.run(received));
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let herald = Arc::new(Crier::default());
        let troubles = Arc::new(Troubles::new(metrics.clone(), herald.clone()));
        let registry = Arc::new(PodRegistry::new(RegistryParts {
            facts: cluster.clone(),
            generations,
            marks: cluster.clone(),
            events,
            patience: QUICK,
            state_dir,
            host: Arc::new(host),
            herald: herald.clone(),
            troubles: troubles.clone(),
            metrics: metrics.clone(),
        }));
        Self { registry, cluster, generation, captured, journal, troubles, herald, metrics, data_path }
    }

    /// The value of a sample, zero where there is none.
    pub(crate) fn metric(&self, sample: &str) -> f64 {
        let text = String::from_utf8(self.metrics.render().unwrap()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(sample));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    /// Ends the data path, and with it every listener.
    pub(crate) async fn end(mut self) {
        self.data_path.abort();
        (&mut self.data_path).await.expect_err("it never ends by itself");
    }

    pub(crate) fn say(&self, pod: &str, fact: PodFact) {
        self.cluster.say(pod, Some(fact));
        self.generation.send_modify(|generation| *generation += 1);
    }

    pub(crate) fn say_enrolled(&self, pod: &str) {
        self.say(pod, fact(pod, true));
    }

    pub(crate) fn say_not_enrolled(&self, pod: &str) {
        self.say(pod, fact(pod, false));
    }

    pub(crate) fn say_gone(&self, pod: &str) {
        self.cluster.say(pod, None);
        self.generation.send_modify(|generation| *generation += 1);
    }

    pub(crate) fn marks(&self) -> Vec<String> {
        self.cluster.marks.lock().unwrap().keys().cloned().collect()
    }

    /// Which pods are marked, once there was time for it.
    pub(crate) async fn must_be_marked(&self, expected: &[&str]) {
        for _ in 0..200 {
            if self.marks() == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(self.marks(), expected, "{:?}", self.troubles.list());
    }

    /// What the data path was told, once it has had the time to take it.
    pub(crate) async fn must_have_seen(&self, expected: &[&str]) {
        for _ in 0..40 {
            if self.journal() == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(self.journal(), expected);
    }

    pub(crate) fn journal(&self) -> Vec<String> {
        self.journal.lock().unwrap().clone()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.data_path.abort();
    }
}

struct DataPath {
    accepts: bool,
    captured: Arc<[AtomicUsize; 2]>,
    journal: Arc<Mutex<Vec<String>>>,
    cluster: Arc<Cluster>,
    pods: BTreeMap<String, (Arc<EnrolledPod>, JoinSet<()>)>,
}

impl DataPath {
    async fn run(mut self, mut events: mpsc::Receiver<PodEvent>) {
        while let Some(event) = events.recv().await {
            let marks = self.cluster.marks.lock().unwrap().len();
            match event {
                PodEvent::Joined { pod, listeners } => {
                    self.journal.lock().unwrap().push(format!("{} joined, {marks} marks", pod.uid));
                    self.pods.insert(pod.uid.to_string(), (pod.clone(), JoinSet::new()));
                    self.accept_on(&pod.uid, listeners);
                }
                PodEvent::Listening { uid, listeners } => {
                    self.journal.lock().unwrap().push(format!("{uid} listening, {} again", listeners.len()));
                    self.accept_on(&uid, listeners);
                }
                PodEvent::Settled { .. } => {}
                PodEvent::Left { uid } => {
                    self.journal.lock().unwrap().push(format!("{uid} left, {marks} marks"));
                    self.pods.remove(&*uid);
                }
            }
        }
    }

    fn accept_on(&mut self, uid: &str, listeners: Vec<PodListener>) {
        let Some((pod, mut tasks)) = self.pods.remove(uid) else { return };
        for listener in listeners.into_iter().filter(|_| self.accepts) {
            tasks.spawn(self.accept(&pod, listener));
        }
        self.pods.insert(uid.to_owned(), (pod, tasks));
    }

    fn accept(&self, pod: &Arc<EnrolledPod>, listener: PodListener) -> impl Future<Output = ()> + use<> {
        let (pod, captured) = (pod.clone(), self.captured.clone());
        async move {
            let direction = listener.direction;
            let count = &captured[usize::from(direction == Direction::Outbound)];
            let listener = tokio::net::TcpListener::from_std(listener.socket).expect("a listener");
            loop {
                let client = match listener.accept().await {
                    Ok((_, client)) => client,
                    // Somebody has closed the socket.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
                    Err(_) => continue,
                };
                if !pod.proofs.claim(direction, client) {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    }
}
