//! Wiring of the proxy of one Gateway: its objects, its ports, and its end.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use gammarus_ca::{SpiffeId, TrustDomain};
use rustls::RootCertStore;
use tokio::sync::watch;
use tokio::time::sleep;

use super::life::told_to_stop;
use super::{Telling, cert_store, run_to_end, snapshot_dump, source_ended, start_telling};
use crate::accept::{Drain, Drainer, JoinedPod, Mesh, Workers};
use crate::admin::{Admin, Certificates, Doors, Dump, MayCome, Ready};
use crate::attach::Attachments;
use crate::attach::gateway::{Gateways, JudgedGateway, NamedCertificate};
use crate::cluster::certificate::parse_authorities;
use crate::cluster::directory::Directory;
use crate::cluster::objects::{Changed, ObjectKey, Objects};
use crate::cluster::source::{ClusterError, ObjectSource, Update};
use crate::cluster::writer::{ClusterView, Writer};
use crate::compile::gateway::{GatewayCompiler, compile_backend_tls, well_known_authorities};
use crate::compile::{Compiler, Step};
use crate::config::{IngressConfig, IngressObjects};
use crate::feed::follow::{Feed, FeedPeers};
use crate::ingress::datagrams::Occupancy;
use crate::ingress::ports::Ports;
use crate::pod::own::own_pod;
use crate::snapshot::Snapshot;
use crate::snapshot::gateway::{BackendTlsPorts, GatewayPorts};
use crate::telemetry::Metrics;
use crate::tls::clock::validity;
use crate::tls::{CertStore, Expiries};
use crate::turns::Memory;

/// How long clients still come once the proxy was told to stop: until everybody knows that it is not ready.
const GRACE: Duration = Duration::from_secs(5);
/// How often is looked whether anybody has stayed.
const FAREWELL_STEP: Duration = Duration::from_millis(100);
/// How long a port that could not be opened is left alone.
const NEXT_TRY: Duration = Duration::from_secs(5);

/// Serves one Gateway until it is told to stop.
///
/// # Errors
/// If anything that it cannot do without is missing.
pub fn run_ingress(config: IngressConfig) -> anyhow::Result<()> {
    let telling = start_telling(&config.serving.telemetry)?;
    run_to_end(telling, |telling| serve(config, telling))
}

async fn serve(config: IngressConfig, (log, metrics, telemetry): Telling) -> anyhow::Result<()> {
    let system = system_authorities(config.system_authorities.as_deref())?;
    let farewell = config.drain;
    let IngressConfig { serving, objects, gateway, pod, service_account, intermediaries, .. } = config;
    let ready = Ready::new();
    let loading = ready.block("the Gateway's ports");
    let trust_domain = TrustDomain::new(&serving.trust_domain)?;
    let identity = SpiffeId::new(trust_domain.clone(), &pod.namespace, &service_account)?;
    let certs = Arc::new(cert_store(&serving.ca, None)?);
    certs.start(&identity);
    let source = open(objects, (&trust_domain, &identity), &certs)?;
    let gateways = Arc::default();
    let compiler = Compiler::new(&serving.node, trust_domain).with_datagrams();
    let (writer, view) =
        Writer::new(source, builder(gateway.clone(), (compiler, system), (&gateways, &metrics)));
    let (drainer, drain) = Drainer::new();
    let limits = serving.data_path.limits;
    let mesh = Arc::new(Mesh {
        snapshot: Arc::clone(view.snapshot()),
        certs: Arc::clone(&certs),
        telemetry,
        limits,
        drain,
        intermediaries,
    });
    let workers = Workers::start(&mesh, serving.data_path.workers).context("cannot start the data path")?;
    let (_stays, gone) = watch::channel(false);
    let memory = Memory::new(limits.buffered_bytes);
    let shares = workers.shares(&memory);
    let own = Arc::new(own_pod(pod, identity)?);
    let own = Arc::new(JoinedPod::new(own, gone, (memory, shares)));
    let admin = Admin {
        metrics,
        certificates: certificates(&certs, (&gateways, &gateway)),
        ready: ready.clone(),
        snapshot: snapshot_dump(&view),
        status: status_dump(&view, gateways),
        log,
    };
    let mut doors = Doors::new(Arc::new(admin), [serving.admin_listen, serving.health_listen]);
    doors.open(&mut BTreeMap::new(), MayCome::No)?;
    tracing::info!(%gateway, "serving a Gateway");
    let following = async {
        view.ready().await.context("the objects were never read")?;
        let mut loading = Some(loading);
        let ports = Ports::new(Arc::new(Occupancy::new(mesh.telemetry.metrics(), &limits)));
        let data_path = (&own, &workers, &mesh.drain);
        follow_ports(&view, ports, data_path, || drop(loading.take())).await;
        anyhow::Ok(())
    };
    // What there is is followed to the end.
    tokio::select! {
        ended = writer.run() => Err(source_ended(ended)),
        ended = following => ended,
        ended = end_when_told((&ready, &drainer, &workers), farewell) => ended,
    }
}

/// The authorities that policies mean by `System`: those of the file, or the built-in ones.
fn system_authorities(file: Option<&Path>) -> anyhow::Result<Arc<RootCertStore>> {
    let Some(file) = file else { return Ok(Arc::new(well_known_authorities())) };
    let wrong = |problem: String| anyhow::anyhow!("--system-authorities {}: {problem}", file.display());
    let text = fs::read(file).map_err(|error| wrong(error.to_string()))?;
    Ok(Arc::new(parse_authorities(&text).map_err(wrong)?))
}

/// Where the objects are read.
enum Source {
    Directory(Box<Directory>),
    Feed(Box<Feed>),
}

impl ObjectSource for Source {
    async fn next(&mut self) -> Result<Update, ClusterError> {
        match self {
            Self::Directory(source) => source.next().await,
            Self::Feed(source) => source.next().await,
        }
    }
}

fn open(
    objects: IngressObjects,
    (trust_domain, own): (&TrustDomain, &SpiffeId),
    certs: &Arc<CertStore>,
) -> anyhow::Result<Source> {
    Ok(match objects {
        IngressObjects::Directory(root) => Source::Directory(Box::new(Directory::open(&root)?)),
        IngressObjects::Feed { address, service_account, state_dir } => {
            let ObjectKey { namespace, name } = &service_account;
            let peers = FeedPeers {
                address: address.to_string(),
                controller: SpiffeId::new(trust_domain.clone(), namespace, name)?,
                own: own.clone(),
                certs: Arc::clone(certs),
            };
            Source::Feed(Box::new(Feed::start(peers, &state_dir)))
        }
    })
}

/// Waits until it is told to stop, and takes leave of everybody.
async fn end_when_told(
    (ready, drainer, workers): (&Ready, &Drainer, &Workers),
    farewell: Duration,
) -> anyhow::Result<()> {
    told_to_stop().await?;
    let _ending = ready.block("its end");
    sleep(GRACE).await;
    drainer.begin();
    workers.retire();
    let end = Instant::now() + farewell;
    while workers.connections() > 0 && Instant::now() < end {
        sleep(FAREWELL_STEP).await;
    }
    match workers.connections() {
        0 => tracing::info!("drained"),
        connections => tracing::warn!(connections, "the drain has taken too long: what is left is cut"),
    }
    Ok(())
}

/// Keeps the listening sockets as the snapshot has them, until the drain begins. `opened` is called whenever all of them are
/// open.
async fn follow_ports(
    view: &ClusterView,
    mut ports: Ports,
    (pod, workers, drain): (&Arc<JoinedPod>, &Workers, &Drain),
    mut opened: impl FnMut(),
) {
    let mut generations = view.generations();
    loop {
        generations.borrow_and_update();
        let wanted = Arc::clone(&view.snapshot().load().gateway_ports);
        let refused = ports.follow(&wanted, (pod, workers));
        for error in &refused {
            tracing::warn!(%error, "a port of the Gateway cannot be opened");
        }
        if refused.is_empty() {
            opened();
        }
        let again =
            async { if refused.is_empty() { std::future::pending().await } else { sleep(NEXT_TRY).await } };
        tokio::select! {
            changed = generations.changed() => if changed.is_err() { return },
            () = again => {}
            () = drain.begun() => {
                ports.accept_no_more();
                // What is there of UDP goes with its ports.
                return std::future::pending().await;
            }
        }
    }
}

/// What makes snapshots of objects: routes hold on the Gateway's listeners, and those on Services are not applied.
fn builder(
    gateway: ObjectKey,
    (mut compiler, system): (Compiler, Arc<RootCertStore>),
    (judged, metrics): (&Arc<RwLock<Gateways>>, &Arc<Metrics>),
) -> impl FnMut(&Objects, &Changed) -> Snapshot + use<> {
    let (judged, metrics) = (Arc::clone(judged), Arc::clone(metrics));
    let (no_routes, no_groups) = (Attachments::default(), Default::default());
    let mut ports = GatewayCompiler::default();
    let mut served = (Arc::<GatewayPorts>::default(), Arc::<BackendTlsPorts>::default());
    move |objects, changed| {
        let started = Instant::now();
        let step = Step { objects, changed, attachments: &no_routes, groups: &no_groups };
        let mut snapshot = compiler.update(&step);
        let mut judged = judged.write().unwrap_or_else(PoisonError::into_inner);
        if Gateways::are_concerned(&judged.named, changed) {
            let gateways = Gateways::new(objects);
            served = match gateways.gateways.get(&gateway) {
                Some(own) => {
                    let backends = compile_backend_tls(&gateways, own, &system);
                    (Arc::new(ports.update(&gateways, own)), Arc::new(backends))
                }
                None => {
                    tracing::warn!(%gateway, "there is no Gateway of this name and of a class of ours");
                    Default::default()
                }
            };
            *judged = gateways;
        }
        (snapshot.gateway_ports, snapshot.backend_tls) = served.clone();
        metrics.snapshot_published(snapshot.generation, started.elapsed());
        snapshot
    }
}

/// When the certificates end that the mesh knows this proxy by, those that the Gateway's listeners show, and the one that it
/// shows to backends.
fn certificates(
    certs: &Arc<CertStore>,
    (judged, gateway): (&Arc<RwLock<Gateways>>, &ObjectKey),
) -> Certificates {
    let (certs, judged, gateway) = (Arc::clone(certs), Arc::clone(judged), gateway.clone());
    Arc::new(move || {
        let judged = judged.read().unwrap_or_else(PoisonError::into_inner);
        let gateway = judged.gateways.get(&gateway);
        let listeners = gateway.into_iter().flat_map(JudgedGateway::all_listeners);
        let listeners = listeners.flat_map(|(_, listener)| listener.certificates()).filter_map(end_of);
        let clients = gateway.and_then(|gateway| end_of(gateway.client_certificate.as_ref()?));
        let (listeners, clients) = (listeners.collect(), clients.into_iter().collect());
        Expiries { listeners, clients, ..certs.expiries() }
    })
}

/// A Secret, and when the certificate in it ends.
fn end_of((secret, pair): &NamedCertificate) -> Option<(String, SystemTime)> {
    let (_, end) = validity(pair.cert.first()?)?;
    Some((secret.to_string(), end))
}

/// The conditions of the Gateway's listeners and routes, and what is wrong with the objects.
fn status_dump(view: &ClusterView, gateways: Arc<RwLock<Gateways>>) -> Dump {
    let view = view.clone();
    Arc::new(move || {
        let problems: Vec<String> = view.reports().iter().map(ToString::to_string).collect();
        let gateways = gateways.read().unwrap_or_else(PoisonError::into_inner);
        let mut conditions = BTreeMap::new();
        for gateway in gateways.gateways.values() {
            for (id, listener) in gateway.all_listeners() {
                conditions.insert(id.to_string(), render(&listener.conditions(None)));
            }
        }
        for (policy, judged) in &gateways.policies.judged {
            for (gateway, said) in judged.outcomes() {
                conditions.insert(format!("BackendTLSPolicy {policy} at Gateway {gateway}"), render(&said));
            }
        }
        for (route, judged) in &gateways.routes {
            for parent in &judged.parents {
                conditions
                    .insert(format!("{route} on Gateway {}", parent.gateway), render(&parent.conditions));
            }
        }
        serde_json::json!({ "conditions": conditions, "problems": problems })
    })
}

fn render(conditions: &[crate::attach::Condition]) -> Vec<String> {
    conditions.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_those_of_the_file_and_a_file_without_any_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("authorities.pem");
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        fs::write(&file, [made.cert.pem(), made.cert.pem()].concat()).unwrap();
        assert_eq!(system_authorities(Some(&file)).unwrap().len(), 2);
        assert_eq!(system_authorities(None).unwrap().len(), well_known_authorities().len());
        fs::write(&file, "nothing").unwrap();
        let error = system_authorities(Some(&file)).unwrap_err().to_string();
        let said = error.strip_prefix("--system-authorities ").unwrap();
        assert!(
            said.contains("authorities.pem") && said.ends_with("there is no certificate in it"),
            "{error}"
        );
    }
}
