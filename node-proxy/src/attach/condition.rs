//! Conditions of a route on one of its parents, as the Gateway API's status has them.
//!
//! These are judgements only: times of transition are whoever writes a status to fill in, so that the same
//! objects always give the same conditions.

use std::fmt;

use serde::Serialize;

/// The type of a condition of a route on a parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum ConditionType {
    /// Whether the route holds on this parent.
    Accepted,
    /// Some rules hold and some do not; only ever set when it is true.
    PartiallyInvalid,
    /// Whether every backend of the route exists and may be used.
    ResolvedRefs,
}

/// A condition's status; `Unknown` never occurs, since judging is one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
}

/// A condition's reason, in the words of the Gateway API (v1.6, RouteConditionReason).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ConditionReason {
    /// The route holds.
    Accepted,
    /// A backend's Service or port does not exist.
    BackendNotFound,
    /// A route of a more specific kind holds on the same port (GEP-1426).
    Conflicted,
    /// A backend is of a kind that is not known, or a Service of a type that is not supported.
    InvalidKind,
    /// The parent, or the port of it that is named, does not exist or cannot hold routes.
    NoMatchingParent,
    /// Every reference was resolved.
    ResolvedRefs,
    /// A backend's port is declared to speak a protocol that the route cannot send to.
    UnsupportedProtocol,
    /// A field asks for what is not applied.
    UnsupportedValue,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which condition.
    #[serde(rename = "type")]
    pub kind: ConditionType,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why, in one word of the Gateway API.
    pub reason: ConditionReason,
    /// Why, for a person: names fields by their path in the object.
    pub message: String,
    /// The `metadata.generation` of the route that was judged; absent where the source gives none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for ConditionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for ConditionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={} {}", self.kind, self.status, self.reason)?;
        if self.message.is_empty() { Ok(()) } else { write!(f, ": {}", self.message) }
    }
}
