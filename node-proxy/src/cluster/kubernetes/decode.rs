//! From an object as the API server sends it to what is kept of it.
//!
//! Pure. The server has validated it, by a schema that may be older or newer than ours: fields that nobody here
//! knows are passed over, but for those of routes, which are told. What does not fit our types is reported by kind,
//! name and field, and its neighbours are not touched.

use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::super::core_kinds::{Admit, Pod};
use super::super::objects::{
    Kind, MARK_ANNOTATION, MOST_ANCESTORS, Mark, Object, ObjectId, ObjectKey, PARAMETERS_KEY,
};
use super::super::report::{Report, Severity};
use super::super::schema::FieldError;
use super::super::typed;

/// Where `kubectl apply` keeps the whole object a second time.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// One object, read.
#[derive(Debug)]
pub(super) struct Item {
    /// Its namespace and name.
    pub(super) key: ObjectKey,
    /// What it is: a Pod is itself and its mark, all else one thing.
    pub(super) parts: Vec<(Kind, Part)>,
    /// What there is to say about it.
    pub(super) reports: Vec<Report>,
    /// When it was last written, to the second, by the clock of who keeps `managedFields`.
    pub(super) written: Option<SystemTime>,
}

/// What one part of an object turned out to be.
#[derive(Debug, PartialEq)]
pub(super) enum Part {
    /// It cannot be understood: what it last was stays.
    Broken,
    /// It is this.
    Good(Object),
    /// It is not there.
    None,
}

/// Reads the name of an object, wherever it comes from.
pub(super) fn read_key(value: &Value) -> Option<ObjectKey> {
    let text = |field: &str| value.get("metadata")?.get(field)?.as_str();
    Some(ObjectKey::new(text("namespace").unwrap_or_default(), text("name")?))
}

/// Reads an object of a kind. `None` for what has no name, which nothing that is stored is without.
pub(super) fn read_item(kind: Kind, mut value: Value) -> Option<Item> {
    let key = read_key(&value)?;
    let mut item = Item { key, parts: Vec::with_capacity(2), reports: Vec::new(), written: written(&value) };
    let mark = trim(kind, &mut value);
    let object = item.read_object(kind, value);
    item.parts.push((kind, object));
    if kind == Kind::Pod {
        let mark = item.read_mark(mark);
        item.parts.push((Kind::Mark, mark));
    }
    Some(item)
}

impl Item {
    fn read_object(&mut self, kind: Kind, value: Value) -> Part {
        let object = match kind {
            Kind::BackendTlsPolicy => self.custom(kind, value).map(Object::BackendTlsPolicy),
            Kind::ConfigMap => core(value).map(Object::ConfigMap),
            Kind::EndpointSlice => core::<EndpointSlice>(value)
                .map(|slice| Object::EndpointSlice(Arc::new(slice.as_ref().into()))),
            Kind::Gateway => self.custom(kind, value).map(Object::Gateway),
            Kind::GatewayClass => self.custom(kind, value).map(Object::GatewayClass),
            Kind::GrpcRoute => self.custom(kind, value).map(Object::GrpcRoute),
            Kind::HttpRoute => self.custom(kind, value).map(Object::HttpRoute),
            Kind::ListenerSet => self.custom(kind, value).map(Object::ListenerSet),
            Kind::Mark => return Part::None,
            Kind::Namespace => core(value).map(Object::Namespace),
            Kind::Node => core::<Node>(value).map(|node| Object::Node(Arc::new(node.as_ref().into()))),
            Kind::Pod => core::<Pod>(value).map(|pod| Object::Pod(Arc::new(pod.as_ref().into()))),
            Kind::ReferenceGrant => self.custom(kind, value).map(Object::ReferenceGrant),
            Kind::Secret => core(value).map(Object::Secret),
            Kind::Service => core(value).map(Object::Service),
            Kind::TcpRoute => self.custom(kind, value).map(Object::TcpRoute),
            Kind::TlsRoute => self.custom(kind, value).map(Object::TlsRoute),
            Kind::UdpRoute => self.custom(kind, value).map(Object::UdpRoute),
        };
        match object {
            Ok(object) => Part::Good(object),
            Err(error) => {
                self.report(kind, Severity::Error, error);
                Part::Broken
            }
        }
    }

    /// A mark that cannot be read leaves the last one: a pod that was proven to be captured is not spoken to in plain
    /// text for want of a readable text.
    fn read_mark(&mut self, text: Option<Value>) -> Part {
        let Some(text) = text else { return Part::None };
        match serde_json::from_str::<Mark>(text.as_str().unwrap_or_default()) {
            Ok(mark) => Part::Good(Object::Mark(Box::new(mark))),
            Err(error) => {
                let field = format!("metadata.annotations[{MARK_ANNOTATION}]");
                self.report(Kind::Pod, Severity::Error, FieldError::new(field, error.to_string()));
                Part::Broken
            }
        }
    }

    /// An object of the Gateway API: a field of its spec that is not known here may ask for something that is then not
    /// done, and is told.
    fn custom<T: DeserializeOwned>(&mut self, kind: Kind, value: Value) -> Result<Arc<T>, FieldError> {
        let mut unknown = Vec::new();
        let object = typed::read(value, &mut |field| {
            if field.starts_with("spec.") {
                unknown.push(field);
            }
        })?;
        for field in unknown {
            let message = "is not a field that is known here, and is left out";
            self.report(kind, Severity::Warning, FieldError::new(field, message));
        }
        Ok(Arc::new(object))
    }

    fn report(&mut self, kind: Kind, severity: Severity, error: FieldError) {
        self.reports.push(Report {
            file: None,
            object: Some(ObjectId { kind, key: self.key.clone() }.to_string()),
            field: Some(error.field).filter(|field| !field.is_empty()),
            severity,
            message: error.message,
        });
    }
}

/// An object of a core kind, with what the API server of another version may have left out.
fn core<T: DeserializeOwned + Admit>(value: Value) -> Result<Arc<T>, FieldError> {
    let mut object: T = typed::read(value, &mut |_| ())?;
    object.apply_defaults();
    Ok(Arc::new(object))
}

/// Takes out what nobody here asks for, so that it is never held, and a change of nothing else is no change. Gives back
/// the text of a Pod's mark.
fn trim(kind: Kind, value: &mut Value) -> Option<Value> {
    let fields = value.as_object_mut()?;
    // What is watched is of the version that was asked for, and those have one shape.
    fields.remove("apiVersion");
    fields.remove("kind");
    let mark = fields.get_mut("metadata").and_then(Value::as_object_mut).and_then(trim_metadata);
    match kind {
        Kind::Node => keep_of_status(fields, "addresses"),
        Kind::Service => keep_of_status(fields, "loadBalancer"),
        Kind::ConfigMap => keep_data(fields, &["ca.crt", PARAMETERS_KEY]),
        Kind::Secret => keep_data(fields, &["tls.crt", "tls.key"]),
        Kind::BackendTlsPolicy => keep_ancestors_that_are_full(fields),
        Kind::Gateway
        | Kind::GatewayClass
        | Kind::GrpcRoute
        | Kind::HttpRoute
        | Kind::ListenerSet
        | Kind::Namespace
        | Kind::TcpRoute
        | Kind::TlsRoute
        | Kind::UdpRoute => {
            fields.remove("status");
        }
        _ => {}
    }
    mark
}

fn trim_metadata(metadata: &mut Map<String, Value>) -> Option<Value> {
    for field in ["managedFields", "resourceVersion", "selfLink"] {
        metadata.remove(field);
    }
    let annotations = metadata.get_mut("annotations")?.as_object_mut()?;
    annotations.remove(LAST_APPLIED);
    annotations.remove(MARK_ANNOTATION)
}

fn keep_of_status(fields: &mut Map<String, Value>, name: &str) {
    if let Some(status) = fields.get_mut("status").and_then(Value::as_object_mut) {
        status.retain(|field, _| field == name);
    }
}

/// Of a policy's status it counts whom it names once it has no room for others, and nothing of what it says of them.
fn keep_ancestors_that_are_full(fields: &mut Map<String, Value>) {
    let status = fields.remove("status");
    let entries = status.as_ref().and_then(|status| status["ancestors"].as_array());
    let Some(entries) = entries.filter(|entries| entries.len() >= MOST_ANCESTORS) else { return };
    let name = |entry: &Value| json!({ "controllerName": entry["controllerName"], "ancestorRef": entry["ancestorRef"], "conditions": [] });
    let names: Value = entries.iter().map(name).collect();
    fields.insert("status".to_owned(), json!({ "ancestors": names }));
}

/// Of Secrets and ConfigMaps nothing is read but certificates and parameters, and others may be as large as objects get.
fn keep_data(fields: &mut Map<String, Value>, names: &[&str]) {
    fields.remove("binaryData");
    if let Some(data) = fields.get_mut("data").and_then(Value::as_object_mut) {
        data.retain(|name, _| names.contains(&name.as_str()));
    }
}

/// The latest time that an object was written at, as those who wrote it have left it.
fn written(value: &Value) -> Option<SystemTime> {
    let managed = value.pointer("/metadata/managedFields")?.as_array()?;
    let times = managed.iter().filter_map(|entry| entry.get("time")?.as_str());
    // RFC 3339 in UTC sorts as text.
    let latest = times.max()?;
    OffsetDateTime::parse(latest, &Rfc3339).ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(item: &Item, kind: Kind) -> Object {
        let part = item.parts.iter().find(|(known, _)| *known == kind).map(|(_, part)| part);
        let Some(Part::Good(object)) = part else { panic!("no {kind:?} in {item:?}") };
        object.clone()
    }

    fn pod(annotations: &Value) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "web", "namespace": "shop", "uid": "u1", "resourceVersion": "7",
                "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": "web"},
                "annotations": annotations,
                "managedFields": [
                    {"manager": "a", "time": "2026-01-01T00:00:05Z", "fieldsV1": {"f:x": {}}},
                    {"manager": "b", "time": "2026-01-01T00:00:03Z", "fieldsV1": {}},
                ],
            },
            "spec": {"nodeName": "n1", "containers": [{"name": "a", "image": "i", "ports": [{"name": "http", "containerPort": 8080}], "aFieldOfTomorrow": 1}]},
            "status": {"podIP": "10.0.0.1", "phase": "Running"},
        })
    }

    #[test]
    fn a_pod_is_trimmed_and_its_mark_stands_beside_it() {
        let mark = r#"{"uid":"u1","addresses":["10.0.0.1"]}"#;
        let with = json!({"gammarus.io/enrolled": mark, "gammarus.io/plaintext-ports": "9090", "else": "x"});
        let item = read_item(Kind::Pod, pod(&with)).unwrap();
        assert_eq!((&*item.key.namespace, &*item.key.name, item.reports.len()), ("shop", "web", 0));
        let Object::Pod(trimmed) = good(&item, Kind::Pod) else { panic!("{item:?}") };
        assert_eq!(trimmed.annotations.iter().collect::<Vec<_>>(), [("gammarus.io/plaintext-ports", "9090")]);
        assert_eq!((trimmed.addresses.len(), trimmed.node.as_deref()), (1, Some("n1")));
        assert_eq!(trimmed.service_account.as_deref(), Some("default"), "as the API server has it");
        let Object::Mark(read) = good(&item, Kind::Mark) else { panic!("{item:?}") };
        assert_eq!(*read, serde_json::from_str(mark).unwrap());
        let written = item.written.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(written.as_secs(), 1_767_225_605, "the latest of all who wrote");
    }

    #[test]
    fn a_mark_that_cannot_be_read_is_reported_and_the_pod_is_taken() {
        let item = read_item(Kind::Pod, pod(&json!({"gammarus.io/enrolled": "{"})));
        let item = item.unwrap();
        good(&item, Kind::Pod);
        assert_eq!(item.parts[1], (Kind::Mark, Part::Broken));
        let said = item.reports[0].to_string();
        assert!(said.starts_with("Pod shop/web: metadata.annotations[gammarus.io/enrolled]: EOF"), "{said}");
        let item = read_item(Kind::Pod, pod(&json!({}))).unwrap();
        assert_eq!(item.parts[1], (Kind::Mark, Part::None));
    }

    #[test]
    fn a_node_keeps_zone_ranges_and_addresses_and_not_its_heartbeat() {
        let node = |time: &str| {
            json!({
                "metadata": {
                    "name": "n1", "resourceVersion": time,
                    "labels": {"topology.kubernetes.io/zone": "z1", "kubernetes.io/hostname": "n1"},
                    "annotations": {"written": time},
                },
                "spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24", "fd00:1::/64"], "taints": []},
                "status": {
                    "addresses": [
                        {"type": "InternalIP", "address": "192.168.0.1"}, {"type": "Hostname", "address": "n1"},
                        {"type": "ExternalIP", "address": "2001:db8::1"}, {"type": "InternalDNS", "address": "n1.example"},
                    ],
                    "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": time}],
                    "images": [{"names": ["a"], "sizeBytes": 1}],
                },
            })
        };
        let read = |time| good(&read_item(Kind::Node, node(time)).unwrap(), Kind::Node);
        let Object::Node(kept) = read("2026-01-01T00:00:00Z") else { panic!("no Node") };
        let text = |list: &[_]| format!("{list:?}");
        let ranges: Vec<String> = kept.pod_ranges.iter().map(ToString::to_string).collect();
        assert_eq!(
            (kept.zone.as_deref(), ranges.join(" ")),
            (Some("z1"), "10.0.0.0/24 fd00:1::/64".to_owned())
        );
        assert_eq!(text(&kept.addresses), "[192.168.0.1, 2001:db8::1]");
        assert_eq!(read("2026-01-01T00:00:00Z"), read("2026-01-01T00:05:00Z"));
    }

    fn route(version: &str, filter: &str) -> Value {
        json!({
            "metadata": {"name": "r", "namespace": "shop", "resourceVersion": version, "generation": 3},
            "spec": {
                "rules": [{"filters": [{"type": filter}], "of": "tomorrow"}],
            },
            "status": {"parents": [{
                "controllerName": version, "conditions": [],
                "parentRef": {"name": "web"},
            }]},
        })
    }

    #[test]
    fn a_change_of_a_routes_status_is_none_and_a_field_of_tomorrow_is_told() {
        let read = |version| {
            let item = read_item(Kind::HttpRoute, route(version, "RequestMirror")).unwrap();
            (good(&item, Kind::HttpRoute), item.reports)
        };
        let (one, reports) = read("1");
        assert_eq!(one, read("2").0);
        let Object::HttpRoute(one) = one else { panic!("{one:?}") };
        assert_eq!(one.metadata.generation, Some(3));
        let said: Vec<String> = reports.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            ["HTTPRoute shop/r: spec.rules[0].of: is not a field that is known here, and is left out"]
        );
    }

    #[test]
    fn of_what_an_ingress_is_made_of_the_users_own_is_kept() {
        let kinds =
            [Kind::BackendTlsPolicy, Kind::Gateway, Kind::GatewayClass, Kind::ListenerSet, Kind::UdpRoute];
        let documents: Vec<Value> = serde_saphyr::from_multiple(include_str!("../tests/whole.yaml")).unwrap();
        for document in documents {
            let kind = kinds.into_iter().find(|kind| document["kind"] == kind.as_label()).unwrap();
            let read = |version: &str, field: &str| {
                let mut value = document.clone();
                value["metadata"]["resourceVersion"] = json!(version);
                value["metadata"]["managedFields"] = json!([{"manager": version}]);
                value["status"] = json!(version);
                value["spec"][field] = json!(version);
                let item = read_item(kind, value).unwrap();
                (good(&item, kind), item.reports.iter().map(ToString::to_string).collect::<Vec<_>>())
            };
            let (one, said) = read("1", "ofTomorrow");
            let unknown = format!("{} {}: spec.ofTomorrow: is not a field", kind.as_label(), key(&document));
            assert!(said.len() == 1 && said[0].starts_with(&unknown), "{said:?}");
            assert_eq!(one, read("2", "ofTomorrow").0);
        }
    }

    #[test]
    fn of_a_policys_status_the_names_are_kept_where_there_is_room_for_no_more() {
        let read = |count: usize, message: &str| {
            let entry = |number: usize| {
                json!({"controllerName": "example.com/other", "ancestorRef": {"name": number.to_string()},
                       "conditions": [{"type": "Accepted", "message": message}]})
            };
            let policy = json!({
                "metadata": {"name": "p", "namespace": "shop"},
                "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "web"}], "validation": {"hostname": "a.example"}},
                "status": {"ancestors": (0..count).map(entry).collect::<Vec<_>>()},
            });
            good(&read_item(Kind::BackendTlsPolicy, policy).unwrap(), Kind::BackendTlsPolicy)
        };
        assert_eq!(read(0, "a"), read(15, "b"), "a change of a status is none while there is room");
        assert_eq!(read(16, "a"), read(16, "b"), "nor is one of what is said");
        let Object::BackendTlsPolicy(policy) = read(16, "a") else { panic!("no policy") };
        let entries = &policy.status.as_ref().unwrap().ancestors;
        assert_eq!((entries.len(), &*entries[15].ancestor_ref.name), (16, "15"));
        assert_eq!(&*entries[15].controller_name, "example.com/other");
    }

    #[test]
    fn of_secrets_and_config_maps_certificates_and_parameters_are_kept_and_nothing_else() {
        let metadata = json!({"name": "a", "namespace": "shop"});
        let secret = json!({"metadata": metadata, "type": "kubernetes.io/tls",
            "data": {"tls.crt": "YQ==", "tls.key": "Yg==", "password": "Yw=="}});
        let Object::Secret(secret) = good(&read_item(Kind::Secret, secret).unwrap(), Kind::Secret) else {
            panic!("no Secret")
        };
        let names: Vec<&String> = secret.data.as_ref().unwrap().keys().collect();
        assert_eq!(names, ["tls.crt", "tls.key"]);
        let config_map = json!({"metadata": metadata, "data": {"ca.crt": "a", "gateway.yaml": "c", "page": "b"}, "binaryData": {"c": "YQ=="}});
        let Object::ConfigMap(kept) = good(&read_item(Kind::ConfigMap, config_map).unwrap(), Kind::ConfigMap)
        else {
            panic!("no ConfigMap")
        };
        let names: Vec<&String> = kept.data.as_ref().unwrap().keys().collect();
        assert_eq!(names, ["ca.crt", "gateway.yaml"]);
        assert_eq!(kept.binary_data, None);
    }

    fn key(document: &Value) -> ObjectKey {
        read_key(document).unwrap()
    }

    #[test]
    fn what_does_not_fit_is_named_by_its_field() {
        let item = read_item(Kind::HttpRoute, route("1", "OfTomorrow")).unwrap();
        assert_eq!(item.parts, [(Kind::HttpRoute, Part::Broken)]);
        let said = item.reports[0].to_string();
        let wanted = "HTTPRoute shop/r: spec.rules[0].filters[0].type: unknown variant `OfTomorrow`";
        assert!(said.starts_with(wanted), "{said}");
        assert_eq!(item.reports[0].severity, Severity::Error);
        assert!(read_item(Kind::Pod, json!({"metadata": {}})).is_none());
    }
}
