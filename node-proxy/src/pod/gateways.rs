//! The pods of this node that serve Gateways: nothing is captured there, and nothing has to be, since their listeners take
//! the mesh's hop by themselves. Each is asked for it at each of its ports, as a client of the mesh would, and marked
//! with those that have answered as the pod that is meant; a pod of the mesh then speaks mTLS to it.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::facts::GatewayPod;
use super::registry::{PodRegistry, blocking};
use super::sockets::{start, tcp_socket};
use crate::cluster::objects::Mark;
use crate::tls::{CertStore, HOP_ALPN};

/// Between two looks at which pods there are: the cluster's view may change more often.
const LOOKS_APART: Duration = Duration::from_secs(1);
/// How often in a row a port that took the hop may not answer before it is none that does: whoever is told that it is not
/// speaks plain text to it.
const UNSTEADY: u32 = 3;

/// What is known of one of them here.
struct Known {
    /// As what it was asked the last time.
    pod: GatewayPod,
    /// What it has, as far as is known here.
    mark: Option<Mark>,
    /// How often in a row less has answered than the mark says.
    failures: u32,
    due: Instant,
}

impl PodRegistry {
    /// Marks the pods of Gateways as long as the cluster is watched.
    pub async fn mark_gateways(&self, certs: &CertStore) {
        let mut generations = self.parts.generations.clone();
        let mut known: HashMap<Arc<str>, Known> = HashMap::new();
        while !self.is_ending.load(Ordering::Acquire) {
            generations.mark_unchanged();
            let gateways = self.parts.facts.gateways();
            known.retain(|uid, _| gateways.iter().any(|pod| pod.uid == *uid));
            for pod in gateways {
                let own = known.entry(Arc::clone(&pod.uid)).or_insert_with(|| Known::new(&pod));
                if own.pod != pod || Instant::now() >= own.due {
                    own.pod = pod;
                    self.certify_gateway(own, certs).await;
                }
            }
            tokio::time::sleep(LOOKS_APART).await;
            let due = known.values().map(|own| own.due).min();
            let due = due.unwrap_or_else(|| Instant::now() + self.parts.patience.inspection);
            tokio::select! {
                changed = generations.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(due) => {}
            }
        }
    }

    /// Takes the marks of Gateways' pods away, as the mesh is taken off.
    pub(super) async fn unmark_gateways(&self) {
        let gateways = self.parts.facts.gateways();
        for (pod, uid) in self.parts.facts.marked() {
            if gateways.iter().any(|gateway| gateway.uid == uid)
                && let Err(error) = self.remove_mark(&pod, &uid).await
            {
                tracing::warn!(%pod, %error, "the mark of a Gateway's pod cannot be taken away");
            }
        }
    }

    /// Asks a pod's ports, and has its mark say what they answer.
    async fn certify_gateway(&self, known: &mut Known, certs: &CertStore) {
        known.due = Instant::now() + self.parts.patience.inspection;
        // A pod that is not ready is nobody's endpoint: nothing is to be learnt of it.
        let Some(asked) = self.ask_gateway(&known.pod, certs).await else { return };
        let is_less =
            |mark: &Mark| !asked.as_ref().is_some_and(|now| is_as_much(now, mark, &known.pod.ports));
        if known.mark.as_ref().is_some_and(is_less) && known.failures + 1 < UNSTEADY {
            known.failures += 1;
            known.due = Instant::now() + self.parts.patience.retry;
            return;
        }
        known.failures = 0;
        let pod = &known.pod;
        let outcome = match &asked {
            Some(mark)
                if known.mark.as_ref() == Some(mark) && !self.parts.facts.lacks_mark(&pod.key, mark) =>
            {
                return;
            }
            Some(mark) => {
                tracing::info!(pod = %pod.key, ports = ?mark.ports, "a Gateway's pod is marked: it takes the hop");
                let (marks, key, mark) = (self.parts.marks.clone(), pod.key.clone(), mark.clone());
                blocking(move || marks.write(&key, &mark)).await
            }
            None if known.mark.is_some() => {
                tracing::warn!(pod = %pod.key, "a Gateway's pod does not take the hop any more: its mark goes");
                self.remove_mark(&pod.key, &pod.uid).await
            }
            None => self.remove_stale(pod).await,
        };
        match outcome {
            Ok(()) => known.mark = asked,
            Err(error) => {
                tracing::warn!(pod = %pod.key, %error, "the mark of a Gateway's pod cannot be written yet");
                known.due = Instant::now() + self.parts.patience.retry;
            }
        }
    }

    /// Takes away what a proxy before this one has left.
    async fn remove_stale(&self, pod: &GatewayPod) -> io::Result<()> {
        if self.parts.facts.marked().iter().any(|(_, uid)| *uid == pod.uid) {
            self.remove_mark(&pod.key, &pod.uid).await?;
        }
        Ok(())
    }

    /// The mark that a pod has earned: the ports that take the hop at all of its addresses that are reached. `None` when
    /// it cannot be asked.
    async fn ask_gateway(&self, pod: &GatewayPod, certs: &CertStore) -> Option<Option<Mark>> {
        let config = match certs.asking_config(&pod.identity) {
            Ok(config) => Arc::new(config?),
            Err(error) => {
                tracing::warn!(pod = %pod.key, %error, "a Gateway's pod cannot be asked for the hop");
                return None;
            }
        };
        if pod.ports.is_empty() {
            return None;
        }
        let mut asking = JoinSet::new();
        for (address, port) in pod.addresses.iter().flat_map(|ip| pod.ports.iter().map(|port| (*ip, *port))) {
            let address = SocketAddr::new(address, port);
            let socket = self.parts.host.run(|| dial(address));
            let (config, allowed) = (Arc::clone(&config), self.parts.patience.proof);
            asking.spawn(async move {
                let answer = timeout(allowed, ask(socket, address.ip(), config)).await;
                let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                (address, answer)
            });
        }
        let mut taken: Vec<SocketAddr> = Vec::new();
        for (address, answer) in asking.join_all().await {
            match answer {
                Ok(()) => taken.push(address),
                Err(error) => tracing::debug!(pod = %pod.key, %address, %error, "the hop is not taken"),
            }
        }
        // Of a family that is switched off in the pod nobody reaches anything.
        let addresses: BTreeSet<IpAddr> = taken.iter().map(SocketAddr::ip).collect();
        let is_taken = |port: &&u16| addresses.iter().all(|ip| taken.contains(&SocketAddr::new(*ip, **port)));
        let ports: Vec<u16> = pod.ports.iter().filter(is_taken).copied().collect();
        let mark = Mark { uid: pod.uid.to_string(), addresses: addresses.iter().copied().collect(), ports };
        Some(Some(mark).filter(|mark| !mark.addresses.is_empty() && !mark.ports.is_empty()))
    }
}

impl Known {
    fn new(pod: &GatewayPod) -> Self {
        Self { pod: pod.clone(), mark: None, failures: 0, due: Instant::now() }
    }
}

/// Whether a mark says of a pod's ports and addresses all that another one did; ports that the pod has no more do not count.
fn is_as_much(now: &Mark, before: &Mark, there: &BTreeSet<u16>) -> bool {
    let has_ports = before.ports.iter().all(|port| now.ports.contains(port) || !there.contains(port));
    has_ports && before.addresses.iter().all(|address| now.addresses.contains(address))
}

/// Begins to connect, in the network that the calling thread is in.
fn dial(address: SocketAddr) -> io::Result<std::net::TcpStream> {
    let socket = tcp_socket(address)?;
    start(&socket, address)?;
    Ok(socket.into())
}

/// Whether the hop is taken: by a handshake that the server has ended, and that the client ends without saying who it is.
async fn ask(
    socket: io::Result<std::net::TcpStream>,
    address: IpAddr,
    config: Arc<ClientConfig>,
) -> io::Result<()> {
    let stream = TcpStream::from_std(socket?)?;
    stream.writable().await?;
    let stream = TlsConnector::from(config).connect(ServerName::IpAddress(address.into()), stream).await?;
    let agreed = stream.get_ref().1.alpn_protocol();
    if agreed == Some(HOP_ALPN) { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}
