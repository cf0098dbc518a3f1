//! What stands for the cluster in the tests of enrolment: facts, marks, what is answered when asked, and who takes news.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gammarus_ca::SpiffeId;
use gammarus_ca::spiffe::TrustDomain;
use gammarus_cni::PodName;
use gammarus_cni::state::NamespaceStates;
use node_proxy::cluster::objects::{Mark, ObjectKey};
use node_proxy::pod::facts::{Asked, AwaitedPod, MarkWriter, PodFact, PodFacts};
use node_proxy::pod::news::{Herald, News};

/// What the cluster says, and the marks that were written.
#[derive(Default)]
pub(crate) struct Cluster {
    facts: Mutex<BTreeMap<String, PodFact>>,
    /// What is answered to who asks for any pod; nobody is there to be asked without.
    pub(crate) answer: Mutex<Option<Asked>>,
    /// How often was asked.
    pub(crate) asked: AtomicUsize,
    /// Pods that share the node's network.
    pub(crate) left_alone: Mutex<BTreeSet<ObjectKey>>,
    /// What is known of namespaces but of `shop`, which is enrolled.
    pub(crate) not_enrolled: Mutex<BTreeSet<String>>,
    pub(crate) marks: Mutex<BTreeMap<String, Mark>>,
    /// Who keeps marks is away.
    pub(crate) marks_fail: AtomicBool,
    /// There is no pod to mark.
    pub(crate) pods_gone: AtomicBool,
}

impl Cluster {
    /// What is known of a pod from now on.
    pub(crate) fn say(&self, pod: &str, fact: Option<PodFact>) {
        let mut facts = lock(&self.facts);
        match fact {
            Some(fact) => facts.insert(pod.to_owned(), fact),
            None => facts.remove(pod),
        };
    }

    fn check_marks(&self) -> io::Result<()> {
        if self.marks_fail.load(Ordering::SeqCst) {
            return Err(io::Error::other("no marks today"));
        }
        Ok(())
    }
}

impl PodFacts for Cluster {
    fn find(&self, pod: &PodName) -> Option<PodFact> {
        lock(&self.facts).get(pod.name()).cloned()
    }

    fn ask(&self, _pod: &PodName) -> Asked {
        self.asked.fetch_add(1, Ordering::SeqCst);
        lock(&self.answer).clone().unwrap_or(Asked::Nobody)
    }

    /// These tests tell of every pod.
    fn awaited(&self) -> Vec<AwaitedPod> {
        Vec::new()
    }

    fn left_alone(&self) -> BTreeSet<ObjectKey> {
        lock(&self.left_alone).clone()
    }

    fn marked(&self) -> Vec<(ObjectKey, Arc<str>)> {
        let marked = lock(&self.marks);
        let key = |text: &str| {
            let (namespace, name) = text.split_once('/').expect("a pod");
            ObjectKey::new(namespace, name)
        };
        marked.iter().map(|(pod, mark)| (key(pod), mark.uid.as_str().into())).collect()
    }

    fn lacks_mark(&self, pod: &ObjectKey, mark: &Mark) -> bool {
        lock(&self.marks).get(&pod.to_string()) != Some(mark)
    }

    fn service_addresses(&self) -> Vec<SocketAddr> {
        vec!["10.96.0.1:443".parse().expect("an address")]
    }

    fn namespaces(&self) -> NamespaceStates {
        let mut states = NamespaceStates::default();
        states.enrolled.insert("shop".to_owned());
        states.not_enrolled.clone_from(&lock(&self.not_enrolled));
        states
    }
}

impl MarkWriter for Cluster {
    fn write(&self, pod: &ObjectKey, mark: &Mark) -> io::Result<()> {
        if self.pods_gone.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.check_marks()?;
        lock(&self.marks).insert(pod.to_string(), mark.clone());
        Ok(())
    }

    fn remove(&self, pod: &ObjectKey, uid: &str) -> io::Result<()> {
        self.check_marks()?;
        lock(&self.marks).retain(|marked, mark| *marked != pod.to_string() || mark.uid != uid);
        Ok(())
    }
}

/// Remembers what it was told.
#[derive(Debug, Default)]
pub(crate) struct Crier(Mutex<Vec<String>>);

impl Crier {
    /// The news of each pod, with their causes.
    pub(crate) fn told(&self) -> Vec<String> {
        lock(&self.0).clone()
    }
}

impl Herald for Crier {
    fn tell(&self, pod: &ObjectKey, news: News) {
        let text = format!("{pod} {} {}", news.reason(), news.cause());
        lock(&self.0).push(text.trim_end().to_owned());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is said of a pod of the namespace `shop`.
pub(crate) fn fact(pod: &str, is_enrolled: bool) -> PodFact {
    let domain = TrustDomain::new("cluster.local").expect("a trust domain");
    let identity = SpiffeId::new(domain, "shop", "web").expect("an identity");
    PodFact { uid: format!("uid-{pod}").into(), identity, is_enrolled }
}
