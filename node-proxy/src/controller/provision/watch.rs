//! What there is of the objects that were made: a watch of each kind, and of each only those with our label.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use kube::api::{DynamicObject, ObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client};
use serde_json::Value;

use super::objects::{MANAGED_BY, Part};
use crate::cluster::objects::ObjectKey;
use crate::controller::live::is_older;
use crate::controller::work::Changes;
use crate::controller::write::FIELD_MANAGER;
use crate::error::Complaint;

/// An object as it was seen or written last.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// `metadata.uid`.
    pub(super) uid: String,
    /// `metadata.resourceVersion`.
    pub(super) version: String,
    /// The Gateway that has made it, by its name and uid.
    pub(super) owner: Option<(String, String)>,
    /// It has a `metadata.deletionTimestamp`.
    pub(super) is_leaving: bool,
    /// It is ours to say how many replicas there are, since nobody else has said so yet.
    pub(super) owns_replicas: bool,
    /// `status.availableReplicas`.
    pub(super) available: u64,
    /// The rest.
    pub(super) object: Value,
}

impl Seen {
    pub(super) fn new(object: DynamicObject) -> Self {
        let DynamicObject { types, metadata, mut data } = object;
        let fields = metadata.managed_fields.iter().flatten();
        let mut own = fields.filter(|entry| {
            entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.operation.as_deref() == Some("Apply")
        });
        let owns_replicas = own.any(|entry| {
            let fields = entry.fields_v1.as_ref();
            fields.is_some_and(|fields| fields.0.pointer("/f:spec/f:replicas").is_some())
        });
        let mut owners = metadata.owner_references.iter().flatten();
        let owner = owners.find(|owner| owner.kind == "Gateway" && owner.controller == Some(true));
        let available = data.pointer("/status/availableReplicas").and_then(Value::as_u64).unwrap_or_default();
        let seen = Self {
            uid: metadata.uid.clone().unwrap_or_default(),
            version: metadata.resource_version.clone().unwrap_or_default(),
            owner: owner.map(|owner| (owner.name.clone(), owner.uid.clone())),
            is_leaving: metadata.deletion_timestamp.is_some(),
            owns_replicas,
            available,
            object: Value::Null,
        };
        if let (Some(fields), Some(types)) = (data.as_object_mut(), types) {
            fields.insert("apiVersion".to_owned(), types.api_version.into());
            fields.insert("kind".to_owned(), types.kind.into());
            let kept = ObjectMeta { managed_fields: None, ..metadata };
            fields.insert("metadata".to_owned(), serde_json::to_value(kept).unwrap_or_default());
            fields.remove("status");
        }
        Self { object: data, ..seen }
    }

    /// Whether it is this Gateway, not one of its name before it, whose it is.
    pub(super) fn is_of(&self, gateway: &ObjectKey, uid: &str) -> bool {
        self.owner.as_ref().is_some_and(|(name, own)| *name == *gateway.name && own == uid)
    }
}

/// All objects that are known, by kind and key.
#[derive(Debug, Default)]
pub struct Known(Mutex<BTreeMap<(Part, ObjectKey), Arc<Seen>>>);

impl Known {
    pub(super) fn find(&self, part: Part, key: &ObjectKey) -> Option<Arc<Seen>> {
        self.lock().get(&(part, key.clone())).cloned()
    }

    /// Which of these Gateways of a namespace has made the ServiceAccount `account`, by their names and uids.
    #[must_use]
    pub fn maker_of<'a>(
        &self,
        account: &ObjectKey,
        gateways: impl IntoIterator<Item = (&'a ObjectKey, &'a str)>,
    ) -> Option<&'a ObjectKey> {
        let seen = self.find(Part::ServiceAccount, account)?;
        gateways.into_iter().find(|(key, uid)| seen.is_of(key, uid)).map(|(key, _)| key)
    }

    /// Takes what was seen or written, and gives the newest that is known: an answer to a write may overtake the watch.
    pub(super) fn put(&self, part: Part, key: ObjectKey, seen: Seen) -> Arc<Seen> {
        let mut known = self.lock();
        let newer = known.get(&(part, key.clone())).filter(|there| is_older(&seen.version, &there.version));
        if let Some(there) = newer {
            return Arc::clone(there);
        }
        let seen = Arc::new(seen);
        known.insert((part, key), Arc::clone(&seen));
        seen
    }

    /// Forgets an object, so that it is looked for at the API server.
    pub(super) fn forget(&self, part: Part, key: &ObjectKey) {
        self.lock().remove(&(part, key.clone()));
    }

    /// Forgets an object that was deleted, unless a newer one is in its place already.
    fn remove(&self, part: Part, key: &ObjectKey, deleted: &Seen) {
        let mut known = self.lock();
        let own = (part, key.clone());
        if known.get(&own).is_some_and(|there| !is_older(&deleted.version, &there.version)) {
            known.remove(&own);
        }
    }

    /// Forgets all of a kind but these. Gives what was forgotten.
    fn retain(&self, part: Part, keys: &BTreeSet<ObjectKey>) -> Vec<(ObjectKey, Arc<Seen>)> {
        let mut known = self.lock();
        let gone = known.iter().filter(|((own, key), _)| *own == part && !keys.contains(key));
        let gone: Vec<_> = gone.map(|((_, key), seen)| (key.clone(), Arc::clone(seen))).collect();
        for (key, _) in &gone {
            known.remove(&(part, key.clone()));
        }
        gone
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Part, ObjectKey), Arc<Seen>>> {
        // Whole at every step: a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows the objects of one kind for ever, and tells of the Gateways whose they are.
pub async fn follow(
    client: Client,
    part: Part,
    known: Arc<Known>,
    changes: Changes<ObjectKey>,
) -> Infallible {
    let api: Api<DynamicObject> = Api::all_with(client, &part.resource());
    let config = Config::default().labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1));
    let mut events = pin!(watcher(api, config).default_backoff());
    let (mut listed, mut complaint) = (BTreeSet::new(), Complaint::default());
    let tell = |key: &ObjectKey, seen: &Seen| {
        if let Some((gateway, _)) = &seen.owner {
            changes.tell(ObjectKey::new(&key.namespace, gateway));
        }
    };
    let key_of = |object: &DynamicObject| {
        let ObjectMeta { namespace, name, .. } = &object.metadata;
        Some(ObjectKey::new(namespace.as_deref()?, name.as_deref()?))
    };
    let put = |object: DynamicObject| {
        let key = key_of(&object)?;
        tell(&key, &known.put(part, key.clone(), Seen::new(object)));
        Some(key)
    };
    loop {
        match events.next().await {
            Some(Ok(event)) => {
                complaint.settle();
                match event {
                    Event::Init => listed.clear(),
                    Event::InitApply(object) => listed.extend(put(object)),
                    Event::InitDone => {
                        known.retain(part, &listed).iter().for_each(|(key, seen)| tell(key, seen));
                    }
                    Event::Apply(object) => drop(put(object)),
                    Event::Delete(object) => {
                        if let Some(key) = key_of(&object) {
                            let deleted = Seen::new(object);
                            known.remove(part, &key, &deleted);
                            tell(&key, &deleted);
                        }
                    }
                }
            }
            Some(Err(error)) => {
                if let Some(error) = complaint.raise(error) {
                    let what = part.resource().plural;
                    tracing::warn!(error, "the {what} of Gateways cannot be followed");
                }
            }
            // It never ends by itself.
            None => std::future::pending().await,
        }
    }
}
