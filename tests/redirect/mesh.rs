//! A node for the tests of enrolment: this process' own namespace with a cable to each pod, a registry, and
//! a stand-in for the data path that accepts on the listeners and claims proofs.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gammarus_ca::SpiffeId;
use gammarus_ca::spiffe::TrustDomain;
use gammarus_cni::state::NamespaceStates;
use gammarus_cni::{Attachment, PodName};
use node_proxy::cluster::objects::{Mark, ObjectKey};
use node_proxy::pod::facts::{MarkWriter, PodFact, PodFacts};
use node_proxy::pod::registry::{Patience, PodRegistry, RegistryParts};
use node_proxy::pod::{Direction, EnrolledPod, PodEvent, PodListener};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

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
        static COUNT: AtomicUsize = AtomicUsize::new(0);
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
        self.namespace.delete();
        let deadline = Instant::now() + Duration::from_secs(10);
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

/// What the cluster says, and the marks that were written.
#[derive(Default)]
pub(crate) struct Cluster {
    facts: Mutex<BTreeMap<String, PodFact>>,
    pub(crate) marks: Mutex<BTreeMap<String, Mark>>,
    pub(crate) marks_fail: AtomicBool,
}

impl PodFacts for Cluster {
    fn find(&self, pod: &PodName) -> Option<PodFact> {
        self.facts.lock().unwrap().get(pod.name()).cloned()
    }

    fn service_addresses(&self) -> Vec<SocketAddr> {
        vec!["10.96.0.1:443".parse().expect("an address")]
    }

    fn namespaces(&self) -> NamespaceStates {
        let mut states = NamespaceStates::default();
        states.enrolled.insert("shop".to_owned());
        states
    }
}

impl MarkWriter for Cluster {
    fn write(&self, pod: &ObjectKey, mark: &Mark) -> io::Result<()> {
        if self.marks_fail.load(Ordering::SeqCst) {
            return Err(io::Error::other("no marks today"));
        }
        lock(&self.marks).insert(pod.to_string(), mark.clone());
        Ok(())
    }

    fn remove(&self, pod: &ObjectKey) -> io::Result<()> {
        lock(&self.marks).remove(&pod.to_string());
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A node.
pub(crate) struct Node {
    pub(crate) registry: Arc<PodRegistry>,
    pub(crate) cluster: Arc<Cluster>,
    generation: watch::Sender<u64>,
    pub(crate) captured: Arc<[AtomicUsize; 2]>,
    pub(crate) journal: Arc<Mutex<Vec<String>>>,
    data_path: JoinHandle<()>,
}

impl Node {
    pub(crate) fn start() -> Self {
        Self::with(None, true)
    }

    /// A node whose data path accepts nothing, if `accepts` is false.
    pub(crate) fn with(state_dir: Option<PathBuf>, accepts: bool) -> Self {
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
        let second = Duration::from_secs(1);
        let registry = Arc::new(PodRegistry::new(RegistryParts {
            facts: cluster.clone(),
            generations,
            marks: cluster.clone(),
            events,
            patience: Patience { facts: second, proof: second, mark: second },
            state_dir,
        }));
        Self { registry, cluster, generation, captured, journal, data_path }
    }

    pub(crate) fn say(&self, pod: &str, fact: PodFact) {
        self.cluster.facts.lock().unwrap().insert(pod.to_owned(), fact);
        self.generation.send_modify(|generation| *generation += 1);
    }

    pub(crate) fn say_enrolled(&self, pod: &str) {
        let domain = TrustDomain::new("cluster.local").expect("a trust domain");
        let identity = SpiffeId::new(domain, "shop", "web").expect("an identity");
        self.say(pod, PodFact::Enrolled { uid: format!("uid-{pod}").into(), identity });
    }

    pub(crate) fn marks(&self) -> Vec<String> {
        self.cluster.marks.lock().unwrap().keys().cloned().collect()
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
    pods: BTreeMap<String, Vec<JoinHandle<()>>>,
}

impl DataPath {
    async fn run(mut self, mut events: mpsc::Receiver<PodEvent>) {
        while let Some(event) = events.recv().await {
            let marks = self.cluster.marks.lock().unwrap().len();
            match event {
                PodEvent::Joined { pod, listeners } => {
                    self.journal.lock().unwrap().push(format!("{} joined, {marks} marks", pod.uid));
                    let accepts = listeners.into_iter().filter(|_| self.accepts);
                    let tasks = accepts.map(|listener| tokio::spawn(self.accept(&pod, listener))).collect();
                    self.pods.insert(pod.uid.to_string(), tasks);
                }
                PodEvent::Left { uid } => {
                    self.journal.lock().unwrap().push(format!("{uid} left, {marks} marks"));
                    for task in self.pods.remove(&*uid).unwrap_or_default() {
                        task.abort();
                    }
                }
            }
        }
    }

    fn accept(&self, pod: &Arc<EnrolledPod>, listener: PodListener) -> impl Future<Output = ()> + use<> {
        let (pod, captured) = (pod.clone(), self.captured.clone());
        async move {
            let direction = listener.direction;
            let count = &captured[usize::from(direction == Direction::Outbound)];
            let listener = tokio::net::TcpListener::from_std(listener.socket).expect("a listener");
            loop {
                let Ok((_, client)) = listener.accept().await else { continue };
                if !pod.proofs.claim(direction, client) {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    }
}
