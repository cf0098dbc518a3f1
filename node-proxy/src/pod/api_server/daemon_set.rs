//! Whether the mesh is being taken off the cluster, or only this proxy ends.
//!
//! A proxy that is told to stop cannot tell the one from the other: a node that drains, an update and an uninstall look the
//! same. What decides is the DaemonSet: gone, or being deleted, it is an uninstall. A proxy that has never seen it takes
//! nothing for one. Who uninstalls often deletes the proxy's own rights first, and a proxy without them learns nothing any
//! more; so the DaemonSet is watched from the beginning, and what was last seen of it holds where the server does not
//! say. Rights that are gone are no reason by themselves: a pod that should be in the mesh must not end up outside by a
//! slip of somebody's hand.

use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use tokio::sync::watch;

use super::{ApiServer, answer};
use crate::error::with_causes;

/// What is known of the DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Nothing: it has not been seen yet.
    Nothing,
    /// It is there, and stays.
    There,
    /// It was there, and has gone or is about to.
    Gone,
}

/// The DaemonSet whose pod this proxy is.
#[derive(Clone, Debug)]
pub struct Installation {
    api: Api<PartialObjectMeta<DaemonSet>>,
    name: String,
    seen: Arc<watch::Sender<Seen>>,
}

impl Installation {
    /// Follows the DaemonSet of this name, in the namespace that this process is of.
    #[must_use]
    pub fn follow(server: &ApiServer, name: &str) -> Self {
        let api = Api::default_namespaced(server.client.clone());
        let followed = Self { api, name: name.to_owned(), seen: Arc::new(watch::Sender::new(Seen::Nothing)) };
        server.runtime.spawn(followed.clone().watch());
        followed
    }

    async fn watch(self) {
        let only = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let mut events = watcher(self.api.clone(), only).default_backoff().boxed();
        let mut is_listed = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => is_listed = false,
                Ok(watcher::Event::InitApply(found)) => {
                    is_listed = true;
                    self.note(Some(&found));
                }
                Ok(watcher::Event::Apply(found)) => self.note(Some(&found)),
                Ok(watcher::Event::InitDone) if is_listed => {}
                Ok(watcher::Event::InitDone | watcher::Event::Delete(_)) => self.note(None),
                Err(error) => tracing::debug!(error = with_causes(&error), "the DaemonSet is not followed"),
            }
        }
    }

    fn note(&self, found: Option<&PartialObjectMeta<DaemonSet>>) {
        let stays = found.is_some_and(|found| found.metadata.deletion_timestamp.is_none());
        self.seen.send_modify(|seen| {
            *seen = match *seen {
                _ if stays => Seen::There,
                // It may have another name: what was never there has not gone.
                Seen::Nothing => Seen::Nothing,
                Seen::There | Seen::Gone => Seen::Gone,
            };
        });
    }

    /// Whether the mesh is being taken off: asked once, by a proxy that was told to stop.
    pub async fn is_going(&self) -> bool {
        match answer(self.api.get_opt(&self.name)).await {
            Ok(found) => self.note(found.as_ref()),
            Err(error) => {
                tracing::warn!(
                    error = with_causes(&error),
                    "cannot ask whether the mesh is being uninstalled"
                );
            }
        }
        *self.seen.borrow() == Seen::Gone
    }

    /// Waits until the mesh is seen being taken off.
    pub async fn goes(&self) {
        let mut seen = self.seen.subscribe();
        // Never closed: what it is told by is here.
        drop(seen.wait_for(|seen| *seen == Seen::Gone).await);
    }
}
