//! The judgement of one route: first by itself, then where it yields to routes of another kind.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::backend::resolve_backend;
use super::condition::{Condition, ConditionReason, ConditionStatus, ConditionType};
use super::parent::{Ownership, Placement, resolve_ports};
use super::view::{RouteView, RuleView, view_grpc_route, view_http_route};
use super::{
    AttachedRoute, AttachedRule, CONTROLLER_NAME, Clients, ParentAttachment, ParentRef, PortGroup,
    RouteAttachment, RouteRole,
};
use crate::cluster::objects::{ObjectKey, Objects};
use crate::error::FailureReason;
use crate::route::{Backend, RouteKind, RouteRef};
use crate::snapshot::service::ServicePortKey;

/// Why a route does not hold on a parent.
#[derive(Clone, Debug)]
struct Refusal {
    reason: ConditionReason,
    message: String,
}

/// One parentRef on the way to its judgement.
struct Candidate {
    /// Its place in the route's own list.
    index: usize,
    parent_ref: ParentRef,
    service: ObjectKey,
    role: RouteRole,
    outcome: Result<Placement, Refusal>,
}

/// What was found out about a route's rules.
struct RuleVerdict {
    attached: Arc<AttachedRoute>,
    /// Paths of the fields that are not applied.
    unsupported: Vec<String>,
    /// Whether a rule is left that is applied as written.
    any_rule_holds: bool,
    /// The first reason and all messages about backends.
    backends: Option<(ConditionReason, Vec<String>)>,
    remarks: Vec<String>,
}

/// A route on the way to its judgement: all that depends on no other route.
pub(super) struct Pending {
    view: RouteView,
    verdict: RuleVerdict,
    candidates: Vec<Candidate>,
}

/// Looks at a route alone; `None` when it has gone, or no parent of it is ours.
pub(super) fn judge_alone(objects: &Objects, route: &RouteRef) -> Option<Pending> {
    let key = &route.key;
    let view = match route.kind {
        RouteKind::Grpc => view_grpc_route(key, objects.grpc_routes.get(key)?),
        RouteKind::Http => view_http_route(key, objects.http_routes.get(key)?),
    };
    let candidates = find_candidates(objects, &view);
    if candidates.is_empty() {
        return None;
    }
    let mut pending = Pending { verdict: judge_rules(objects, &view), view, candidates };
    pending.refuse_if_no_rule_holds();
    Some(pending)
}

fn find_candidates(objects: &Objects, view: &RouteView) -> Vec<Candidate> {
    let mut candidates = Vec::<Candidate>::new();
    for (index, parent_ref) in view.parents.iter().enumerate() {
        let ownership = parent_ref.ownership();
        if ownership == Ownership::Foreign || candidates.iter().any(|known| known.parent_ref == *parent_ref) {
            continue;
        }
        let service = parent_ref.target(&view.route.key.namespace);
        let is_producer = service.namespace == view.route.key.namespace;
        candidates.push(Candidate {
            index,
            outcome: place(objects, &service, parent_ref, ownership),
            parent_ref: parent_ref.clone(),
            service,
            role: if is_producer { RouteRole::Producer } else { RouteRole::Consumer },
        });
    }
    candidates
}

impl Pending {
    fn refuse_if_no_rule_holds(&mut self) {
        if self.verdict.unsupported.is_empty() || self.verdict.any_rule_holds {
            return;
        }
        let unsupported = list_unsupported(&self.verdict.unsupported);
        let message = format!("no rule of the route can be applied: {unsupported}");
        for candidate in self.candidates.iter_mut().filter(|candidate| candidate.outcome.is_ok()) {
            candidate.outcome =
                Err(Refusal { reason: ConditionReason::UnsupportedValue, message: message.clone() });
        }
    }

    /// Every Service that the judgement looked at, or would have, was it there.
    pub(super) fn named_services(&self) -> BTreeSet<ObjectKey> {
        let namespace = &self.view.route.key.namespace;
        let backends = self.view.rules.iter().flat_map(|rule| &rule.backends);
        let parents = self.candidates.iter().map(|candidate| candidate.service.clone());
        parents.chain(backends.map(|backend| backend.target(namespace))).collect()
    }

    /// Where the route would hold if no other was there.
    pub(super) fn claims(&self) -> BTreeSet<PortGroup> {
        let mut claims = BTreeSet::new();
        for candidate in &self.candidates {
            let ports = candidate.outcome.iter().flat_map(|placement| &placement.ports);
            claims.extend(ports.map(|port| candidate.group(*port, &self.view)));
        }
        claims
    }

    /// "GRPCRoute beats HTTPRoute" on one port for one group of clients (GEP-1426, route types): an HTTPRoute
    /// leaves the ports that one is said to hold on, and is refused when no port is left to it.
    pub(super) fn conclude(
        mut self,
        has_grpc: impl Fn(&PortGroup) -> bool,
    ) -> (RouteAttachment, Arc<AttachedRoute>) {
        if self.view.route.kind == RouteKind::Http {
            for candidate in &mut self.candidates {
                candidate.yield_ports(&self.view, &has_grpc);
            }
        }
        let Self { view, verdict, candidates } = self;
        let parents = candidates.into_iter().map(|candidate| candidate.conclude(&view, &verdict)).collect();
        let attachment =
            RouteAttachment { route: Arc::clone(&view.route), controller_name: CONTROLLER_NAME, parents };
        (attachment, verdict.attached)
    }
}

impl Candidate {
    fn group(&self, port: u16, view: &RouteView) -> PortGroup {
        let clients = match self.role {
            RouteRole::Producer => Clients::All,
            RouteRole::Consumer => Clients::Of(Arc::clone(&view.route.key.namespace)),
        };
        PortGroup { port: ServicePortKey { service: self.service.clone(), port }, clients }
    }

    fn yield_ports(&mut self, view: &RouteView, has_grpc: impl Fn(&PortGroup) -> bool) {
        let ports = self.outcome.iter().flat_map(|placement| &placement.ports);
        let lost: Vec<u16> = ports.copied().filter(|port| has_grpc(&self.group(*port, view))).collect();
        let Ok(placement) = &mut self.outcome else { return };
        if lost.is_empty() {
            return;
        }
        placement.ports.retain(|port| !lost.contains(port));
        let remarks =
            lost.iter().map(|port| format!("a GRPCRoute holds on port {port} and takes precedence"));
        placement.remarks.extend(remarks);
        if placement.ports.is_empty() {
            let message = placement.remarks.join("; ");
            self.outcome = Err(Refusal { reason: ConditionReason::Conflicted, message });
        }
    }

    fn conclude(self, view: &RouteView, verdict: &RuleVerdict) -> ParentAttachment {
        let conditions = build_conditions(view, verdict, &self.outcome);
        ParentAttachment {
            index: self.index,
            parent_ref: self.parent_ref,
            service: self.service,
            role: self.role,
            ports: self.outcome.map(|placement| placement.ports).unwrap_or_default(),
            conditions,
        }
    }
}

fn place(
    objects: &Objects,
    service: &ObjectKey,
    parent_ref: &ParentRef,
    ownership: Ownership,
) -> Result<Placement, Refusal> {
    let placed = if ownership == Ownership::MistakenGroup {
        Err("kind Service is in the core group: write group: \"\"".to_owned())
    } else {
        resolve_ports(objects, service, parent_ref)
    };
    placed.map_err(|message| Refusal { reason: ConditionReason::NoMatchingParent, message })
}

fn judge_rules(objects: &Objects, view: &RouteView) -> RuleVerdict {
    let mut unsupported = Vec::new();
    let mut refusals: Option<(ConditionReason, Vec<String>)> = None;
    let mut remarks = view.remarks.clone();
    let mut rules = Vec::new();
    let mut any_rule_holds = false;
    for (index, rule) in view.rules.iter().enumerate() {
        let backends = judge_backends(objects, view, index, &mut refusals);
        unsupported.extend(rule.unsupported.iter().cloned());
        any_rule_holds |= rule.unsupported.is_empty();
        if rule.backends.iter().all(|backend| backend.weight == 0) && rule.unsupported.is_empty() {
            remarks.push(format!("spec.rules[{index}] sends to no backend: what it matches answers 500"));
        }
        if let Some(matches) = &rule.matches.compiled {
            let backends = decide_backends(rule, backends);
            rules.push(AttachedRule { index, name: rule.name.clone(), matches: matches.clone(), backends });
        }
    }
    let attached = Arc::new(AttachedRoute { route: Arc::clone(&view.route), created: view.created, rules });
    RuleVerdict { attached, unsupported, any_rule_holds, backends: refusals, remarks }
}

/// A rule that asks for what is not applied fails as a whole, rather than doing something else.
fn decide_backends(rule: &RuleView, backends: Vec<(Backend, u32)>) -> Vec<(Backend, u32)> {
    if !rule.unsupported.is_empty() {
        vec![(Backend::Failing(FailureReason::UnsupportedRule), 1)]
    } else if backends.iter().all(|(_, weight)| *weight == 0) {
        vec![(Backend::Failing(FailureReason::InvalidBackend), 1)]
    } else {
        backends
    }
}

/// The backends of one rule; those that may not be used keep their share, as failures.
fn judge_backends(
    objects: &Objects,
    view: &RouteView,
    index: usize,
    refusals: &mut Option<(ConditionReason, Vec<String>)>,
) -> Vec<(Backend, u32)> {
    let mut backends = Vec::new();
    for (place, backend) in view.rules[index].backends.iter().enumerate() {
        let resolved = resolve_backend(objects, &view.route.key.namespace, backend);
        let backend_to = resolved.map_or_else(
            |refusal| {
                let line = format!("spec.rules[{index}].backendRefs[{place}]: {}", refusal.message);
                refusals.get_or_insert_with(|| (refusal.reason, Vec::new())).1.push(line);
                Backend::Failing(FailureReason::InvalidBackend)
            },
            Backend::Service,
        );
        backends.push((backend_to, backend.weight));
    }
    backends
}

fn build_conditions(
    view: &RouteView,
    verdict: &RuleVerdict,
    outcome: &Result<Placement, Refusal>,
) -> Vec<Condition> {
    let build = |kind, status, reason, message| Condition {
        kind,
        status,
        reason,
        message,
        observed_generation: view.generation,
    };
    let accepted = match outcome {
        Ok(placement) => {
            let remarks: Vec<&str> =
                verdict.remarks.iter().chain(&placement.remarks).map(String::as_str).collect();
            build(
                ConditionType::Accepted,
                ConditionStatus::True,
                ConditionReason::Accepted,
                remarks.join("; "),
            )
        }
        Err(refusal) => {
            build(ConditionType::Accepted, ConditionStatus::False, refusal.reason, refusal.message.clone())
        }
    };
    let resolved = match &verdict.backends {
        None => (ConditionStatus::True, ConditionReason::ResolvedRefs, String::new()),
        Some((reason, messages)) => (ConditionStatus::False, *reason, messages.join("; ")),
    };
    let mut conditions =
        vec![accepted, build(ConditionType::ResolvedRefs, resolved.0, resolved.1, resolved.2)];
    // "This condition MUST NOT be set if a Route is fully valid, fully invalid, or not accepted."
    if outcome.is_ok() && !verdict.unsupported.is_empty() {
        // "The message for this condition MUST start with the prefix "Dropped Rule"".
        let message = format!("Dropped Rule, answers 500: {}", list_unsupported(&verdict.unsupported));
        conditions.push(build(
            ConditionType::PartiallyInvalid,
            ConditionStatus::True,
            ConditionReason::UnsupportedValue,
            message,
        ));
    }
    conditions
}

fn list_unsupported(paths: &[String]) -> String {
    format!("not applied: {}", paths.join(", "))
}
