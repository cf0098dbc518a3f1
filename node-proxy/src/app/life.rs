//! The life of a node's proxy: it takes over what is there, serves, and when another one has taken over, drains.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::parting::{part, time_to_part};
use crate::accept::Workers;
use crate::admin::{BlockReady, Doors, MayCome};
use crate::cluster::writer::ClusterView;
use crate::config::MeshConfig;
use crate::holder::succession::{Succession, Turn};
use crate::holder::{Heard, Orders, Taken, take_over};
use crate::pod::api_server::Installation;
use crate::pod::enroll;

/// How long a proxy that is told to stop waits for the word that another one has taken over.
const SUCCESSOR: Duration = Duration::from_secs(2);
/// Between two looks whether anybody is still served.
const LOOK: Duration = Duration::from_millis(20);

/// What a life is lived with.
pub(super) struct Life<'a> {
    pub(super) config: &'a MeshConfig,
    pub(super) view: &'a ClusterView,
    pub(super) workers: &'a Workers,
    pub(super) doors: Doors,
    pub(super) orders: Orders,
    /// Not ready, as long as this is there.
    pub(super) loading: BlockReady,
    pub(super) succession: Succession,
    /// What this proxy is a part of, where that can be taken off the cluster.
    pub(super) installation: Option<Installation>,
}

/// How a part of it has ended.
enum Ending {
    /// The next part begins.
    Superseded,
    /// It is over.
    Told,
}

impl Life<'_> {
    /// Lives it to its end.
    pub(super) async fn live(self) -> anyhow::Result<()> {
        let Self { config, view, workers, mut doors, orders, loading, succession, installation } = self;
        let may_come = if config.hand_over.holder.is_some() { MayCome::Yes } else { MayCome::No };
        doors.open(&mut BTreeMap::new(), may_come)?;
        // Without a holder nothing is ever heard of other proxies.
        let (_quiet, silence) = mpsc::unbounded_channel();
        let beginning = async {
            view.ready().await.context("the objects were never read")?;
            match &config.hand_over.holder {
                Some(path) => anyhow::Ok(take_over(path, orders).await?),
                None => Ok((Taken::default(), silence)),
            }
        };
        let (mut held, mut heard) = tokio::select! {
            begun = beginning => begun,
            told = told_to_stop() => return told,
        }?;
        succession.take_in(held.pods, held.leaves).await;
        succession.registry.restore().await;
        let listener = bind_enrolment(&config.socket, &mut held.sockets)?;
        doors.open(&mut held.sockets, MayCome::No)?;
        if config.hand_over.holder.is_some() {
            let own = enrolment_name(&config.socket);
            for (name, socket) in doors.sockets().chain([(&*own, listener.as_fd())]) {
                succession.keeper.hold_socket(name, socket.try_clone_to_owned()?);
            }
            succession.keeper.accepting();
        }
        drop(loading);
        tracing::info!(node = %config.serving.node, socket = %config.socket.display(), "enrolling pods");
        let is_told = Cell::new(false);
        let parting = async {
            told_to_stop().await?;
            is_told.set(true);
            let is_over = match &installation {
                Some(installation) => part(&succession, installation, &config.state_dir).await,
                None => false,
            };
            if !is_over && config.hand_over.holder.is_some() {
                wait_for_successor(workers).await;
            }
            anyhow::Ok(())
        };
        match serve(&succession, (listener, parting), &mut heard).await? {
            Ending::Told => return Ok(()),
            Ending::Superseded => drop(doors),
        }
        tokio::select! {
            () = succession.drain(workers, (&mut heard, config.hand_over.drain)) => Ok(()),
            told = told_to_stop_at_once(installation.as_ref(), is_told.get()) => told,
        }
    }
}

async fn serve(
    succession: &Succession,
    (listener, parting): (UnixListener, impl Future<Output = anyhow::Result<()>>),
    heard: &mut mpsc::UnboundedReceiver<Heard>,
) -> anyhow::Result<Ending> {
    let registry = &succession.registry;
    let enrolling = async {
        let serving = enroll::serve(Arc::clone(registry), listener);
        let marking = registry.mark_gateways(&succession.certs);
        tokio::join!(serving, registry.follow_state(), registry.find_older(), marking);
    };
    tokio::select! {
        () = enrolling => Ok(Ending::Told),
        parted = parting => parted.map(|()| Ending::Told),
        turn = succession.follow(heard) => match turn {
            Turn::Superseded => Ok(Ending::Superseded),
            Turn::Lost => anyhow::bail!("the holder went away while everything was taken over"),
        },
    }
}

/// The name under which the enrolment socket is handed over.
fn enrolment_name(path: &Path) -> String {
    format!("enrol {}", path.display())
}

/// The enrolment socket: the one that was handed over, or a new one.
fn bind_enrolment(path: &Path, held: &mut BTreeMap<String, OwnedFd>) -> anyhow::Result<UnixListener> {
    let bound = match held.remove(&enrolment_name(path)) {
        Some(socket) => enroll::adopt(socket),
        None => enroll::bind(path),
    };
    bound.with_context(|| format!("cannot bind the enrolment socket {}", path.display()))
}

pub(super) async fn told_to_stop() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("told to stop");
    Ok(())
}

/// Whoever exchanges proxies tells the old one to stop once the new one is ready: the holder's word that this one is
/// superseded may still be on its way, and with it those who are served would be cut. When no successor shows, they are.
async fn wait_for_successor(workers: &Workers) {
    let nobody_is_served = async {
        while workers.connections() > 0 {
            sleep(LOOK).await;
        }
    };
    // Who is served may well stay for longer.
    let _ = timeout(SUCCESSOR, nobody_is_served).await;
}

/// A proxy that drains goes on when it is asked to stop, as whoever exchanges it does: it ends by itself. An interrupt
/// ends it at once; and the end of the mesh, when it was asked to stop, as its pods leave.
async fn told_to_stop_at_once(installation: Option<&Installation>, mut is_told: bool) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut parted = pin!(time_to_part(installation));
    loop {
        tokio::select! {
            _ = terminate.recv() => {
                is_told = true;
                tracing::info!("told to stop: this ends when nobody is served any more");
            }
            _ = interrupt.recv() => return Ok(()),
            () = &mut parted, if is_told => return Ok(()),
        }
    }
}
