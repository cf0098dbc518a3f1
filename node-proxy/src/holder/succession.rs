//! A proxy among proxies: what it takes in from the one before, what it hears of the others, and how it ends when the
//! next one has taken over.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::keeper::{Heard, HeldPod, Keeper};
use crate::accept::{Drainer, Workers};
use crate::error::with_causes;
use crate::pod::PodEvent;
use crate::pod::netns::NetnsFd;
use crate::pod::registry::PodRegistry;
use crate::tls::{CertStore, WorkloadCert};

/// How long is waited for pods of which the cluster says nothing (yet); the others are accepted for long before.
const ADOPTION: Duration = Duration::from_secs(1);
/// Between two looks whether anybody is still served.
const LOOK: Duration = Duration::from_millis(100);
/// What hops and idle connections have to end in order, once nobody is served.
const FAREWELL: Duration = Duration::from_secs(3);

/// Why a proxy does not serve any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Another one does.
    Superseded,
    /// It never did: the holder went away while everything was taken over.
    Lost,
}

/// What a hand-over is about.
#[derive(Clone)]
pub struct Succession {
    /// Where pods are adopted.
    pub registry: Arc<PodRegistry>,
    /// Where leaves are.
    pub certs: Arc<CertStore>,
    /// Who accepts for pods.
    pub events: mpsc::Sender<PodEvent>,
    /// Who tells the holder.
    pub keeper: Keeper,
    /// What ends the accepting.
    pub drainer: Drainer,
}

impl Succession {
    /// Takes in what was held: leaves first, since what is accepted needs them.
    pub async fn take_in(&self, pods: Vec<HeldPod>, leaves: Vec<Arc<WorkloadCert>>) {
        let (count, identities) = (pods.len(), leaves.len());
        for leaf in leaves {
            self.certs.adopt(leaf);
        }
        let mut adoptions = JoinSet::new();
        for pod in pods {
            adoptions.spawn(self.clone().adopt(pod));
        }
        let all = async { while adoptions.join_next().await.is_some() {} };
        if timeout(ADOPTION, all).await.is_err() {
            // They go on: a pod that is gone is let go in the end.
            adoptions.detach_all();
        }
        tracing::info!(pods = count, identities, "took over what was held");
    }

    async fn adopt(self, pod: HeldPod) {
        let HeldPod { uid, record, netns, listeners, .. } = pod;
        let problem = match serde_json::from_str(&record) {
            Ok(record) => match self.registry.adopt(record, NetnsFd::new(netns), listeners).await {
                Ok(()) => return,
                Err(error) => with_causes(&error),
            },
            Err(error) => error.to_string(),
        };
        tracing::warn!(%uid, error = problem, "a pod that was held is let go");
        self.keeper.let_go(&uid);
    }

    /// Follows what other proxies do, until this one has no part in it any more.
    pub async fn follow(&self, heard: &mut mpsc::UnboundedReceiver<Heard>) -> Turn {
        while let Some(news) = heard.recv().await {
            match news {
                Heard::Pod(pod) => {
                    self.clone().adopt(pod).await;
                    self.keeper.accepting();
                }
                Heard::Left(uid) => {
                    let pods = self.registry.pods().await;
                    let left = pods.iter().find(|pod| pod.uid == uid);
                    if let Some(record) = left.and_then(|pod| pod.record.as_ref()) {
                        self.registry.withdraw(&record.attachment.id).await;
                    }
                }
                Heard::Leaf(cert) => self.certs.adopt(cert),
                Heard::Superseded => return Turn::Superseded,
                Heard::Lost => return Turn::Lost,
            }
        }
        Turn::Lost
    }

    /// Serves who stays, until nobody does or `patience` is over. What joins late is handed on; who leaves is closed.
    pub async fn drain(
        &self,
        workers: &Workers,
        (heard, patience): (&mut mpsc::UnboundedReceiver<Heard>, Duration),
    ) {
        tracing::info!(connections = workers.connections(), "superseded by another proxy: draining");
        self.drainer.begin();
        let following = async {
            while let Some(news) = heard.recv().await {
                match news {
                    Heard::Left(uid) => drop(self.events.send(PodEvent::Left { uid }).await),
                    Heard::Leaf(cert) => self.certs.adopt(cert),
                    Heard::Superseded => self.drainer.begin(),
                    Heard::Pod(_) | Heard::Lost => {}
                }
            }
            std::future::pending().await
        };
        let served = async {
            // What is under way there is waited for; nothing is begun or written any more.
            self.registry.shutdown().await;
            // Twice: a connection may be on its way from one thread to another.
            let mut looks_without = 0;
            while looks_without < 2 {
                sleep(LOOK).await;
                looks_without = if workers.connections() == 0 { looks_without + 1 } else { 0 };
            }
        };
        tokio::select! {
            () = following => {}
            outcome = timeout(patience, served) => {
                let connections = workers.connections();
                match outcome {
                    Ok(()) => tracing::info!("drained"),
                    Err(_) => tracing::warn!(connections, "the drain has taken too long: what is left is cut"),
                }
            }
        }
        workers.retire();
        sleep(FAREWELL).await;
    }
}
