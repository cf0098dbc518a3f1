//! The sockets of a Gateway's ports, which come and go with its listeners.

use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::sync::Arc;

use socket2::SockRef;
use tokio::sync::watch;

use super::datagrams::{Occupancy, PortSocket};
use crate::accept::{JoinedPod, Workers};
use crate::pod::PodListener;
use crate::pod::own::{hear_on_port, listen_on_port};
use crate::snapshot::gateway::GatewayPorts;
use crate::snapshot::transport::{Port, Transport};

/// The ports that are open.
#[derive(Debug)]
pub struct Ports {
    open: BTreeMap<Port, Open>,
    occupancy: Arc<Occupancy>,
}

/// What keeps a port open.
#[derive(Debug)]
enum Open {
    /// Who accepts on these.
    Listeners(Vec<PodListener>),
    /// Whoever hears on the port, as long as this is there.
    Datagrams(#[expect(dead_code, reason = "it is dropped")] watch::Sender<()>),
}

impl Ports {
    /// None so far; `occupancy` is what those of UDP will have in common.
    #[must_use]
    pub const fn new(occupancy: Arc<Occupancy>) -> Self {
        Self { open: BTreeMap::new(), occupancy }
    }

    /// Opens what is wanted and closes what is not. Says which ports cannot be opened, and why; they are tried again the
    /// next time.
    pub fn follow(
        &mut self,
        wanted: &GatewayPorts,
        (pod, workers): (&Arc<JoinedPod>, &Workers),
    ) -> Vec<String> {
        self.open.retain(|port, open| {
            let stays = wanted.contains_key(port);
            if !stays {
                if let Open::Listeners(listeners) = open {
                    listeners.iter().for_each(close);
                }
                tracing::info!(%port, "a port of the Gateway is closed");
            }
            stays
        });
        let mut refused = Vec::new();
        for port in wanted.keys().filter(|port| !self.open.contains_key(port)).copied().collect::<Vec<_>>() {
            let opened = match port.transport {
                Transport::Tcp => listen(port.number, (pod, workers)),
                Transport::Udp => hear(port.number, &self.occupancy, (pod, workers)),
            };
            match opened {
                Ok(open) => {
                    tracing::info!(%port, "a port of the Gateway is open");
                    self.open.insert(port, open);
                }
                Err(error) => {
                    let Port { number, transport } = port;
                    refused.push(format!("{} port {number}: {error}", transport.as_protocol()));
                }
            }
        }
        refused
    }

    /// Closes the ports of TCP, so that clients are refused and go elsewhere; those of UDP stay, for the sessions that there are.
    pub fn accept_no_more(&mut self) {
        for open in self.open.values_mut() {
            if let Open::Listeners(listeners) = open {
                listeners.drain(..).for_each(|listener| close(&listener));
            }
        }
    }
}

fn listen(port: u16, (pod, workers): (&Arc<JoinedPod>, &Workers)) -> io::Result<Open> {
    let listeners = listen_on_port(port)?;
    let kept: io::Result<Vec<_>> = listeners.iter().map(PodListener::try_clone).collect();
    let kept = kept?;
    workers.join(pod, listeners);
    Ok(Open::Listeners(kept))
}

fn hear(
    number: u16,
    occupancy: &Arc<Occupancy>,
    (pod, workers): (&Arc<JoinedPod>, &Workers),
) -> io::Result<Open> {
    let sockets = hear_on_port(number, workers.count())?;
    let (sender, open) = watch::channel(());
    let of_port =
        |socket| PortSocket { number, socket, occupancy: Arc::clone(occupancy), open: open.clone() };
    workers.hear(pod, sockets.into_iter().map(of_port));
    Ok(Open::Datagrams(sender))
}

/// Ends a listening socket for whoever accepts on it.
fn close(listener: &PodListener) {
    // Only a socket that is closed already can refuse.
    let _ = SockRef::from(&listener.socket).shutdown(Shutdown::Both);
}
