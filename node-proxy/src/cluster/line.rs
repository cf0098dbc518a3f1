//! One object as a line of JSON, `[kind, namespace, name, object]`: as a state is kept, and as a Gateway's proxy is fed.

use std::io::Write;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::objects::{Kind, Object, ObjectId, ObjectKey};
use super::schema::FieldError;
use super::typed;

/// Writes an object, without the end of the line.
pub(crate) fn write_line(out: &mut impl Write, id: &ObjectId, object: &Object) -> serde_json::Result<()> {
    let mut line = Line { out, id };
    match object {
        Object::BackendTlsPolicy(object) => line.write(&**object),
        Object::ConfigMap(object) => line.write(&**object),
        Object::EndpointSlice(object) => line.write(&**object),
        Object::Gateway(object) => line.write(&**object),
        Object::GatewayClass(object) => line.write(&**object),
        Object::GrpcRoute(object) => line.write(&**object),
        Object::HttpRoute(object) => line.write(&**object),
        Object::ListenerSet(object) => line.write(&**object),
        Object::Mark(object) => line.write(&**object),
        Object::Namespace(object) => line.write(&**object),
        Object::Node(object) => line.write(&**object),
        Object::Pod(object) => line.write(&**object),
        Object::ReferenceGrant(object) => line.write(&**object),
        Object::Secret(object) => line.write(&**object),
        Object::Service(object) => line.write(&**object),
        Object::TcpRoute(object) => line.write(&**object),
        Object::TlsRoute(object) => line.write(&**object),
        Object::UdpRoute(object) => line.write(&**object),
    }
}

struct Line<'a, W> {
    out: &'a mut W,
    id: &'a ObjectId,
}

impl<W: Write> Line<'_, W> {
    /// Erased: the code that writes is not there once more for each type.
    fn write(&mut self, object: &dyn erased_serde::Serialize) -> serde_json::Result<()> {
        let ObjectKey { namespace, name } = &self.id.key;
        serde_json::to_writer(&mut *self.out, &(self.id.kind.as_label(), namespace, name, object))
    }
}

/// Reads an object.
///
/// # Errors
/// What is wrong with it, and where.
pub(crate) fn read_line(line: &str) -> Result<(ObjectId, Object), String> {
    let (label, namespace, name, value): (String, String, String, Value) =
        serde_json::from_str(line).map_err(|error| error.to_string())?;
    let kind = read_kind(&label)?;
    let object =
        read_object(kind, value).map_err(|FieldError { field, message }| format!("{field}: {message}"))?;
    Ok((ObjectId { kind, key: ObjectKey::new(&namespace, &name) }, object))
}

/// A kind by its label.
///
/// # Errors
/// That there is none.
pub(crate) fn read_kind(label: &str) -> Result<Kind, String> {
    Kind::ALL.into_iter().find(|kind| kind.as_label() == label).ok_or_else(|| format!("{label} is no kind"))
}

fn read_object(kind: Kind, value: Value) -> Result<Object, FieldError> {
    fn shared<T: DeserializeOwned>(value: Value) -> Result<Arc<T>, FieldError> {
        typed::read(value, &mut |_| ()).map(Arc::new)
    }
    Ok(match kind {
        Kind::BackendTlsPolicy => Object::BackendTlsPolicy(shared(value)?),
        Kind::ConfigMap => Object::ConfigMap(shared(value)?),
        Kind::EndpointSlice => Object::EndpointSlice(shared(value)?),
        Kind::Gateway => Object::Gateway(shared(value)?),
        Kind::GatewayClass => Object::GatewayClass(shared(value)?),
        Kind::GrpcRoute => Object::GrpcRoute(shared(value)?),
        Kind::HttpRoute => Object::HttpRoute(shared(value)?),
        Kind::ListenerSet => Object::ListenerSet(shared(value)?),
        Kind::Mark => Object::Mark(Box::new(typed::read(value, &mut |_| ())?)),
        Kind::Namespace => Object::Namespace(shared(value)?),
        Kind::Node => Object::Node(shared(value)?),
        Kind::Pod => Object::Pod(shared(value)?),
        Kind::ReferenceGrant => Object::ReferenceGrant(shared(value)?),
        Kind::Secret => Object::Secret(shared(value)?),
        Kind::Service => Object::Service(shared(value)?),
        Kind::TcpRoute => Object::TcpRoute(shared(value)?),
        Kind::TlsRoute => Object::TlsRoute(shared(value)?),
        Kind::UdpRoute => Object::UdpRoute(shared(value)?),
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use serde_json::json;

    use super::*;

    #[test]
    fn another_releases_node_is_understood_and_understands_ours() {
        let whole = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1", "other": "x"}},
            "spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}, {"type": "Hostname", "address": "n1"}]},
        });
        let (id, read) = read_line(&json!(["Node", "", "n1", whole]).to_string()).unwrap();
        let mut written = Vec::new();
        write_line(&mut written, &id, &read).unwrap();
        let text = String::from_utf8(written).unwrap();
        assert!(!text.contains("other") && !text.contains("Hostname"), "{text}");
        let Object::Node(node) = &read else { panic!("{read:?}") };
        assert_eq!((node.zone.as_deref(), node.pod_ranges.len(), node.addresses.len()), (Some("z1"), 1, 1));
        assert_eq!(read_line(&text).unwrap(), (id, read));
        let (_, _, _, ours): (String, String, String, Node) = serde_json::from_str(&text).unwrap();
        let mut whole: Node = serde_json::from_value(whole).unwrap();
        whole.metadata.labels.as_mut().unwrap().remove("other");
        whole.status.as_mut().unwrap().addresses.as_mut().unwrap().pop();
        (whole.metadata.name, whole.spec.as_mut().unwrap().pod_cidr) = (None, None);
        assert_eq!(ours, whole);
    }
}
