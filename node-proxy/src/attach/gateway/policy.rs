//! BackendTLSPolicies: which ports of Services a Gateway speaks TLS with, and whom it takes there (GEP-1897).
//!
//! A policy for a port by its name beats one for its whole Service; of two for the same, the older holds, then the first by
//! name. A policy that cannot be obeyed is not passed over: nobody is spoken to by its ports, rather than in plain text.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use rustls::RootCertStore;

use crate::attach::condition::{Condition, ConditionReason, ConditionStatus, ConditionType};
use crate::attach::find_transport;
use crate::cluster::api::backend_tls_policy::{
    BackendTlsPolicyValidation, BackendTlsPolicyValidationSubjectAltNamesType as AltNameType,
};
use crate::cluster::api::{BackendTlsPolicy, BackendTlsPolicySpec};
use crate::cluster::certificate::read_authorities;
use crate::cluster::objects::{ObjectKey, Objects};
use crate::route::Age;
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
#[derive(Clone, Debug)]
pub struct JudgedPolicy {
    /// Its `metadata.generation`.
    pub generation: Option<i64>,
    /// The ports that it holds for.
    pub ports: BTreeSet<ServicePortKey>,
    refusal: Option<(ConditionReason, String)>,
    unresolved: Option<(ConditionReason, String)>,
}

/// All policies, and what holds where.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// The policies.
    pub judged: BTreeMap<ObjectKey, JudgedPolicy>,
    /// Ports that are spoken to in TLS.
    pub ports: BTreeMap<ServicePortKey, PortPolicy>,
}

/// What a policy asks for: a Service, and perhaps one port of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    service: ObjectKey,
    section: Option<String>,
}

/// A policy on its way to its judgement.
struct Pending<'o> {
    key: &'o ObjectKey,
    policy: &'o BackendTlsPolicy,
    validation: Result<Arc<BackendValidation>, (ConditionReason, String)>,
    /// The targets that it has, those of a Service that is there.
    targets: Vec<Target>,
    /// Why it has no others.
    lost: Vec<(ConditionReason, String)>,
}

impl Policies {
    pub(super) fn new(objects: &Objects) -> Self {
        let mut pending: Vec<Pending<'_>> = objects
            .backend_tls_policies
            .iter()
            .map(|(key, policy)| Pending::new(objects, key, policy))
            .collect();
        pending.sort_by_cached_key(|pending| pending.age());
        let mut held: BTreeMap<Target, &ObjectKey> = BTreeMap::new();
        for one in &mut pending {
            one.take_targets(objects, &mut held);
        }
        let mut policies = Self::default();
        // Those of a whole Service first: what is said of one port comes over it.
        for by_section in [false, true] {
            for one in &pending {
                let own = one.targets.iter().filter(|target| target.section.is_some() == by_section);
                for port in own.flat_map(|target| find_ports(objects, target)) {
                    policies.ports.insert(port, one.validation.as_ref().ok().map(Arc::clone));
                }
            }
        }
        policies.judged = pending.into_iter().map(|one| (one.key.clone(), one.conclude(objects))).collect();
        policies
    }
}

impl<'o> Pending<'o> {
    fn new(objects: &Objects, key: &'o ObjectKey, policy: &'o BackendTlsPolicy) -> Self {
        let validation = read_validation(objects, key, &policy.spec.validation).map(Arc::new);
        Self { key, policy, validation, targets: Vec::new(), lost: Vec::new() }
    }

    fn age(&self) -> Age {
        let created = self.policy.metadata.creation_timestamp.as_ref();
        Age::of(created.map(|time| time.0.as_second()), self.key)
    }

    fn take_targets(&mut self, objects: &Objects, held: &mut BTreeMap<Target, &'o ObjectKey>) {
        let BackendTlsPolicySpec { target_refs, .. } = &self.policy.spec;
        for (index, reference) in target_refs.iter().enumerate() {
            let mut lose =
                |reason, message| self.lost.push((reason, format!("targetRefs[{index}]: {message}")));
            if !reference.group.is_empty() || reference.kind != "Service" {
                let message = format!("{} of group {:?} is no Service", reference.kind, reference.group);
                lose(ConditionReason::InvalidKind, message);
                continue;
            }
            let service = ObjectKey::new(&self.key.namespace, &reference.name);
            let target = Target { service, section: reference.section_name.clone() };
            if find_ports(objects, &target).is_empty() {
                let section = target.section.as_deref().unwrap_or("any port");
                lose(
                    ConditionReason::TargetNotFound,
                    format!("no Service {} with {section}", target.service),
                );
                continue;
            }
            match held.get(&target) {
                Some(other) => {
                    let message = format!("BackendTLSPolicy {other} is for the same and came first");
                    lose(ConditionReason::Conflicted, message);
                }
                None => {
                    held.insert(target.clone(), self.key);
                    self.targets.push(target);
                }
            }
        }
    }

    fn conclude(self, objects: &Objects) -> JudgedPolicy {
        let unresolved = self.validation.err();
        let refusal = match (&unresolved, self.lost.into_iter().next()) {
            (_, Some(lost)) if self.targets.is_empty() => Some(lost),
            (Some((_, message)), _) => Some((ConditionReason::NoValidCACertificate, message.clone())),
            (None, _) => None,
        };
        JudgedPolicy {
            generation: self.policy.metadata.generation,
            ports: self.targets.iter().flat_map(|target| find_ports(objects, target)).collect(),
            refusal,
            unresolved,
        }
    }
}

impl JudgedPolicy {
    /// `Accepted` and `ResolvedRefs`.
    #[must_use]
    pub fn conditions(&self) -> Vec<Condition> {
        let build = |kind, found: &Option<(ConditionReason, String)>, fine| {
            let (status, (reason, message)) = match found {
                Some(why) => (ConditionStatus::False, why.clone()),
                None => (ConditionStatus::True, (fine, String::new())),
            };
            Condition { kind, status, reason, message, observed_generation: self.generation }
        };
        vec![
            build(ConditionType::Accepted, &self.refusal, ConditionReason::Accepted),
            build(ConditionType::ResolvedRefs, &self.unresolved, ConditionReason::ResolvedRefs),
        ]
    }
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

fn read_validation(
    objects: &Objects,
    key: &ObjectKey,
    validation: &BackendTlsPolicyValidation,
) -> Result<BackendValidation, (ConditionReason, String)> {
    let names = validation.subject_alt_names.iter().flatten().filter_map(|name| match name.r#type {
        AltNameType::Hostname => {
            name.hostname.as_deref().map(|name| BackendName::Dns(name.to_lowercase().into()))
        }
        AltNameType::Uri => name.uri.as_deref().map(|name| BackendName::Uri(name.into())),
    });
    let names = names.collect();
    let hostname = validation.hostname.to_lowercase().into();
    let authorities = match validation.well_known_ca_certificates.as_deref() {
        Some("System") => BackendAuthorities::System,
        Some(other) => {
            let message = format!("validation.wellKnownCACertificates: {other} is not known");
            return Err((ConditionReason::InvalidCACertificateKind, message));
        }
        None => BackendAuthorities::Given(Arc::new(find_authorities(objects, key, validation)?)),
    };
    Ok(BackendValidation { hostname, names, authorities })
}

/// The authorities that can be read; why there are none, if there are none.
fn find_authorities(
    objects: &Objects,
    key: &ObjectKey,
    validation: &BackendTlsPolicyValidation,
) -> Result<RootCertStore, (ConditionReason, String)> {
    let mut authorities = RootCertStore::empty();
    let none = "validation.caCertificateRefs: there is none".to_owned();
    let mut why = (ConditionReason::InvalidCACertificateRef, none);
    for (index, reference) in validation.ca_certificate_refs.iter().flatten().enumerate() {
        let path = format!("validation.caCertificateRefs[{index}]");
        if !reference.group.is_empty() || reference.kind != "ConfigMap" {
            let message =
                format!("{path}: {} of group {:?} is no ConfigMap", reference.kind, reference.group);
            why = (ConditionReason::InvalidCACertificateKind, message);
            continue;
        }
        let name = ObjectKey::new(&key.namespace, &reference.name);
        let read = match objects.config_maps.get(&name) {
            Some(config_map) => read_authorities(config_map),
            None => Err("does not exist".to_owned()),
        };
        match read {
            Ok(read) => authorities.extend(read.roots),
            Err(error) => {
                let message = format!("{path}: ConfigMap {name}: {error}");
                why = (ConditionReason::InvalidCACertificateRef, message);
            }
        }
    }
    if authorities.is_empty() { Err(why) } else { Ok(authorities) }
}
