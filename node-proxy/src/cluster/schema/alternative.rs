//! What one of several forms asks of a value (`oneOf`): bounds on what the structure around it has let in.
//!
//! Pure. A CRD may say there no more than it has said of the same fields in its structure, so nothing is pruned or
//! filled in by it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use super::{Format, shown};

/// One form. A keyword that is not here fails the load, so none is ever skipped.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Alternative {
    #[serde(default)]
    any_of: Vec<Self>,
    #[serde(rename = "enum", default)]
    choices: Vec<Value>,
    format: Option<Format>,
    not: Option<Box<Self>>,
    #[serde(default)]
    properties: BTreeMap<String, Self>,
}

impl Alternative {
    /// Whether a value has this form. A field that is not there has any.
    pub(super) fn fits(&self, value: &Value) -> bool {
        let has_format = |format: Format| value.as_str().is_none_or(|text| format.is_of(text));
        let has_form = |(name, form): (&String, &Self)| value.get(name).is_none_or(|value| form.fits(value));
        (self.any_of.is_empty() || self.any_of.iter().any(|form| form.fits(value)))
            && (self.choices.is_empty() || self.choices.contains(value))
            && self.format.is_none_or(has_format)
            && self.not.as_ref().is_none_or(|form| !form.fits(value))
            && self.properties.iter().all(has_form)
    }
}

impl fmt::Display for Alternative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let any_of = self.any_of.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
        let choices = self.choices.iter().map(shown).collect::<Vec<_>>().join(" or ");
        let mut parts = vec![any_of, choices];
        parts.extend(self.format.map(|format| format.as_label().to_owned()));
        parts.extend(self.not.as_ref().map(|form| format!("not {form}")));
        parts.extend(self.properties.iter().map(|(name, form)| format!("{name} {form}")));
        parts.retain(|part| !part.is_empty());
        f.write_str(&parts.join(" and "))
    }
}
