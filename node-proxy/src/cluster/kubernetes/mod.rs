//! Objects from the API server, watched.
//!
//! Each kind has a watch of its own (`watch`), whose objects are trimmed as they are read (`decode`). What they say
//! comes together here, is compared with what is known (`known`) and told as differences. Nothing is told before
//! every kind has been listed once; if the API server is away until then, the last state on the disk is (`super::state`).
//! A kind that the server does not have holds nobody up: that is said, and its CRD is waited for (`absence`).

mod absence;
mod ask;
pub mod backoff;
mod connect;
mod decode;
mod known;
mod lines;
mod resource;
mod watch;
#[cfg(test)]
mod watch_tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube::Client;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::objects::{Change, Kind};
use super::report::{Report, Severity};
use super::source::{ClusterError, ObjectSource, Update};
use super::state::Keeper;
use crate::error::with_causes;
use crate::telemetry::Metrics;
use known::Known;
use resource::Resource;
use watch::{Novelty, Watcher, Word};

pub use ask::{ask, read_answer};
pub use connect::connect;
pub use resource::MESH_KINDS;

/// What is known once an object of each kind has been read as the API server sends it.
#[cfg(test)]
pub(super) fn read_as_known(
    said: impl IntoIterator<Item = (Kind, serde_json::Value)>,
) -> Vec<(super::objects::ObjectId, super::objects::Object)> {
    let mut known = Known::default();
    for (kind, value) in said {
        let item = decode::read_item(kind, value).expect("it has a name");
        assert!(item.reports.is_empty(), "{:?}", item.reports);
        known.take(kind, item, &mut Vec::new());
    }
    known.objects()
}

/// How long the first lists are waited for before an old state has to do.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a kind that has gone from the server, objects and all, may be back as it was: while a server starts, it
/// may not know yet what it has.
const ABSENCE: Duration = Duration::from_secs(60);
/// How many words may wait; also how many become one update at most.
const WORDS: usize = 256;

/// What is told of the age of the state that is in use: since when it is old, or that it is not.
pub type TellAge = Box<dyn Fn(Option<SystemTime>) + Send>;

/// What is read, and what for.
pub struct Scope<'a> {
    /// The kinds.
    pub kinds: &'a [Kind],
    /// Where the last state is kept, if anywhere.
    pub state_dir: Option<&'a Path>,
    /// Who is told when an old state has to do.
    pub tell_age: TellAge,
}

/// The watched API server.
pub struct KubernetesSource {
    words: mpsc::Receiver<(Kind, Word)>,
    watchers: JoinSet<()>,
    known: Known,
    standings: BTreeMap<Kind, Standing>,
    news: News,
    /// The first update has been told.
    has_told: bool,
    /// When an old state has to do, if nothing has been told until then.
    gives_up: Option<Instant>,
    /// Since when the state in use is old.
    old: Option<SystemTime>,
    keeper: Option<Keeper>,
    tell_age: TellAge,
    metrics: Arc<Metrics>,
}

/// How it stands with a kind.
#[derive(Debug, Default)]
struct Standing {
    /// It was listed once, or the server does not have it.
    is_settled: bool,
    /// Why it cannot be watched now.
    trouble: Option<String>,
    /// Since when the server does not have it, and what that means.
    absent: Option<(Instant, String)>,
}

/// What is to be told next.
#[derive(Debug, Default)]
struct News {
    changes: Vec<Change>,
    /// When the objects among them were written.
    written: Vec<SystemTime>,
    /// There is something else to say about objects or the server.
    are_reports_new: bool,
}

impl fmt::Debug for KubernetesSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubernetesSource").field("standings", &self.standings).finish_non_exhaustive()
    }
}

impl KubernetesSource {
    /// Begins to watch. Needs a tokio runtime.
    #[must_use]
    pub fn start(client: &Client, scope: Scope<'_>, metrics: &Arc<Metrics>) -> Self {
        let (say, words) = mpsc::channel(WORDS);
        let reached = Arc::new(Notify::new());
        let mut watchers = JoinSet::new();
        let mut standings = BTreeMap::new();
        for &kind in scope.kinds {
            let Some(resource) = Resource::of(kind) else { continue };
            standings.insert(kind, Standing::default());
            let watcher = Watcher {
                client: client.clone(),
                kind,
                resource,
                words: say.clone(),
                reached: Arc::clone(&reached),
                metrics: Arc::clone(metrics),
                version: 0,
                streams: true,
            };
            watchers.spawn(watcher.run());
        }
        Self {
            words,
            watchers,
            known: Known::default(),
            standings,
            news: News::default(),
            has_told: false,
            gives_up: scope.state_dir.map(|_| Instant::now() + PATIENCE),
            old: None,
            keeper: scope.state_dir.map(Keeper::new),
            tell_age: scope.tell_age,
            metrics: Arc::clone(metrics),
        }
    }

    fn hear(&mut self, kind: Kind, word: Word) {
        let Some(standing) = self.standings.get_mut(&kind) else { return };
        let news = &mut self.news;
        match word {
            Word::Is(item, novelty) => {
                let (written, before) = (item.written, news.changes.len());
                news.are_reports_new |= self.known.take(kind, *item, &mut news.changes);
                if novelty == Novelty::New && news.changes.len() > before {
                    news.written.extend(written);
                }
            }
            Word::IsGone(key) => news.are_reports_new |= self.known.remove(kind, key, &mut news.changes),
            Word::ListBegins => {
                news.are_reports_new |= standing.is_well();
                self.known.begin_list(kind);
            }
            Word::ListEnds => {
                standing.is_settled = true;
                news.are_reports_new |= self.known.end_list(kind, &mut news.changes);
            }
            Word::Well => news.are_reports_new |= standing.is_well(),
            Word::Absent(message) => {
                standing.is_settled = true;
                standing.trouble = None;
                let since = standing.absent.get_or_insert_with(|| (Instant::now(), message)).0;
                news.are_reports_new = true;
                if since.elapsed() >= ABSENCE && self.known.has(kind) {
                    self.known.begin_list(kind);
                    news.are_reports_new |= self.known.end_list(kind, &mut news.changes);
                }
            }
            Word::Trouble(message) => {
                // The first reason of many that may follow: it is told once.
                if standing.trouble.is_none() {
                    if !self.has_told {
                        tracing::warn!(kind = kind.as_label(), why = message, "cannot be watched yet");
                    }
                    standing.trouble = Some(message);
                    news.are_reports_new = true;
                }
                if let Some(gives_up) = &mut self.gives_up {
                    *gives_up = Instant::now();
                }
            }
        }
    }

    /// Takes the state from the disk for what has not been heard of yet. Read at once, as nothing is served without.
    fn take_old_state(&mut self) {
        self.gives_up = None;
        let Some(keeper) = &self.keeper else { return };
        match keeper.read() {
            Ok(Some(old)) => {
                let standings = &self.standings;
                let is_wanted = |kind| standings.get(&kind).is_some_and(|standing| !standing.is_settled);
                self.known.take_old(old.objects, is_wanted, &mut self.news.changes);
                self.old = Some(old.read);
                (self.tell_age)(self.old);
                self.metrics.set_cluster_state_of(self.old);
                self.has_told = true;
            }
            Ok(None) => tracing::warn!("the API server is waited for: there is no earlier state on the disk"),
            Err(error) => {
                let error = with_causes(&error);
                tracing::warn!(error, "the API server is waited for: the earlier state cannot be used");
            }
        }
        self.news.are_reports_new = true;
    }

    /// What there is to tell, if there is anything.
    fn take_update(&mut self) -> Option<Update> {
        let is_settled = self.standings.values().all(|standing| standing.is_settled);
        if is_settled {
            self.settle();
        }
        if !self.has_told || (self.news.changes.is_empty() && !self.news.are_reports_new) {
            return None;
        }
        if is_settled && !self.news.changes.is_empty() {
            self.keeper.iter_mut().for_each(Keeper::note_change);
        }
        self.news.are_reports_new = false;
        Some(Update { changes: std::mem::take(&mut self.news.changes), reports: self.reports() })
    }

    /// Every kind has been heard of: nothing is old any more.
    fn settle(&mut self) {
        if !self.has_told || self.old.is_some() {
            self.has_told = true;
            self.news.are_reports_new = true;
            self.gives_up = None;
            self.old = None;
            (self.tell_age)(None);
            self.metrics.set_cluster_state_of(None);
        }
    }

    /// What was told last has been applied by now.
    fn note_applied(&mut self) {
        let now = SystemTime::now();
        for written in self.news.written.drain(..) {
            self.metrics.cluster_change_applied(now.duration_since(written).unwrap_or_default());
        }
    }

    fn reports(&self) -> Vec<Report> {
        let mut reports: Vec<Report> = self.known.reports().cloned().collect();
        let mut troubles: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (kind, standing) in &self.standings {
            if let Some((_, message)) = &standing.absent {
                reports.push(server_report(Some(kind.as_label().to_owned()), message.clone()));
            }
            if let Some(message) = &standing.trouble {
                troubles.entry(message).or_default().push(kind.as_label());
            }
        }
        for (message, kinds) in troubles {
            let message = format!("cannot be watched, what was last read stays: {message}");
            reports.push(server_report(Some(kinds.join(", ")), message));
        }
        if let Some(old) = self.old {
            let time = OffsetDateTime::from(old).format(&Rfc3339).unwrap_or_default();
            let message = format!(
                "the API server has not told everything since this proxy started: objects are those of {time}"
            );
            reports.push(server_report(None, message));
        }
        reports.sort();
        reports
    }
}

impl Standing {
    /// All is well; gives whether it was not.
    fn is_well(&mut self) -> bool {
        self.trouble.take().is_some() | self.absent.take().is_some()
    }
}

fn server_report(object: Option<String>, message: String) -> Report {
    Report { file: None, object, field: None, severity: Severity::Warning, message }
}

impl ObjectSource for KubernetesSource {
    async fn next(&mut self) -> Result<Update, ClusterError> {
        self.note_applied();
        loop {
            if let Some(update) = self.take_update() {
                return Ok(update);
            }
            let gives_up = self.gives_up;
            tokio::select! {
                word = self.words.recv() => match word {
                    Some((kind, word)) => self.hear(kind, word),
                    None => return Err(ClusterError::WatchEnded),
                },
                _ = self.watchers.join_next() => return Err(ClusterError::WatchEnded),
                () = sleep_until(gives_up.unwrap_or_else(Instant::now)), if gives_up.is_some() => {
                    self.take_old_state();
                }
                () = keep_due(&mut self.keeper) => {
                    self.keeper.iter_mut().for_each(|keeper| keeper.write(self.known.objects()));
                }
            }
            for _ in 0..WORDS {
                let Ok((kind, word)) = self.words.try_recv() else { break };
                self.hear(kind, word);
            }
        }
    }
}

async fn keep_due(keeper: &mut Option<Keeper>) {
    match keeper {
        Some(keeper) => keeper.is_due().await,
        None => std::future::pending().await,
    }
}

impl Drop for KubernetesSource {
    fn drop(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            keeper.finish(|| self.known.objects());
        }
    }
}
