//! Wiring only: one function per mode. Nothing is decided here, but for how a proxy's life goes on (`life`).

mod check;
mod controller;
mod ingress;
mod life;
mod parting;
mod source;

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Instant;

use anyhow::Context as _;
use gammarus_ca::{CaClient, TrustDomain};
use tokio::sync::{mpsc, watch};

use crate::accept::{Drainer, JoinedPod, Mesh, Workers};
use crate::admin::{Admin, Certificates, Doors, Dump, Ready};
use crate::attach::Attachments;
use crate::cluster::objects::{Changed, Objects};
use crate::cluster::source::ClusterError;
use crate::cluster::writer::{ClusterView, Writer};
use crate::compile::{Compiler, Step};
use crate::config::{CaConfig, EnrolmentConfig, HolderConfig, MeshConfig, TelemetryConfig};
use crate::demo::app::AppArgs;
use crate::demo::{self, Programme};
use crate::holder::succession::Succession;
use crate::holder::{HeldPod, Keeper, serve};
use crate::ingress::intermediaries::Intermediaries;
use crate::pod::backing::Backing;
use crate::pod::host::Host;
use crate::pod::known::KnownPods;
use crate::pod::netns::remember_home;
use crate::pod::registry::{Patience, PodRegistry, RegistryParts};
use crate::pod::troubles::{Trouble, Troubles};
use crate::pod::{EnrolledPod, PodEvent, PodListener};
use crate::snapshot::Snapshot;
use crate::telemetry::{AccessLog, LogControl, Metrics, Telemetry, log, panics};
use crate::tls::CertStore;
use crate::tls::store::Fetched;
use crate::turns::Memory;
use life::Life;
use source::Cluster;

pub use check::run_check;
pub use controller::run_controller;
pub use ingress::run_ingress;

/// How many pods may join or leave before the data path has taken notice of the first.
const POD_EVENTS: usize = 64;

/// Plays the demo.
///
/// # Errors
/// If a step of the story does not go as told.
pub fn run_demo(programme: &Programme) -> anyhow::Result<()> {
    match demo::run(programme)? {
        0 => Ok(()),
        failed => anyhow::bail!("{failed} of the demo's checks failed"),
    }
}

/// Answers in a pod of the demo.
///
/// # Errors
/// If it cannot listen.
pub fn run_demo_app(args: &AppArgs) -> anyhow::Result<()> {
    Ok(demo::app::run(args)?)
}

/// Holds sockets and keys until it is told to stop.
///
/// # Errors
/// If it cannot listen, or nothing can be sealed.
pub fn run_holder(config: &HolderConfig) -> anyhow::Result<()> {
    let _log = log::start(config.format, &config.filter)?;
    raise_descriptor_limit();
    serve::run(&config.socket).with_context(|| format!("cannot hold at {}", config.socket.display()))
}

/// Runs the proxy of one node until it is told to stop, or has handed over to another one and is not needed any more.
///
/// # Errors
/// If anything that it cannot do without is missing.
pub fn run_mesh(config: MeshConfig) -> anyhow::Result<()> {
    remember_home().context("cannot open the network namespace of this process")?;
    let telling = start_telling(&config.serving.telemetry)?;
    run_to_end(telling, |telling| serve_mesh(config, telling))
}

/// What a proxy tells of itself by: its log, its metrics, and both with its access lines.
type Telling = (LogControl, Arc<Metrics>, Telemetry);

/// Has a proxy tell of itself, and gives it the descriptors that it may have.
fn start_telling(config: &TelemetryConfig) -> anyhow::Result<Telling> {
    let log = log::start(config.format, &config.filter)?;
    raise_descriptor_limit();
    let metrics = Arc::new(Metrics::new()?);
    panics::count(&metrics);
    let access = AccessLog::start(&config.access, config.format, &metrics)?;
    let telemetry = Telemetry::new(Arc::clone(&metrics), access);
    Ok((log, metrics, telemetry))
}

/// Runs a proxy on this thread; its last lines are written when it has ended.
fn run_to_end<F>(telling: Telling, serve: impl FnOnce(Telling) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let telemetry = telling.2.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(Box::pin(serve(telling)));
    telemetry.flush();
    outcome
}

async fn serve_mesh(config: MeshConfig, (log, metrics, telemetry): Telling) -> anyhow::Result<()> {
    let ready = Ready::new();
    let loading = ready.block("objects");
    let trust_domain = TrustDomain::new(&config.serving.trust_domain)?;
    let attachments = Arc::default();
    let cluster = Cluster::of(&config.objects).await?;
    let source = cluster.follow(&config.state_dir, (&ready, &metrics))?;
    let (writer, view) =
        Writer::new(source, builder(&config.serving.node, &trust_domain, (&attachments, &metrics)));
    let has_holder = config.hand_over.holder.is_some();
    let (keeper, fetched, orders) = Keeper::new();
    let certs = Arc::new(cert_store(&config.serving.ca, has_holder.then_some(fetched))?);
    let (drainer, drain) = Drainer::new();
    let mesh = Arc::new(Mesh {
        snapshot: Arc::clone(view.snapshot()),
        certs: Arc::clone(&certs),
        telemetry,
        limits: config.serving.data_path.limits,
        drain,
        intermediaries: Intermediaries::default(),
    });
    let workers =
        Workers::start(&mesh, config.serving.data_path.workers).context("cannot start the data path")?;
    let known = KnownPods::new(view.clone(), trust_domain, config.serving.node.clone());
    let backing = cluster.back(known, (&config.serving.node, &view, &metrics));
    let troubles = Arc::new(Troubles::new(Arc::clone(&metrics), Arc::clone(&backing.herald)));
    let admin = Admin {
        metrics: Arc::clone(&metrics),
        certificates: certificates(&certs),
        ready,
        snapshot: snapshot_dump(&view),
        status: status_dump(&view, attachments, Arc::clone(&troubles)),
        log,
    };
    let doors = Doors::new(Arc::new(admin), [config.serving.admin_listen, config.serving.health_listen]);
    let (events, joining) = mpsc::channel(POD_EVENTS);
    let registry = open_registry(&config, &view, (&backing, &troubles, &metrics), events.clone())?;
    let told = has_holder.then(|| keeper.clone());
    let life = Life {
        config: &config,
        view: &view,
        workers: &workers,
        doors,
        orders,
        loading,
        succession: Succession { registry: Arc::clone(&registry), certs, events, keeper, drainer },
        installation: backing.installation,
    };
    let outcome = tokio::select! {
        ended = writer.run() => Err(source_ended(ended)),
        () = follow_pods((&mesh, &workers), joining, told.as_ref()) => Ok(()),
        ended = Box::pin(life.live()) => ended,
    };
    registry.shutdown().await;
    outcome
}

/// The pods of this node.
fn open_registry(
    config: &MeshConfig,
    view: &ClusterView,
    (backing, troubles, metrics): (&Backing, &Arc<Troubles>, &Arc<Metrics>),
    events: mpsc::Sender<PodEvent>,
) -> anyhow::Result<Arc<PodRegistry>> {
    let EnrolmentConfig { inspection, lag, release } = config.enrolment;
    let Backing { facts, marks, herald, .. } = backing.clone();
    Ok(Arc::new(PodRegistry::new(RegistryParts {
        facts,
        generations: view.generations(),
        marks,
        events,
        patience: Patience { inspection, lag, release, ..Patience::default() },
        state_dir: Some(config.state_dir.clone()),
        host: Arc::new(Host::open(&config.host_root)?),
        herald,
        troubles: Arc::clone(troubles),
        metrics: Arc::clone(metrics),
    })))
}

/// The leaves, from the CA.
fn cert_store(ca: &CaConfig, fetched: Option<Fetched>) -> anyhow::Result<CertStore> {
    let client = CaClient::new(ca.address.to_string(), &ca.server_name, &ca.bundle, &ca.token_file)?;
    let certs = CertStore::new(Arc::new(client), tokio::runtime::Handle::current());
    Ok(match fetched {
        Some(fetched) => certs.telling(fetched),
        None => certs,
    })
}

/// When the certificates that are here end.
fn certificates(certs: &Arc<CertStore>) -> Certificates {
    let certs = Arc::clone(certs);
    Arc::new(move || certs.expiries())
}

fn source_ended(ended: Result<Infallible, ClusterError>) -> anyhow::Error {
    match ended {
        Ok(never) => match never {},
        Err(error) => anyhow::Error::from(error).context("the objects can no longer be followed"),
    }
}

/// What makes snapshots of objects: one judgement for traffic and status.
fn builder(
    node: &str,
    trust_domain: &TrustDomain,
    (attachments, metrics): (&Arc<RwLock<Attachments>>, &Arc<Metrics>),
) -> impl FnMut(&Objects, &Changed) -> Snapshot + use<> {
    let mut compiler = Compiler::new(node, trust_domain.clone());
    let attachments = Arc::clone(attachments);
    let metrics = Arc::clone(metrics);
    move |objects, changed| {
        let started = Instant::now();
        let mut attachments = attachments.write().unwrap_or_else(PoisonError::into_inner);
        let rejudged = attachments.update(objects, changed);
        log::tell_status(&rejudged.lines);
        // Whoever asks for the status need not wait for the snapshot.
        let attachments = RwLockWriteGuard::downgrade(attachments);
        let step = Step { objects, changed, attachments: &attachments, groups: &rejudged.groups };
        let snapshot = compiler.update(&step);
        metrics.snapshot_published(snapshot.generation, started.elapsed());
        snapshot
    }
}

/// The live configuration.
fn snapshot_dump(view: &ClusterView) -> Dump {
    let snapshot = Arc::clone(view.snapshot());
    Arc::new(move || snapshot.load().dump())
}

/// The conditions of routes, what is wrong with the objects, and which pods should be in the mesh and are not.
fn status_dump(view: &ClusterView, attachments: Arc<RwLock<Attachments>>, troubles: Arc<Troubles>) -> Dump {
    let view = view.clone();
    Arc::new(move || {
        let problems: Vec<String> = view.reports().iter().map(ToString::to_string).collect();
        let attachments = attachments.read().unwrap_or_else(PoisonError::into_inner);
        let pods: BTreeMap<String, Trouble> =
            troubles.list().into_iter().map(|(pod, trouble)| (pod.to_string(), trouble)).collect();
        let host_network: Vec<String> = troubles.left_alone().iter().map(ToString::to_string).collect();
        serde_json::json!({
            "routes": &*attachments, "problems": problems, "pods": pods, "hostNetworkIgnored": host_network,
        })
    })
}

/// Hands pods to the data path as they join, and closes everything of them when they leave.
async fn follow_pods(
    (mesh, workers): (&Mesh, &Workers),
    mut events: mpsc::Receiver<PodEvent>,
    keeper: Option<&Keeper>,
) {
    let mut staying: HashMap<Arc<str>, (Arc<JoinedPod>, watch::Sender<bool>)> = HashMap::new();
    while let Some(event) = events.recv().await {
        match event {
            PodEvent::Joined { pod, listeners } => {
                if let Some(keeper) = keeper {
                    hold(keeper, &pod, &listeners);
                }
                mesh.certs.start(&pod.identity);
                let (gone, goes) = watch::channel(false);
                let memory = Memory::new(mesh.limits.buffered_bytes);
                let shares = workers.shares(&memory);
                let joined = Arc::new(JoinedPod::new(Arc::clone(&pod), goes, (memory, shares)));
                join(workers, &joined, listeners);
                // A pod that joins anew (another namespace, the same uid) replaces what was there.
                staying.insert(Arc::clone(&pod.uid), (joined, gone));
            }
            PodEvent::Listening { uid, listeners } => {
                if let Some((joined, _)) = staying.get(&uid) {
                    keeper.into_iter().for_each(|keeper| hold_again(keeper, &joined.pod, &listeners));
                    workers.join(joined, listeners);
                }
            }
            PodEvent::Settled { uid } => keeper.into_iter().for_each(|keeper| keeper.settle(&uid)),
            PodEvent::Left { uid } => {
                keeper.into_iter().for_each(|keeper| keeper.let_go(&uid));
                let Some((left, gone)) = staying.remove(&uid) else { continue };
                let _ = gone.send(true);
                workers.forget(&uid);
                let identity = &left.pod.identity;
                if !staying.values().any(|(pod, _)| pod.pod.identity == *identity) {
                    mesh.certs.forget(identity);
                    keeper.into_iter().for_each(|keeper| keeper.forget(identity));
                }
            }
        }
    }
}

/// Listeners that have taken the place of others are held in their place.
fn hold_again(keeper: &Keeper, pod: &EnrolledPod, listeners: &[PodListener]) {
    match listeners.iter().map(PodListener::try_clone).collect() {
        Ok(listeners) => keeper.hold_listeners(&pod.uid, listeners),
        Err(error) => tracing::warn!(pod = %pod.pod, %error, "new listeners of a pod are not held"),
    }
}

/// A pod that cannot be held is one that a next proxy finds by its record alone.
fn hold(keeper: &Keeper, pod: &EnrolledPod, listeners: &[PodListener]) {
    match HeldPod::of(pod, listeners) {
        Ok(held) => keeper.hold_pod(held),
        Err(error) => tracing::warn!(pod = %pod.pod, %error, "a pod is not held"),
    }
}

fn join(workers: &Workers, pod: &Arc<JoinedPod>, listeners: Vec<PodListener>) {
    tracing::info!(pod = %pod.pod.pod, identity = %pod.pod.identity, "pod joined");
    workers.join(pod, listeners);
}

/// Every connection takes two descriptors: as many as the system allows, so that the pods' own limits bind first.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
