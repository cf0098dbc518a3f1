//! What objects other than routes ask for and is not done: said, so that nothing is ignored in silence.

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use serde::Serialize;

use super::labels::{MESH_LABEL, MTLS_LABEL, PLAINTEXT_PORTS_ANNOTATION, parse_plaintext_ports};
use crate::cluster::objects::{ObjectKey, Objects};

/// Something that an object asks for and that is not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// The object's kind.
    pub kind: &'static str,
    /// The object.
    pub object: ObjectKey,
    /// The field's path.
    pub field: &'static str,
    /// What it says and what is done instead.
    pub message: String,
}

/// Everything that is asked for and not done, by kind and name.
pub(super) fn collect_notices(objects: &Objects) -> Vec<Notice> {
    let mut notices = Vec::new();
    for (key, namespace) in &objects.namespaces {
        notices.extend(namespace_notices(key, namespace));
    }
    for (key, service) in &objects.services {
        notices.extend(service_notices(key, service));
    }
    for (key, pod) in &objects.pods {
        notices.extend(pod_notice(key, pod));
    }
    notices
}

fn service_notices(key: &ObjectKey, service: &Service) -> Vec<Notice> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let notice = |field, message| Notice { kind: "Service", object: key.clone(), field, message };
    let mut notices = Vec::new();
    if let Some(affinity) = spec.session_affinity.as_deref().filter(|text| !matches!(*text, "" | "None")) {
        notices.push(notice(
            "spec.sessionAffinity",
            format!("{affinity} is not applied yet: every request may go to another endpoint"),
        ));
    }
    if let Some(distribution) = spec.traffic_distribution.as_deref().filter(|text| !text.is_empty()) {
        notices.push(notice(
            "spec.trafficDistribution",
            format!("{distribution} is not applied yet: all endpoints are taken alike"),
        ));
    }
    notices
}

fn namespace_notices(key: &ObjectKey, namespace: &Namespace) -> Vec<Notice> {
    let label = |name| namespace.metadata.labels.as_ref().and_then(|labels| labels.get(name));
    let known = [
        (MESH_LABEL, "metadata.labels[gammarus.io/mesh]", ["enabled", "disabled"]),
        (MTLS_LABEL, "metadata.labels[gammarus.io/mtls]", ["strict", "permissive"]),
    ];
    let mut notices = Vec::new();
    for (name, field, values) in known {
        let Some(value) = label(name).filter(|value| !values.contains(&value.as_str())) else { continue };
        let message =
            format!("{value} is neither {} nor {}: as if it was {}", values[0], values[1], values[1]);
        notices.push(Notice { kind: "Namespace", object: key.clone(), field, message });
    }
    notices
}

fn pod_notice(key: &ObjectKey, pod: &Pod) -> Option<Notice> {
    let text = pod.metadata.annotations.as_ref()?.get(PLAINTEXT_PORTS_ANNOTATION)?;
    let refused = parse_plaintext_ports(text).refused;
    (!refused.is_empty()).then(|| Notice {
        kind: "Pod",
        object: key.clone(),
        field: "metadata.annotations[gammarus.io/plaintext-ports]",
        message: format!("not port numbers, left out: {}", refused.join(", ")),
    })
}
