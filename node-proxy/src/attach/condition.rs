//! Conditions of a route on one of its parents, or of a policy at one of its ancestors, as the Gateway API's status has them.
//!
//! These are judgements only: times of transition are whoever writes a status to fill in, so that the same
//! objects always give the same conditions.

use std::fmt;

use serde::Serialize;

/// The type of a condition of a route on a parent, or of a listener or what has listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum ConditionType {
    /// Whether the route holds on this parent, or whether anything is served of a listener or what has listeners.
    Accepted,
    /// Whether a listener cannot be told apart from another one.
    Conflicted,
    /// Clients without a valid certificate are let in; only ever set when it is true.
    InsecureFrontendValidationMode,
    /// Another listener that has TLS on the same port is for some of the same names; only ever set when it is true.
    OverlappingTLSConfig,
    /// Some rules hold and some do not; only ever set when it is true.
    PartiallyInvalid,
    /// Whether what is configured is about to be served, at an address.
    Programmed,
    /// Whether everything that is referred to exists and may be used.
    ResolvedRefs,
    /// Whether the CRDs of the Gateway API are of a version that is understood here.
    SupportedVersion,
}

/// A condition's status; `Unknown` never occurs, since judging is one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
}

/// A condition's reason, in the words of the Gateway API (v1.6: RouteConditionReason, ListenerConditionReason,
/// GatewayConditionReason, ListenerSetConditionReason, GatewayClassConditionReason, PolicyConditionReason).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ConditionReason {
    /// The route holds, or the listener is served.
    Accepted,
    /// The Gateway has no address.
    AddressNotAssigned,
    /// The Gateway has other addresses than those that it asks for.
    AddressNotUsable,
    /// A backend's Service or port does not exist.
    BackendNotFound,
    /// A field that makes a Gateway less safe has been set.
    ConfigurationChanged,
    /// A route of a more specific kind holds on the same port (GEP-1426), or a policy that came first for the same.
    Conflicted,
    /// Another listener on the port has the same hostname.
    HostnameConflict,
    /// What is not accepted, or has no certificate, is not served; or a policy asks for what is not known.
    Invalid,
    /// A CA certificate is of a kind that is not known.
    InvalidCACertificateKind,
    /// A CA certificate does not exist or cannot be read.
    InvalidCACertificateRef,
    /// A certificate does not exist, or is of a kind that is not known, or cannot be read.
    InvalidCertificateRef,
    /// The certificate that a Gateway is to show to backends cannot be used.
    InvalidClientCertificateRef,
    /// A backend, or where a policy has its CA certificates, is of a kind that is not known, or a Service of a type that is
    /// not supported.
    InvalidKind,
    /// Parameters do not exist, or are of a kind that is not known.
    InvalidParameters,
    /// A listener asks for kinds of route that it does not take.
    InvalidRouteKinds,
    /// Some listeners are not accepted.
    ListenersNotValid,
    /// A listener is told apart from all others.
    NoConflicts,
    /// No listener has a hostname in common with the route.
    NoMatchingListenerHostname,
    /// The parent, or the port or listener of it that is named, does not exist or cannot hold routes.
    NoMatchingParent,
    /// What a Gateway needs could not be provided.
    NoResources,
    /// No CA certificate can be used.
    NoValidCACertificate,
    /// The Gateway does not take the ListenerSet.
    NotAllowed,
    /// No listener takes routes of that kind from that namespace.
    NotAllowedByListeners,
    /// Another listener that has TLS on the port is for some of the same names.
    OverlappingHostnames,
    /// The Gateway of a ListenerSet is not accepted.
    ParentNotAccepted,
    /// It waits for its Gateway's address, or the Gateway for its proxies.
    Pending,
    /// It is served.
    Programmed,
    /// Another listener on the port speaks another protocol.
    ProtocolConflict,
    /// No ReferenceGrant allows the reference.
    RefNotPermitted,
    /// Every reference was resolved.
    ResolvedRefs,
    /// The CRDs are of a version that is understood here.
    SupportedVersion,
    /// What a policy is for does not exist.
    TargetNotFound,
    /// An address is asked for of a type that is not supported.
    UnsupportedAddress,
    /// A backend's port is declared to speak a protocol that the route cannot send to, or a listener has one that is not
    /// supported.
    UnsupportedProtocol,
    /// A field asks for what is not applied.
    UnsupportedValue,
    /// The CRDs are of another version, or do not say of which.
    UnsupportedVersion,
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
    /// The `metadata.generation` of the object that was judged; absent where the source gives none.
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
