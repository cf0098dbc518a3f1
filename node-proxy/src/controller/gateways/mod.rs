//! What is to be said of GatewayClasses, Gateways, ListenerSets, their routes and the policies for what these send to. Pure.
//!
//! It is made of the judgement that the data path has, too ([`Gateways`]), and of what only whoever provides for a Gateway
//! knows: its addresses. Judged is everything at once, whenever something changes that could be of any concern: a route
//! that comes may drive another one out, or come to be counted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use super::live::Address;
use super::plan::{JudgedParent, Judgement, Role};
use super::provision::demand::Demands;
use super::provision::{Demand, key_of};
use super::subject::Subject;
use crate::attach::gateway::{
    GROUP, Gateways, JudgedClass, JudgedGateway, JudgedListenerSet, Listener, ListenerId, ListenerOwner,
};
use crate::attach::{Condition, ConditionReason, ConditionStatus, ConditionType, ParentRef};
use crate::cluster::objects::{Changed, ObjectKey, Objects};
use crate::route::{RouteKind, RouteRef};

/// `status.addresses` takes no more.
const MOST_ADDRESSES: usize = 16;

/// What was judged of a Gateway or a ListenerSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenersJudgement {
    /// The `metadata.generation` that was judged.
    pub generation: Option<i64>,
    /// What is said of the whole.
    pub conditions: Vec<Condition>,
    /// What is said of its listeners, in the order of its list.
    pub listeners: Vec<ListenerJudgement>,
    /// What only one of both has.
    pub holder: Holder,
}

/// Which of the kinds that have listeners, with what the other one has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A Gateway.
    Gateway {
        /// Its addresses.
        addresses: Vec<Address>,
        /// How many of its ListenerSets are accepted.
        attached_listener_sets: i32,
    },
    /// A ListenerSet.
    ListenerSet,
}

/// What was judged of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerJudgement {
    /// Its name.
    pub name: Arc<str>,
    /// The kinds of route that it takes.
    pub kinds: Vec<RouteKind>,
    /// How many routes are attached to it.
    pub attached_routes: i32,
    /// What is said of it.
    pub conditions: Vec<Condition>,
}

/// All that is to be said.
#[derive(Debug, Default)]
pub struct GatewayStatuses {
    judged: Arc<Gateways>,
    holders: BTreeMap<ListenerOwner, ListenersJudgement>,
    /// ListenerSet → its Gateway.
    parents: BTreeMap<ObjectKey, ObjectKey>,
    /// What those that are accepted ask for.
    demands: Arc<Demands>,
    routes: BTreeMap<RouteRef, Vec<JudgedParent>>,
    /// All BackendTLSPolicies, also those of which nothing is to be said.
    policies: BTreeMap<ObjectKey, Judgement>,
}

impl GatewayStatuses {
    /// Judges again, if anything has changed that could be of concern. Gives what something else is to be said of now, and
    /// a line for each condition that is another one.
    pub fn update(&mut self, objects: &Objects, changed: &Changed) -> (Vec<Subject>, Vec<String>) {
        if !self.is_concerned(changed) {
            return (Vec::new(), Vec::new());
        }
        let now = Self::new(objects);
        let mut subjects = Vec::new();
        let class = |name: &Arc<str>| Subject::GatewayClass(Arc::clone(name));
        differing(&self.judged.classes, &now.judged.classes, class, &mut subjects);
        differing(&self.holders, &now.holders, subject_of, &mut subjects);
        differing(&self.routes, &now.routes, |route| Subject::Route(route.clone()), &mut subjects);
        let policy = |key: &ObjectKey| Subject::BackendTlsPolicy(key.clone());
        differing(&self.policies, &now.policies, policy, &mut subjects);
        let others: BTreeSet<&Subject> = subjects.iter().collect();
        let is_another = |subject: &Subject| others.contains(subject);
        let (before, after) = (self.lines(is_another), now.lines(is_another));
        let news = after.iter().filter(|(about, line)| before.get(*about) != Some(line));
        let mut lines: Vec<String> = news.map(|(about, line)| format!("{about}: {line}")).collect();
        let gone = before.keys().filter(|about| !after.contains_key(*about));
        lines.extend(gone.map(|about| format!("{about}: no longer said")));
        *self = now;
        (subjects, lines)
    }

    fn new(objects: &Objects) -> Self {
        let gateways = Arc::new(Gateways::new(objects));
        let counts = gateways.attached_routes();
        let (mut holders, mut parents, mut demands) = (BTreeMap::new(), BTreeMap::new(), Demands::new());
        for gateway in gateways.gateways.values() {
            if let Some(demand) = Demand::find(objects, gateway) {
                demands.insert(gateway.key.clone(), Arc::new(demand));
            }
            let reach = Reach::find(objects, gateway);
            let judgement = reach.say_gateway(gateway, &counts);
            for set in &gateway.listener_sets {
                let judgement = reach.say_set(set, &counts);
                holders.insert(ListenerOwner::ListenerSet(set.key.clone()), judgement);
                parents.insert(set.key.clone(), gateway.key.clone());
            }
            holders.insert(ListenerOwner::Gateway(gateway.key.clone()), judgement);
        }
        drop(counts);
        let role = Role::Gateway;
        let routes = gateways.routes.iter().map(|(route, judged)| {
            let parents = judged.parents.iter().map(|parent| JudgedParent {
                role,
                parent_ref: parent.parent_ref.clone(),
                conditions: parent.conditions.clone(),
            });
            (route.clone(), parents.collect())
        });
        let routes = routes.collect();
        let policies = gateways.policies.judged.iter().map(|(key, policy)| {
            let ancestors = policy.ancestors.iter().map(|(gateway, conditions)| JudgedParent {
                role,
                parent_ref: refer_to(gateway),
                conditions: conditions.clone(),
            });
            (key.clone(), Judgement { generation: policy.generation, parents: ancestors.collect() })
        });
        let policies = policies.collect();
        Self { judged: gateways, holders, parents, demands: Arc::new(demands), routes, policies }
    }

    /// Whether a change could have any part in what is said. Without a class of ours nothing has but policies, of which what
    /// was said once is to be taken away.
    fn is_concerned(&self, changed: &Changed) -> bool {
        let is_rare = !changed.gateway_classes.is_empty() || !changed.backend_tls_policies.is_empty();
        if is_rare || self.judged.classes.is_empty() {
            return is_rare;
        }
        Gateways::are_concerned(&self.judged.named, changed)
    }

    /// The judgement itself.
    #[must_use]
    pub const fn judged(&self) -> &Arc<Gateways> {
        &self.judged
    }

    /// What was judged of a class, if it is ours.
    #[must_use]
    pub fn find_class(&self, name: &str) -> Option<&JudgedClass> {
        self.judged.classes.get(name)
    }

    /// What was judged of a Gateway or a ListenerSet, if it is ours.
    #[must_use]
    pub fn find_holder(&self, owner: &ListenerOwner) -> Option<&ListenersJudgement> {
        self.holders.get(owner)
    }

    /// The Gateway that is meant or that a ListenerSet is of, if it is ours.
    #[must_use]
    pub fn find_gateway<'a>(&'a self, owner: &'a ListenerOwner) -> Option<&'a ObjectKey> {
        match owner {
            ListenerOwner::Gateway(key) => Some(key),
            ListenerOwner::ListenerSet(key) => self.parents.get(key),
        }
    }

    /// What the Gateways that are accepted ask for.
    #[must_use]
    pub const fn demands(&self) -> &Arc<Demands> {
        &self.demands
    }

    /// What was judged of a route on its parents that are Gateways and ListenerSets of ours.
    #[must_use]
    pub fn find_route(&self, route: &RouteRef) -> &[JudgedParent] {
        self.routes.get(route).map(Vec::as_slice).unwrap_or_default()
    }

    /// What was judged of a BackendTLSPolicy at the Gateways of ours that send to what it is for.
    #[must_use]
    pub fn find_policy(&self, key: &ObjectKey) -> Option<&Judgement> {
        self.policies.get(key)
    }

    /// All conditions, for people: by what they are about.
    #[must_use]
    pub fn describe(&self) -> Value {
        json!(self.lines(|_| true))
    }

    /// The conditions of some subjects, by what they are about.
    fn lines(&self, is_wanted: impl Fn(&Subject) -> bool) -> BTreeMap<String, String> {
        let mut lines = BTreeMap::new();
        let mut add = |about: &str, conditions: &[Condition]| {
            for condition in conditions {
                lines.insert(format!("{about}: {}", condition.kind), condition.to_string());
            }
        };
        for (name, class) in &self.judged.classes {
            let subject = Subject::GatewayClass(Arc::clone(name));
            if is_wanted(&subject) {
                add(&subject.to_string(), &[class.accepted()]);
            }
        }
        for (owner, judgement) in &self.holders {
            let subject = subject_of(owner);
            if is_wanted(&subject) {
                add(&subject.to_string(), &judgement.conditions);
                for listener in &judgement.listeners {
                    add(&format!("{subject} listener {}", listener.name), &listener.conditions);
                }
            }
        }
        for (route, parents) in &self.routes {
            let subject = Subject::Route(route.clone());
            for JudgedParent { parent_ref, conditions, .. } in parents.iter().filter(|_| is_wanted(&subject))
            {
                let kind = parent_ref.kind.as_deref().unwrap_or("Gateway");
                let section = parent_ref.section_name.as_deref().unwrap_or("any listener");
                add(&format!("{subject} on {kind} {} ({section})", parent_ref.name), conditions);
            }
        }
        for (key, policy) in &self.judged.policies.judged {
            let subject = Subject::BackendTlsPolicy(key.clone());
            if is_wanted(&subject) {
                for (gateway, conditions) in policy.outcomes() {
                    add(&format!("{subject} at Gateway {gateway}"), &conditions);
                }
            }
        }
        lines
    }
}

/// Of what something else is to be said, or nothing any more.
fn differing<K: Ord, T: PartialEq>(
    before: &BTreeMap<K, T>,
    now: &BTreeMap<K, T>,
    subject: impl Fn(&K) -> Subject,
    subjects: &mut Vec<Subject>,
) {
    let others = now.iter().filter(|(key, judged)| before.get(key) != Some(judged)).map(|(key, _)| key);
    let gone = before.keys().filter(|key| !now.contains_key(key));
    subjects.extend(others.chain(gone).map(subject));
}

/// How a status names a Gateway.
fn refer_to(gateway: &ObjectKey) -> ParentRef {
    ParentRef {
        group: Some(GROUP.to_owned()),
        kind: Some("Gateway".to_owned()),
        name: gateway.name.to_string(),
        namespace: Some(gateway.namespace.to_string()),
        port: None,
        section_name: None,
    }
}

fn subject_of(owner: &ListenerOwner) -> Subject {
    match owner {
        ListenerOwner::Gateway(key) => Subject::Gateway(key.clone()),
        ListenerOwner::ListenerSet(key) => Subject::ListenerSet(key.clone()),
    }
}

/// How a Gateway can be reached.
struct Reach {
    addresses: Vec<Address>,
    /// Whether it can be, as it asks for; else why not.
    programmed: Result<(), (ConditionReason, String)>,
}

/// How many routes are attached to each listener.
type Counts<'g> = BTreeMap<&'g ListenerId, usize>;

impl Reach {
    fn find(objects: &Objects, gateway: &JudgedGateway) -> Self {
        let addresses = find_addresses(objects, gateway);
        let asked = objects.gateways.get(&gateway.key).and_then(|own| own.spec.addresses.as_deref());
        let values = asked.unwrap_or_default().iter().filter_map(|asked| asked.value.as_deref());
        let values: Vec<&str> = values.filter(|value| !value.is_empty()).collect();
        let is_missing = |value: &&&str| !addresses.iter().any(|own| is_same_address(&own.value, value));
        let missing: Vec<&str> = values.iter().filter(is_missing).copied().collect();
        let programmed = if gateway.stays_as_made() {
            let message = "it is not accepted: what was made for it before stays as it is";
            Err((ConditionReason::Invalid, message.to_owned()))
        } else if !gateway.is_accepted() {
            Err((ConditionReason::Invalid, "it is not accepted".to_owned()))
        } else if !missing.is_empty() {
            let asked = match &values[..] {
                [first, _, ..] => format!("; a Service asks for one address, which is {first}"),
                _ => String::new(),
            };
            let message = format!("spec.addresses: it was not given {}{asked}", missing.join(", "));
            Err((ConditionReason::AddressNotUsable, message))
        } else if addresses.is_empty() {
            let message =
                format!("Service {} has not been given an address yet", key_of(&gateway.key, &gateway.class));
            Err((ConditionReason::AddressNotAssigned, message))
        } else {
            Ok(())
        };
        Self { addresses, programmed }
    }

    fn say_gateway(&self, gateway: &JudgedGateway, counts: &Counts<'_>) -> ListenersJudgement {
        let owner = ListenerOwner::Gateway(gateway.key.clone());
        let programmed = match &self.programmed {
            Ok(()) => program(gateway.generation, ConditionReason::Programmed, String::new()),
            Err((reason, message)) => program(gateway.generation, *reason, message.clone()),
        };
        let accepted = gateway.listener_sets.iter().filter(|set| set.is_accepted()).count();
        ListenersJudgement {
            generation: gateway.generation,
            conditions: gateway.conditions().into_iter().chain([programmed]).collect(),
            listeners: self.say_listeners((&owner, gateway.generation), &gateway.listeners, counts),
            holder: Holder::Gateway {
                addresses: self.addresses.clone(),
                attached_listener_sets: as_count(accepted),
            },
        }
    }

    fn say_set(&self, set: &JudgedListenerSet, counts: &Counts<'_>) -> ListenersJudgement {
        let owner = ListenerOwner::ListenerSet(set.key.clone());
        let accepted = set.accepted();
        let (reason, message) = if accepted.status == ConditionStatus::False {
            (accepted.reason, accepted.message.clone())
        } else {
            self.wait()
        };
        ListenersJudgement {
            generation: set.generation,
            conditions: vec![accepted, program(set.generation, reason, message)],
            listeners: self.say_listeners((&owner, set.generation), &set.listeners, counts),
            holder: Holder::ListenerSet,
        }
    }

    fn say_listeners(
        &self,
        (owner, generation): (&ListenerOwner, Option<i64>),
        listeners: &[Listener],
        counts: &Counts<'_>,
    ) -> Vec<ListenerJudgement> {
        let say = |listener: &Listener| {
            let mut conditions = listener.conditions(generation);
            let (reason, message) = if listener.is_served() { self.wait() } else { refuse(&conditions) };
            conditions.push(program(generation, reason, message));
            let id = ListenerId { owner: owner.clone(), name: Arc::clone(&listener.name) };
            ListenerJudgement {
                name: id.name.clone(),
                kinds: listener.kinds.clone(),
                attached_routes: as_count(counts.get(&id).copied().unwrap_or_default()),
                conditions,
            }
        };
        listeners.iter().map(say).collect()
    }

    /// What is right itself waits for its Gateway.
    fn wait(&self) -> (ConditionReason, String) {
        match &self.programmed {
            Ok(()) => (ConditionReason::Programmed, String::new()),
            Err((_, message)) => (ConditionReason::Pending, format!("the Gateway: {message}")),
        }
    }
}

/// Why a listener is not served.
fn refuse(conditions: &[Condition]) -> (ConditionReason, String) {
    let conflict = conditions.iter().find(|own| own.kind == ConditionType::Conflicted);
    match conflict.filter(|conflict| conflict.status == ConditionStatus::True) {
        Some(conflict) => (conflict.reason, conflict.message.clone()),
        None => (
            ConditionReason::Invalid,
            "it is not accepted, or has no certificate, or its parent is not accepted".to_owned(),
        ),
    }
}

fn program(generation: Option<i64>, reason: ConditionReason, message: String) -> Condition {
    let is_programmed = reason == ConditionReason::Programmed;
    let status = if is_programmed { ConditionStatus::True } else { ConditionStatus::False };
    Condition { kind: ConditionType::Programmed, status, reason, message, observed_generation: generation }
}

fn as_count(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Whether two texts are one address.
fn is_same_address(one: &str, other: &str) -> bool {
    one == other || one.parse::<IpAddr>().is_ok_and(|one| other.parse() == Ok(one))
}

/// The addresses of a Gateway: those of its Service, which a balancer has given it or, where it is of another type, the cluster.
/// This is where what was provided for a Gateway comes into its status.
fn find_addresses(objects: &Objects, gateway: &JudgedGateway) -> Vec<Address> {
    let own = objects.gateways.get(&gateway.key).and_then(|own| own.metadata.uid.as_deref());
    // One that is left of another class of this Gateway leads to pods that nobody feeds any more.
    let service = objects.services.get(&key_of(&gateway.key, &gateway.class)).filter(|service| {
        let mut owners = service.metadata.owner_references.iter().flatten();
        owners.any(|owner| owner.kind == "Gateway" && Some(&*owner.uid) == own)
    });
    let mut addresses: Vec<Address> = service.map(|service| addresses_of(service)).unwrap_or_default();
    addresses.sort();
    addresses.dedup();
    addresses.truncate(MOST_ADDRESSES);
    addresses
}

fn addresses_of(service: &Service) -> Vec<Address> {
    let address =
        |kind: &str, value: &String| Address { kind: Some(kind.into()), value: value.as_str().into() };
    let (spec, status) = (service.spec.as_ref(), service.status.as_ref());
    let kind = spec.and_then(|spec| spec.type_.as_deref());
    if matches!(kind, Some("ClusterIP" | "NodePort")) {
        let own = spec.and_then(|spec| spec.cluster_ips.as_ref()).into_iter().flatten();
        return own.filter(|own| *own != "None").map(|own| address("IPAddress", own)).collect();
    }
    let ingress = status.and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    let given = ingress.into_iter().flatten().filter_map(|ingress| {
        let ip = ingress.ip.as_ref().map(|ip| address("IPAddress", ip));
        ip.or_else(|| ingress.hostname.as_ref().map(|name| address("Hostname", name)))
    });
    given.collect()
}

#[cfg(test)]
mod tests;
