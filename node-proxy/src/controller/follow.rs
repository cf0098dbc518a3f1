//! Keeps [`Statuses`] as they are at the API server, kind by kind, as soon as a kind's CRD is there.

use std::collections::HashSet;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client};
use tokio::sync::watch;

use super::crds::Table;
use super::live::{Statuses, Watched};
use super::subject::{Subject, SubjectKind};
use super::work::Changes;
use crate::admin::BlockReady;
use crate::error::Complaint;

/// What following one kind takes.
#[derive(Debug)]
pub struct Follower {
    /// The kind.
    pub kind: SubjectKind,
    /// What is kept up.
    pub statuses: Arc<Statuses>,
    /// Who is told of every change.
    pub changes: Changes,
    /// Which CRDs are there.
    pub crds: watch::Receiver<Table>,
    /// Gone once everything of the kind has been seen, or there is nothing.
    pub loading: Option<BlockReady>,
}

/// Has GatewayClasses looked at whenever the CRDs change, for ever: each says whether their versions are supported.
pub async fn tell_versions(
    mut crds: watch::Receiver<Table>,
    statuses: Arc<Statuses>,
    changes: Changes,
) -> Infallible {
    while crds.changed().await.is_ok() {
        for subject in statuses.subjects_of(SubjectKind::GatewayClass) {
            changes.tell(subject);
        }
    }
    // Nothing more is ever known.
    std::future::pending().await
}

impl Follower {
    /// Follows the kind for ever.
    pub async fn run<W: Watched>(mut self, client: Client) -> Infallible {
        let api: Api<W> = Api::all_with(client, &self.kind.resource());
        loop {
            self.wait_for(None, false).await;
            if self.crds.borrow().has(self.kind) == Some(false) {
                self.loading = None;
            }
            self.wait_for(Some(true), true).await;
            self.follow_while_there(&api).await;
            self.statuses.retain(self.kind, |_| false);
        }
    }

    /// Waits until what is known of the CRD is this, or is not.
    async fn wait_for(&mut self, wanted: Option<bool>, is: bool) {
        let kind = self.kind;
        if self.crds.wait_for(|table| (table.has(kind) == wanted) == is).await.is_err() {
            // Nothing more is ever known.
            std::future::pending::<()>().await;
        }
    }

    async fn follow_while_there<W: Watched>(&mut self, api: &Api<W>) {
        let mut events = pin!(watcher(api.clone(), Config::default()).default_backoff());
        let mut listed = HashSet::new();
        let mut complaint = Complaint::default();
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = self.wait_for(Some(true), false) => return,
            };
            match event {
                Some(Ok(event)) => {
                    complaint.settle();
                    self.take(event, &mut listed);
                }
                Some(Err(error)) => {
                    if let Some(error) = complaint.raise(error) {
                        let resource = self.kind.resource();
                        let what = format!("{} of {}", resource.plural, resource.api_version);
                        tracing::warn!(error, "the statuses of {what} cannot be followed");
                    }
                }
                None => return,
            }
        }
    }

    fn take<W: Watched>(&mut self, event: Event<W>, listed: &mut HashSet<Subject>) {
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(object) => listed.extend(self.put(object)),
            Event::InitDone => {
                let listed = std::mem::take(listed);
                self.statuses.retain(self.kind, |subject| listed.contains(subject));
                self.loading = None;
            }
            Event::Apply(object) => drop(self.put(object)),
            Event::Delete(object) => {
                if let Some(subject) = object.subject(self.kind) {
                    self.statuses
                        .remove(&subject, object.meta().resource_version.as_deref().unwrap_or_default());
                    self.changes.tell(subject);
                }
            }
        }
    }

    fn put<W: Watched>(&self, object: W) -> Option<Subject> {
        let subject = object.subject(self.kind)?;
        if self.statuses.put(subject.clone(), object.trim()) {
            self.changes.tell(subject.clone());
        }
        Some(subject)
    }
}
