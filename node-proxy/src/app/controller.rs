//! Wiring of the controller: what it sees, who leads, and what is written.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context as _;
use gammarus_ca::state::secret::BUNDLE_CONFIG_MAP;
use gammarus_ca::{SpiffeId, TrustDomain};
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::life::told_to_stop;
use super::{cert_store, certificates, source_ended};
use crate::admin::{Admin, Certificates, Doors, Dump, MayCome, Ready};
use crate::balance::random;
use crate::cluster::kubernetes::{KubernetesSource, Scope, connect};
use crate::cluster::objects::{Changed, ObjectKey, Objects};
use crate::cluster::writer::{ClusterView, Writer};
use crate::config::{ControllerConfig, StartupTaint};
use crate::controller::crds::{self, Table};
use crate::controller::follow::{Follower, tell_versions};
use crate::controller::judged::Judged;
use crate::controller::lease::{Candidate, Leadership};
use crate::controller::live::{Statuses, WatchedClass, WatchedEntries, WatchedListeners, WatchedMesh};
use crate::controller::metrics::ControllerMetrics;
use crate::controller::provision::Settings;
use crate::controller::provision::apply::{Provisioner, ProvisionerParts};
use crate::controller::provision::image::find_own_image;
use crate::controller::provision::objects::Part;
use crate::controller::provision::shortfall::Provisions;
use crate::controller::provision::watch::{self as provided, Known};
use crate::controller::subject::SubjectKind;
use crate::controller::work::{self, Arriving, Changes};
use crate::controller::write::{StatusWriter, WriterParts};
use crate::controller::{KINDS, NAME, taint};
use crate::feed::serve::FeedServer;
use crate::snapshot::Snapshot;
use crate::telemetry::{LogControl, Metrics, log, panics};
use crate::tls::{CertStore, Expiries};

/// Writes the status of routes and Gateways, or stands by, until it is told to stop.
///
/// # Errors
/// If the API server cannot be named, or an address is taken.
pub fn run_controller(config: &ControllerConfig) -> anyhow::Result<()> {
    let log = log::start(config.format, &config.filter)?;
    let metrics = Arc::new(Metrics::new()?);
    panics::count(&metrics);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(Box::pin(serve(config, log, metrics)))
}

/// What both who leads and who stands by keep up.
struct Sight {
    judged: Arc<RwLock<Judged>>,
    statuses: Arc<Statuses>,
    changes: Changes,
    crds: watch::Receiver<Table>,
    provisions: Arc<Provisions>,
    /// What there is of what was made for them.
    provided: Arc<Known>,
    /// Gateways that ask for something else, or whose objects have changed.
    asked: Changes<ObjectKey>,
}

impl Sight {
    /// Nothing yet, with where changes arrive: of statuses, and of what Gateways ask for.
    fn new(crds: watch::Receiver<Table>, is_providing: bool) -> (Self, Arriving, Arriving<ObjectKey>) {
        let ((changes, arriving), (asked, asking)) = (Changes::new(), Changes::new());
        let provisions = Arc::new(Provisions::new(is_providing));
        let (judged, statuses, provided) = (Arc::default(), Arc::default(), Arc::default());
        (Self { judged, statuses, changes, crds, provisions, provided, asked }, arriving, asking)
    }

    fn writer_parts(&self, leadership: Leadership, metrics: ControllerMetrics) -> WriterParts {
        WriterParts {
            leadership,
            judged: Arc::clone(&self.judged),
            statuses: Arc::clone(&self.statuses),
            provisions: Arc::clone(&self.provisions),
            crds: self.crds.clone(),
            metrics,
        }
    }

    fn provisioner_parts(&self, leadership: Leadership, settings: Settings) -> ProvisionerParts {
        let (provisions, known) = (Arc::clone(&self.provisions), Arc::clone(&self.provided));
        ProvisionerParts { leadership, settings, provisions, known, statuses: self.changes.clone() }
    }
}

async fn serve(config: &ControllerConfig, log: LogControl, metrics: Arc<Metrics>) -> anyhow::Result<()> {
    let client = connect(config.kubeconfig.as_deref()).await?;
    let namespace = config.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let counts = ControllerMetrics::register(&metrics)?;
    let (table, crds) = watch::channel(Table::default());
    let (sight, arriving, asking) = Sight::new(crds, config.provision.is_some());
    let scope = Scope { kinds: &KINDS, state_dir: None, tell_age: Box::new(|_| {}) };
    let source = KubernetesSource::start(&client, scope, &metrics);
    let (writer, view) = Writer::new(source, judge(&sight, &namespace));
    let (mut candidate, leadership) = Candidate::new(client.clone(), &namespace, NAME, identity());
    let feed = open_feed(config, &namespace)?;
    let parts = sight.writer_parts(leadership.clone(), counts.clone());
    let statuses = Arc::new(StatusWriter::new(client.clone(), parts));
    let ready = Ready::new();
    let admin = Admin {
        metrics,
        certificates: feed.as_ref().map_or_else(none, |feed| certificates(&feed.certs)),
        ready: ready.clone(),
        snapshot: leader_dump(candidate.identity().to_owned(), leadership.clone()),
        status: status_dump(&view, &sight, &statuses),
        log,
    };
    let mut doors = Doors::new(Arc::new(admin), [config.admin_listen, config.health_listen]);
    doors.open(&mut BTreeMap::new(), MayCome::No)?;
    let mut following = follow(&client, &sight, &ready);
    following.spawn(crds::follow(client.clone(), counts, table));
    let loading = ready.block("objects");
    let settings = tokio::select! {
        told = told_to_stop() => return told,
        settings = find_settings(&client, config, &namespace) => settings,
    };
    let provisioner = settings.map(|settings| {
        let parts = sight.provisioner_parts(leadership.clone(), settings);
        follow_provided(&client, &sight, &mut following);
        Provisioner::new(client.clone(), parts)
    });
    if config.startup_taint == StartupTaint::Lifted {
        following.spawn(taint::run(client, namespace, leadership.clone()));
    }
    let working = async {
        // Who has not seen everything would say of what is there that it is not, and is no candidate.
        view.ready().await.context("the objects were never read")?;
        drop(loading);
        ready.wait().await;
        tokio::select! {
            never = serve_feed(feed, &view, &sight) => match never {},
            never = candidate.run() => match never {},
            never = work::run(&*statuses, leadership.clone(), arriving) => match never {},
            never = provide(provisioner.as_ref(), leadership, asking) => match never {},
        }
    };
    let outcome: anyhow::Result<()> = tokio::select! {
        told = told_to_stop() => told,
        ended = writer.run() => Err(source_ended(ended)),
        ended = working => ended,
        _ = following.join_next() => Err(anyhow::anyhow!("a task of the controller has ended")),
    };
    // Nothing is written any more: what did has been dropped with the others.
    following.shutdown().await;
    candidate.resign().await;
    outcome
}

/// What is made for Gateways, if anything is, with the image of this pod where no other is given.
async fn find_settings(client: &Client, config: &ControllerConfig, namespace: &str) -> Option<Settings> {
    let settings = config.provision.as_deref()?;
    let image = match (&settings.image, &config.pod) {
        (None, Some(pod)) => Some(find_own_image(client, namespace, pod).await),
        (image, _) => image.clone(),
    };
    Some(Settings { image, feed_service_account: Some(format!("{namespace}/{NAME}")), ..settings.clone() })
}

/// What proxies of Gateways come to, and as whom they are met there.
struct FeedDoor {
    listener: TcpListener,
    certs: Arc<CertStore>,
    identity: SpiffeId,
}

/// Opens the feed, where there is to be one.
fn open_feed(config: &ControllerConfig, namespace: &str) -> anyhow::Result<Option<FeedDoor>> {
    let Some(feed) = &config.feed else { return Ok(None) };
    let identity = SpiffeId::new(TrustDomain::new(&config.trust_domain)?, namespace, NAME)?;
    let listener = std::net::TcpListener::bind(feed.listen)
        .with_context(|| format!("cannot listen on {}", feed.listen))?;
    listener.set_nonblocking(true)?;
    let certs = Arc::new(cert_store(&feed.ca, None)?);
    certs.start(&identity);
    Ok(Some(FeedDoor { listener: TcpListener::from_std(listener)?, certs, identity }))
}

async fn serve_feed(door: Option<FeedDoor>, view: &ClusterView, sight: &Sight) -> Infallible {
    let Some(FeedDoor { listener, certs, identity }) = door else { return std::future::pending().await };
    let (judged, provided) = (Arc::clone(&sight.judged), Arc::clone(&sight.provided));
    FeedServer { certs, identity, view: view.clone(), judged, provided }.run(listener).await
}

/// Of a controller that feeds nobody.
fn none() -> Certificates {
    Arc::new(Expiries::default)
}

/// Who this is, told from every other process that was ever in its place.
fn identity() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}_{:016x}", host.trim(), random())
}

/// Judges what has changed, and has what was judged looked at: the statuses, and what Gateways ask for.
fn judge(sight: &Sight, namespace: &str) -> impl FnMut(&Objects, &Changed) -> Snapshot + use<> {
    let (judged, changes) = (Arc::clone(&sight.judged), sight.changes.clone());
    let (provisions, asked) = (Arc::clone(&sight.provisions), sight.asked.clone());
    let bundle = ObjectKey::new(namespace, BUNDLE_CONFIG_MAP);
    move |objects, changed| {
        let mut judged = judged.write().unwrap_or_else(PoisonError::into_inner);
        let rejudged = judged.update(objects, changed);
        let data = objects.config_maps.get(&bundle).and_then(|bundle| bundle.data.as_ref());
        let trust = data.and_then(|data| data.get("ca.crt"));
        for gateway in provisions.ask(judged.gateways().demands(), trust.map(String::as_str)) {
            asked.tell(gateway);
        }
        for subject in rejudged {
            changes.tell(subject);
        }
        // Nobody here has traffic.
        Snapshot::default()
    }
}

fn follow(client: &Client, sight: &Sight, ready: &Ready) -> JoinSet<Infallible> {
    let mut following = JoinSet::new();
    for kind in SubjectKind::ALL {
        let follower = Follower {
            kind,
            statuses: Arc::clone(&sight.statuses),
            changes: sight.changes.clone(),
            crds: sight.crds.clone(),
            loading: Some(ready.block("statuses")),
        };
        match kind {
            SubjectKind::Gateway | SubjectKind::ListenerSet => {
                following.spawn(follower.run::<WatchedListeners>(client.clone()))
            }
            SubjectKind::GatewayClass => following.spawn(follower.run::<WatchedClass>(client.clone())),
            SubjectKind::Mesh => following.spawn(follower.run::<WatchedMesh>(client.clone())),
            SubjectKind::BackendTlsPolicy | SubjectKind::Route(_) => {
                following.spawn(follower.run::<WatchedEntries>(client.clone()))
            }
        };
    }
    let (statuses, changes) = (Arc::clone(&sight.statuses), sight.changes.clone());
    following.spawn(tell_versions(sight.crds.clone(), statuses, changes));
    following
}

/// Sees what was made for Gateways, whether it is to be put right here or by who leads.
fn follow_provided(client: &Client, sight: &Sight, following: &mut JoinSet<Infallible>) {
    for part in Part::ALL {
        let known = Arc::clone(&sight.provided);
        following.spawn(provided::follow(client.clone(), part, known, sight.asked.clone()));
    }
}

/// Makes what Gateways ask for while it leads, if that is wanted here.
async fn provide(
    provisioner: Option<&Provisioner>,
    leadership: Leadership,
    asking: Arriving<ObjectKey>,
) -> Infallible {
    match provisioner {
        Some(provisioner) => work::run(provisioner, leadership, asking).await,
        None => std::future::pending().await,
    }
}

/// Who leads.
fn leader_dump(identity: String, leadership: Leadership) -> Dump {
    Arc::new(move || serde_json::json!({ "identity": identity, "leading": leadership.is_held() }))
}

/// What was judged, what is wrong with the objects and with the CRDs, and what found no room.
fn status_dump(view: &ClusterView, sight: &Sight, statuses: &Arc<StatusWriter>) -> Dump {
    let (view, statuses) = (view.clone(), Arc::clone(statuses));
    let (judged, crds) = (Arc::clone(&sight.judged), sight.crds.clone());
    Arc::new(move || {
        let problems: Vec<String> = view.reports().iter().map(ToString::to_string).collect();
        let judged = judged.read().unwrap_or_else(PoisonError::into_inner);
        serde_json::json!({
            "routes": judged.attachments(),
            "gateways": judged.gateways().describe(),
            "problems": problems,
            "crds": crds.borrow().describe(),
            "leftOut": statuses.left_out(),
        })
    })
}
