//! Gateways, their listeners, and which routes hold on which of them: the one judgement for traffic and status.
//!
//! A Gateway's listeners are its own and those of its ListenerSets, each judged by itself ([`listener`]) and then beside
//! the others (`conflict`). A route is judged parent by parent (`route`): the listeners that its parentRef names, that
//! take its kind from its namespace, and that have hostnames in common with it.

mod authority;
mod conflict;
mod extent;
pub(super) mod grant;
pub mod listener;
mod named;
mod parameters;
pub mod policy;
mod route;
mod view;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::AttachedRoute;
use super::condition::{Condition, ConditionReason, ConditionStatus, ConditionType};
use super::parent::ParentRef;
use super::view::wire_name;
use crate::cluster::api::{Gateway, ListenerSet};
use crate::cluster::objects::{Changed, Kind, ObjectId, ObjectKey, Objects};
use crate::route::{Age, HostnameMatch, RouteRef};
pub use authority::Validation;
use conflict::{find_conflicts, find_overlaps};
pub use extent::Extent;
use grant::{Reference, Referrer};
use listener::{Home, find_certificate};
pub use listener::{Listener, ListenerProtocol, ListenerTls, NamedCertificate};
use parameters::judge_parameters;
pub use parameters::{
    Autoscaling, JudgedClass, LONGEST_DRAIN_SECONDS, MOST_TRUSTED_HOPS, Parameters, Resources, ServiceType,
};
use policy::Policies;
use view::{find_insecure, view_allowed_listeners, view_frontend, view_gateway, view_listener_set};

/// The Gateway API's group.
pub const GROUP: &str = "gateway.networking.k8s.io";
/// The `controllerName` under which Gateways and what is attached to them get their status.
pub const GATEWAY_CONTROLLER_NAME: &str = "gammarus.io/gateway-controller";

/// Which object a listener is written in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum ListenerOwner {
    /// The Gateway itself.
    Gateway(ObjectKey),
    /// A ListenerSet of it.
    ListenerSet(ObjectKey),
}

/// Which listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ListenerId {
    /// Where it is written.
    pub owner: ListenerOwner,
    /// Its name there.
    pub name: Arc<str>,
}

impl fmt::Display for ListenerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.owner {
            ListenerOwner::Gateway(key) => write!(f, "Gateway {key}, listener {}", self.name),
            ListenerOwner::ListenerSet(key) => write!(f, "ListenerSet {key}, listener {}", self.name),
        }
    }
}

/// A ListenerSet, judged.
#[derive(Clone, Debug)]
pub struct JudgedListenerSet {
    /// Which one.
    pub key: ObjectKey,
    /// Its `metadata.generation`.
    pub generation: Option<i64>,
    /// Its listeners, in the order of its list; empty when its Gateway does not take it.
    pub listeners: Vec<Listener>,
    /// Why it is not accepted.
    refusal: Option<(ConditionReason, String)>,
}

/// A Gateway, judged.
#[derive(Clone, Debug)]
pub struct JudgedGateway {
    /// Which one.
    pub key: ObjectKey,
    /// The class that it is of.
    pub class: Arc<str>,
    /// Its `metadata.generation`.
    pub generation: Option<i64>,
    /// Its own listeners, in the order of its list.
    pub listeners: Vec<Listener>,
    /// The ListenerSets that name it, in the order in which their listeners count.
    pub listener_sets: Vec<JudgedListenerSet>,
    /// What it shows to backends that ask for a certificate, with its Secret.
    pub client_certificate: Option<NamedCertificate>,
    /// Why it has nothing to show, where it should have.
    unresolved: Option<(ConditionReason, String)>,
    /// How its pods and its Service are to be; or why it is not accepted, whatever its listeners are.
    parameters: Result<Arc<Parameters>, (ConditionReason, String)>,
    /// What it, or a policy for what it sends to, asks for and is not done.
    remarks: Vec<String>,
    /// Where it lets clients without a valid certificate in.
    insecure: Option<String>,
}

/// A route on one of its parents of ours.
#[derive(Clone, Debug)]
pub struct GatewayParent {
    /// Its place in the route's `parentRefs`.
    pub index: usize,
    /// The parentRef, as written.
    pub parent_ref: ParentRef,
    /// The Gateway that it leads to, itself or by its ListenerSet.
    pub gateway: ObjectKey,
    /// The listeners that take the route, each with the names for which it holds there, `None` for any.
    pub listeners: Vec<(ListenerId, Vec<Option<HostnameMatch>>)>,
    /// `Accepted`, `ResolvedRefs` and, when only some rules hold, `PartiallyInvalid`.
    pub conditions: Vec<Condition>,
}

/// A route with its parents of ours.
#[derive(Clone, Debug)]
pub struct GatewayRoute {
    /// The route, for the data path.
    pub attached: Arc<AttachedRoute>,
    /// Its parents that are Gateways or ListenerSets of ours, in the order of the route.
    pub parents: Vec<GatewayParent>,
    /// The Services that it names as backends and may name, whether they are there or not.
    pub services: BTreeSet<ObjectKey>,
}

/// The judgement of all Gateways of our classes.
#[derive(Clone, Debug, Default)]
pub struct Gateways {
    /// Our classes, by name.
    pub classes: BTreeMap<Arc<str>, JudgedClass>,
    /// The Gateways.
    pub gateways: BTreeMap<ObjectKey, JudgedGateway>,
    /// The routes that name one of them.
    pub routes: BTreeMap<RouteRef, GatewayRoute>,
    /// The Secrets and ConfigMaps that they name, whether they are there or not.
    pub named: BTreeSet<ObjectId>,
    /// How backends are spoken to.
    pub policies: Policies,
}

impl Gateways {
    /// The judgement of these objects.
    #[must_use]
    pub fn new(objects: &Objects) -> Self {
        let judge = |(key, class): (&_, &Arc<_>)| JudgedClass::judge(objects, key, class);
        let classes: BTreeMap<_, _> = objects
            .gateway_classes
            .iter()
            .filter_map(judge)
            .map(|class| (class.name.clone(), class))
            .collect();
        let judge = |(key, gateway): (&ObjectKey, &Arc<Gateway>)| {
            let class = classes.get(&*gateway.spec.gateway_class_name)?;
            Some((key.clone(), judge_gateway(objects, class, (key, gateway))))
        };
        let mut gateways: BTreeMap<_, _> = objects.gateways.iter().filter_map(judge).collect();
        let routes = route::judge_routes(objects, &gateways);
        let named = named::find_named(objects, &classes);
        let policies = Policies::new(objects, &gateways, &routes);
        policies.signal(&mut gateways);
        Self { classes, gateways, routes, named, policies }
    }

    /// Whether these changes may have made another judgement due than one that has asked for what is `named`: endpoints and
    /// pods come and go without, and so do other Secrets and ConfigMaps.
    #[must_use]
    pub fn are_concerned(named: &BTreeSet<ObjectId>, changed: &Changed) -> bool {
        let is_named = |kind, key: &ObjectKey| named.contains(&ObjectId { kind, key: key.clone() });
        let Changed {
            backend_tls_policies,
            config_maps,
            endpoint_slices: _,
            gateway_classes,
            gateways,
            grpc_routes,
            http_routes,
            listener_sets,
            marks: _,
            namespaces,
            nodes: _,
            pods: _,
            reference_grants,
            secrets,
            services,
            tcp_routes,
            tls_routes,
            udp_routes,
        } = changed;
        !(backend_tls_policies.is_empty()
            && gateway_classes.is_empty()
            && gateways.is_empty()
            && grpc_routes.is_empty()
            && http_routes.is_empty()
            && listener_sets.is_empty()
            && namespaces.is_empty()
            && reference_grants.is_empty()
            && services.is_empty()
            && tcp_routes.is_empty()
            && tls_routes.is_empty()
            && udp_routes.is_empty())
            || config_maps.keys().any(|key| is_named(Kind::ConfigMap, key))
            || secrets.keys().any(|key| is_named(Kind::Secret, key))
    }

    /// How many routes are attached to each listener that has any: those whose parent is accepted there.
    #[must_use]
    pub fn attached_routes(&self) -> BTreeMap<&ListenerId, usize> {
        let mut counts = BTreeMap::new();
        for route in self.routes.values() {
            let held =
                route.parents.iter().flat_map(|parent| &parent.listeners).map(|(listener, _)| listener);
            // By however many of its parents it is there.
            for listener in held.collect::<BTreeSet<_>>() {
                *counts.entry(listener).or_default() += 1;
            }
        }
        counts
    }
}

fn judge_gateway(
    objects: &Objects,
    class: &JudgedClass,
    (key, gateway): (&ObjectKey, &Gateway),
) -> JudgedGateway {
    let frontend = gateway.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref());
    let home = |kind, namespace| Home {
        objects,
        referrer: Referrer { kind, namespace },
        gateway_namespace: &key.namespace,
    };
    let own = home("Gateway", &key.namespace);
    let judge = |home, view: view::ListenerView| {
        let validation = view_frontend(frontend, view.port);
        Listener::judge(home, view, validation)
    };
    let mut listeners: Vec<Listener> =
        view_gateway(gateway).into_iter().map(|view| judge(own, view)).collect();
    let mut listener_sets: Vec<JudgedListenerSet> = find_sets(objects, key)
        .into_iter()
        .map(|(set_key, set)| {
            let refusal = refuse_set(objects, (key, gateway), set_key);
            let home = home("ListenerSet", &set_key.namespace);
            let taken = if refusal.is_none() { view_listener_set(set) } else { Vec::new() };
            JudgedListenerSet {
                key: set_key.clone(),
                generation: set.metadata.generation,
                listeners: taken.into_iter().map(|view| judge(home, view)).collect(),
                refusal,
            }
        })
        .collect();
    let sets = listener_sets.iter_mut().map(|set| set.listeners.as_mut_slice());
    find_conflicts(std::iter::once(listeners.as_mut_slice()).chain(sets));
    let sets = listener_sets.iter_mut().flat_map(|set| &mut set.listeners);
    find_overlaps(&mut listeners.iter_mut().chain(sets).collect::<Vec<_>>());
    let (client_certificate, unresolved) = match find_client_certificate(own, gateway) {
        Some(Ok(certificate)) => (Some(certificate), None),
        Some(Err(why)) => (None, Some(why)),
        None => (None, None),
    };
    let mut judged = JudgedGateway {
        key: key.clone(),
        class: class.name.clone(),
        generation: gateway.metadata.generation,
        listeners,
        listener_sets,
        client_certificate,
        unresolved,
        parameters: judge_parameters(objects, class, (key, gateway)),
        remarks: remark(gateway),
        insecure: find_insecure(frontend),
    };
    judged.withhold();
    judged
}

/// What a Gateway asks for and is not done.
fn remark(gateway: &Gateway) -> Vec<String> {
    let scope = gateway.spec.default_scope.as_ref().filter(|scope| wire_name(scope) != "None");
    let remark = scope.map(|_| "spec.defaultScope is not applied: a route has to name the Gateway");
    remark.into_iter().map(str::to_owned).collect()
}

/// Where the certificate is that a Gateway is to show to backends.
fn find_client_reference(gateway: &Gateway) -> Option<Reference> {
    let backend = gateway.spec.tls.as_ref()?.backend.as_ref()?;
    let reference = backend.client_certificate_ref.as_ref()?;
    Some(Reference {
        group: reference.group.clone().unwrap_or_default(),
        kind: reference.kind.clone().unwrap_or_else(|| "Secret".to_owned()),
        namespace: reference.namespace.clone(),
        name: reference.name.clone(),
    })
}

/// The certificate that a Gateway is to show to backends (GatewayBackendTLS.clientCertificateRef).
fn find_client_certificate(
    home: Home<'_>,
    gateway: &Gateway,
) -> Option<Result<NamedCertificate, (ConditionReason, String)>> {
    let reference = find_client_reference(gateway)?;
    let named = |(reason, message): (ConditionReason, String)| {
        let reason = match reason {
            ConditionReason::InvalidCertificateRef => ConditionReason::InvalidClientCertificateRef,
            other => other,
        };
        (reason, format!("spec.tls.backend.clientCertificateRef: {message}"))
    };
    Some(find_certificate(home, &reference).map_err(named))
}

/// The ListenerSets that name a Gateway: the oldest first, then by name (ListenerSetSpec.listeners).
fn find_sets<'o>(objects: &'o Objects, gateway: &ObjectKey) -> Vec<(&'o ObjectKey, &'o ListenerSet)> {
    let names = |key: &ObjectKey, set: &ListenerSet| {
        let parent = &set.spec.parent_ref;
        let is_gateway = parent.kind.as_deref().unwrap_or("Gateway") == "Gateway"
            && parent.group.as_deref().unwrap_or(GROUP) == GROUP;
        let namespace = parent.namespace.as_deref().unwrap_or(&key.namespace);
        is_gateway && *namespace == *gateway.namespace && *parent.name == *gateway.name
    };
    let all = objects.listener_sets.iter().map(|(key, set)| (key, &**set));
    let mut sets: Vec<_> = all.filter(|(key, set)| names(key, set)).collect();
    sets.sort_by_cached_key(|(key, set)| {
        Age::of(set.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()), key)
    });
    sets
}

/// Why a Gateway does not take a ListenerSet.
fn refuse_set(
    objects: &Objects,
    (key, gateway): (&ObjectKey, &Gateway),
    set: &ObjectKey,
) -> Option<(ConditionReason, String)> {
    let allowed = view_allowed_listeners(gateway).allows(objects, &key.namespace, &set.namespace);
    let message = || format!("Gateway {key} takes no ListenerSets of namespace {}", set.namespace);
    (!allowed).then(|| (ConditionReason::NotAllowed, message()))
}

impl JudgedListenerSet {
    /// `Accepted`, unless it is not accepted by its Gateway: true while any listener can be served.
    #[must_use]
    pub fn accepted(&self) -> Condition {
        match &self.refusal {
            Some((reason, message)) => Condition {
                kind: ConditionType::Accepted,
                status: ConditionStatus::False,
                reason: *reason,
                message: message.clone(),
                observed_generation: self.generation,
            },
            None => accept(&self.listeners, Listener::could_be_served, self.generation),
        }
    }

    /// Whether it is accepted.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.accepted().status == ConditionStatus::True
    }
}

impl JudgedGateway {
    /// `ResolvedRefs`, where it is to show something to backends: whether that is there.
    fn resolved_refs(&self) -> Option<Condition> {
        let (status, (reason, message)) = match (&self.client_certificate, &self.unresolved) {
            (_, Some(why)) => (ConditionStatus::False, why.clone()),
            (Some(_), None) => (ConditionStatus::True, (ConditionReason::ResolvedRefs, String::new())),
            (None, None) => return None,
        };
        let kind = ConditionType::ResolvedRefs;
        Some(Condition { kind, status, reason, message, observed_generation: self.generation })
    }

    /// `Accepted`: true while any of its own listeners is, unless it is refused as a whole.
    #[must_use]
    pub fn accepted(&self) -> Condition {
        let mut accepted = accept(&self.listeners, Listener::is_accepted, self.generation);
        if let Err((reason, message)) = &self.parameters {
            accepted.status = ConditionStatus::False;
            accepted.reason = *reason;
            accepted.message.clone_from(message);
        } else {
            let said = std::iter::once(&accepted.message).filter(|message| !message.is_empty());
            accepted.message = said.chain(&self.remarks).map(String::as_str).collect::<Vec<_>>().join("; ");
        }
        accepted
    }

    /// Whether it is accepted.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.accepted().status == ConditionStatus::True
    }

    /// `Accepted`; `ResolvedRefs` where it is to show something to backends; and, while clients without a valid certificate
    /// are let in anywhere, `InsecureFrontendValidationMode`.
    #[must_use]
    pub fn conditions(&self) -> Vec<Condition> {
        let insecure = self.insecure.iter().map(|path| Condition {
            kind: ConditionType::InsecureFrontendValidationMode,
            status: ConditionStatus::True,
            reason: ConditionReason::ConfigurationChanged,
            message: format!("{path} lets clients in that have no valid certificate"),
            observed_generation: self.generation,
        });
        std::iter::once(self.accepted()).chain(self.resolved_refs()).chain(insecure).collect()
    }

    /// How its pods and its Service are to be, as far as that can be told.
    #[must_use]
    pub fn parameters(&self) -> Option<&Arc<Parameters>> {
        self.parameters.as_ref().ok()
    }

    /// Whether it is not accepted for its parameters alone: what was made for it stays as it is, and serves.
    #[must_use]
    pub fn stays_as_made(&self) -> bool {
        matches!(self.parameters, Err((ConditionReason::InvalidParameters, _)))
    }

    /// Serves nothing of what is not accepted.
    fn withhold(&mut self) {
        let is_refused = if self.stays_as_made() {
            accept(&self.listeners, Listener::is_accepted, None).status == ConditionStatus::False
        } else {
            !self.is_accepted()
        };
        let withhold = |listeners: &mut [Listener]| {
            listeners.iter_mut().for_each(|listener| listener.findings.is_withheld = true);
        };
        if is_refused {
            withhold(&mut self.listeners);
        }
        for set in &mut self.listener_sets {
            if is_refused {
                let message = || format!("Gateway {} is not accepted", self.key);
                set.refusal.get_or_insert_with(|| (ConditionReason::ParentNotAccepted, message()));
            }
            if !set.is_accepted() {
                withhold(&mut set.listeners);
            }
        }
    }

    /// All of its listeners with their names, its own first.
    pub fn all_listeners(&self) -> impl Iterator<Item = (ListenerId, &Listener)> {
        let name =
            |owner: ListenerOwner, listener: &Listener| ListenerId { owner, name: listener.name.clone() };
        let own = self
            .listeners
            .iter()
            .map(move |listener| (name(ListenerOwner::Gateway(self.key.clone()), listener), listener));
        let sets = self.listener_sets.iter().flat_map(move |set| {
            set.listeners
                .iter()
                .map(move |listener| (name(ListenerOwner::ListenerSet(set.key.clone()), listener), listener))
        });
        own.chain(sets)
    }
}

/// `Accepted` of what has listeners: some that are not leave the others alone.
fn accept(listeners: &[Listener], is_fine: fn(&Listener) -> bool, generation: Option<i64>) -> Condition {
    let refused: Vec<&str> =
        listeners.iter().filter(|listener| !is_fine(listener)).map(|listener| &*listener.name).collect();
    let (status, reason, message) = if refused.is_empty() {
        (ConditionStatus::True, ConditionReason::Accepted, String::new())
    } else {
        let status =
            if refused.len() < listeners.len() { ConditionStatus::True } else { ConditionStatus::False };
        let message = format!("listeners that are not valid: {}", refused.join(", "));
        (status, ConditionReason::ListenersNotValid, message)
    };
    Condition { kind: ConditionType::Accepted, status, reason, message, observed_generation: generation }
}
