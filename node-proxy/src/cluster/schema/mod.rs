//! Defaults and validation of Gateway API objects by their own CRDs, as the API server would do it.
//!
//! A directory of YAML has no API server in front of it, so the CRDs' structural schemas are walked here:
//! first pruning and defaults ([`Schemas::admit`] changes the value), then types and bounds, then the CEL
//! rules. Transition rules (`oldSelf`) are left out: a file has no old self. This never decides what an
//! object means.

mod alternative;
mod rules;
mod walk;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::OnceLock;

use regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use alternative::Alternative;
use rules::Rules;

/// The vendored CRDs by their kind, each in all its versions.
const CRDS: [(&str, &str); 10] = [
    ("BackendTLSPolicy", include_str!("../crds/backendtlspolicies.yaml")),
    ("GatewayClass", include_str!("../crds/gatewayclasses.yaml")),
    ("Gateway", include_str!("../crds/gateways.yaml")),
    ("GRPCRoute", include_str!("../crds/grpcroutes.yaml")),
    ("HTTPRoute", include_str!("../crds/httproutes.yaml")),
    ("ListenerSet", include_str!("../crds/listenersets.yaml")),
    ("ReferenceGrant", include_str!("../crds/referencegrants.yaml")),
    ("TCPRoute", include_str!("../crds/tcproutes.yaml")),
    ("TLSRoute", include_str!("../crds/tlsroutes.yaml")),
    ("UDPRoute", include_str!("../crds/udproutes.yaml")),
];

/// Something wrong at one field of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Where: `spec.rules[0].matches[1].path.value`; empty for the object as a whole.
    pub field: String,
    /// What is wrong there: lower case, no full stop.
    pub message: String,
}

impl FieldError {
    /// An error at `field`.
    #[must_use]
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// Why the vendored CRDs cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// A CRD is not YAML, or uses a keyword that is not applied here.
    #[error("the embedded CRD cannot be read: {0}")]
    Crd(Box<serde_saphyr::Error>),
    /// The environment of the rules cannot be made.
    #[error("the environment of the embedded CRDs' rules cannot be made: {0}")]
    Environment(String),
    /// A `pattern` is no regular expression.
    #[error("the pattern {pattern:?} of an embedded CRD cannot be compiled")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What the compiler says.
        source: Box<regex::Error>,
    },
    /// A CEL rule cannot be compiled.
    #[error("the rule {rule:?} of an embedded CRD cannot be compiled: {message}")]
    Rule {
        /// The rule.
        rule: String,
        /// What the compiler says.
        message: String,
    },
}

/// The schemas of the vendored kinds. Each is read and compiled when the first object of its kind is met: all of them
/// would be most of what a proxy does at its start.
#[derive(Debug)]
pub struct Schemas(BTreeMap<&'static str, Vendored>);

/// A CRD as it is embedded, and what it is once it was needed.
#[derive(Debug)]
struct Vendored {
    text: &'static str,
    compiled: OnceLock<Result<Compiled, SchemaError>>,
}

/// The schemas of one kind, by version.
#[derive(Debug)]
struct Compiled {
    versions: BTreeMap<String, Schema>,
    patterns: HashMap<String, Regex>,
    rules: Rules,
}

/// What became of an object.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Paths of fields that the schema does not know; they were taken out.
    pub unknown: Vec<String>,
    /// Why the object is refused; empty if it is not.
    pub errors: Vec<FieldError>,
}

impl Default for Schemas {
    fn default() -> Self {
        Self(CRDS.map(|(kind, text)| (kind, Vendored { text, compiled: OnceLock::new() })).into())
    }
}

impl Schemas {
    /// The versions in which objects of a kind can be validated, as `apiVersion` has them; none for a kind that
    /// is not covered.
    pub fn versions(&self, kind: &str) -> impl Iterator<Item = &str> {
        let compiled = self.find(kind).and_then(|compiled| compiled.as_ref().ok());
        compiled.into_iter().flat_map(|compiled| compiled.versions.keys().map(String::as_str))
    }

    /// Prunes, defaults and validates an object in place. A kind that is not covered is not looked at.
    pub fn admit(&self, kind: &str, api_version: &str, object: &mut Value) -> Verdict {
        match self.find(kind) {
            Some(Ok(compiled)) => compiled.admit(api_version, object),
            // A fault of the program, never of the user: an object that cannot be judged is not taken.
            Some(Err(error)) => {
                Verdict { errors: vec![FieldError::new("", error.to_string())], ..Verdict::default() }
            }
            None => Verdict::default(),
        }
    }

    /// Compiles the schemas of a kind now.
    pub fn prepare(&self, kind: &str) {
        let _compiled_or_told_later = self.find(kind);
    }

    fn find(&self, kind: &str) -> Option<&Result<Compiled, SchemaError>> {
        let vendored = self.0.get(kind)?;
        Some(vendored.compiled.get_or_init(|| Compiled::read(vendored.text)))
    }
}

impl Compiled {
    /// Compiles a CRD. An error is one that uses something that is not applied here.
    fn read(text: &str) -> Result<Self, SchemaError> {
        let crd: Crd = serde_saphyr::from_str(text).map_err(|source| SchemaError::Crd(Box::new(source)))?;
        let mut compiled = Self { versions: BTreeMap::new(), patterns: HashMap::new(), rules: Rules::new()? };
        for version in crd.spec.versions.into_iter().filter(|version| version.served) {
            let mut schema = version.schema.open_api;
            // A subresource: who writes an object writes none, and its default is for those who judge.
            schema.properties.remove("status");
            compiled.compile(&schema)?;
            compiled.versions.insert(format!("{}/{}", crd.spec.group, version.name), schema);
        }
        Ok(compiled)
    }

    fn admit(&self, api_version: &str, object: &mut Value) -> Verdict {
        let mut verdict = Verdict::default();
        let Some(schema) = self.versions.get(api_version) else { return verdict };
        if let Value::Object(fields) = object {
            fields.remove("status");
        }
        walk::prune_and_default(schema, object, "", &mut verdict.unknown);
        walk::validate(self, schema, object, "", &mut verdict.errors);
        if verdict.errors.is_empty() {
            self.rules.check(schema, object, "", &mut verdict.errors);
        }
        verdict
    }

    fn compile(&mut self, schema: &Schema) -> Result<(), SchemaError> {
        if let Some(pattern) = &schema.pattern
            && !self.patterns.contains_key(pattern)
        {
            let regex = Regex::new(pattern).map_err(|source| SchemaError::Pattern {
                pattern: pattern.clone(),
                source: Box::new(source),
            })?;
            self.patterns.insert(pattern.clone(), regex);
        }
        for rule in &schema.rules {
            self.rules.compile(&rule.rule)?;
        }
        let below = [schema.additional_properties.as_deref(), schema.items.as_deref()];
        for child in schema.properties.values().chain(below.into_iter().flatten()) {
            self.compile(child)?;
        }
        Ok(())
    }
}

#[derive(Debug, Deserialize)]
struct Crd {
    spec: CrdSpec,
}

#[derive(Debug, Deserialize)]
struct CrdSpec {
    group: String,
    versions: Vec<CrdVersion>,
}

#[derive(Debug, Deserialize)]
struct CrdVersion {
    name: String,
    served: bool,
    schema: CrdSchema,
}

#[derive(Debug, Deserialize)]
struct CrdSchema {
    #[serde(rename = "openAPIV3Schema")]
    open_api: Schema,
}

/// The JSON type of a node.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Type {
    Array,
    Boolean,
    Integer,
    Object,
    String,
}

/// The formats that the CRDs use.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
enum Format {
    #[serde(rename = "date-time")]
    DateTime,
    #[serde(rename = "ipv4")]
    Ipv4,
    #[serde(rename = "ipv6")]
    Ipv6,
    #[serde(rename = "int32")]
    Int32,
    #[serde(rename = "int64")]
    Int64,
}

impl Format {
    /// Whether a text has it; a number's are bounds, and no text lacks them.
    fn is_of(self, text: &str) -> bool {
        match self {
            Self::DateTime => OffsetDateTime::parse(text, &Rfc3339).is_ok(),
            Self::Int32 | Self::Int64 => true,
            Self::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
            Self::Ipv6 => text.parse::<Ipv6Addr>().is_ok(),
        }
    }

    const fn as_label(self) -> &'static str {
        match self {
            Self::DateTime => "a time as in RFC 3339",
            Self::Int32 => "a number of 32 bits",
            Self::Int64 => "a number of 64 bits",
            Self::Ipv4 => "an IPv4 address",
            Self::Ipv6 => "an IPv6 address",
        }
    }
}

/// How the items of a list relate.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum ListType {
    Atomic,
    Map,
    Set,
}

/// How two writers' values of an object are put together, which is no bound on either.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum MapType {
    Atomic,
}

/// One node of a structural schema. A keyword that is not here fails the load, so none is ever skipped.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Schema {
    #[serde(rename = "type")]
    kind: Type,
    /// What each value of a map is, whose keys are the user's.
    additional_properties: Option<Box<Self>>,
    default: Option<Value>,
    #[serde(rename = "enum", default)]
    choices: Vec<Value>,
    format: Option<Format>,
    items: Option<Box<Self>>,
    max_items: Option<usize>,
    max_length: Option<usize>,
    max_properties: Option<usize>,
    maximum: Option<i64>,
    min_items: Option<usize>,
    min_length: Option<usize>,
    minimum: Option<i64>,
    #[serde(default)]
    one_of: Vec<Alternative>,
    pattern: Option<String>,
    #[serde(default)]
    properties: BTreeMap<String, Self>,
    #[serde(default)]
    required: Vec<String>,
    #[serde(rename = "x-kubernetes-list-map-keys", default)]
    map_keys: Vec<String>,
    #[serde(rename = "x-kubernetes-list-type")]
    list_type: Option<ListType>,
    #[serde(rename = "x-kubernetes-map-type")]
    _map_type: Option<MapType>,
    #[serde(rename = "x-kubernetes-validations", default)]
    rules: Vec<Rule>,
}

/// One CEL rule of a node.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    rule: String,
    message: String,
    field_path: Option<String>,
}

/// The fields of an object value.
type Fields = Map<String, Value>;

/// The path of a field of the object at `path`.
fn child(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The path of an entry of the map at `path`, whose key may have dots.
fn entry(path: &str, key: &str) -> String {
    format!("{path}[{key}]")
}

/// A value as text: strings without quotes unless they need them.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) if !text.is_empty() && !text.contains(char::is_whitespace) => text.clone(),
        other => other.to_string(),
    }
}
