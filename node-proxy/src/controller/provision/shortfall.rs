//! What keeps a Gateway from being served although it is accepted, and how that is said. Pure but for a lock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::demand::{Demand, Demands};
use crate::attach::{Condition, ConditionReason, ConditionStatus, ConditionType};
use crate::cluster::objects::ObjectKey;
use crate::controller::gateways::{Holder, ListenersJudgement};

/// What is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shortfall {
    /// An object could not be made, or is not as it should be.
    Refused {
        /// In the API's word.
        reason: ConditionReason,
        /// Names the object, with what the API server said.
        message: String,
    },
    /// All is made; its proxies are yet to come.
    Waiting {
        /// For what.
        message: String,
    },
}

/// Whether what was judged of a Gateway may be said.
#[derive(Debug, PartialEq, Eq)]
pub enum Saying {
    /// Nothing was tried for it yet, which takes a moment: what would be said now would be taken back.
    Later,
    /// This.
    Now(ListenersJudgement),
}

/// What Gateways ask for, and what became of it.
#[derive(Debug)]
pub struct Provisions {
    /// Whether anything is made here at all.
    is_on: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    demands: Arc<Demands>,
    trust: Option<Arc<str>>,
    /// Of those for which it was tried.
    outcomes: BTreeMap<ObjectKey, Option<Shortfall>>,
}

impl Provisions {
    /// Nothing yet.
    #[must_use]
    pub fn new(is_on: bool) -> Self {
        Self { is_on, state: Mutex::default() }
    }

    /// Takes what is asked for now. Gives the Gateways of which that is another thing than before.
    pub fn ask(&self, demands: &Arc<Demands>, trust: Option<&str>) -> Vec<ObjectKey> {
        if !self.is_on {
            return Vec::new();
        }
        let mut state = self.lock();
        let is_other_trust = state.trust.as_deref() != trust;
        // As it is with most changes: those of pods are none here.
        if !is_other_trust && Arc::ptr_eq(&state.demands, demands) {
            return Vec::new();
        }
        let is_other = |(key, demand): &(&ObjectKey, &Arc<Demand>)| {
            is_other_trust || state.demands.get(*key) != Some(demand)
        };
        let changed = demands.iter().filter(is_other).map(|(key, _)| key.clone()).collect();
        state.demands.clone_from(demands);
        state.trust = trust.map(Arc::from);
        state.outcomes.retain(|key, _| demands.contains_key(key));
        changed
    }

    /// All Gateways that ask for something.
    pub(super) fn gateways(&self) -> Vec<ObjectKey> {
        self.lock().demands.keys().cloned().collect()
    }

    /// What a Gateway asks for, with the trust bundle.
    pub(super) fn find(&self, key: &ObjectKey) -> Option<(Arc<Demand>, Option<Arc<str>>)> {
        let state = self.lock();
        Some((Arc::clone(state.demands.get(key)?), state.trust.clone()))
    }

    /// Takes what became of it. Says whether that is another thing than before.
    pub(super) fn settle(&self, key: &ObjectKey, outcome: Option<Shortfall>) -> bool {
        let mut state = self.lock();
        if !state.demands.contains_key(key) {
            return false;
        }
        state.outcomes.insert(key.clone(), outcome.clone()) != Some(outcome)
    }

    /// What is to be said of a Gateway, or of a ListenerSet of it.
    #[must_use]
    pub fn complete(&self, gateway: &ObjectKey, judged: &ListenersJudgement) -> Saying {
        let mut judged = judged.clone();
        if !self.is_on {
            say_off(&mut judged);
            return Saying::Now(judged);
        }
        let state = self.lock();
        if !state.demands.contains_key(gateway) {
            return Saying::Now(judged);
        }
        match state.outcomes.get(gateway) {
            None => return Saying::Later,
            Some(None) => {}
            Some(Some(shortfall)) => shortfall.say(&mut judged),
        }
        Saying::Now(judged)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole at every step: a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where nobody makes anything, whoever waits for an address should know.
fn say_off(judged: &mut ListenersJudgement) {
    let is_about_addresses = |own: &&mut Condition| {
        matches!(own.reason, ConditionReason::AddressNotAssigned | ConditionReason::AddressNotUsable)
    };
    for condition in judged.conditions.iter_mut().filter(is_about_addresses) {
        condition
            .message
            .push_str("; this controller makes none: it was given neither --ingress-image nor --pod");
    }
}

impl Shortfall {
    fn say(&self, judged: &mut ListenersJudgement) {
        let is_gateway = matches!(judged.holder, Holder::Gateway { .. });
        for condition in programmed(&mut judged.conditions) {
            if is_gateway {
                self.say_in(condition);
            } else {
                self.wait_in(condition);
            }
        }
        for listener in &mut judged.listeners {
            programmed(&mut listener.conditions).for_each(|condition| self.wait_in(condition));
        }
    }

    /// Of the Gateway. What was refused is why all else is missing, and an address tells more than proxies that are about to come.
    fn say_in(&self, condition: &mut Condition) {
        let (reason, message) = match self {
            Self::Refused { reason, message } => (*reason, message),
            Self::Waiting { message } if condition.status == ConditionStatus::True => {
                (ConditionReason::Pending, message)
            }
            Self::Waiting { .. } => return,
        };
        condition.status = ConditionStatus::False;
        condition.reason = reason;
        condition.message.clone_from(message);
    }

    /// Of what is right itself and waits for its Gateway.
    fn wait_in(&self, condition: &mut Condition) {
        let waits = condition.reason == ConditionReason::Pending;
        let message = match self {
            Self::Refused { message, .. } if waits || condition.status == ConditionStatus::True => message,
            Self::Waiting { message } if condition.status == ConditionStatus::True => message,
            Self::Refused { .. } | Self::Waiting { .. } => return,
        };
        condition.status = ConditionStatus::False;
        condition.reason = ConditionReason::Pending;
        condition.message = format!("the Gateway: {message}");
    }
}

fn programmed(conditions: &mut [Condition]) -> impl Iterator<Item = &mut Condition> {
    conditions.iter_mut().filter(|condition| condition.kind == ConditionType::Programmed)
}
