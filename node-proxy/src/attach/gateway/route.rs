//! Which listeners a route holds on, parent by parent, and for which hostnames.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::listener::Listener;
use super::{GROUP, GatewayParent, GatewayRoute, JudgedGateway, ListenerId, ListenerOwner};
use crate::attach::backend::find_service;
use crate::attach::condition::ConditionReason;
use crate::attach::judge::{ParentKind, Refusal, RuleVerdict, build_conditions, judge_rules, view_route};
use crate::attach::parent::ParentRef;
use crate::attach::view::{RouteView, RuleView, view_parents};
use crate::cluster::objects::{ObjectKey, Objects};
use crate::route::hostname::meet_all;
use crate::route::{Age, HostnameMatch, RouteKind, RouteRef};

/// The names for which a route holds on a listener, `None` for any.
type Names = Vec<Option<HostnameMatch>>;
/// What parentRefs may name: its Gateway, and its listeners.
type Parents<'g> = BTreeMap<ListenerOwner, (&'g ObjectKey, &'g [Listener])>;
/// The routes that hold on listeners and keep others from there, the oldest first.
type Holding = HashMap<ListenerId, Vec<(Arc<RouteRef>, Names)>>;

/// One parentRef of ours on the way to its judgement.
struct Candidate {
    index: usize,
    parent_ref: ParentRef,
    gateway: ObjectKey,
    outcome: Result<Vec<(ListenerId, Names)>, Refusal>,
    remarks: Vec<String>,
}

/// A route with all that depends on no other one.
struct Pending {
    view: RouteView,
    verdict: RuleVerdict,
    candidates: Vec<Candidate>,
    services: BTreeSet<ObjectKey>,
}

/// Judges every route that names one of these Gateways or a ListenerSet of theirs.
pub(super) fn judge_routes(
    objects: &Objects,
    gateways: &BTreeMap<ObjectKey, JudgedGateway>,
) -> BTreeMap<RouteRef, GatewayRoute> {
    let parents = find_parents(gateways);
    let all = |kind, keys: &mut dyn Iterator<Item = &ObjectKey>| -> Vec<RouteRef> {
        keys.map(|key| RouteRef { kind, key: key.clone() }).collect()
    };
    let routes = [
        all(RouteKind::Grpc, &mut objects.grpc_routes.keys()),
        all(RouteKind::Http, &mut objects.http_routes.keys()),
        all(RouteKind::Tcp, &mut objects.tcp_routes.keys()),
        all(RouteKind::Tls, &mut objects.tls_routes.keys()),
        all(RouteKind::Udp, &mut objects.udp_routes.keys()),
    ];
    let alone = |route| Pending::judge(objects, &parents, route);
    let mut pending: Vec<Pending> = routes.iter().flatten().filter_map(alone).collect();
    // The older of two that exclude each other holds.
    pending.sort_by_cached_key(|pending| Age::of(pending.view.created, &pending.view.route.key));
    let mut holding = Holding::new();
    pending.into_iter().map(|pending| pending.conclude(&mut holding)).collect()
}

fn find_parents(gateways: &BTreeMap<ObjectKey, JudgedGateway>) -> Parents<'_> {
    let mut parents = Parents::new();
    for (key, gateway) in gateways {
        parents.insert(ListenerOwner::Gateway(key.clone()), (key, &gateway.listeners));
        for set in &gateway.listener_sets {
            parents.insert(ListenerOwner::ListenerSet(set.key.clone()), (key, &set.listeners));
        }
    }
    parents
}

/// The object that a parentRef names, if it is of a kind that has listeners.
fn find_owner(parent: &ParentRef, route_namespace: &str) -> Option<ListenerOwner> {
    if parent.group.as_deref().unwrap_or(GROUP) != GROUP {
        return None;
    }
    let target = parent.target(route_namespace);
    match parent.kind.as_deref().unwrap_or("Gateway") {
        "Gateway" => Some(ListenerOwner::Gateway(target)),
        "ListenerSet" => Some(ListenerOwner::ListenerSet(target)),
        _ => None,
    }
}

impl Pending {
    /// Looks at a route alone; `None` when no parent of it is ours.
    fn judge(objects: &Objects, parents: &Parents<'_>, route: &RouteRef) -> Option<Self> {
        // Most routes may be the mesh's: they are not looked at any closer.
        let namespace = &route.key.namespace;
        let is_own = |parent: &ParentRef| {
            find_owner(parent, namespace).is_some_and(|owner| parents.contains_key(&owner))
        };
        if !view_parents(objects, route)?.iter().any(is_own) {
            return None;
        }
        let view = view_route(objects, route)?;
        let mut candidates = Vec::<Candidate>::new();
        for (index, parent_ref) in view.parents.iter().enumerate() {
            let Some(owner) = find_owner(parent_ref, namespace) else { continue };
            let Some((gateway, listeners)) = parents.get(&owner) else { continue };
            if candidates.iter().any(|known| known.parent_ref == *parent_ref) {
                continue;
            }
            candidates.push(Candidate {
                index,
                parent_ref: parent_ref.clone(),
                gateway: (*gateway).clone(),
                outcome: place(objects, (&owner, listeners), parent_ref, &view),
                remarks: Vec::new(),
            });
        }
        if candidates.is_empty() {
            return None;
        }
        let verdict = judge_rules(objects, &view, ParentKind::Gateway);
        if let Some(message) = verdict.refuse() {
            for candidate in candidates.iter_mut().filter(|candidate| candidate.outcome.is_ok()) {
                let reason = ConditionReason::UnsupportedValue;
                candidate.outcome = Err(Refusal { reason, message: message.clone() });
            }
        }
        let backends = view.rules.iter().flat_map(RuleView::named_backends);
        let services = backends
            .filter_map(|backend| find_service(objects, (&view.route, ParentKind::Gateway), backend).ok());
        let services = services.collect();
        Some(Self { view, verdict, candidates, services })
    }

    /// Of HTTPRoutes and GRPCRoutes whose hostnames meet on a listener, exactly one kind holds: that of the route that
    /// came first (GRPCRouteSpec.hostnames).
    fn conclude(mut self, holding: &mut Holding) -> (RouteRef, GatewayRoute) {
        let route = Arc::clone(&self.view.route);
        for candidate in &mut self.candidates {
            match route.kind {
                RouteKind::Grpc | RouteKind::Http => candidate.yield_listeners(&route, holding),
                RouteKind::Tcp | RouteKind::Udp => candidate.note_first(&route, holding),
                RouteKind::Tls => {}
            }
        }
        let Self { view, verdict, candidates, services } = self;
        let parents = candidates.into_iter().map(|candidate| candidate.conclude(&view, &verdict)).collect();
        ((*route).clone(), GatewayRoute { attached: verdict.attached, parents, services })
    }
}

impl Candidate {
    fn yield_listeners(&mut self, route: &Arc<RouteRef>, holding: &mut Holding) {
        let Ok(listeners) = &mut self.outcome else { return };
        let remarks = &mut self.remarks;
        listeners.retain(|(listener, names)| {
            let held = holding.entry(listener.clone()).or_default();
            let other = held.iter().find(|(other, held)| other.kind != route.kind && any_meet(held, names));
            if let Some((other, _)) = other {
                let name = &listener.name;
                remarks.push(format!("{other} has hostnames of it on listener {name} and came first"));
                return false;
            }
            held.push((Arc::clone(route), names.clone()));
            true
        });
        if listeners.is_empty() {
            let message = remarks.join("; ");
            self.outcome = Err(Refusal { reason: ConditionReason::Conflicted, message });
        }
    }

    /// "All attached TCPRoutes are `Accepted`" (GEP-2644), and UDPRoutes likewise (GEP-2645): the first has everything, and
    /// it is said where it can be.
    fn note_first(&mut self, route: &Arc<RouteRef>, holding: &mut Holding) {
        let what = if route.kind == RouteKind::Udp { "datagram" } else { "connection" };
        for (listener, names) in self.outcome.iter().flatten() {
            let held = holding.entry(listener.clone()).or_default();
            match held.iter().find(|(other, _)| other.kind == route.kind) {
                Some((first, _)) if first != route => {
                    let name = &listener.name;
                    self.remarks.push(format!("{first} comes first and has every {what} to listener {name}"));
                }
                Some(_) => {}
                None => held.push((Arc::clone(route), names.clone())),
            }
        }
    }

    fn conclude(self, view: &RouteView, verdict: &RuleVerdict) -> GatewayParent {
        let outcome = self.outcome.as_ref().map(|_| self.remarks.as_slice());
        let conditions = build_conditions(view, verdict, outcome);
        GatewayParent {
            index: self.index,
            parent_ref: self.parent_ref,
            gateway: self.gateway,
            listeners: self.outcome.unwrap_or_default(),
            conditions,
        }
    }
}

/// Whether any name is matched by both.
fn any_meet(one: &Names, other: &Names) -> bool {
    let meet = |one: &Option<HostnameMatch>, other: &Option<HostnameMatch>| match (one, other) {
        (Some(one), Some(other)) => one.meet(other).is_some(),
        (None, _) | (_, None) => true,
    };
    one.iter().any(|one| other.iter().any(|other| meet(one, other)))
}

/// The listeners of a parent that a route holds on, or why there are none.
fn place(
    objects: &Objects,
    (owner, listeners): (&ListenerOwner, &[Listener]),
    parent: &ParentRef,
    view: &RouteView,
) -> Result<Vec<(ListenerId, Names)>, Refusal> {
    let refuse = |reason, message| Err(Refusal { reason, message });
    let named: Vec<&Listener> = listeners.iter().filter(|listener| is_named(listener, parent)).collect();
    if named.is_empty() {
        let message = "no listener of the parent has this sectionName and port".to_owned();
        return refuse(ConditionReason::NoMatchingParent, message);
    }
    let (ListenerOwner::Gateway(own) | ListenerOwner::ListenerSet(own)) = owner;
    let from = &view.route.key.namespace;
    let allows = |listener: &&Listener| {
        listener.kinds.contains(&view.route.kind) && listener.namespaces.allows(objects, &own.namespace, from)
    };
    let allowed: Vec<&Listener> = named.into_iter().filter(allows).collect();
    if allowed.is_empty() {
        let kind = view.route.kind.as_label();
        let message = format!("no listener takes a {kind} of namespace {from}");
        return refuse(ConditionReason::NotAllowedByListeners, message);
    }
    let names = |listener: &&Listener| match view.route.kind {
        // It has no hostnames, whatever the listener is for.
        RouteKind::Tcp | RouteKind::Udp => vec![None],
        RouteKind::Grpc | RouteKind::Http | RouteKind::Tls => {
            meet_all(listener.hostname.as_ref(), &view.hostnames)
        }
    };
    let held = allowed
        .iter()
        .map(|listener| (ListenerId { owner: owner.clone(), name: listener.name.clone() }, names(listener)));
    let held: Vec<_> = held.filter(|(_, names)| !names.is_empty()).collect();
    if held.is_empty() {
        let message = "no listener that takes the route has a hostname in common with it".to_owned();
        return refuse(ConditionReason::NoMatchingListenerHostname, message);
    }
    Ok(held)
}

fn is_named(listener: &Listener, parent: &ParentRef) -> bool {
    parent.port.is_none_or(|port| port == i32::from(listener.port))
        && parent.section_name.as_deref().is_none_or(|name| name == &*listener.name)
}
