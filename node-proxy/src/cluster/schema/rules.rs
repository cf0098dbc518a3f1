//! The CEL rules of a schema (`x-kubernetes-validations`).
//!
//! Each distinct rule is compiled once. `self` is the value of the node that carries the rule, with the
//! names of its fields escaped as Kubernetes escapes them (`namespace` is a word of CEL).

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use cel::{Context, DeclarationError, Env, ExecutionError, Program, Value as CelValue, extensions};
use serde_json::Value;

use super::{FieldError, Schema, SchemaError, child, entry};

/// Words that cannot name a field in CEL, so that Kubernetes escapes them.
const RESERVED: [&str; 21] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// Compiled rules by their source.
pub(super) struct Rules {
    env: Arc<Env>,
    programs: HashMap<String, Program>,
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules").field("programs", &self.programs.len()).finish_non_exhaustive()
    }
}

impl Rules {
    /// No rules yet, in an environment of what Kubernetes lets rules call, as far as the CRDs do.
    pub(super) fn new() -> Result<Self, SchemaError> {
        let mut env = Env::stdlib();
        extensions::strings(&mut env).map_err(|error| SchemaError::Environment(error.to_string()))?;
        Ok(Self { env: Arc::new(env), programs: HashMap::new() })
    }

    /// Compiles a rule, unless it was before.
    pub(super) fn compile(&mut self, rule: &str) -> Result<(), SchemaError> {
        if self.programs.contains_key(rule) {
            return Ok(());
        }
        let program = self
            .env
            .compile(rule)
            .map_err(|error| SchemaError::Rule { rule: rule.to_owned(), message: error.to_string() })?;
        self.programs.insert(rule.to_owned(), program);
        Ok(())
    }

    /// How many distinct rules there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.programs.len()
    }

    /// The functions that rules call and the environment may have to provide.
    #[cfg(test)]
    pub(super) fn functions(&self) -> std::collections::BTreeSet<String> {
        let functions = self.programs.values().flat_map(|program| {
            program.references().functions().into_iter().map(str::to_owned).collect::<Vec<_>>()
        });
        functions.collect()
    }

    /// Holds the rules of a node and of all below it against a value that is structurally valid.
    pub(super) fn check(&self, schema: &Schema, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
        if !schema.rules.is_empty() {
            self.check_node(schema, value, path, errors);
        }
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if let Some(property) = schema.properties.get(name) {
                        self.check(property, value, &child(path, name), errors);
                    } else if let Some(schema) = &schema.additional_properties {
                        self.check(schema, value, &entry(path, name), errors);
                    }
                }
            }
            Value::Array(items) => {
                let Some(schema) = &schema.items else { return };
                for (index, item) in items.iter().enumerate() {
                    self.check(schema, item, &format!("{path}[{index}]"), errors);
                }
            }
            _ => {}
        }
    }

    fn check_node(&self, schema: &Schema, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
        let mut context = Context::with_env(Arc::clone(&self.env));
        context.add_variable_from_value("self", to_cel(Some(schema), value));
        if let Err(error) = add_functions(&mut context) {
            errors.push(FieldError::new(path, format!("rules cannot be evaluated: {error}")));
            return;
        }
        for rule in &schema.rules {
            let Some(program) = self.programs.get(&rule.rule) else { continue };
            if program.references().has_variable("oldSelf") {
                continue;
            }
            let message = match program.execute(&context) {
                Ok(CelValue::Bool(true)) => continue,
                Ok(CelValue::Bool(false)) => rule.message.clone(),
                Ok(_) => format!("the rule {:?} is neither true nor false here", rule.rule),
                Err(error) => format!("{}: the rule cannot be evaluated here: {error}", rule.message),
            };
            let field =
                rule.field_path.as_ref().map_or_else(|| path.to_owned(), |below| format!("{path}{below}"));
            errors.push(FieldError { field, message });
        }
    }
}

/// The functions that rules call and CEL itself does not have.
fn add_functions(context: &mut Context<'_, '_>) -> Result<(), DeclarationError> {
    context.add_function("duration", duration)?;
    context.add_function("isIP", |text: Arc<String>| text.parse::<IpAddr>().is_ok())
}

/// CEL's `duration`, as nanoseconds: the rules only compare durations with each other.
fn duration(text: Arc<String>) -> Result<i64, ExecutionError> {
    nanoseconds(&text).ok_or_else(|| ExecutionError::function_error("duration", format!("{text:?} is none")))
}

fn nanoseconds(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total = 0_i64;
    while !rest.is_empty() || text.is_empty() {
        let (digits, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let (unit, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
        let scale = match unit {
            "ns" => 1,
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        total = total.checked_add(digits.parse::<i64>().ok()?.checked_mul(scale)?)?;
        rest = tail;
    }
    Some(total)
}

/// A value as rules see it: names of fields are escaped, and keys of a map are the user's own.
fn to_cel(schema: Option<&Schema>, value: &Value) -> CelValue {
    match value {
        Value::Null => CelValue::Null,
        Value::Bool(flag) => CelValue::Bool(*flag),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => CelValue::Int(integer),
            (None, Some(float)) => CelValue::Float(float),
            (None, None) => CelValue::Null,
        },
        Value::String(text) => CelValue::from(text.as_str()),
        Value::Array(items) => {
            let schema = schema.and_then(|schema| schema.items.as_deref());
            CelValue::List(Arc::new(items.iter().map(|item| to_cel(schema, item)).collect()))
        }
        Value::Object(fields) => {
            let map = schema.and_then(|schema| schema.additional_properties.as_deref());
            let fields = fields.iter().map(|(name, value)| match map {
                Some(schema) => (name.clone(), to_cel(Some(schema), value)),
                None => {
                    let property = schema.and_then(|schema| schema.properties.get(name));
                    (escaped(name), to_cel(property, value))
                }
            });
            CelValue::from(fields.collect::<HashMap<String, CelValue>>())
        }
    }
}

/// A field's name as rules write it (Kubernetes: "Escaping" of CEL property names).
fn escaped(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    name.replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__")
}
