//! What clients have to show on a port that ends TLS: certificates of which authorities, and whether none will do, too
//! (FrontendTLSValidation).

use std::sync::Arc;

use rustls::RootCertStore;

use super::grant::{Referrer, is_permitted};
use super::listener::Home;
use super::view::ValidationView;
use crate::attach::condition::ConditionReason;
use crate::cluster::certificate::read_authorities;
use crate::cluster::objects::{ObjectKey, Objects};

/// How clients' certificates are judged.
#[derive(Clone, Debug)]
pub struct Validation {
    /// Whom they have to be of.
    pub authorities: Arc<RootCertStore>,
    /// Whether one that fails, or none, is let in all the same (`AllowInsecureFallback`).
    pub is_fallback: bool,
}

impl Validation {
    pub(super) fn has_no_authority(&self) -> bool {
        self.authorities.is_empty()
    }
}

/// A validation with what of it leads nowhere.
pub(super) struct JudgedValidation {
    pub(super) validation: Validation,
    pub(super) unresolved: Vec<(ConditionReason, String)>,
}

/// Reads the authorities that a Gateway names. It is the Gateway that refers to them, also for its ListenerSets.
pub(super) fn judge_validation(home: Home<'_>, view: &ValidationView) -> JudgedValidation {
    let gateway = Referrer { kind: "Gateway", namespace: home.gateway_namespace };
    let mut authorities = RootCertStore::empty();
    let mut unresolved = Vec::new();
    for (index, reference) in view.authorities.iter().enumerate() {
        let path = format!("spec.tls.frontend.{}.caCertificateRefs[{index}]", view.path);
        if reference.kind != "ConfigMap" || !reference.group.is_empty() {
            let message =
                format!("{path}: {} of group {:?} is no ConfigMap", reference.kind, reference.group);
            unresolved.push((ConditionReason::InvalidCACertificateKind, message));
            continue;
        }
        let key = reference.target(gateway.namespace);
        if !is_permitted(home.objects, gateway, ("", "ConfigMap", &key)) {
            let message =
                format!("{path}: no ReferenceGrant of namespace {} allows ConfigMap {key}", key.namespace);
            unresolved.push((ConditionReason::RefNotPermitted, message));
            continue;
        }
        match find_authorities(home.objects, &key, &path) {
            Ok(read) => authorities.extend(read.roots),
            Err(finding) => unresolved.push(finding),
        }
    }
    let validation = Validation { authorities: Arc::new(authorities), is_fallback: view.is_fallback };
    JudgedValidation { validation, unresolved }
}

/// The authorities in a ConfigMap that `path` names; why there are none.
pub(super) fn find_authorities(
    objects: &Objects,
    key: &ObjectKey,
    path: &str,
) -> Result<RootCertStore, (ConditionReason, String)> {
    let read = match objects.config_maps.get(key) {
        Some(config_map) => read_authorities(config_map),
        None => Err("does not exist".to_owned()),
    };
    read.map_err(|error| {
        (ConditionReason::InvalidCACertificateRef, format!("{path}: ConfigMap {key}: {error}"))
    })
}
