//! One status: what it should say, whether it does, and if not, the write.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::crds::Table;
use super::judged::Judged;
use super::lease::Leadership;
use super::live::{Live, Statuses, Watched, WatchedClass, WatchedEntries, WatchedListeners, WatchedMesh};
use super::metrics::{ControllerMetrics, WriteResult};
use super::plan::{Plan, plan_class, plan_listeners, plan_mesh, plan_policy, plan_route};
use super::provision::shortfall::{Provisions, Saying};
use super::subject::Subject;
use super::work::Work;
use crate::attach::gateway::ListenerOwner;
use crate::cluster::kubernetes::backoff::{Doubling, any_part};

/// Who it is that writes, in `metadata.managedFields`.
pub(super) const FIELD_MANAGER: &str = "gammarus-controller";
/// A request that takes longer has failed.
pub(super) const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Tries in a row, when others write the same object all the time, before others have their turn.
const MOST_CONFLICTS: u32 = 8;
/// Before a next try in such a row, the first one at once.
const BETWEEN_CONFLICTS: Doubling =
    Doubling { first: Duration::from_millis(5), longest: Duration::from_secs(1) };
/// After failures, at most; and between two writes of the same to who does not leave it.
pub(super) const PAUSES: Doubling =
    Doubling { first: Duration::from_millis(250), longest: Duration::from_mins(1) };
/// What was written and has stayed for as long is not a quarrel any more.
pub(super) const PEACE: Duration = Duration::from_mins(5);
/// A status that was changed back so often is told of.
pub(super) const QUARREL: u32 = 3;

/// What the writer is made of.
#[derive(Debug)]
pub struct WriterParts {
    /// Whether it may write.
    pub leadership: Leadership,
    /// What should be said.
    pub judged: Arc<RwLock<Judged>>,
    /// What is said.
    pub statuses: Arc<Statuses>,
    /// What became of what Gateways ask for.
    pub provisions: Arc<Provisions>,
    /// Which CRDs are there.
    pub crds: watch::Receiver<Table>,
    /// What is counted.
    pub metrics: ControllerMetrics,
}

/// Writes statuses.
pub struct StatusWriter {
    client: Client,
    parts: WriterParts,
    past: Mutex<HashMap<Subject, Past>>,
    left_out: Mutex<BTreeMap<Subject, usize>>,
    hasher: RandomState,
}

/// What was done about a subject lately.
#[derive(Clone, Copy, Debug)]
struct Past {
    /// A hash of what was written last.
    wanted: u64,
    /// How often in a row that was written.
    times: u32,
    /// How often in a row it failed.
    failures: u32,
    at: Instant,
}

impl StatusWriter {
    /// A writer by this client.
    #[must_use]
    pub fn new(client: Client, parts: WriterParts) -> Self {
        let (past, left_out) = (Mutex::default(), Mutex::default());
        Self { client, parts, past, left_out, hasher: RandomState::new() }
    }

    /// How many entries found no room, by subject.
    #[must_use]
    pub fn left_out(&self) -> BTreeMap<String, usize> {
        lock(&self.left_out).iter().map(|(subject, count)| (subject.to_string(), *count)).collect()
    }

    /// Has a status say what was judged, if it does not. Gives when it is to be tried again, if it is.
    async fn settle_status(&self, subject: &Subject, since: Instant) -> Option<Instant> {
        for conflicts in 0..MOST_CONFLICTS {
            let Some((patch, wanted)) = self.plan(subject) else {
                if self.parts.statuses.find(subject).is_none() {
                    lock(&self.past).remove(subject);
                }
                return None;
            };
            if let Some(later) = self.hold_back(subject, wanted) {
                return Some(later);
            }
            if !self.parts.leadership.is_held() {
                return None;
            }
            let Ok(written) = timeout(REQUEST_LIMIT, self.patch(subject, patch)).await else {
                return Some(self.failed(subject, WriteResult::Failed, "no answer in time"));
            };
            match written {
                Ok(live) => {
                    self.parts.statuses.put(subject.clone(), live);
                    self.written(subject, wanted, since);
                    return None;
                }
                Err(kube::Error::Api(status)) if status.code == 404 => return None,
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    self.parts.metrics.wrote(WriteResult::Conflict);
                    self.look_again(subject, conflicts).await;
                }
                Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 413 | 422) => {
                    return Some(self.failed(subject, WriteResult::Refused, &status.message));
                }
                Err(error) => return Some(self.failed(subject, WriteResult::Failed, &error.to_string())),
            }
        }
        Some(Instant::now() + any_part(PAUSES.first))
    }

    /// What is to be written now, with a hash of what is wanted.
    fn plan(&self, subject: &Subject) -> Option<(Vec<Value>, u64)> {
        let live = self.parts.statuses.find(subject)?;
        let (plan, wanted) = self.plan_for(subject, &live)?;
        match plan {
            Plan::Wait => None,
            Plan::Right { left_out } => {
                self.leave_out(subject, left_out);
                None
            }
            Plan::Write { patch, left_out } => {
                self.leave_out(subject, left_out);
                Some((patch, wanted))
            }
        }
    }

    fn plan_for(&self, subject: &Subject, live: &Live) -> Option<(Plan, u64)> {
        let now = now();
        let judged = || self.parts.judged.read().unwrap_or_else(PoisonError::into_inner);
        let hash = |wanted: &dyn fmt::Debug| self.hasher.hash_one((&live.uid, format!("{wanted:?}")));
        let of_listeners = |owner: ListenerOwner| {
            let judged = judged();
            let gateways = judged.gateways();
            match self
                .parts
                .provisions
                .complete(gateways.find_gateway(&owner)?, gateways.find_holder(&owner)?)
            {
                Saying::Later => None,
                Saying::Now(holder) => Some((plan_listeners(live, &holder, &now), hash(&holder))),
            }
        };
        match subject {
            Subject::BackendTlsPolicy(key) => {
                let judged = judged();
                let policy = judged.gateways().find_policy(key)?;
                Some((plan_policy(live, policy, &now), hash(policy)))
            }
            Subject::Gateway(key) => of_listeners(ListenerOwner::Gateway(key.clone())),
            Subject::GatewayClass(name) => {
                let versions = self.parts.crds.borrow().judge_versions()?;
                let judged = judged();
                let class = judged.gateways().find_class(name)?;
                Some((plan_class(live, class, &versions, &now), hash(&(class, &versions))))
            }
            Subject::ListenerSet(key) => of_listeners(ListenerOwner::ListenerSet(key.clone())),
            Subject::Mesh(_) => Some((plan_mesh(live, &now), hash(&live.generation))),
            Subject::Route(route) => {
                let judged = judged().find(route)?;
                Some((plan_route(live, &judged, &now), hash(&judged)))
            }
        }
    }

    /// Who does not leave our entries as they were written is not answered at once each time: it may be answering us.
    fn hold_back(&self, subject: &Subject, wanted: u64) -> Option<Instant> {
        let past = *lock(&self.past).get(subject)?;
        let again = past.times > 0 && past.wanted == wanted && past.at.elapsed() < PEACE;
        let later = past.at + PAUSES.after(past.times.saturating_sub(1));
        (again && Instant::now() < later).then_some(later)
    }

    fn written(&self, subject: &Subject, wanted: u64, since: Instant) {
        self.parts.metrics.wrote(WriteResult::Written);
        self.parts.metrics.delayed(since.elapsed());
        let mut all = lock(&self.past);
        let now = Instant::now();
        let past = all.entry(subject.clone()).or_insert(Past { wanted, times: 0, failures: 0, at: now });
        let is_again = past.wanted == wanted && past.at.elapsed() < PEACE;
        *past = Past { wanted, times: if is_again { past.times + 1 } else { 1 }, failures: 0, at: now };
        if past.times == QUARREL {
            tracing::warn!(%subject, "somebody keeps changing this controller's entries in the status: they are put back less and less often");
        }
    }

    fn failed(&self, subject: &Subject, result: WriteResult, why: &str) -> Instant {
        self.parts.metrics.wrote(result);
        let mut all = lock(&self.past);
        let now = Instant::now();
        let past = all.entry(subject.clone()).or_insert(Past { wanted: 0, times: 0, failures: 0, at: now });
        past.failures = past.failures.saturating_add(1);
        if past.failures.is_power_of_two() {
            tracing::warn!(%subject, failures = past.failures, error = %why, "the status cannot be written");
        }
        now + any_part(PAUSES.after(past.failures - 1))
    }

    fn leave_out(&self, subject: &Subject, count: usize) {
        let mut left_out = lock(&self.left_out);
        let before = match count {
            0 => left_out.remove(subject),
            count => left_out.insert(subject.clone(), count),
        };
        if before.unwrap_or(0) != count {
            if count > 0 {
                tracing::warn!(%subject, count, "the status has no room for all entries: those of all controllers together are as many as it may have");
            }
            self.parts.metrics.set_left_out(left_out.values().sum());
        }
    }

    async fn patch(&self, subject: &Subject, patch: Vec<Value>) -> kube::Result<Live> {
        match subject {
            Subject::Gateway(_) | Subject::ListenerSet(_) => {
                self.patch_as::<WatchedListeners>(subject, patch).await
            }
            Subject::GatewayClass(_) => self.patch_as::<WatchedClass>(subject, patch).await,
            Subject::Mesh(_) => self.patch_as::<WatchedMesh>(subject, patch).await,
            Subject::BackendTlsPolicy(_) | Subject::Route(_) => {
                self.patch_as::<WatchedEntries>(subject, patch).await
            }
        }
    }

    async fn patch_as<W: Watched>(&self, subject: &Subject, patch: Vec<Value>) -> kube::Result<Live> {
        let patch = serde_json::from_value(Value::Array(patch)).map_err(kube::Error::SerdeError)?;
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let api: Api<W> = self.api(subject);
        Ok(api.patch_status(subject.name(), &params, &Patch::Json::<()>(patch)).await?.trim())
    }

    /// Sees how an object is now that somebody else has written.
    async fn look_again(&self, subject: &Subject, conflicts: u32) {
        if conflicts > 0 {
            sleep(any_part(BETWEEN_CONFLICTS.after(conflicts))).await;
        }
        let found = timeout(REQUEST_LIMIT, self.read(subject)).await;
        // Otherwise the watch will say that it has gone, or the next write what is wrong.
        if let Ok(Ok(Some(live))) = found {
            self.parts.statuses.put(subject.clone(), live);
        }
    }

    async fn read(&self, subject: &Subject) -> kube::Result<Option<Live>> {
        match subject {
            Subject::Gateway(_) | Subject::ListenerSet(_) => self.read_as::<WatchedListeners>(subject).await,
            Subject::GatewayClass(_) => self.read_as::<WatchedClass>(subject).await,
            Subject::Mesh(_) => self.read_as::<WatchedMesh>(subject).await,
            Subject::BackendTlsPolicy(_) | Subject::Route(_) => self.read_as::<WatchedEntries>(subject).await,
        }
    }

    async fn read_as<W: Watched>(&self, subject: &Subject) -> kube::Result<Option<Live>> {
        let api: Api<W> = self.api(subject);
        Ok(api.get_opt(subject.name()).await?.map(Watched::trim))
    }

    fn api<W: Watched>(&self, subject: &Subject) -> Api<W> {
        let resource = subject.kind().resource();
        match subject.namespace() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }
}

impl Work for StatusWriter {
    type Key = Subject;

    fn all(&self) -> Vec<Subject> {
        self.parts.statuses.subjects()
    }

    fn leads(&self, leading: bool) {
        self.parts.metrics.set_leading(leading);
        if !leading {
            self.parts.metrics.set_queued(0);
        }
    }

    fn queued(&self, count: usize) {
        self.parts.metrics.set_queued(count);
    }

    async fn settle(&self, subject: &Subject, since: Instant) -> Option<Instant> {
        self.settle_status(subject, since).await
    }
}

/// The time, as statuses have it: in whole seconds.
fn now() -> String {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // These maps are whole at every step: a panic elsewhere does not spoil them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute() {
        let pauses: Vec<_> =
            [0, 1, 2, 7, 8, 9, 31, u32::MAX].map(|times| PAUSES.after(times).as_millis()).into();
        assert_eq!(pauses, [250, 500, 1000, 32_000, 60_000, 60_000, 60_000, 60_000]);
    }

    #[test]
    fn times_are_in_whole_seconds() {
        let now = now();
        assert!(now.len() == "2026-11-22T09:00:00Z".len() && now.ends_with('Z'), "{now}");
    }
}
