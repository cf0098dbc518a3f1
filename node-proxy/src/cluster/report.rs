//! What a source has to tell the user about what it was given.
//!
//! A report is about one field of one object, in a file or at the API server. It stays in the list that `admin` shows for as
//! long as the problem does, and is logged once, when it comes up.

use std::fmt;
use std::path::PathBuf;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The object was not taken: its last good version, if any, stays.
    Error,
    /// The object was taken without this, or all the same; or it is of a kind that nothing here reads.
    Warning,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Report {
    /// The file, relative to the directory; none for what the API server says.
    pub file: Option<PathBuf>,
    /// The object (`HTTPRoute shop/my-route`), else the document (`document 2 (line 14)`) or kind, else none: the file
    /// or the API server.
    pub object: Option<String>,
    /// The field (`spec.rules[0].matches[1].path.value`), if it is about one.
    pub field: Option<String>,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong: lower case, no full stop.
    pub message: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", file.display())?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)
    }
}
