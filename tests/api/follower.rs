//! A proxy's view of an API server, without the rest of the proxy.

use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use gammarus_ca::TrustDomain;
use node_proxy::attach::Attachments;
use node_proxy::cluster::kubernetes::{KubernetesSource, MESH_KINDS, Scope, connect};
use node_proxy::cluster::objects::{Changed, Kind, Objects};
use node_proxy::cluster::writer::{ClusterView, Writer};
use node_proxy::compile::{Compiler, Step};
use node_proxy::snapshot::Snapshot;
use node_proxy::telemetry::Metrics;
use tokio::sync::oneshot;

/// How long anything may take that should be quick on a machine that others use.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(10);

/// The view, kept up to date by a thread of its own until it is dropped.
pub(crate) struct Follower {
    pub(crate) view: ClusterView,
    pub(crate) metrics: Arc<Metrics>,
    /// What was told of the age of the state.
    ages: Arc<Mutex<Vec<Option<SystemTime>>>>,
    /// How many objects each update touched.
    touched: Arc<Mutex<Vec<usize>>>,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<()>>,
}

impl Follower {
    /// Follows the API server that a kubeconfig names, as the mesh does; with a folder, the last state is kept there.
    pub(crate) fn start(kubeconfig: &Path, state_dir: Option<&Path>) -> Self {
        Self::start_of(&MESH_KINDS, kubeconfig, state_dir)
    }

    fn start_of(kinds: &'static [Kind], kubeconfig: &Path, state_dir: Option<&Path>) -> Self {
        let metrics = Arc::new(Metrics::new().unwrap());
        let ages = Arc::<Mutex<Vec<_>>>::default();
        let touched = Arc::<Mutex<Vec<_>>>::default();
        let (stop, stopped) = oneshot::channel();
        let (send, view) = mpsc::channel();
        let build = builder(Arc::clone(&touched));
        let (kubeconfig, state_dir) = (kubeconfig.to_owned(), state_dir.map(Path::to_owned));
        let (counted, told) = (Arc::clone(&metrics), Arc::clone(&ages));
        let follow = async move {
            let client = connect(Some(&kubeconfig)).await.unwrap();
            let tell_age = Box::new(move |age| told.lock().unwrap().push(age));
            let scope = Scope { kinds, state_dir: state_dir.as_deref(), tell_age };
            let source = KubernetesSource::start(&client, scope, &counted);
            let (writer, view) = Writer::new(source, build);
            send.send(view).unwrap();
            tokio::select! {
                ended = writer.run() => panic!("{ended:?}"),
                _ = stopped => {}
            }
        };
        let running = thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(follow);
        });
        let view = view.recv().expect("the view is made");
        Self { view, metrics, ages, touched, stop: Some(stop), running: Some(running) }
    }

    /// The same, and waits until there is something to see.
    #[track_caller]
    pub(crate) fn ready(kubeconfig: &Path, state_dir: Option<&Path>) -> Self {
        Self::ready_of(&MESH_KINDS, kubeconfig, state_dir)
    }

    /// The same of these kinds.
    #[track_caller]
    pub(crate) fn ready_of(kinds: &'static [Kind], kubeconfig: &Path, state_dir: Option<&Path>) -> Self {
        let follower = Self::start_of(kinds, kubeconfig, state_dir);
        follower.wait_until("ready", Self::is_ready);
        follower
    }

    pub(crate) fn is_ready(&self) -> bool {
        *self.view.generations().borrow() > 0
    }

    /// Waits until something holds of what is seen.
    #[track_caller]
    pub(crate) fn wait_until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < PATIENCE, "not {what}: {:#?}", self.reports());
            thread::sleep(TICK);
        }
    }

    /// Waits until something holds of the objects.
    #[track_caller]
    pub(crate) fn see(&self, what: &str, holds: impl Fn(&Objects) -> bool) {
        self.wait_until(what, |follower| holds(&follower.view.objects()));
    }

    /// What is wrong, a line each.
    pub(crate) fn reports(&self) -> Vec<String> {
        self.view.reports().iter().map(ToString::to_string).collect()
    }

    pub(crate) fn has_report(&self, part: &str) -> bool {
        self.reports().iter().any(|report| report.contains(part))
    }

    /// What was told of the age of the state since it was last asked.
    pub(crate) fn ages(&self) -> Vec<Option<SystemTime>> {
        std::mem::take(&mut self.ages.lock().unwrap())
    }

    /// How many objects the updates since it was last asked touched.
    pub(crate) fn touched(&self) -> usize {
        std::mem::take(&mut *self.touched.lock().unwrap()).into_iter().sum()
    }

    /// The sum of a metric over all of its labels that have `part` in them.
    pub(crate) fn metric(&self, name: &str, part: &str) -> f64 {
        let text = String::from_utf8(self.metrics.render().unwrap()).unwrap();
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(part));
        lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    }
}

/// As a proxy makes its snapshots.
fn builder(touched: Arc<Mutex<Vec<usize>>>) -> impl FnMut(&Objects, &Changed) -> Snapshot + Send {
    let mut compiler = Compiler::new("node-a", TrustDomain::new("cluster.local").unwrap());
    let mut attachments = Attachments::default();
    move |objects, changed| {
        let counts = [
            changed.backend_tls_policies.len(),
            changed.config_maps.len(),
            changed.endpoint_slices.len(),
            changed.gateway_classes.len(),
            changed.gateways.len(),
            changed.grpc_routes.len(),
            changed.http_routes.len(),
            changed.listener_sets.len(),
            changed.marks.len(),
            changed.namespaces.len(),
            changed.nodes.len(),
            changed.pods.len(),
            changed.reference_grants.len(),
            changed.secrets.len(),
            changed.services.len(),
            changed.tcp_routes.len(),
            changed.tls_routes.len(),
            changed.udp_routes.len(),
        ];
        touched.lock().unwrap().push(counts.iter().sum());
        let rejudged = attachments.update(objects, changed);
        compiler.update(&Step { objects, changed, attachments: &attachments, groups: &rejudged.groups })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(running) = self.running.take() {
            let ended = running.join();
            assert!(thread::panicking() || ended.is_ok(), "the follower has panicked");
        }
    }
}
