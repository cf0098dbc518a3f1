//! What is to be written into the status of GatewayClasses, Gateways and ListenerSets. Pure.
//!
//! These statuses are one controller's each. What is kept of others are conditions whose types are none of ours.

use serde_json::{Value, json};

use super::{
    Plan, Wanted, add, change, change_conditions, change_features, finish, list, longest_message, remove,
};
use crate::attach::gateway::JudgedClass;
use crate::attach::{Condition, ConditionReason, ConditionStatus, ConditionType};
use crate::controller::features::GATEWAY_FEATURES;
use crate::controller::gateways::{Holder, ListenerJudgement, ListenersJudgement};
use crate::controller::live::{Live, LiveListener, Said};
use crate::route::RouteKind;

/// The Gateway API's group, as statuses name kinds of route.
const GROUP: &str = "gateway.networking.k8s.io";

/// The conditions of a GatewayClass that are ours to set and to remove.
const CLASS_CONDITIONS: [&str; 2] = ["Accepted", "SupportedVersion"];
/// Those of a Gateway or a ListenerSet.
const CONDITIONS: [&str; 4] = ["Accepted", "InsecureFrontendValidationMode", "Programmed", "ResolvedRefs"];
/// Those of a listener.
const LISTENER_CONDITIONS: [&str; 5] =
    ["Accepted", "Conflicted", "OverlappingTLSConfig", "Programmed", "ResolvedRefs"];

/// What to write so that a GatewayClass that says `live` says what was judged; `versions` is what is wrong with those of
/// the CRDs, and `now` is in RFC 3339.
#[must_use]
pub fn plan_class(live: &Live, class: &JudgedClass, versions: &Result<(), String>, now: &str) -> Plan {
    let Said::Class { has_status, conditions, features } = &live.said else { return Plan::Wait };
    if live.generation != class.generation {
        return Plan::Wait;
    }
    let supported = Condition {
        kind: ConditionType::SupportedVersion,
        status: if versions.is_ok() { ConditionStatus::True } else { ConditionStatus::False },
        reason: match versions {
            Ok(()) => ConditionReason::SupportedVersion,
            Err(_) => ConditionReason::UnsupportedVersion,
        },
        message: versions.as_ref().err().cloned().unwrap_or_default(),
        observed_generation: class.generation,
    };
    let wanted = Wanted::all(&[class.accepted(), supported], longest_message(2));
    let mut ops = begin(*has_status);
    ops.extend(change_conditions(conditions.as_deref(), &CLASS_CONDITIONS, &wanted, now));
    // Of other CRDs nothing is promised; older ones do not even have the field.
    if versions.is_ok() {
        ops.extend(change_features(features.as_deref(), &GATEWAY_FEATURES));
    }
    finish(live, ops, 0)
}

/// What to write so that a Gateway or a ListenerSet that says `live` says what was judged; `now` is in RFC 3339.
#[must_use]
pub fn plan_listeners(live: &Live, judged: &ListenersJudgement, now: &str) -> Plan {
    let Said::Listeners { has_status, conditions, listeners, addresses, attached_listener_sets } = &live.said
    else {
        return Plan::Wait;
    };
    if live.generation != judged.generation {
        return Plan::Wait;
    }
    let all = judged.listeners.iter().map(|listener| listener.conditions.len()).sum::<usize>();
    let longest = longest_message(all + judged.conditions.len());
    let mut ops = begin(*has_status);
    let wanted = Wanted::all(&judged.conditions, longest);
    ops.extend(change_conditions(conditions.as_deref(), &CONDITIONS, &wanted, now));
    ops.extend(change_listeners(listeners.as_deref(), &judged.listeners, longest, now));
    if let Holder::Gateway { addresses: wanted, attached_listener_sets: count } = &judged.holder {
        match addresses {
            Some(known) if known == wanted => {}
            None if wanted.is_empty() => {}
            _ => ops.push(add("/status/addresses", json!(wanted))),
        }
        // Where there are no ListenerSets, the API may not have the field either.
        if attached_listener_sets.unwrap_or(0) != *count {
            ops.push(add("/status/attachedListenerSets", json!(count)));
        }
    }
    finish(live, ops, 0)
}

fn begin(has_status: bool) -> Vec<Value> {
    if has_status { Vec::new() } else { vec![add("/status", json!({}))] }
}

fn change_listeners(
    live: Option<&[LiveListener]>,
    judged: &[ListenerJudgement],
    longest: usize,
    now: &str,
) -> Vec<Value> {
    let Some(known) = live else {
        let all: Vec<Value> = judged.iter().map(|listener| entry(listener, longest, now)).collect();
        return if all.is_empty() { Vec::new() } else { vec![add("/status/listeners", json!(all))] };
    };
    let (mut ops, mut gone) = (Vec::new(), Vec::new());
    for (place, live) in known.iter().enumerate() {
        let Some(listener) = judged.iter().find(|listener| *listener.name == *live.name) else {
            gone.push(place);
            continue;
        };
        let path = format!("/status/listeners/{place}");
        let said = live.supported_kinds.iter().map(|kind| (kind.group.as_deref(), &*kind.kind));
        if !said.eq(listener.kinds.iter().map(|kind| (Some(GROUP), kind.as_label()))) {
            ops.push(add(&format!("{path}/supportedKinds"), kinds(&listener.kinds)));
        }
        if live.attached_routes != listener.attached_routes {
            ops.push(add(&format!("{path}/attachedRoutes"), json!(listener.attached_routes)));
        }
        let wanted = Wanted::all(&listener.conditions, longest);
        let path = format!("{path}/conditions");
        ops.extend(change(&path, (&live.conditions, &LISTENER_CONDITIONS), &wanted, now));
    }
    // From the last one on, so that the places of the others stay what they are.
    ops.extend(gone.iter().rev().map(|place| remove(&format!("/status/listeners/{place}"))));
    let is_missing = |listener: &&ListenerJudgement| known.iter().all(|live| *live.name != *listener.name);
    let missing = judged.iter().filter(is_missing);
    ops.extend(missing.map(|listener| add("/status/listeners/-", entry(listener, longest, now))));
    ops
}

fn entry(listener: &ListenerJudgement, longest: usize, now: &str) -> Value {
    json!({
        "name": listener.name,
        "supportedKinds": kinds(&listener.kinds),
        "attachedRoutes": listener.attached_routes,
        "conditions": list(&Wanted::all(&listener.conditions, longest), now),
    })
}

fn kinds(kinds: &[RouteKind]) -> Value {
    kinds.iter().map(|kind| json!({ "group": GROUP, "kind": kind.as_label() })).collect()
}

#[cfg(test)]
mod tests;
