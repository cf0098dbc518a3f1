//! The judgement of one route: first by itself, then where it yields to others.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::backend::{BackendRef, resolve_backend};
use super::condition::{Condition, ConditionReason, ConditionStatus, ConditionType};
use super::filters::FilterView;
use super::parent::{Ownership, Placement, resolve_ports};
use super::view::{
    BackendView, RouteView, RuleView, view_grpc_route, view_http_route, view_tcp_route, view_tls_route,
    view_udp_route,
};
use super::{
    AttachedRoute, AttachedRule, CONTROLLER_NAME, Clients, ParentAttachment, ParentRef, PortGroup,
    RouteAttachment, RouteRole,
};
use crate::cluster::objects::{ObjectKey, Objects};
use crate::error::FailureReason;
use crate::route::filter::Mirror;
use crate::route::{Backend, Filters, RouteKind, RouteRef, WeightedBackend};
use crate::snapshot::service::ServicePortKey;

/// Why a route does not hold on a parent.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) reason: ConditionReason,
    pub(super) message: String,
}

/// On which kind of parent a route is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ParentKind {
    /// A Gateway or a ListenerSet, which dials for everybody: backends of other namespaces have to be granted.
    Gateway,
    /// A Service: it is the client's own proxy that dials, from the client's pod (GEP-1294).
    Service,
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
pub(super) struct RuleVerdict {
    pub(super) attached: Arc<AttachedRoute>,
    /// Paths of the fields that are not applied.
    unsupported: Vec<String>,
    /// Whether a rule is left that is applied as written.
    any_rule_holds: bool,
    /// The first reason and all messages about backends.
    backends: Option<(ConditionReason, Vec<String>)>,
    remarks: Vec<String>,
}

/// Who has a port for a group of clients, as far as a route that does not must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lead {
    /// The kind of the routes that hold.
    pub(super) kind: RouteKind,
    /// Of TCPRoutes, which cannot share a port, the one that has it.
    pub(super) only: Option<ObjectKey>,
}

/// A route on the way to its judgement: all that depends on no other route.
pub(super) struct Pending {
    view: RouteView,
    verdict: RuleVerdict,
    candidates: Vec<Candidate>,
}

/// A route as judging sees it; `None` when it has gone.
pub(super) fn view_route(objects: &Objects, route: &RouteRef) -> Option<RouteView> {
    let key = &route.key;
    Some(match route.kind {
        RouteKind::Grpc => view_grpc_route(key, objects.grpc_routes.get(key)?),
        RouteKind::Http => view_http_route(key, objects.http_routes.get(key)?),
        RouteKind::Tcp => view_tcp_route(key, objects.tcp_routes.get(key)?),
        RouteKind::Tls => view_tls_route(key, objects.tls_routes.get(key)?),
        RouteKind::Udp => view_udp_route(key, objects.udp_routes.get(key)?),
    })
}

/// Looks at a route alone; `None` when it has gone, or no parent of it is ours.
pub(super) fn judge_alone(objects: &Objects, route: &RouteRef) -> Option<Pending> {
    let view = view_route(objects, route)?;
    let candidates = find_candidates(objects, &view);
    if candidates.is_empty() {
        return None;
    }
    let mut pending = Pending { verdict: judge_rules(objects, &view, ParentKind::Service), view, candidates };
    pending.refuse_if_no_rule_holds();
    Some(pending)
}

fn find_candidates(objects: &Objects, view: &RouteView) -> Vec<Candidate> {
    let mut candidates = Vec::<Candidate>::with_capacity(view.parents.len());
    for (index, parent_ref) in view.parents.iter().enumerate() {
        let ownership = parent_ref.ownership();
        if ownership == Ownership::Foreign || candidates.iter().any(|known| known.parent_ref == *parent_ref) {
            continue;
        }
        let service = parent_ref.target(&view.route.key.namespace);
        let is_producer = service.namespace == view.route.key.namespace;
        candidates.push(Candidate {
            index,
            outcome: place(objects, &service, (parent_ref, ownership), view.route.kind),
            parent_ref: parent_ref.clone(),
            service,
            role: if is_producer { RouteRole::Producer } else { RouteRole::Consumer },
        });
    }
    candidates
}

impl Pending {
    fn refuse_if_no_rule_holds(&mut self) {
        let Some(message) = self.verdict.refuse() else { return };
        for candidate in self.candidates.iter_mut().filter(|candidate| candidate.outcome.is_ok()) {
            candidate.outcome =
                Err(Refusal { reason: ConditionReason::UnsupportedValue, message: message.clone() });
        }
    }

    /// Every Service that the judgement looked at, or would have, was it there.
    pub(super) fn named_services(&self) -> BTreeSet<ObjectKey> {
        let namespace = &self.view.route.key.namespace;
        let backends = self.view.rules.iter().flat_map(RuleView::named_backends);
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

    /// `metadata.creationTimestamp` in Unix seconds.
    pub(super) const fn created(&self) -> Option<i64> {
        self.view.created
    }

    /// On one port only one kind holds for one group of clients (GEP-1294, route types): a route leaves the ports
    /// that are led by another kind, and is refused when no port is left to it.
    pub(super) fn conclude(
        mut self,
        find_lead: impl Fn(&PortGroup) -> Option<Lead>,
    ) -> (RouteAttachment, Arc<AttachedRoute>) {
        for candidate in &mut self.candidates {
            candidate.yield_ports(&self.view, &find_lead);
        }
        let Self { view, verdict, candidates } = self;
        let parents = candidates.into_iter().map(|candidate| candidate.conclude(&view, &verdict)).collect();
        let attachment =
            RouteAttachment { route: Arc::clone(&view.route), controller_name: CONTROLLER_NAME, parents };
        (attachment, verdict.attached)
    }
}

impl RuleVerdict {
    /// Why a route holds nowhere of which no rule can be applied.
    pub(super) fn refuse(&self) -> Option<String> {
        if self.unsupported.is_empty() || self.any_rule_holds {
            return None;
        }
        Some(format!("no rule of the route can be applied: {}", list_unsupported(&self.unsupported)))
    }
}

impl Candidate {
    fn group(&self, port: u16, view: &RouteView) -> PortGroup {
        let clients = match self.role {
            RouteRole::Producer => Clients::All,
            RouteRole::Consumer => Clients::Of(Arc::clone(&view.route.key.namespace)),
        };
        PortGroup { port: ServicePortKey::tcp(self.service.clone(), port), clients }
    }

    fn yield_ports(&mut self, view: &RouteView, find_lead: impl Fn(&PortGroup) -> Option<Lead>) {
        let own = &view.route;
        let (mut lost, mut remarks) = (Vec::new(), Vec::new());
        for port in self.outcome.iter().flat_map(|placement| &placement.ports) {
            match find_lead(&self.group(*port, view)) {
                Some(Lead { kind, .. }) if kind != own.kind => {
                    let article = if kind == RouteKind::Http { "an" } else { "a" };
                    let kind = kind.as_label();
                    remarks.push(format!("{article} {kind} holds on port {port} and takes precedence"));
                    lost.push(*port);
                }
                // "All attached TCPRoutes are `Accepted`" (GEP-2644), so it is said where it can be.
                Some(Lead { only: Some(first), .. }) if first != own.key => {
                    remarks.push(format!(
                        "TCPRoute {first} comes first and has every connection to port {port}"
                    ));
                }
                _ => {}
            }
        }
        let Ok(placement) = &mut self.outcome else { return };
        placement.ports.retain(|port| !lost.contains(port));
        placement.remarks.extend(remarks);
        if placement.ports.is_empty() {
            let message = placement.remarks.join("; ");
            self.outcome = Err(Refusal { reason: ConditionReason::Conflicted, message });
        }
    }

    fn conclude(self, view: &RouteView, verdict: &RuleVerdict) -> ParentAttachment {
        let outcome = self.outcome.as_ref().map(|placement| placement.remarks.as_slice());
        let conditions = build_conditions(view, verdict, outcome);
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
    (parent_ref, ownership): (&ParentRef, Ownership),
    kind: RouteKind,
) -> Result<Placement, Refusal> {
    if kind == RouteKind::Udp {
        let message =
            "a UDPRoute holds on Gateways and ListenerSets only: the mesh leaves UDP alone".to_owned();
        return Err(Refusal { reason: ConditionReason::UnsupportedValue, message });
    }
    let placed = if ownership == Ownership::MistakenGroup {
        Err("kind Service is in the core group: write group: \"\"".to_owned())
    } else {
        resolve_ports(objects, service, parent_ref, kind)
    };
    placed.map_err(|message| Refusal { reason: ConditionReason::NoMatchingParent, message })
}

pub(super) fn judge_rules(objects: &Objects, view: &RouteView, parent: ParentKind) -> RuleVerdict {
    let mut unsupported = Vec::new();
    let mut refusals: Option<(ConditionReason, Vec<String>)> = None;
    let mut remarks = view.remarks.clone();
    if parent == ParentKind::Service {
        remarks.extend(view.remarks_on_services.iter().cloned());
    }
    let mut rules = Vec::with_capacity(view.rules.len());
    let mut any_rule_holds = false;
    for (index, rule) in view.rules.iter().enumerate() {
        let mut judge = RuleJudge { objects, view, parent, index, refusals: &mut refusals };
        let filters = judge.resolve_mirrors(&rule.filters).shared();
        let backends = judge.judge_backends(&filters);
        unsupported.extend(rule.unsupported.iter().cloned());
        any_rule_holds |= rule.unsupported.is_empty();
        let goes_nowhere = backends.iter().all(|backend| backend.weight == 0) && filters.redirect.is_none();
        if goes_nowhere && rule.unsupported.is_empty() {
            let outcome = match view.route.kind {
                RouteKind::Grpc | RouteKind::Http => "answers 500",
                RouteKind::Tcp | RouteKind::Tls => "is refused",
                RouteKind::Udp => "is dropped",
            };
            remarks.push(format!("spec.rules[{index}] sends to no backend: what it matches {outcome}"));
        }
        if let Some(matches) = &rule.matches.compiled {
            let (filters, backends) = decide(rule, filters, backends);
            rules.push(AttachedRule {
                index,
                name: rule.name.clone(),
                matches: matches.clone(),
                terms: rule.terms.clone(),
                filters,
                backends,
            });
        }
    }
    let attached = Arc::new(AttachedRoute { route: Arc::clone(&view.route), created: view.created, rules });
    RuleVerdict { attached, unsupported, any_rule_holds, backends: refusals, remarks }
}

/// A rule that asks for what is not applied fails as a whole, rather than doing something else.
fn decide(
    rule: &RuleView,
    filters: Arc<Filters>,
    backends: Vec<WeightedBackend>,
) -> (Arc<Filters>, Vec<WeightedBackend>) {
    let failing = |reason, filters: &Arc<Filters>| {
        let (backend, filters) = (Backend::Failing(reason), Arc::clone(filters));
        vec![WeightedBackend { backend, weight: 1, filters }]
    };
    if !rule.unsupported.is_empty() {
        let nothing = Filters::default().shared();
        let backends = failing(FailureReason::UnsupportedRule, &nothing);
        (nothing, backends)
    } else if backends.iter().all(|backend| backend.weight == 0) {
        let backends = failing(FailureReason::InvalidBackend, &filters);
        (filters, backends)
    } else {
        (filters, backends)
    }
}

/// What is needed to judge the backends of one rule.
struct RuleJudge<'a> {
    objects: &'a Objects,
    view: &'a RouteView,
    parent: ParentKind,
    index: usize,
    refusals: &'a mut Option<(ConditionReason, Vec<String>)>,
}

impl RuleJudge<'_> {
    /// The backends; those that may not be used keep their share, as failures.
    fn judge_backends(&mut self, rule: &Arc<Filters>) -> Vec<WeightedBackend> {
        let view = self.view;
        let views = &view.rules[self.index].backends;
        let mut backends = Vec::with_capacity(views.len());
        for (place, BackendView { backend, filters }) in views.iter().enumerate() {
            let path = format!("spec.rules[{}].backendRefs[{place}]", self.index);
            let own = self.resolve_mirrors(filters);
            backends.push(WeightedBackend {
                backend: self
                    .resolve(&path, backend)
                    .unwrap_or(Backend::Failing(FailureReason::InvalidBackend)),
                weight: backend.weight,
                filters: if own.is_empty() { Arc::clone(rule) } else { Arc::new(rule.then(&own)) },
            });
        }
        backends
    }

    /// The filters with their mirrors. One whose backend may not be used is left out, and said.
    fn resolve_mirrors(&mut self, filters: &FilterView) -> Filters {
        let mirrors = filters.mirrors.iter().filter_map(|mirror| {
            let backend = self.resolve(&mirror.path, &mirror.backend)?;
            Some(Mirror { backend, numerator: mirror.numerator, denominator: mirror.denominator })
        });
        Filters { mirrors: mirrors.collect(), ..filters.filters.clone() }
    }

    fn resolve(&mut self, path: &str, backend: &BackendRef) -> Option<Backend> {
        match resolve_backend(self.objects, (&self.view.route, self.parent), backend) {
            Ok(key) => Some(Backend::Service(key)),
            Err(refusal) => {
                let line = format!("{path}: {}", refusal.message);
                self.refusals.get_or_insert_with(|| (refusal.reason, Vec::new())).1.push(line);
                None
            }
        }
    }
}

/// The conditions of a route on a parent: `outcome` is what the user is told of one that takes it, or why it does not.
pub(super) fn build_conditions(
    view: &RouteView,
    verdict: &RuleVerdict,
    outcome: Result<&[String], &Refusal>,
) -> Vec<Condition> {
    let build = |kind, status, reason, message| Condition {
        kind,
        status,
        reason,
        message,
        observed_generation: view.generation,
    };
    let accepted = match outcome {
        Ok(own) => {
            let remarks: Vec<&str> = verdict.remarks.iter().chain(own).map(String::as_str).collect();
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
