//! From a value to the type of an object: one way for all that reads objects.
//!
//! Each way to read is the code of all types once more, and so is each layer around it. So there is one deserializer that
//! knows where it is and what it passes over; with an erased one behind layers of others, reading was a fifth of a proxy's text.

use std::fmt::{self, Write as _};
use std::vec;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Value, map};

use super::schema::FieldError;

/// Reads an object, and tells of each field that its type does not have.
///
/// # Errors
/// The first field that does not fit, with the parser's words.
pub(crate) fn read<T: DeserializeOwned>(
    value: Value,
    unknown: &mut dyn FnMut(String),
) -> Result<T, FieldError> {
    let mut reading = Reading { path: Path::default(), unknown };
    let read = T::deserialize(Found { value, reading: &mut reading });
    read.map_err(|error| FieldError::new(reading.path.to_string(), error.to_string()))
}

/// How far an object has been read.
struct Reading<'u> {
    /// Where that is. After an error, where it was.
    path: Path,
    unknown: &'u mut dyn FnMut(String),
}

impl Reading<'_> {
    fn read_below<'de, S>(&mut self, step: Step, value: Value, seed: S) -> Result<S::Value, Error>
    where
        S: DeserializeSeed<'de>,
    {
        self.path.0.push(step);
        let read = seed.deserialize(Found { value, reading: self })?;
        self.path.0.pop();
        Ok(read)
    }
}

/// The way from an object to something in it, as `spec.rules[0].matches`.
#[derive(Debug, Default)]
struct Path(Vec<Step>);

#[derive(Debug)]
enum Step {
    Field(String),
    Item(usize),
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, step) in self.0.iter().enumerate() {
            match step {
                Step::Field(name) => {
                    if depth > 0 {
                        f.write_char('.')?;
                    }
                    f.write_str(name)?;
                }
                Step::Item(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// A value, and where it was found.
struct Found<'r, 'u> {
    value: Value,
    reading: &'r mut Reading<'u>,
}

impl<'de> Deserializer<'de> for Found<'_, '_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Self { value, reading } = self;
        match value {
            Value::Array(items) => {
                let length = items.len();
                let mut items = Items { left: items.into_iter(), next: 0, reading };
                let read = visitor.visit_seq(&mut items)?;
                match items.left.len() {
                    0 => Ok(read),
                    _ => Err(Error::invalid_length(length, &"fewer elements in array")),
                }
            }
            Value::Object(fields) => {
                visitor.visit_map(Fields { left: fields.into_iter(), value: None, reading })
            }
            simple => simple.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.value.deserialize_enum(name, variants, visitor)
    }

    /// What a type asks of a field that it does not have.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        (self.reading.unknown)(self.reading.path.to_string());
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier
    }
}

/// What is left of an array.
struct Items<'r, 'u> {
    left: vec::IntoIter<Value>,
    next: usize,
    reading: &'r mut Reading<'u>,
}

impl<'de> SeqAccess<'de> for Items<'_, '_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let Some(value) = self.left.next() else { return Ok(None) };
        let index = self.next;
        self.next += 1;
        self.reading.read_below(Step::Item(index), value, seed).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left.len())
    }
}

/// What is left of a JSON object, and the field whose name was read.
struct Fields<'r, 'u> {
    left: map::IntoIter,
    value: Option<(String, Value)>,
    reading: &'r mut Reading<'u>,
}

impl<'de> MapAccess<'de> for Fields<'_, '_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let Some((name, value)) = self.left.next() else { return Ok(None) };
        let key = seed.deserialize(StrDeserializer::new(&name))?;
        self.value = Some((name, value));
        Ok(Some(key))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let (name, value) = self.value.take().ok_or_else(|| Error::custom("a value without its name"))?;
        self.reading.read_below(Step::Field(name), value, seed)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left.len())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "camelCase")]
    struct Thing {
        name: String,
        #[serde(default)]
        parts: Vec<Part>,
        labels: Option<BTreeMap<String, u8>>,
        place: Option<Place>,
        port: Option<IntOrString>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Part {
        size: i32,
        pair: Option<(u8, u8)>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Place {
        Here,
        There,
    }

    fn read_thing(value: Value) -> (Result<Thing, FieldError>, Vec<String>) {
        let mut unknown = Vec::new();
        let read = read(value, &mut |field| unknown.push(field));
        (read, unknown)
    }

    #[test]
    fn a_whole_object_is_read() {
        let (read, unknown) = read_thing(json!({
            "name": "a", "parts": [{ "size": -1 }, { "size": 2, "pair": [3, 4] }], "labels": { "x": 5 }, "place": "here",
            "port": "http"
        }));
        let parts = vec![Part { size: -1, pair: None }, Part { size: 2, pair: Some((3, 4)) }];
        let labels = Some(BTreeMap::from([("x".to_owned(), 5)]));
        let port = Some(IntOrString::String("http".to_owned()));
        let expected = Thing { name: "a".to_owned(), parts, labels, place: Some(Place::Here), port };
        assert_eq!((read.unwrap(), unknown), (expected, vec![]));
    }

    #[test]
    fn what_is_null_is_not_there() {
        let (read, unknown) = read_thing(json!({ "name": "a", "labels": null, "place": null, "port": null }));
        let expected =
            Thing { name: "a".to_owned(), parts: Vec::new(), labels: None, place: None, port: None };
        assert_eq!((read.unwrap(), unknown), (expected, vec![]));
    }

    #[test]
    fn unknown_fields_are_told_where_they_are_and_passed_over() {
        let (read, unknown) = read_thing(json!({
            "extra": { "deep": [1] }, "name": "a", "parts": [{ "size": 1 }, { "more": null, "size": 2 }],
        }));
        assert_eq!(read.unwrap().parts.len(), 2);
        assert_eq!(unknown, ["extra", "parts[1].more"]);
    }

    #[test]
    fn an_error_names_its_field_and_what_was_there() {
        let cases = [
            (json!("a"), "", "invalid type: string \"a\", expected struct Thing"),
            (json!({}), "", "missing field `name`"),
            (json!({ "name": 1 }), "name", "invalid type: integer `1`, expected a string"),
            (json!({ "name": "a", "parts": [{ "size": 1 }, {}] }), "parts[1]", "missing field `size`"),
            (
                json!({ "name": "a", "parts": [{ "size": 3_000_000_000_u32 }] }),
                "parts[0].size",
                "invalid value: integer `3000000000`, expected i32",
            ),
            (
                json!({ "name": "a", "parts": [{ "size": 1, "pair": [1] }] }),
                "parts[0].pair",
                "invalid length 1, expected a tuple of size 2",
            ),
            (
                json!({ "name": "a", "parts": [{ "size": 1, "pair": [1, 2, 3] }] }),
                "parts[0].pair",
                "invalid length 3, expected fewer elements in array",
            ),
            (
                json!({ "name": "a", "labels": { "x": 1, "y": 256 } }),
                "labels.y",
                "invalid value: integer `256`, expected u8",
            ),
            (
                json!({ "name": "a", "place": "away" }),
                "place",
                "unknown variant `away`, expected `here` or `there`",
            ),
        ];
        for (value, field, message) in cases {
            let (read, _) = read_thing(value.clone());
            assert_eq!(read.unwrap_err(), FieldError::new(field, message), "{value}");
        }
    }
}
