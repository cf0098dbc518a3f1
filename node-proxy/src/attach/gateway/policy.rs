//! BackendTLSPolicies: which ports of Services a Gateway speaks TLS with, and whom it takes there (GEP-1897).
//!
//! A policy for a port by its name beats one for its whole Service; of two for the same, the older holds, then the first by
//! name. A policy that cannot be obeyed is not passed over: nobody is spoken to by its ports, rather than in plain text.
//!
//! Something is said of a policy for each Gateway that sends to a Service that it is for, and for no other one
//! (PolicyAncestorStatus). That is so by the routes that hold there and by what they may refer to: else anybody could
//! put as many Gateways of his into the status of somebody else's policy as there is room for. Where there is none left for a
//! Gateway, the policy is none that could be obeyed there (PolicyStatus.ancestors), and the Gateway says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use rustls::RootCertStore;

use super::authority::find_authorities;
use super::listener::{Listener, ListenerProtocol, ListenerTls};
use super::{GATEWAY_CONTROLLER_NAME, GROUP, GatewayRoute, JudgedGateway, ListenerId};
use crate::attach::condition::{Condition, ConditionReason, ConditionStatus, ConditionType};
use crate::attach::find_transport;
use crate::cluster::api::backend_tls_policy::{
    BackendTlsPolicyStatusAncestors, BackendTlsPolicyValidation,
    BackendTlsPolicyValidationSubjectAltNamesType as AltNameType,
};
use crate::cluster::api::{BackendTlsPolicy, BackendTlsPolicySpec};
use crate::cluster::objects::{MOST_ANCESTORS, ObjectKey, Objects};
use crate::route::{Age, RouteRef};
use crate::snapshot::service::ServicePortKey;
use crate::snapshot::transport::Transport;

/// A name of which a backend's certificate has to have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendName {
    /// A DNS name.
    Dns(Box<str>),
    /// A URI, as SPIFFE IDs are.
    Uri(Box<str>),
}

/// Whose certificates a backend may have.
#[derive(Clone, Debug)]
pub enum BackendAuthorities {
    /// Those that everybody takes (`wellKnownCACertificates: System`).
    System,
    /// These.
    Given(Arc<RootCertStore>),
}

/// How a Gateway speaks TLS with a backend.
#[derive(Clone, Debug)]
pub struct BackendValidation {
    /// The server name of the handshake, and the name of the certificate unless there are others.
    pub hostname: Box<str>,
    /// Names of which the certificate has to have one, in place of the hostname. Empty when none are given.
    pub names: Vec<BackendName>,
    /// Whose certificates are taken.
    pub authorities: BackendAuthorities,
}

/// What holds for a port; without a validation, nobody is spoken to there.
pub type PortPolicy = Option<Arc<BackendValidation>>;

/// A policy, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgedPolicy {
    /// Its `metadata.generation`.
    pub generation: Option<i64>,
    /// The Gateways that send to what it is for, each with what is said of it there: `Accepted` and `ResolvedRefs`.
    pub ancestors: BTreeMap<ObjectKey, Vec<Condition>>,
    /// Those of them for which its status has no room: what it is for is not spoken to there.
    pub unnamed: BTreeSet<ObjectKey>,
}

impl JudgedPolicy {
    /// What becomes of it at each Gateway, said in its status or not.
    pub fn outcomes(&self) -> impl Iterator<Item = (&ObjectKey, Vec<Condition>)> {
        let refused = |own: &Condition| Condition {
            status: ConditionStatus::False,
            reason: ConditionReason::Invalid,
            message: "status.ancestors has no room for this Gateway".to_owned(),
            ..own.clone()
        };
        self.ancestors.iter().map(move |(gateway, said)| {
            let is_refused =
                |own: &Condition| own.kind == ConditionType::Accepted && self.unnamed.contains(gateway);
            let said = said.iter().map(|own| if is_refused(own) { refused(own) } else { own.clone() });
            (gateway, said.collect())
        })
    }
}

/// Why something is not as it should be.
type Finding = (ConditionReason, String);
/// Service → the Gateways that send to it by what policies decide on.
type Senders<'g> = BTreeMap<&'g ObjectKey, BTreeSet<&'g ObjectKey>>;

/// All policies, and what holds where.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// The policies.
    pub judged: BTreeMap<ObjectKey, JudgedPolicy>,
    /// Ports that are spoken to in TLS, each with the policy that decides on it.
    pub ports: BTreeMap<ServicePortKey, (ObjectKey, PortPolicy)>,
}

/// What a policy asks for: a Service, and perhaps one port of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    service: ObjectKey,
    section: Option<String>,
}

/// A target with why the policy does not hold for it, if it does not.
struct Placed {
    target: Target,
    lost: Option<Finding>,
}

/// A policy on its way to its judgement.
struct Pending<'o> {
    key: &'o ObjectKey,
    policy: &'o BackendTlsPolicy,
    /// How TLS is spoken; why nobody is spoken to.
    validation: Result<Arc<BackendValidation>, Finding>,
    /// References that lead nowhere.
    unresolved: Vec<Finding>,
    /// The Services that it is for.
    targets: Vec<Placed>,
    /// What it asks for and is not done.
    remarks: Vec<String>,
}

impl Policies {
    /// Judges all policies, for these Gateways and the routes that hold on them.
    pub(super) fn new(
        objects: &Objects,
        gateways: &BTreeMap<ObjectKey, JudgedGateway>,
        routes: &BTreeMap<RouteRef, GatewayRoute>,
    ) -> Self {
        let mut pending: Vec<Pending<'_>> = objects
            .backend_tls_policies
            .iter()
            .map(|(key, policy)| Pending::new(objects, key, policy))
            .collect();
        if pending.is_empty() {
            return Self::default();
        }
        pending.sort_by_cached_key(Pending::age);
        let mut held: BTreeMap<Target, &ObjectKey> = BTreeMap::new();
        for one in &mut pending {
            one.place(objects, &mut held);
        }
        let mut policies = Self::default();
        // Those of a whole Service first: what is said of one port comes over it.
        for by_section in [false, true] {
            for one in &pending {
                let own = one.held().filter(|target| target.section.is_some() == by_section);
                for port in own.flat_map(|target| find_ports(objects, target)) {
                    let validation = one.validation.as_ref().ok().map(Arc::clone);
                    policies.ports.insert(port, (one.key.clone(), validation));
                }
            }
        }
        let senders = find_senders(gateways, routes);
        policies.judged = pending.iter().map(|one| (one.key.clone(), one.conclude(&senders))).collect();
        policies
    }

    /// Has the Gateways that policies have no room for say so.
    pub(super) fn signal(&self, gateways: &mut BTreeMap<ObjectKey, JudgedGateway>) {
        for (policy, judged) in &self.judged {
            for key in &judged.unnamed {
                let Some(gateway) = gateways.get_mut(key) else { continue };
                gateway.remarks.push(format!(
                    "BackendTLSPolicy {policy}: status.ancestors has no room for this Gateway, which does not \
                     speak to what the policy is for"
                ));
            }
        }
    }

    /// How the ports that policies are for are spoken to by a Gateway.
    pub fn ports_at(&self, gateway: &ObjectKey) -> impl Iterator<Item = (&ServicePortKey, PortPolicy)> {
        let is_refused =
            |policy| self.judged.get(policy).is_some_and(|judged| judged.unnamed.contains(gateway));
        self.ports.iter().map(move |(port, (policy, validation))| {
            (port, validation.clone().filter(|_| !is_refused(policy)))
        })
    }
}

impl<'o> Pending<'o> {
    fn new(objects: &Objects, key: &'o ObjectKey, policy: &'o BackendTlsPolicy) -> Self {
        let mut unresolved = Vec::new();
        let validation = read_validation(objects, key, &policy.spec.validation, &mut unresolved);
        let options = policy.spec.options.iter().flatten();
        let remarks = options.map(|(name, _)| format!("spec.options: {name} is not applied")).collect();
        let validation = validation.map(Arc::new);
        Self { key, policy, validation, unresolved, targets: Vec::new(), remarks }
    }

    fn age(&self) -> Age {
        let created = self.policy.metadata.creation_timestamp.as_ref();
        Age::of(created.map(|time| time.0.as_second()), self.key)
    }

    /// The targets that it holds for.
    fn held(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(|placed| placed.lost.is_none()).map(|placed| &placed.target)
    }

    fn place(&mut self, objects: &Objects, held: &mut BTreeMap<Target, &'o ObjectKey>) {
        let BackendTlsPolicySpec { target_refs, .. } = &self.policy.spec;
        for (index, reference) in target_refs.iter().enumerate() {
            let path = format!("targetRefs[{index}]");
            if !reference.group.is_empty() || reference.kind != "Service" {
                let (kind, group) = (&reference.kind, &reference.group);
                self.remarks.push(format!("{path}: {kind} of group {group:?} is no Service"));
                continue;
            }
            let service = ObjectKey::new(&self.key.namespace, &reference.name);
            let target = Target { service, section: reference.section_name.clone() };
            let lost = if find_ports(objects, &target).is_empty() {
                let service = &target.service;
                let message = match &target.section {
                    Some(name) if objects.services.contains_key(service) => {
                        format!("Service {service} has no port {name}")
                    }
                    _ => format!("Service {service} does not exist, or has no port"),
                };
                Some((ConditionReason::TargetNotFound, format!("{path}: {message}")))
            } else if let Some(other) = held.get(&target) {
                let message = format!("{path}: BackendTLSPolicy {other} is for the same and came first");
                Some((ConditionReason::Conflicted, message))
            } else {
                held.insert(target.clone(), self.key);
                None
            };
            self.targets.push(Placed { target, lost });
        }
    }

    fn conclude(&self, senders: &Senders<'_>) -> JudgedPolicy {
        let mut by_gateway: BTreeMap<&ObjectKey, Vec<&Placed>> = BTreeMap::new();
        for placed in &self.targets {
            for gateway in senders.get(&placed.target.service).into_iter().flatten() {
                by_gateway.entry(gateway).or_default().push(placed);
            }
        }
        let unnamed = by_gateway.keys().filter(|gateway| !self.has_room_for(gateway));
        let unnamed = unnamed.map(|gateway| (*gateway).clone()).collect();
        let say = |(gateway, own): (&ObjectKey, Vec<&Placed>)| (gateway.clone(), self.say(&own));
        JudgedPolicy {
            generation: self.policy.metadata.generation,
            ancestors: by_gateway.into_iter().map(say).collect(),
            unnamed,
        }
    }

    /// Whether its status names a Gateway, or could. "If this slice is full, implementations MUST NOT add further entries.
    /// Instead they MUST consider the policy unimplementable and signal that on any related resources such as the ancestor that would be
    /// referenced here" (PolicyStatus.ancestors).
    fn has_room_for(&self, gateway: &ObjectKey) -> bool {
        let entries = self.policy.status.as_ref().map(|status| status.ancestors.as_slice());
        let entries = entries.unwrap_or_default();
        let is_it = |entry: &BackendTlsPolicyStatusAncestors| {
            let own = &entry.ancestor_ref;
            entry.controller_name == GATEWAY_CONTROLLER_NAME
                && own.kind.as_deref().unwrap_or("Gateway") == "Gateway"
                && own.group.as_deref().unwrap_or(GROUP) == GROUP
                && own.namespace.as_deref().unwrap_or(&self.key.namespace) == &*gateway.namespace
                && *own.name == *gateway.name
        };
        entries.len() < MOST_ANCESTORS || entries.iter().any(is_it)
    }

    /// What is said of it at a Gateway that sends to these targets.
    fn say(&self, targets: &[&Placed]) -> Vec<Condition> {
        let lost: Vec<&Finding> = targets.iter().filter_map(|placed| placed.lost.as_ref()).collect();
        let join = |texts: &[&str]| texts.join("; ");
        let messages: Vec<&str> = lost.iter().map(|(_, message)| &**message).collect();
        let build = |kind, status, reason, message| Condition {
            kind,
            status,
            reason,
            message,
            observed_generation: self.policy.metadata.generation,
        };
        let (status, reason, message) = match (lost.first(), &self.validation) {
            (Some((reason, _)), _) if lost.len() == targets.len() => {
                (ConditionStatus::False, *reason, join(&messages))
            }
            (_, Err((reason, message))) => (ConditionStatus::False, *reason, message.clone()),
            (_, Ok(_)) => {
                let remarks = self.remarks.iter().map(String::as_str);
                let said: Vec<&str> = messages.iter().copied().chain(remarks).collect();
                (ConditionStatus::True, ConditionReason::Accepted, join(&said))
            }
        };
        let accepted = build(ConditionType::Accepted, status, reason, message);
        let (status, reason) = match self.unresolved.first() {
            Some((reason, _)) => (ConditionStatus::False, *reason),
            None => (ConditionStatus::True, ConditionReason::ResolvedRefs),
        };
        vec![accepted, build(ConditionType::ResolvedRefs, status, reason, join_messages(&self.unresolved))]
    }
}

fn join_messages(findings: &[Finding]) -> String {
    findings.iter().map(|(_, message)| message.as_str()).collect::<Vec<_>>().join("; ")
}

/// Which Gateways send to which Services, there or not: by the routes that hold on them.
fn find_senders<'g>(
    gateways: &'g BTreeMap<ObjectKey, JudgedGateway>,
    routes: &'g BTreeMap<RouteRef, GatewayRoute>,
) -> Senders<'g> {
    let all = gateways.values().flat_map(JudgedGateway::all_listeners);
    let deciding: BTreeSet<ListenerId> =
        all.filter(|(_, listener)| begins_tls(listener)).map(|(id, _)| id).collect();
    let mut senders = Senders::new();
    for route in routes.values() {
        for parent in &route.parents {
            if parent.listeners.iter().any(|(listener, _)| deciding.contains(listener)) {
                for service in &route.services {
                    senders.entry(service).or_default().insert(&parent.gateway);
                }
            }
        }
    }
    senders
}

/// Whether policies decide on what is sent on behind a listener: TLS that passes through is never wrapped again.
fn begins_tls(listener: &Listener) -> bool {
    use ListenerProtocol::{Http, Https, Tcp, Tls};
    matches!(listener.protocol, Some(Http | Https | Tcp | Tls))
        && !matches!(listener.tls, ListenerTls::Passthrough)
}

/// The ports of a target.
fn find_ports(objects: &Objects, target: &Target) -> Vec<ServicePortKey> {
    let Some(spec) =
        objects.services.get(&target.service).and_then(|service: &Arc<Service>| service.spec.as_ref())
    else {
        return Vec::new();
    };
    let is_meant = |name: Option<&str>| target.section.as_deref().is_none_or(|section| name == Some(section));
    // TLS is of TCP: what UDP carries is left alone (GEP-1897).
    let of_tcp = spec.ports.iter().flatten().filter(|port| find_transport(port) == Some(Transport::Tcp));
    let meant = of_tcp.filter(|port| is_meant(port.name.as_deref()));
    let numbers = meant.filter_map(|port| u16::try_from(port.port).ok());
    numbers.map(|port| ServicePortKey::tcp(target.service.clone(), port)).collect()
}

/// How TLS is spoken. What leads nowhere is added to `unresolved`.
fn read_validation(
    objects: &Objects,
    key: &ObjectKey,
    validation: &BackendTlsPolicyValidation,
    unresolved: &mut Vec<Finding>,
) -> Result<BackendValidation, Finding> {
    let names = validation.subject_alt_names.iter().flatten().filter_map(|name| match name.r#type {
        AltNameType::Hostname => {
            name.hostname.as_deref().map(|name| BackendName::Dns(name.to_lowercase().into()))
        }
        AltNameType::Uri => name.uri.as_deref().map(|name| BackendName::Uri(name.into())),
    });
    let names = names.collect();
    let hostname = validation.hostname.to_lowercase().into();
    let authorities = match validation.well_known_ca_certificates.as_deref().filter(|name| !name.is_empty()) {
        Some("System") => BackendAuthorities::System,
        Some(other) => {
            let message = format!("validation.wellKnownCACertificates: {other} is not known");
            return Err((ConditionReason::Invalid, message));
        }
        None => {
            let authorities = read_authorities(objects, key, validation, unresolved);
            if authorities.is_empty() {
                return Err((ConditionReason::NoValidCACertificate, join_messages(unresolved)));
            }
            BackendAuthorities::Given(Arc::new(authorities))
        }
    };
    Ok(BackendValidation { hostname, names, authorities })
}

/// The authorities that can be read.
fn read_authorities(
    objects: &Objects,
    key: &ObjectKey,
    validation: &BackendTlsPolicyValidation,
    unresolved: &mut Vec<Finding>,
) -> RootCertStore {
    let mut authorities = RootCertStore::empty();
    let references = validation.ca_certificate_refs.as_deref().unwrap_or_default();
    if references.is_empty() {
        let none = "validation.caCertificateRefs: there is none".to_owned();
        unresolved.push((ConditionReason::InvalidCACertificateRef, none));
    }
    for (index, reference) in references.iter().enumerate() {
        let path = format!("validation.caCertificateRefs[{index}]");
        if !reference.group.is_empty() || reference.kind != "ConfigMap" {
            let message =
                format!("{path}: {} of group {:?} is no ConfigMap", reference.kind, reference.group);
            unresolved.push((ConditionReason::InvalidKind, message));
            continue;
        }
        match find_authorities(objects, &ObjectKey::new(&key.namespace, &reference.name), &path) {
            Ok(read) => authorities.extend(read.roots),
            Err(finding) => unresolved.push(finding),
        }
    }
    authorities
}
