//! From the text of one file to objects and reports: documents, lists, kinds, types.
//!
//! Pure. It judges each document by itself, so that a broken one does not hold up its neighbours; what a
//! broken object was before is the directory's business.

use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::core_kinds::{Admit, Pod};
use super::name::{is_label, is_subdomain};
use super::objects::{Kind, Mark, Object, ObjectId, ObjectKey};
use super::report::{Report, Severity};
use super::schema::{FieldError, Schemas};
use super::typed;

/// What one document of a file turned out to be.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// A good object.
    Good(ObjectId, Box<Object>),
    /// An object that was refused.
    Broken(ObjectId),
    /// Something broken of which it cannot be said which object it is.
    Unreadable,
}

/// A file, read.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Its documents, in their order.
    pub(super) outcomes: Vec<Outcome>,
    /// What there is to say about them.
    pub(super) reports: Vec<Report>,
}

/// Reads the text of a file with objects.
pub(super) fn read_objects(schemas: &Schemas, file: &Path, text: &str) -> Content {
    let text = text.trim_start_matches('\u{feff}');
    let mut reader = Reader { schemas, file, content: Content::default() };
    if file.extension().is_some_and(|extension| extension == "json") {
        match serde_json::from_str(text) {
            Ok(value) => reader.read_value(value, "document 1 (line 1)"),
            Err(error) => reader.unreadable("document 1 (line 1)", error.to_string()),
        }
        return reader.content;
    }
    for (index, (line, document)) in split_documents(text).into_iter().enumerate() {
        let label = format!("document {} (line {line})", index + 1);
        match serde_saphyr::from_str::<Value>(document) {
            Ok(value) => reader.read_value(value, &label),
            Err(error) => reader.unreadable(&label, syntax_message(&error, line)),
        }
    }
    reader.content
}

/// Reads a text that is one YAML document.
///
/// # Errors
/// The parser's words, with line and column.
pub(crate) fn read_yaml(text: &str) -> Result<Value, String> {
    serde_saphyr::from_str(text).map_err(|error| syntax_message(&error, 1))
}

/// Reads the text of the file that holds the mark of the pod `key`.
pub(super) fn read_mark(file: &Path, key: ObjectKey, text: &str) -> Content {
    let id = ObjectId { kind: Kind::Mark, key };
    match serde_saphyr::from_str::<Mark>(text) {
        Ok(mark) => Content {
            outcomes: vec![Outcome::Good(id, Box::new(Object::Mark(Box::new(mark))))],
            reports: Vec::new(),
        },
        Err(error) => {
            let report = Report {
                file: Some(file.to_owned()),
                object: Some(id.to_string()),
                field: None,
                severity: Severity::Error,
                message: syntax_message(&error, 1),
            };
            Content { outcomes: vec![Outcome::Broken(id)], reports: vec![report] }
        }
    }
}

/// The documents of a stream with the lines they begin at, without those that hold nothing.
///
/// A line that begins with `---` always ends a document, whatever it stands in (YAML 1.2 section 9.1.2).
fn split_documents(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    let mut empty = true;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let rest = line.trim_end().strip_prefix("---");
        let marker = rest.filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t']));
        if marker.is_some() {
            if !empty {
                documents.push((start_line, &text[start..offset]));
            }
            (start, start_line, empty) = (offset, index + 1, true);
        }
        let said = marker.unwrap_or(line).trim();
        empty &= said.is_empty() || said.starts_with(['#', '%']) || said == "...";
        offset += line.len();
    }
    if !empty {
        documents.push((start_line, &text[start..]));
    }
    documents
}

/// A parser's message, with the line counted from the start of the file.
fn syntax_message(error: &serde_saphyr::Error, first_line: usize) -> String {
    let error = error.without_snippet();
    let rendered = error.to_string();
    let message = rendered.lines().next().unwrap_or_default();
    let Some(location) = error.location() else { return message.to_owned() };
    let (line, column) = (location.line(), location.column());
    let message = message
        .replace(&format!(" at line {line}, column {column}"), "")
        .replace(&format!("error: line {line} column {column}: "), "");
    let line = usize::try_from(line).unwrap_or_default() + first_line - 1;
    format!("line {line}, column {column}: {message}")
}

struct Reader<'a> {
    schemas: &'a Schemas,
    file: &'a Path,
    content: Content,
}

/// An object of a known kind, on its way to its type.
struct Draft {
    id: ObjectId,
    value: Value,
}

impl Reader<'_> {
    fn report(&mut self, object: &str, severity: Severity, error: FieldError) {
        self.content.reports.push(Report {
            file: Some(self.file.to_owned()),
            object: Some(object.to_owned()),
            field: Some(error.field).filter(|field| !field.is_empty()),
            severity,
            message: error.message,
        });
    }

    fn unreadable(&mut self, label: &str, message: String) {
        self.report(label, Severity::Error, FieldError::new("", message));
        self.content.outcomes.push(Outcome::Unreadable);
    }

    fn read_value(&mut self, mut value: Value, label: &str) {
        if value.is_null() {
            return;
        }
        let text = |field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
        let (Some(kind), Some(api_version)) = (text("kind"), text("apiVersion")) else {
            let missing = if text("kind").is_none() { "kind" } else { "apiVersion" };
            self.report(label, Severity::Error, FieldError::new(missing, "is required"));
            self.content.outcomes.push(Outcome::Unreadable);
            return;
        };
        if kind.ends_with("List") && value.get("items").is_some_and(Value::is_array) {
            if let Some(Value::Array(items)) = value.get_mut("items").map(Value::take) {
                for (index, item) in items.into_iter().enumerate() {
                    self.read_value(item, &format!("{label}, items[{index}]"));
                }
            }
            return;
        }
        let Some(known) = find_kind(&kind, &api_version) else {
            self.pass_over(&kind, &api_version, &value, label);
            return;
        };
        match read_key(known, &value) {
            Ok(key) => {
                fill_namespace(&mut value, &key);
                self.read_object(Draft { id: ObjectId { kind: known, key }, value }, &api_version);
            }
            Err(error) => {
                self.report(&format!("{kind}, {label}"), Severity::Error, error);
                self.content.outcomes.push(Outcome::Unreadable);
            }
        }
    }

    /// Says of a document that it is of a kind that nothing here reads.
    fn pass_over(&mut self, kind: &str, api_version: &str, value: &Value, label: &str) {
        let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or(label);
        let namespace = value.pointer("/metadata/namespace").and_then(Value::as_str);
        let key = ObjectKey::new(namespace.unwrap_or_default(), name);
        let message = format!("kind {kind} of {api_version} is not read yet");
        self.report(&format!("{kind} {key}"), Severity::Warning, FieldError::new("", message));
    }

    /// What `apiVersion` an object of a kind may have.
    fn versions(&self, kind: Kind) -> Vec<&str> {
        match kind {
            Kind::EndpointSlice => vec!["discovery.k8s.io/v1"],
            _ => match self.schemas.versions(kind.as_label()).collect::<Vec<_>>() {
                none if none.is_empty() => vec!["v1"],
                versions => versions,
            },
        }
    }

    /// Refuses an object of a version that is not read, rather than taking it for one that has gone.
    fn accept_version(&mut self, id: &ObjectId, api_version: &str) -> bool {
        let versions = self.versions(id.kind);
        if versions.contains(&api_version) {
            return true;
        }
        let message = format!("must be {}, is {api_version:?}", versions.join(" or "));
        self.report(&id.to_string(), Severity::Error, FieldError::new("apiVersion", message));
        false
    }

    fn read_object(&mut self, draft: Draft, api_version: &str) {
        let id = draft.id.clone();
        if !self.accept_version(&id, api_version) {
            self.content.outcomes.push(Outcome::Broken(id));
            return;
        }
        let object = match id.kind {
            Kind::BackendTlsPolicy => self.admit_custom(draft, api_version).map(Object::BackendTlsPolicy),
            Kind::ConfigMap => self.admit_core(draft).map(Object::ConfigMap),
            Kind::EndpointSlice => {
                let slice = self.admit_core::<EndpointSlice>(draft);
                slice.map(|slice| Object::EndpointSlice(Arc::new(slice.as_ref().into())))
            }
            Kind::Gateway => self.admit_custom(draft, api_version).map(Object::Gateway),
            Kind::GatewayClass => self.admit_custom(draft, api_version).map(Object::GatewayClass),
            Kind::GrpcRoute => self.admit_custom(draft, api_version).map(Object::GrpcRoute),
            Kind::HttpRoute => self.admit_custom(draft, api_version).map(Object::HttpRoute),
            Kind::ListenerSet => self.admit_custom(draft, api_version).map(Object::ListenerSet),
            Kind::Mark => None,
            Kind::Namespace => self.admit_core(draft).map(Object::Namespace),
            Kind::Node => {
                let node = self.admit_core::<Node>(draft);
                node.map(|node| Object::Node(Arc::new(node.as_ref().into())))
            }
            Kind::Pod => {
                let pod = self.admit_core::<Pod>(draft);
                pod.map(|pod| Object::Pod(Arc::new(pod.as_ref().into())))
            }
            Kind::ReferenceGrant => self.admit_custom(draft, api_version).map(Object::ReferenceGrant),
            Kind::Secret => self.admit_core(draft).map(Object::Secret),
            Kind::Service => self.admit_core(draft).map(Object::Service),
            Kind::TcpRoute => self.admit_custom(draft, api_version).map(Object::TcpRoute),
            Kind::TlsRoute => self.admit_custom(draft, api_version).map(Object::TlsRoute),
            Kind::UdpRoute => self.admit_custom(draft, api_version).map(Object::UdpRoute),
        };
        self.content.outcomes.push(match object {
            Some(object) => Outcome::Good(id, Box::new(object)),
            None => Outcome::Broken(id),
        });
    }

    /// An object of a core kind: its type decides about fields, then come the API server's checks.
    fn admit_core<T: DeserializeOwned + Admit>(&mut self, draft: Draft) -> Option<Arc<T>> {
        let label = draft.id.to_string();
        let mut object: T = self.parse(draft, T::passes_over)?;
        object.apply_defaults();
        let mut errors = Vec::new();
        object.check(&mut errors);
        if let Some(doubt) = object.find_doubt() {
            self.report(&label, Severity::Warning, doubt);
        }
        self.accept(&label, errors).then(|| Arc::new(object))
    }

    /// An object of a Gateway API kind: its CRD decides about everything below `spec`.
    fn admit_custom<T: DeserializeOwned>(&mut self, mut draft: Draft, api_version: &str) -> Option<Arc<T>> {
        let label = draft.id.to_string();
        let verdict = self.schemas.admit(draft.id.kind.as_label(), api_version, &mut draft.value);
        for field in verdict.unknown {
            self.report(&label, Severity::Warning, unknown_field(field));
        }
        if !self.accept(&label, verdict.errors) {
            return None;
        }
        // The typed object has neither, as all served versions of a kind have one shape. What an older one lets be
        // left out is missed below.
        if let Value::Object(fields) = &mut draft.value {
            fields.remove("apiVersion");
            fields.remove("kind");
        }
        self.parse(draft, |_| false).map(Arc::new)
    }

    fn accept(&mut self, label: &str, errors: Vec<FieldError>) -> bool {
        let good = errors.is_empty();
        for error in errors {
            self.report(label, Severity::Error, error);
        }
        good
    }

    fn parse<T: DeserializeOwned>(&mut self, draft: Draft, passes_over: fn(&str) -> bool) -> Option<T> {
        let label = &draft.id.to_string();
        let mut unknown = Vec::new();
        let parsed = typed::read(draft.value, &mut |field| unknown.push(field));
        for field in unknown.into_iter().filter(|field| !passes_over(field)) {
            self.report(label, Severity::Warning, unknown_field(field));
        }
        match parsed {
            Ok(object) => Some(object),
            Err(error) => {
                let message = match draft.id.kind {
                    // The parser's message quotes what it found.
                    Kind::Secret => "has the wrong type or is no base64".to_owned(),
                    _ => error.message,
                };
                self.report(label, Severity::Error, FieldError { message, ..error });
                None
            }
        }
    }
}

/// The kind of ours that a document is of, or is meant to be of: its version may be one that is not read.
fn find_kind(kind: &str, api_version: &str) -> Option<Kind> {
    Some(match kind {
        "BackendTLSPolicy" => Kind::BackendTlsPolicy,
        "EndpointSlice" => Kind::EndpointSlice,
        "GatewayClass" => Kind::GatewayClass,
        "GRPCRoute" => Kind::GrpcRoute,
        "HTTPRoute" => Kind::HttpRoute,
        "ListenerSet" => Kind::ListenerSet,
        "ReferenceGrant" => Kind::ReferenceGrant,
        "TCPRoute" => Kind::TcpRoute,
        "TLSRoute" => Kind::TlsRoute,
        "UDPRoute" => Kind::UdpRoute,
        "Gateway" if api_version.starts_with("gateway.networking.k8s.io/") => Kind::Gateway,
        // These names are common: in a domain's group they are another API's, such as Knative's Service or Istio's Gateway.
        _ if api_version.contains('.') => return None,
        "ConfigMap" => Kind::ConfigMap,
        "Gateway" => Kind::Gateway,
        "Namespace" => Kind::Namespace,
        "Node" => Kind::Node,
        "Pod" => Kind::Pod,
        "Secret" => Kind::Secret,
        "Service" => Kind::Service,
        _ => return None,
    })
}

fn unknown_field(field: String) -> FieldError {
    FieldError { field, message: "is not a field of this kind, and is left out".to_owned() }
}

/// The namespace and name of an object, as the API server would take them.
fn read_key(kind: Kind, value: &Value) -> Result<ObjectKey, FieldError> {
    let metadata = value.get("metadata").cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    let name = metadata.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| FieldError::new("metadata.name", "is required"))?;
    if !is_subdomain(name) {
        let message = format!("must be a name as in RFC 1123, is {name:?}");
        return Err(FieldError::new("metadata.name", message));
    }
    if kind.is_cluster_scoped() {
        return Ok(ObjectKey::new("", name));
    }
    let namespace = match metadata.get("namespace") {
        None | Some(Value::Null) => "default",
        Some(Value::String(namespace)) if namespace.is_empty() => "default",
        Some(Value::String(namespace)) if is_label(namespace) => namespace,
        Some(other) => {
            let message = format!("must be a name as in RFC 1123 without dots, is {other}");
            return Err(FieldError::new("metadata.namespace", message));
        }
    };
    Ok(ObjectKey::new(namespace, name))
}

/// Puts the namespace into an object's metadata, where its file left it out.
fn fill_namespace(value: &mut Value, key: &ObjectKey) {
    if let Some(Value::Object(metadata)) = value.get_mut("metadata") {
        if key.namespace.is_empty() {
            metadata.remove("namespace");
        } else {
            metadata.insert("namespace".to_owned(), Value::String(key.namespace.to_string()));
        }
    }
}
