//! What objects other than routes ask for and is not done: said, so that nothing is ignored in silence.

use k8s_openapi::api::core::v1::Namespace;
use serde::Serialize;

use super::labels::{MESH_LABEL, MTLS_LABEL, PLAINTEXT_PORTS_ANNOTATION, parse_plaintext_ports};
use crate::cluster::objects::{Kind, ObjectKey, Objects};
use crate::cluster::trimmed::Pod;

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

/// Everything that one object asks for and that is not done; nothing once it has gone.
pub(super) fn collect_notices(objects: &Objects, kind: Kind, key: &ObjectKey) -> Vec<Notice> {
    let found = match kind {
        Kind::Namespace => objects.namespaces.get(key).map(|namespace| namespace_notices(key, namespace)),
        Kind::Pod => objects.pods.get(key).map(|pod| pod_notice(key, pod).into_iter().collect()),
        Kind::BackendTlsPolicy
        | Kind::ConfigMap
        | Kind::EndpointSlice
        | Kind::Gateway
        | Kind::GatewayClass
        | Kind::GrpcRoute
        | Kind::HttpRoute
        | Kind::ListenerSet
        | Kind::Mark
        | Kind::Node
        | Kind::ReferenceGrant
        | Kind::Secret
        | Kind::Service
        | Kind::TcpRoute
        | Kind::TlsRoute
        | Kind::UdpRoute => None,
    };
    found.unwrap_or_default()
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
    let text = pod.annotations.find(PLAINTEXT_PORTS_ANNOTATION)?;
    let refused = parse_plaintext_ports(text).refused;
    (!refused.is_empty()).then(|| Notice {
        kind: "Pod",
        object: key.clone(),
        field: "metadata.annotations[gammarus.io/plaintext-ports]",
        message: format!("not port numbers, left out: {}", refused.join(", ")),
    })
}
