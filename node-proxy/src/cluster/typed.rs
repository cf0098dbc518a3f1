//! From a value to the type of an object: one way for all that reads objects.
//!
//! Each way to read would be the code of all types once more, and so would what is wrapped around it to tell fields; it
//! was a third of a proxy's text. So types are read from an erased deserializer, and what stands behind it is there once.

use serde::de::DeserializeOwned;
use serde_ignored::Path;
use serde_json::Value;

use super::schema::FieldError;

/// Reads an object, and tells of each field that its type does not have.
///
/// # Errors
/// The first field that does not fit, with the parser's words.
pub(crate) fn read<T: DeserializeOwned>(
    value: Value,
    unknown: &mut dyn FnMut(String),
) -> Result<T, FieldError> {
    let mut track = serde_path_to_error::Track::new();
    let mut note = |path: Path<'_>| unknown(field_path(&path));
    let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
    let telling = serde_ignored::Deserializer::new(tracked, &mut note);
    let read = erased_serde::deserialize(&mut <dyn erased_serde::Deserializer<'_>>::erase(telling));
    read.map_err(|error| {
        let field = track.path().to_string();
        FieldError::new(if field == "." { String::new() } else { field }, error.to_string())
    })
}

fn field_path(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", field_path(parent)),
        Path::Map { parent, key } => {
            let parent = field_path(parent);
            if parent.is_empty() { key.clone() } else { format!("{parent}.{key}") }
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            field_path(parent)
        }
    }
}
