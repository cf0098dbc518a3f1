//! The pods of this node that serve Gateways: nothing is captured there, and nothing has to be, since their listeners take
//! the mesh's hop by themselves. Each is asked for it at each of its ports, as a client of the mesh would, and marked
//! with those that have answered as the pod that is meant; a pod of the mesh then speaks mTLS to it.
//!
//! What has answered once stays in the mark for as long as a Service leads there: who keeps a Gateway too busy to answer must not
//! bring its clients back to plain text.

use std::collections::HashMap;
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
use crate::tls::{CertStore, HOP_ALPN, has_unknown_issuer};

/// Between two looks at which pods there are: the cluster's view may change more often.
const LOOKS_APART: Duration = Duration::from_secs(1);

/// What is known of one of them here.
struct Known {
    /// As what it was asked the last time.
    pod: GatewayPod,
    /// How often in a row not all of it has answered.
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
            for pod in gateways.into_iter().filter(|pod| !pod.is_leaving) {
                let first = || Known { pod: pod.clone(), failures: 0, due: Instant::now() };
                let own = known.entry(Arc::clone(&pod.uid)).or_insert_with(first);
                let is_other = own.pod.ports != pod.ports || own.pod.addresses != pod.addresses;
                if is_other || Instant::now() >= own.due {
                    own.failures = if is_other { 0 } else { own.failures };
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
        for pod in self.parts.facts.gateways().into_iter().filter(|pod| pod.mark.is_some()) {
            if let Err(error) = self.remove_mark(&pod.key, &pod.uid).await {
                tracing::warn!(pod = %pod.key, %error, "the mark of a Gateway's pod cannot be taken away");
            }
        }
    }

    /// Asks a pod's ports, and has its mark say which have answered.
    async fn certify_gateway(&self, known: &mut Known, certs: &CertStore) {
        let pod = &known.pod;
        let mark = earned(pod, &self.ask_gateway(pod, certs).await);
        let is_whole = mark.as_ref().is_some_and(|mark| mark.ports.len() == pod.ports.len());
        known.failures = if is_whole { 0 } else { known.failures + 1 };
        known.due = Instant::now()
            + if is_whole { self.parts.patience.inspection } else { self.pause(known.failures) };
        // A pod that is not ready is nobody's endpoint: nothing is to be learnt of it.
        if mark == pod.mark || pod.ports.is_empty() || self.is_ending.load(Ordering::Acquire) {
            return;
        }
        let outcome = match mark {
            Some(mark) => {
                tracing::info!(pod = %pod.key, ports = ?mark.ports, "a Gateway's pod is marked: it takes the hop");
                let (marks, key) = (self.parts.marks.clone(), pod.key.clone());
                blocking(move || marks.write(&key, &mark)).await
            }
            None => self.remove_mark(&pod.key, &pod.uid).await,
        };
        if let Err(error) = outcome {
            tracing::warn!(pod = %pod.key, %error, "the mark of a Gateway's pod cannot be written yet");
            known.due = Instant::now() + self.parts.patience.retry;
        }
    }

    /// Where a pod takes the hop, as far as it has answered.
    async fn ask_gateway(&self, pod: &GatewayPod, certs: &CertStore) -> Vec<SocketAddr> {
        let config = match certs.asking_config(&pod.identity) {
            Ok(Some(config)) => Arc::new(config),
            Ok(None) => return Vec::new(),
            Err(error) => {
                tracing::warn!(pod = %pod.key, %error, "a Gateway's pod cannot be asked for the hop");
                return Vec::new();
            }
        };
        let mut asking = JoinSet::new();
        for (address, port) in pod.addresses.iter().flat_map(|ip| pod.ports.iter().map(|port| (*ip, *port))) {
            let address = SocketAddr::new(address, port);
            let socket = self.parts.host.run(|| dial(address));
            let (config, allowed) = (Arc::clone(&config), self.parts.patience.proof);
            asking.spawn(async move {
                let answer = timeout(allowed, ask(socket, address.ip(), config)).await;
                (address, answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
            });
        }
        let mut taken = Vec::new();
        for (address, answer) in asking.join_all().await {
            match answer {
                Ok(()) => taken.push(address),
                Err(error) => {
                    tracing::debug!(pod = %pod.key, %address, %error, "the hop is not taken");
                    if has_unknown_issuer(&error) {
                        certs.doubt_trust();
                    }
                }
            }
        }
        taken
    }
}

/// The mark that a pod has earned by what has answered now, with what it has of before: the ports that take the hop at all of
/// its addresses that answer at all.
fn earned(pod: &GatewayPod, taken: &[SocketAddr]) -> Option<Mark> {
    let before = pod.mark.as_ref();
    let was_marked = |ip: &IpAddr| before.is_some_and(|mark| mark.addresses.contains(ip));
    let answers = |ip: &IpAddr| was_marked(ip) || taken.iter().any(|address| address.ip() == *ip);
    // Of a family that is switched off in the pod nobody reaches anything.
    let addresses: Vec<IpAddr> = pod.addresses.iter().filter(|ip| answers(ip)).copied().collect();
    let is_taken = |port: &&u16| {
        let was_marked = before.is_some_and(|mark| mark.ports.contains(port));
        was_marked || addresses.iter().all(|ip| taken.contains(&SocketAddr::new(*ip, **port)))
    };
    let ports: Vec<u16> = pod.ports.iter().filter(is_taken).copied().collect();
    let mark = Mark { uid: pod.uid.to_string(), addresses, ports };
    Some(mark).filter(|mark| !mark.addresses.is_empty() && !mark.ports.is_empty())
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

#[cfg(test)]
mod tests {
    use gammarus_ca::{SpiffeId, TrustDomain};

    use super::*;
    use crate::cluster::objects::ObjectKey;

    fn pod(ports: &[u16], mark: Option<&[u16]>) -> GatewayPod {
        let domain = TrustDomain::new("cluster.local").unwrap();
        let addresses: Vec<IpAddr> = ["10.0.0.1", "fd00::1"].map(|ip| ip.parse().unwrap()).into();
        let marked =
            |ports: &[u16]| Mark { ports: ports.to_vec(), ..Mark::of_captured("u", addresses.clone()) };
        GatewayPod {
            key: ObjectKey::new("edge", "front"),
            uid: "u".into(),
            identity: SpiffeId::new(domain, "edge", "front").unwrap(),
            mark: mark.map(marked),
            addresses: addresses.clone(),
            ports: ports.iter().copied().collect(),
            is_leaving: false,
        }
    }

    #[track_caller]
    fn check(pod: &GatewayPod, taken: &[&str], expected: Option<(usize, &[u16])>) {
        let taken: Vec<SocketAddr> = taken.iter().map(|text| text.parse().unwrap()).collect();
        let mark = earned(pod, &taken);
        let found = mark.as_ref().map(|mark| (mark.addresses.len(), &*mark.ports));
        assert_eq!(found, expected, "{taken:?} of {pod:?}");
    }

    #[test]
    fn a_port_is_in_the_mark_where_it_answers_at_each_address_that_answers() {
        let both = ["10.0.0.1:80", "[fd00::1]:80"];
        check(&pod(&[80, 81], None), &both, Some((2, &[80])));
        check(&pod(&[80, 81], None), &["10.0.0.1:80"], Some((1, &[80])));
        check(&pod(&[80, 81], None), &[&both[..], &["10.0.0.1:81"]].concat(), Some((2, &[80])));
        check(&pod(&[80], None), &[], None);
    }

    #[test]
    fn what_has_answered_stays_as_long_as_it_is_there() {
        check(&pod(&[80, 81], Some(&[80, 81])), &[], Some((2, &[80, 81])));
        check(&pod(&[80], Some(&[80, 81])), &[], Some((2, &[80])));
        check(&pod(&[82], Some(&[80, 81])), &["10.0.0.1:82", "[fd00::1]:82"], Some((2, &[82])));
        check(&pod(&[], Some(&[80])), &[], None);
    }
}
