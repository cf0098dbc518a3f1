//! The listening sockets of a Gateway's ports, which come and go with its listeners.

use std::collections::BTreeMap;
use std::net::Shutdown;
use std::sync::Arc;

use socket2::SockRef;

use crate::accept::{JoinedPod, Workers};
use crate::pod::PodListener;
use crate::pod::own::listen_on_port;
use crate::snapshot::gateway::GatewayPorts;

/// The ports that are open.
#[derive(Debug, Default)]
pub struct Ports {
    open: BTreeMap<u16, Vec<PodListener>>,
}

impl Ports {
    /// Opens what is wanted and closes what is not. Says which ports cannot be opened, and why; they are tried again the
    /// next time.
    pub fn follow(
        &mut self,
        wanted: &GatewayPorts,
        (pod, workers): (&Arc<JoinedPod>, &Workers),
    ) -> Vec<String> {
        self.open.retain(|port, listeners| {
            let stays = wanted.contains_key(port);
            if !stays {
                listeners.iter().for_each(close);
                tracing::info!(port, "a port of the Gateway is closed");
            }
            stays
        });
        let mut refused = Vec::new();
        for port in wanted.keys().filter(|port| !self.open.contains_key(port)).copied().collect::<Vec<_>>() {
            let opened = listen_on_port(port).and_then(|listeners| {
                let kept: Result<Vec<_>, _> = listeners.iter().map(PodListener::try_clone).collect();
                Ok((listeners, kept?))
            });
            match opened {
                Ok((listeners, kept)) => {
                    tracing::info!(port, "a port of the Gateway is open");
                    workers.join(pod, listeners);
                    self.open.insert(port, kept);
                }
                Err(error) => refused.push(format!("port {port}: {error}")),
            }
        }
        refused
    }
}

/// Ends a listening socket for whoever accepts on it.
fn close(listener: &PodListener) {
    // Only a socket that is closed already can refuse.
    let _ = SockRef::from(&listener.socket).shutdown(Shutdown::Both);
}
