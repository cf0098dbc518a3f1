//! The walk over an object and its structural schema: pruning, defaults, types and bounds.
//!
//! Pure; it knows nothing of Gateway API. Rules in CEL are `rules.rs`.

use std::collections::HashSet;

use serde_json::Value;

use super::{Compiled, FieldError, Fields, Format, ListType, Schema, Type, child, entry, shown};

/// Takes out what the schema does not know (said in `unknown`) and nulls, and puts in defaults.
/// The root's `metadata` has no properties in a CRD: an object without properties keeps what it has.
pub(super) fn prune_and_default(schema: &Schema, value: &mut Value, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(fields) if schema.kind == Type::Object => {
            if let Some(schema) = &schema.additional_properties {
                fields.retain(|_, value| !value.is_null());
                for (key, value) in fields {
                    prune_and_default(schema, value, &entry(path, key), unknown);
                }
                return;
            }
            if schema.properties.is_empty() {
                return;
            }
            fields.retain(|name, value| {
                let known = schema.properties.contains_key(name);
                if !known {
                    unknown.push(child(path, name));
                }
                known && !value.is_null()
            });
            for (name, property) in &schema.properties {
                if !fields.contains_key(name)
                    && let Some(default) = &property.default
                {
                    fields.insert(name.clone(), default.clone());
                }
                if let Some(value) = fields.get_mut(name) {
                    prune_and_default(property, value, &child(path, name), unknown);
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = &schema.items else { return };
            for (index, item) in items.iter_mut().enumerate() {
                prune_and_default(schema, item, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

/// Checks a value and all below it, adding to `errors`.
pub(super) fn validate(
    schemas: &Compiled,
    schema: &Schema,
    value: &Value,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    match (schema.kind, value) {
        (Type::Object, Value::Object(fields)) => validate_object(schemas, schema, fields, path, errors),
        (Type::Array, Value::Array(items)) => validate_array(schemas, schema, items, path, errors),
        (Type::String, Value::String(text)) => validate_string(schemas, schema, text, path, errors),
        (Type::Integer, Value::Number(number)) if number.is_i64() || number.is_u64() => {
            validate_integer(schema, number.as_i64(), path, errors);
        }
        (Type::Boolean, Value::Bool(_)) => {}
        (kind, value) => {
            let quoted = kind == Type::String && (value.is_boolean() || value.is_number());
            let advice = if quoted { ": put it in quotes" } else { "" };
            let message = format!("must be {}, is {}{advice}", type_name(kind), shown_type(value));
            errors.push(FieldError::new(path, message));
            return;
        }
    }
    if !schema.choices.is_empty() && !schema.choices.contains(value) {
        let choices: Vec<String> = schema.choices.iter().map(shown).collect();
        errors.push(FieldError::new(
            path,
            format!("must be one of {}, is {}", choices.join(", "), shown(value)),
        ));
    }
    if !schema.one_of.is_empty()
        && schema.one_of.iter().filter(|alternative| alternative.fits(value)).count() != 1
    {
        let forms: Vec<String> = schema.one_of.iter().map(|form| format!("({form})")).collect();
        errors.push(FieldError::new(path, format!("must be one of {}", forms.join(" or "))));
    }
}

fn validate_object(
    schemas: &Compiled,
    schema: &Schema,
    fields: &Fields,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    for name in &schema.required {
        if !fields.contains_key(name) {
            errors.push(FieldError::new(child(path, name), "is required"));
        }
    }
    for (name, value) in fields {
        if let Some(property) = schema.properties.get(name) {
            validate(schemas, property, value, &child(path, name), errors);
        } else if let Some(schema) = &schema.additional_properties {
            validate(schemas, schema, value, &entry(path, name), errors);
        }
    }
    check_bounds(fields.len(), (None, schema.max_properties), "entries", (path, errors));
}

fn validate_array(
    schemas: &Compiled,
    schema: &Schema,
    items: &[Value],
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    check_bounds(items.len(), (schema.min_items, schema.max_items), "items", (path, errors));
    let mut seen = HashSet::new();
    for (index, item) in items.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if let Some(identity) = identity(schema, item)
            && !seen.insert(identity.clone())
        {
            errors.push(FieldError::new(&path, format!("is there twice: {identity}")));
        }
        if let Some(schema) = &schema.items {
            validate(schemas, schema, item, &path, errors);
        }
    }
}

/// What must be unique among the items of a list, if anything must.
fn identity(schema: &Schema, item: &Value) -> Option<String> {
    match schema.list_type? {
        ListType::Atomic => None,
        ListType::Set => Some(shown(item)),
        ListType::Map => {
            let keys = schema.map_keys.iter();
            Some(keys.map(|key| format!("{key}={}", shown(&item[key]))).collect::<Vec<_>>().join(", "))
        }
    }
}

fn validate_string(
    schemas: &Compiled,
    schema: &Schema,
    text: &str,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let bounds = (schema.min_length, schema.max_length);
    check_bounds(text.chars().count(), bounds, "characters", (path, errors));
    if let Some(pattern) = &schema.pattern
        && !schemas.patterns.get(pattern).is_some_and(|regex| regex.is_match(text))
    {
        errors.push(FieldError::new(path, format!("must match {pattern}, is {text:?}")));
    }
    if let Some(format) = schema.format
        && !format.is_of(text)
    {
        errors.push(FieldError::new(path, format!("must be {}, is {text:?}", format.as_label())));
    }
}

/// `number` is `None` for what exceeds an `i64`.
fn validate_integer(schema: &Schema, number: Option<i64>, path: &str, errors: &mut Vec<FieldError>) {
    let (least, most) = match schema.format {
        Some(Format::Int32) => (i64::from(i32::MIN), i64::from(i32::MAX)),
        Some(Format::DateTime | Format::Int64 | Format::Ipv4 | Format::Ipv6) | None => (i64::MIN, i64::MAX),
    };
    let least = schema.minimum.map_or(least, |minimum| minimum.max(least));
    let most = schema.maximum.map_or(most, |maximum| maximum.min(most));
    match number {
        Some(number) if number < least => {
            errors.push(FieldError::new(path, format!("must be at least {least}, is {number}")));
        }
        Some(number) if number <= most => {}
        Some(number) => errors.push(FieldError::new(path, format!("must be at most {most}, is {number}"))),
        None => errors.push(FieldError::new(path, format!("must be at most {most}"))),
    }
}

fn check_bounds(
    count: usize,
    (least, most): (Option<usize>, Option<usize>),
    what: &str,
    (path, errors): (&str, &mut Vec<FieldError>),
) {
    if let Some(least) = least.filter(|least| count < *least) {
        errors.push(FieldError::new(path, format!("must have at least {least} {what}, has {count}")));
    }
    if let Some(most) = most.filter(|most| count > *most) {
        errors.push(FieldError::new(path, format!("must have at most {most} {what}, has {count}")));
    }
}

const fn type_name(kind: Type) -> &'static str {
    match kind {
        Type::Array => "a list",
        Type::Boolean => "true or false",
        Type::Integer => "an integer",
        Type::Object => "an object",
        Type::String => "a string",
    }
}

/// A value in an error: scalars as they are, others by their type.
fn shown_type(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => format!("the boolean {value}"),
        Value::Number(_) => format!("the number {value}"),
        Value::String(_) => format!("the string {value}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
