//! What is to be written so that a status says what was judged. Pure.
//!
//! A write is a JSON patch (RFC 6902) that names nothing but our own entries and conditions by their places, and the
//! `resourceVersion` at which these were seen: it either meets exactly that status or is refused as a conflict. Other controllers'
//! entries, their order, and conditions that others have put into our entries are not in it, and so stay as they are.
//! (`status.parents` and `status.ancestors` are atomic lists: a server-side apply would replace all of them.)

mod gateways;

use serde_json::{Value, json};

use super::features::SUPPORTED_FEATURES;
use super::live::{Live, LiveCondition, LiveEntry, Said};
use crate::attach::gateway::GATEWAY_CONTROLLER_NAME;
use crate::attach::{CONTROLLER_NAME, Condition, ParentRef};
use crate::cluster::objects::MOST_ANCESTORS;
pub use gateways::{plan_class, plan_listeners};

/// `conditions` take no more.
const MOST_CONDITIONS: usize = 8;
/// A condition's `message` takes no more.
const LONGEST_MESSAGE: usize = 32 * 1024;
/// What all messages of a status may have together: an object has to fit into 1.5 MiB with its spec and with what others say.
const LONGEST_MESSAGES: usize = 256 * 1024;

/// Where a status has its entries, one for each object that something is said about.
struct EntryList {
    /// The list's name in `status`.
    name: &'static str,
    /// An entry's field that says which object it is about.
    reference: &'static str,
    /// It takes no more.
    most: usize,
    /// The conditions of an entry that are ours to set and to remove.
    conditions: &'static [&'static str],
}

/// That of a route (RouteStatus).
const PARENTS: EntryList = EntryList {
    name: "parents",
    reference: "parentRef",
    most: 32,
    conditions: &["Accepted", "PartiallyInvalid", "ResolvedRefs"],
};
/// That of a policy (PolicyStatus).
const ANCESTORS: EntryList = EntryList {
    name: "ancestors",
    reference: "ancestorRef",
    most: MOST_ANCESTORS,
    conditions: &["Accepted", "ResolvedRefs"],
};
/// Those of an XMesh. The CRD makes `Programmed` up as `Unknown`, and says nothing of what it would mean.
const MESH_CONDITIONS: [&str; 1] = ["Accepted"];

/// As which of our controllers something is said of a route or a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Of its parents or ancestors that are Gateways and ListenerSets.
    Gateway,
    /// Of its parents that are Services.
    Mesh,
}

impl Role {
    /// Whose name in a status this is, if it is one of ours.
    #[must_use]
    pub fn find(controller_name: &str) -> Option<Self> {
        [Self::Gateway, Self::Mesh].into_iter().find(|role| role.controller_name() == controller_name)
    }

    /// The `controllerName` in a status.
    #[must_use]
    pub const fn controller_name(self) -> &'static str {
        match self {
            Self::Gateway => GATEWAY_CONTROLLER_NAME,
            Self::Mesh => CONTROLLER_NAME,
        }
    }
}

/// What was judged of a route on one of its parents, or of a policy at one of its ancestors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgedParent {
    /// As which controller that is said.
    pub role: Role,
    /// The parentRef, as written; or the ancestorRef.
    pub parent_ref: ParentRef,
    /// What is said.
    pub conditions: Vec<Condition>,
}

/// What was judged of a route or a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// The `metadata.generation` that was judged.
    pub generation: Option<i64>,
    /// Its parents or ancestors that are ours.
    pub parents: Vec<JudgedParent>,
}

/// What is to be done about an object's status.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// It says what it should.
    Right {
        /// Entries that it has no room for.
        left_out: usize,
    },
    /// What was judged and what was seen are not the same version: the one that is behind is about to come.
    Wait,
    /// This is to be written.
    Write {
        /// The JSON patch.
        patch: Vec<Value>,
        /// Entries that there is no room for.
        left_out: usize,
    },
}

/// One condition that should be there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    kind: String,
    status: String,
    reason: String,
    message: String,
    observed_generation: Option<i64>,
}

/// What to write so that a route that says `live` says what was judged; `now` is in RFC 3339.
#[must_use]
pub fn plan_route(live: &Live, judged: &Judgement, now: &str) -> Plan {
    plan_entries(&PARENTS, live, judged, now)
}

/// What to write so that a policy that says `live` says what was judged; `now` is in RFC 3339.
#[must_use]
pub fn plan_policy(live: &Live, judged: &Judgement, now: &str) -> Plan {
    plan_entries(&ANCESTORS, live, judged, now)
}

fn plan_entries(list: &EntryList, live: &Live, judged: &Judgement, now: &str) -> Plan {
    let Said::Entries(entries) = &live.said else { return Plan::Wait };
    if live.generation != judged.generation {
        return Plan::Wait;
    }
    let longest = longest_message(judged.parents.iter().map(|parent| parent.conditions.len()).sum());
    let wanted = |parent: &JudgedParent| Wanted::all(&parent.conditions, longest);
    let known = entries.as_deref().unwrap_or_default();
    let (mut ops, mut gone, mut said) = (Vec::new(), Vec::new(), Vec::new());
    for (place, entry) in known.iter().enumerate() {
        let LiveEntry::Own { role, parent_ref, conditions } = entry else { continue };
        let is_it = |parent: &JudgedParent| parent.role == *role && is_same(&parent.parent_ref, parent_ref);
        let parent = judged.parents.iter().position(is_it);
        match parent.filter(|index| !said.contains(index)) {
            None => gone.push(place),
            Some(index) => {
                said.push(index);
                let path = format!("/status/{}/{place}/conditions", list.name);
                let wanted = wanted(&judged.parents[index]);
                ops.extend(change(&path, (conditions, list.conditions), &wanted, now));
            }
        }
    }
    // From the last one on, so that the places of the others stay what they are.
    ops.extend(gone.iter().rev().map(|place| remove(&format!("/status/{}/{place}", list.name))));
    let missing = judged.parents.iter().enumerate().filter(|(index, _)| !said.contains(index));
    let missing: Vec<Value> = missing.map(|(_, parent)| list.entry(parent, &wanted(parent), now)).collect();
    let room = list.most.saturating_sub(known.len() - gone.len());
    let left_out = missing.len().saturating_sub(room);
    let fitting = missing.into_iter().take(room);
    if entries.is_some() {
        ops.extend(fitting.map(|entry| add(&format!("/status/{}/-", list.name), entry)));
    } else {
        let fitting: Vec<Value> = fitting.collect();
        if !fitting.is_empty() {
            ops.push(add("/status", json!({ list.name: fitting })));
        }
    }
    finish(live, ops, left_out)
}

/// What to write so that an XMesh that says `live` says what this mesh does, if it is this mesh's.
#[must_use]
pub fn plan_mesh(live: &Live, now: &str) -> Plan {
    let Said::Mesh { is_own, has_parameters, has_status, conditions, features } = &live.said else {
        return Plan::Wait;
    };
    if !is_own {
        return Plan::Right { left_out: 0 };
    }
    let accepted = Wanted {
        kind: "Accepted".to_owned(),
        status: if *has_parameters { "False" } else { "True" }.to_owned(),
        reason: if *has_parameters { "InvalidParameters" } else { "Accepted" }.to_owned(),
        message: if *has_parameters { "spec.parametersRef: this mesh has no parameters" } else { "" }
            .to_owned(),
        observed_generation: live.generation,
    };
    let mut ops = Vec::new();
    if !has_status {
        ops.push(add("/status", json!({})));
    }
    ops.extend(change_conditions(conditions.as_deref(), &MESH_CONDITIONS, &[accepted], now));
    ops.extend(change_features(features.as_deref(), &SUPPORTED_FEATURES));
    finish(live, ops, 0)
}

/// The operations by which `status.conditions` come to have those that are wanted, and of `own` no others.
fn change_conditions(
    live: Option<&[LiveCondition]>,
    own: &[&str],
    wanted: &[Wanted],
    now: &str,
) -> Vec<Value> {
    match live {
        Some(conditions) => change("/status/conditions", (conditions, own), wanted, now),
        None => vec![add("/status/conditions", list(wanted, now))],
    }
}

fn change_features(live: Option<&[String]>, wanted: &[&str]) -> Option<Value> {
    let features: Value = wanted.iter().map(|name| json!({ "name": name })).collect();
    live.is_none_or(|live| live != wanted).then(|| add("/status/supportedFeatures", features))
}

fn finish(live: &Live, mut patch: Vec<Value>, left_out: usize) -> Plan {
    if patch.is_empty() {
        return Plan::Right { left_out };
    }
    patch.insert(0, replace("/metadata/resourceVersion", json!(live.version)));
    Plan::Write { patch, left_out }
}

/// The operations by which a list of conditions comes to have those that are wanted, and of `own` no others.
fn change(path: &str, (live, own): (&[LiveCondition], &[&str]), wanted: &[Wanted], now: &str) -> Vec<Value> {
    let (mut ops, mut gone, mut said) = (Vec::new(), Vec::new(), Vec::new());
    for (place, condition) in live.iter().enumerate() {
        if !own.contains(&&*condition.kind) {
            continue;
        }
        let found = wanted.iter().find(|wanted| *wanted.kind == *condition.kind);
        match found.filter(|wanted| !said.contains(&&*wanted.kind)) {
            None => gone.push(place),
            Some(wanted) => {
                said.push(&wanted.kind);
                // "If the observedGeneration of a Condition is greater than the value the implementation knows about, then it
                // MUST NOT perform the update on that Condition".
                let is_later = condition.observed_generation > wanted.observed_generation;
                if !is_later && !wanted.is_said_by(condition) {
                    let is_turned = *condition.status != *wanted.status;
                    let since = if is_turned { now } else { &condition.last_transition_time };
                    ops.push(replace(&format!("{path}/{place}"), wanted.to_json(since)));
                }
            }
        }
    }
    ops.extend(gone.iter().rev().map(|place| remove(&format!("{path}/{place}"))));
    let room = MOST_CONDITIONS.saturating_sub(live.len() - gone.len());
    let missing = wanted.iter().filter(|wanted| !said.contains(&&*wanted.kind));
    ops.extend(missing.take(room).map(|wanted| add(&format!("{path}/-"), wanted.to_json(now))));
    ops
}

impl Wanted {
    /// Those of a list, each of whose messages has at most so many bytes.
    fn all(conditions: &[Condition], longest: usize) -> Vec<Self> {
        conditions.iter().map(|condition| Self::of(condition, longest)).collect()
    }

    fn of(condition: &Condition, longest: usize) -> Self {
        Self {
            kind: condition.kind.to_string(),
            status: condition.status.to_string(),
            reason: condition.reason.to_string(),
            message: shorten(&condition.message, longest),
            observed_generation: condition.observed_generation,
        }
    }

    fn is_said_by(&self, live: &LiveCondition) -> bool {
        *self.status == *live.status
            && *self.reason == *live.reason
            && *self.message == *live.message
            && self.observed_generation == live.observed_generation
    }

    fn to_json(&self, since: &str) -> Value {
        let mut value = json!({
            "type": self.kind,
            "status": self.status,
            "reason": self.reason,
            "message": self.message,
            "lastTransitionTime": since,
        });
        if let Some(generation) = self.observed_generation {
            value["observedGeneration"] = json!(generation);
        }
        value
    }
}

impl EntryList {
    fn entry(&self, parent: &JudgedParent, wanted: &[Wanted], now: &str) -> Value {
        let name = parent.role.controller_name();
        json!({ self.reference: parent.parent_ref, "controllerName": name, "conditions": list(wanted, now) })
    }
}

fn list(wanted: &[Wanted], now: &str) -> Value {
    wanted.iter().map(|wanted| wanted.to_json(now)).collect()
}

/// Whether two parentRefs are the same, one of which the API server may have filled up with defaults.
fn is_same(one: &ParentRef, other: &ParentRef) -> bool {
    let group =
        |parent: &ParentRef| parent.group.clone().unwrap_or_else(|| "gateway.networking.k8s.io".to_owned());
    let kind = |parent: &ParentRef| parent.kind.clone().unwrap_or_else(|| "Gateway".to_owned());
    let rest = |parent: &ParentRef| {
        (parent.name.clone(), parent.namespace.clone(), parent.port, parent.section_name.clone())
    };
    group(one) == group(other) && kind(one) == kind(other) && rest(one) == rest(other)
}

/// What each message may have when there are so many conditions.
fn longest_message(conditions: usize) -> usize {
    LONGEST_MESSAGE.min(LONGEST_MESSAGES / conditions.max(1))
}

/// A text of at most so many bytes, which says how much is missing.
fn shorten(text: &str, longest: usize) -> String {
    /// What the note on what is missing takes at most.
    const NOTE: usize = 48;
    if text.len() <= longest {
        return text.to_owned();
    }
    let kept = &text[..text.floor_char_boundary(longest.saturating_sub(NOTE))];
    format!("{kept}... ({} more bytes)", text.len() - kept.len())
}

fn add(path: &str, value: Value) -> Value {
    json!({ "op": "add", "path": path, "value": value })
}

fn remove(path: &str) -> Value {
    json!({ "op": "remove", "path": path })
}

fn replace(path: &str, value: Value) -> Value {
    json!({ "op": "replace", "path": path, "value": value })
}

#[cfg(test)]
mod tests;
