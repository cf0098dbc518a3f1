//! Has the API server hold what Gateways ask for: made where it is missing, applied where it differs, left alone where it is right.
//!
//! An object is applied whole, by server-side apply: what is no longer wanted of it goes, and what others have put into it stays.
//! One that this Gateway does not own is never touched: it is looked at before anything is made in its place, what is made first is
//! made without force, and what is applied later names the uid that was seen. Only what somebody has put in the place of what is
//! ours is taken away ([`Wanted::in_the_way`]). What somebody chose and does not any more
//! ([`Part::CHOSEN`]) is deleted, by its uid.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::demand::Demand;
use super::name::key_of;
use super::objects::{Part, Settings, Wanted};
use super::shortfall::{Provisions, Shortfall};
use super::watch::{Known, Seen};
use crate::attach::ConditionReason;
use crate::cluster::kubernetes::backoff::any_part;
use crate::cluster::objects::ObjectKey;
use crate::controller::lease::Leadership;
use crate::controller::subject::Subject;
use crate::controller::work::{Changes, Work};
use crate::controller::write::{FIELD_MANAGER, PAUSES, PEACE, QUARREL, REQUEST_LIMIT};

/// Who it is that has said with how many replicas a Deployment begins: from then on whoever scales it.
const REPLICAS_MANAGER: &str = "gammarus-controller-replicas";

/// What the provisioner is made of.
#[derive(Debug)]
pub struct ProvisionerParts {
    /// Whether it may write.
    pub leadership: Leadership,
    /// What is the same for all.
    pub settings: Settings,
    /// What is asked for, and what became of it.
    pub provisions: Arc<Provisions>,
    /// What there is.
    pub known: Arc<Known>,
    /// Who is told when a Gateway has something else to say.
    pub statuses: Changes,
}

/// Makes what Gateways ask for.
pub struct Provisioner {
    client: Client,
    parts: ProvisionerParts,
    past: Mutex<HashMap<ObjectKey, Past>>,
}

/// What was done for a Gateway lately.
#[derive(Debug, Default)]
struct Past {
    /// How often in a row it failed.
    failures: u32,
    /// Object → what was applied last, how often in a row, and when.
    applied: BTreeMap<Part, (Value, u32, Instant)>,
    /// What was told last.
    told: Option<String>,
}

/// Why an object is not as it should be.
#[derive(Debug)]
enum Trouble {
    /// It is on its way, or somebody else is changing it: once more, at this time.
    Again(Instant),
    /// It is somebody else's.
    Foreign(String),
    /// The API server does not take it.
    Refused(ConditionReason, String),
}

impl Provisioner {
    /// A provisioner by this client.
    #[must_use]
    pub fn new(client: Client, parts: ProvisionerParts) -> Self {
        Self { client, parts, past: Mutex::default() }
    }

    /// Makes or applies one object, if it is not as it should be.
    async fn provide(&self, demand: &Demand, wanted: &Wanted) -> Result<Arc<Seen>, Trouble> {
        let Some(seen) = self.find(wanted).await? else {
            let seen = self.apply(wanted, &wanted.to_create(), Forced::No).await?;
            tracing::info!(gateway = %demand.gateway, "{} is made", describe(wanted));
            return self.finish(wanted, seen).await;
        };
        if !seen.is_of(&demand.gateway, &demand.uid) {
            let what = describe(wanted);
            return Err(Trouble::Foreign(format!(
                "{what} is there already and not of this Gateway: it is left alone"
            )));
        }
        if seen.is_leaving {
            // The watch says when it has gone.
            return Err(Trouble::Again(Instant::now() + PAUSES.longest));
        }
        if seen.owns_replicas && wanted.first_replicas.is_some() {
            return self.finish(wanted, seen).await;
        }
        if wanted.is_in(&seen.object) && wanted.in_the_way(&seen.object).is_empty() {
            return Ok(seen);
        }
        self.hold_back(&demand.gateway, wanted)?;
        let mut object = wanted.beside(&seen.object);
        object["metadata"]["uid"] = json!(seen.uid);
        let seen = self.apply(wanted, &object, Forced::Yes).await?;
        let seen = self.clear(wanted, seen).await?;
        tracing::info!(gateway = %demand.gateway, "{} is applied", describe(wanted));
        Ok(seen)
    }

    /// Leaves the number of replicas to others, once it has been said: a field that its one manager does not apply any more
    /// falls back to its default, so somebody else must have it first.
    async fn finish(&self, wanted: &Wanted, seen: Arc<Seen>) -> Result<Arc<Seen>, Trouble> {
        let Some(first) = wanted.first_replicas.filter(|_| seen.owns_replicas) else { return Ok(seen) };
        let (resource, uid) = (wanted.part.resource(), &seen.uid);
        let replicas = seen.object.pointer("/spec/replicas").and_then(Value::as_i64);
        // One that was told to have none has to have some before any autoscaler counts them.
        let others = replicas.filter(|replicas| *replicas > 0);
        let replicas = others.unwrap_or_else(|| first.into());
        let handed_over = json!({
            "apiVersion": resource.api_version, "kind": resource.kind,
            "metadata": { "name": wanted.key.name, "namespace": wanted.key.namespace, "uid": uid },
            "spec": { "replicas": replicas },
        });
        // As it is without force: who has scaled it meanwhile has taken it over already.
        let params = PatchParams { force: others.is_none(), ..PatchParams::apply(REPLICAS_MANAGER) };
        match self.patch(wanted, &handed_over, &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(refused(&describe(wanted), &error)),
        }
        let mut object = wanted.object.clone();
        object["metadata"]["uid"] = json!(uid);
        self.apply(wanted, &object, Forced::Yes).await
    }

    /// An object as it is, from the watch or, where that has none with our label, from the API server.
    async fn find(&self, wanted: &Wanted) -> Result<Option<Arc<Seen>>, Trouble> {
        if let Some(seen) = self.parts.known.find(wanted.part, &wanted.key) {
            return Ok(Some(seen));
        }
        let api = self.api(wanted.part, &wanted.key);
        let found = timeout(REQUEST_LIMIT, api.get_opt(&wanted.key.name)).await;
        let found = found
            .map_err(|_| no_answer(&describe(wanted)))?
            .map_err(|error| refused(&describe(wanted), &error))?;
        Ok(found.map(|object| Arc::new(Seen::new(object))))
    }

    async fn apply(&self, wanted: &Wanted, object: &Value, forced: Forced) -> Result<Arc<Seen>, Trouble> {
        let params = PatchParams { force: forced == Forced::Yes, ..PatchParams::apply(FIELD_MANAGER) };
        let object = match self.patch(wanted, object, &params).await {
            Ok(object) => object,
            // Another one is in its place by now: it is looked at first.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.parts.known.forget(wanted.part, &wanted.key);
                return Err(Trouble::Again(Instant::now() + PAUSES.first));
            }
            Err(error) => return Err(refused(&describe(wanted), &error)),
        };
        Ok(self.parts.known.put(wanted.part, wanted.key.clone(), Seen::new(object)))
    }

    /// Takes away what is in the way, whoever it is of: an apply leaves what others have put there.
    async fn clear(&self, wanted: &Wanted, seen: Arc<Seen>) -> Result<Arc<Seen>, Trouble> {
        let places = wanted.in_the_way(&seen.object);
        if places.is_empty() {
            return Ok(seen);
        }
        let version = json!({ "op": "replace", "path": "/metadata/resourceVersion", "value": seen.version });
        // From the last one on, so that the places of the others stay what they are.
        let gone = places
            .iter()
            .rev()
            .map(|place| json!({ "op": "remove", "path": format!("/spec/ports/{place}") }));
        let patch: Value = std::iter::once(version).chain(gone).collect();
        let patch = serde_json::from_value(patch).map_err(kube::Error::SerdeError);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let written = match patch {
            Ok(patch) => self.send(wanted, &Patch::Json::<()>(patch), &params).await,
            Err(error) => Err(error),
        };
        let object = written.map_err(|error| refused(&describe(wanted), &error))?;
        Ok(self.parts.known.put(wanted.part, wanted.key.clone(), Seen::new(object)))
    }

    async fn patch(
        &self,
        wanted: &Wanted,
        object: &Value,
        params: &PatchParams,
    ) -> kube::Result<DynamicObject> {
        self.send(wanted, &Patch::Apply(object), params).await
    }

    async fn send<P: Serialize + fmt::Debug>(
        &self,
        wanted: &Wanted,
        patch: &Patch<P>,
        params: &PatchParams,
    ) -> kube::Result<DynamicObject> {
        let api = self.api(wanted.part, &wanted.key);
        let answer = timeout(REQUEST_LIMIT, api.patch(&wanted.key.name, params, patch)).await;
        answer.unwrap_or_else(|_| Err(kube::Error::Service("no answer in time".into())))
    }

    /// Deletes what is not asked for any more. One without our label is not seen, and goes with the Gateway.
    async fn withdraw(&self, demand: &Demand, part: Part) -> Result<(), Trouble> {
        let key = key_of(&demand.gateway, &demand.class_name);
        let Some(seen) = self.parts.known.find(part, &key) else { return Ok(()) };
        if seen.is_leaving || !seen.is_of(&demand.gateway, &demand.uid) {
            return Ok(());
        }
        let preconditions = Preconditions { uid: Some(seen.uid.clone()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        let what = format!("{} {key}", part.resource().kind);
        let api = self.api(part, &key);
        match timeout(REQUEST_LIMIT, api.delete(&key.name, &params)).await {
            Ok(Ok(_)) => tracing::info!(gateway = %demand.gateway, "{what} is deleted"),
            // It has gone, or another one is in its place, which the watch shows.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {}
            Ok(Err(error)) => return Err(refused(&what, &error)),
            Err(_) => return Err(no_answer(&what)),
        }
        Ok(())
    }

    fn api(&self, part: Part, key: &ObjectKey) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &key.namespace, &part.resource())
    }

    /// Who changes an object back again and again, as another controller or an admission webhook may, is answered less and less often.
    fn hold_back(&self, gateway: &ObjectKey, wanted: &Wanted) -> Result<(), Trouble> {
        let mut past = self.lock();
        let past = past.entry(gateway.clone()).or_default();
        let now = Instant::now();
        let times = match past.applied.get(&wanted.part) {
            Some((object, times, at)) if *object == wanted.object && at.elapsed() < PEACE => {
                let later = *at + PAUSES.after(times.saturating_sub(1));
                if now < later {
                    return Err(Trouble::Again(later));
                }
                times.saturating_add(1)
            }
            _ => 1,
        };
        past.applied.insert(wanted.part, (wanted.object.clone(), times, now));
        if times == QUARREL {
            let what = describe(wanted);
            tracing::warn!(%gateway, "somebody keeps changing {what}: it is put right less and less often");
        }
        Ok(())
    }

    /// Says what became of a Gateway, and gives when it is to be looked at again.
    fn conclude(&self, demand: &Demand, troubles: Vec<Trouble>, waiting: Option<String>) -> Option<Instant> {
        let key = &demand.gateway;
        let (mut again, mut refusals) = (None::<Instant>, Vec::new());
        for trouble in troubles {
            match trouble {
                Trouble::Again(at) => again = Some(again.map_or(at, |other| other.min(at))),
                Trouble::Foreign(message) => refusals.push((ConditionReason::NoResources, message)),
                Trouble::Refused(reason, message) => refusals.push((reason, message)),
            }
        }
        let messages: Vec<&str> = refusals.iter().map(|(_, message)| message.as_str()).collect();
        let message = messages.join("; ");
        let outcome = match refusals.first() {
            Some((reason, _)) => Some(Shortfall::Refused { reason: *reason, message: message.clone() }),
            None => waiting.map(|message| Shortfall::Waiting { message }),
        };
        if self.parts.provisions.settle(key, outcome) {
            self.parts.statuses.tell(Subject::Gateway(key.clone()));
            demand
                .listener_sets
                .iter()
                .for_each(|set| self.parts.statuses.tell(Subject::ListenerSet(set.clone())));
        }
        let mut past = self.lock();
        let past = past.entry(key.clone()).or_default();
        if refusals.is_empty() {
            (past.failures, past.told) = (0, None);
            return again;
        }
        past.failures = past.failures.saturating_add(1);
        if past.told.as_ref() != Some(&message) {
            tracing::warn!(gateway = %key, error = %message, "not everything could be made for a Gateway");
            past.told = Some(message);
        }
        let later = Instant::now() + PAUSES.first + any_part(PAUSES.after(past.failures - 1));
        Some(again.map_or(later, |again| again.min(later)))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, Past>> {
        // Whole at every step: a panic elsewhere does not spoil it.
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether fields of others are taken over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Forced {
    No,
    Yes,
}

fn describe(wanted: &Wanted) -> String {
    format!("{} {}", wanted.part.resource().kind, wanted.key)
}

fn no_answer(what: &str) -> Trouble {
    Trouble::Refused(ConditionReason::NoResources, format!("{what}: no answer in time"))
}

/// What the API server said.
fn refused(what: &str, error: &kube::Error) -> Trouble {
    let (reason, said) = match error {
        kube::Error::Api(status) => {
            let is_invalid = matches!(status.code, 400 | 422);
            let reason = if is_invalid { ConditionReason::Invalid } else { ConditionReason::NoResources };
            (reason, status.message.clone())
        }
        other => (ConditionReason::NoResources, other.to_string()),
    };
    Trouble::Refused(reason, format!("{what}: {said}"))
}

impl Work for Provisioner {
    type Key = ObjectKey;

    fn all(&self) -> Vec<ObjectKey> {
        self.parts.provisions.gateways()
    }

    fn leads(&self, _: bool) {
        // What was tried before is old.
        self.lock().clear();
    }

    fn queued(&self, _: usize) {}

    async fn settle(&self, key: &ObjectKey, _: Instant) -> Option<Instant> {
        let Some((demand, trust)) = self.parts.provisions.find(key) else {
            self.lock().remove(key);
            return None;
        };
        let mut troubles = Vec::new();
        let mut waiting = None;
        let all = Wanted::all(&demand, &self.parts.settings, trust.as_deref());
        for part in Part::CHOSEN {
            let is_withdrawn = demand.parameters.is_some() && all.iter().all(|wanted| wanted.part != part);
            if is_withdrawn && self.parts.leadership.is_held() {
                troubles.extend(self.withdraw(&demand, part).await.err());
            }
        }
        for wanted in all {
            if !self.parts.leadership.is_held() {
                return None;
            }
            if demand.parameters.is_none() && self.parts.known.find(wanted.part, &wanted.key).is_none() {
                continue;
            }
            match self.provide(&demand, &wanted).await {
                Ok(seen) if wanted.part == Part::Deployment && seen.available == 0 => {
                    let why = if trust.is_some() { "" } else { ": there is no trust bundle of the mesh yet" };
                    waiting =
                        Some(format!("{} has no replica that is available yet{why}", describe(&wanted)));
                }
                Ok(_) => {}
                Err(trouble) => troubles.push(trouble),
            }
        }
        self.conclude(&demand, troubles, waiting)
    }
}
