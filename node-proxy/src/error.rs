//! The one table of reasons: what the proxy refused or could not do, as the user meets it.
//!
//! Every error that the proxy makes itself carries one [`FailureReason`]: in the access log, in the
//! `reason` label of metrics, and in the `gammarus-reason` response header.

pub(crate) use gammarus_ca::{Complaint, with_causes};
use http::StatusCode;

/// The response header that carries [`FailureReason::as_label`] on an answer the proxy made itself.
pub const REASON_HEADER: &str = "gammarus-reason";

/// Why the proxy answered or ended a connection by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureReason {
    /// One try of a request took longer than its rule allows (HTTPRouteTimeouts.backendRequest).
    BackendTimeout,
    /// The pod's connections hold as many bytes as they may.
    BufferLimit,
    /// The connection has reached the end of a certificate that it was made with.
    CertificateExpired,
    /// The client went away before its answer was complete.
    ClientClosed,
    /// The endpoint refused or did not answer the dial, and so did every other that was tried.
    ConnectFailed,
    /// CONNECT and absolute-form requests are not proxied.
    ConnectMethodRefused,
    /// The connection's original destination is one of the proxy's own ports.
    DestinationIsProxy,
    /// A backend of the matched rule does not exist or may not be used: its share answers 500.
    InvalidBackend,
    /// The request head is too long, or has too many fields (RFC 6585 section 5).
    HeadTooLarge,
    /// The TLS handshake with a peer failed.
    HandshakeFailed,
    /// The pod has had as many handshakes in this second as it may.
    HandshakeLimit,
    /// No ClientHello within the time that strict mode allows.
    HandshakeTimeout,
    /// A connection to a Gateway does not begin with a header of the PROXY protocol, as all are to.
    MalformedProxyHeader,
    /// A request that RFC 9112 calls malformed or ambiguous.
    MalformedRequest,
    /// An upstream answer that RFC 9112 calls malformed or ambiguous.
    MalformedResponse,
    /// The request is for a host of another listener than its connection (RFC 9110 section 15.5.20).
    MisdirectedRequest,
    /// The peer's certificate is not of a workload that may be on this connection.
    PeerIdentityRefused,
    /// Strict mode takes no plain text.
    PlaintextRefused,
    /// The pod has reached one of its limits.
    PodLimit,
    /// The Service has no endpoint that is ready.
    NoEndpoint,
    /// No certificate for the pod's identity: the CA has not answered yet, or it has expired.
    NoCertificate,
    /// The route table of the Service has no rule for this request or connection.
    NoMatchingRule,
    /// A TLSRoute decides about the connection, and it does not begin with a ClientHello.
    NotTls,
    /// The proxy has as many connections open as its descriptors allow.
    ProxyLimit,
    /// Who has opened a connection to a Gateway is none of those that may speak the PROXY protocol to it.
    ProxySourceRefused,
    /// A request took longer than its rule allows (HTTPRouteTimeouts.request).
    RequestTimeout,
    /// A session of datagrams had to give way to another one.
    SessionLimit,
    /// The peer offered an ALPN of the mesh in a version that is not spoken here.
    UnknownHopVersion,
    /// The rule asks for something that is not applied: it fails rather than doing something else.
    UnsupportedRule,
    /// The destination went away in the middle of an answer.
    UpstreamReset,
}

impl FailureReason {
    /// All reasons, in the order of the alphabet of their variants.
    pub const ALL: [Self; 30] = [
        Self::BackendTimeout,
        Self::BufferLimit,
        Self::CertificateExpired,
        Self::ClientClosed,
        Self::ConnectFailed,
        Self::ConnectMethodRefused,
        Self::DestinationIsProxy,
        Self::HandshakeFailed,
        Self::HandshakeLimit,
        Self::HandshakeTimeout,
        Self::HeadTooLarge,
        Self::InvalidBackend,
        Self::MalformedProxyHeader,
        Self::MalformedRequest,
        Self::MalformedResponse,
        Self::MisdirectedRequest,
        Self::NoCertificate,
        Self::NoEndpoint,
        Self::NoMatchingRule,
        Self::NotTls,
        Self::PeerIdentityRefused,
        Self::PlaintextRefused,
        Self::PodLimit,
        Self::ProxyLimit,
        Self::ProxySourceRefused,
        Self::RequestTimeout,
        Self::SessionLimit,
        Self::UnknownHopVersion,
        Self::UnsupportedRule,
        Self::UpstreamReset,
    ];

    /// The text of this reason in logs, labels and headers: stable, lower case, snake case.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::BackendTimeout => "backend_timeout",
            Self::BufferLimit => "buffer_limit",
            Self::CertificateExpired => "certificate_expired",
            Self::ClientClosed => "client_closed",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectMethodRefused => "connect_method_refused",
            Self::DestinationIsProxy => "destination_is_proxy",
            Self::HandshakeFailed => "handshake_failed",
            Self::HandshakeLimit => "handshake_limit",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::HeadTooLarge => "head_too_large",
            Self::InvalidBackend => "invalid_backend",
            Self::MalformedProxyHeader => "malformed_proxy_header",
            Self::MalformedRequest => "malformed_request",
            Self::MalformedResponse => "malformed_response",
            Self::MisdirectedRequest => "misdirected_request",
            Self::NoCertificate => "no_certificate",
            Self::NoEndpoint => "no_endpoint",
            Self::NoMatchingRule => "no_matching_rule",
            Self::NotTls => "not_tls",
            Self::PeerIdentityRefused => "peer_identity_refused",
            Self::PlaintextRefused => "plaintext_refused",
            Self::PodLimit => "pod_limit",
            Self::ProxyLimit => "proxy_limit",
            Self::ProxySourceRefused => "proxy_source_refused",
            Self::RequestTimeout => "request_timeout",
            Self::SessionLimit => "session_limit",
            Self::UnknownHopVersion => "unknown_hop_version",
            Self::UnsupportedRule => "unsupported_rule",
            Self::UpstreamReset => "upstream_reset",
        }
    }

    /// The status of the answer, for a client that speaks HTTP.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::NoMatchingRule => StatusCode::NOT_FOUND,
            Self::MisdirectedRequest => StatusCode::MISDIRECTED_REQUEST,
            Self::InvalidBackend | Self::UnsupportedRule => StatusCode::INTERNAL_SERVER_ERROR,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::ClientClosed | Self::MalformedProxyHeader | Self::MalformedRequest | Self::NotTls => {
                StatusCode::BAD_REQUEST
            }
            Self::ConnectMethodRefused => StatusCode::METHOD_NOT_ALLOWED,
            Self::MalformedResponse | Self::UpstreamReset => StatusCode::BAD_GATEWAY,
            Self::BackendTimeout | Self::RequestTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::BufferLimit
            | Self::CertificateExpired
            | Self::ConnectFailed
            | Self::DestinationIsProxy
            | Self::HandshakeFailed
            | Self::HandshakeLimit
            | Self::HandshakeTimeout
            | Self::NoCertificate
            | Self::NoEndpoint
            | Self::PeerIdentityRefused
            | Self::PlaintextRefused
            | Self::PodLimit
            | Self::ProxyLimit
            | Self::ProxySourceRefused
            | Self::SessionLimit
            | Self::UnknownHopVersion => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The gRPC status code of the answer, for a client that speaks gRPC.
    ///
    /// GRPCRoute asks for `UNAVAILABLE` for an invalid backend; a request that nothing matches is answered as a
    /// server answers for a method that it does not have, `UNIMPLEMENTED`.
    #[must_use]
    pub const fn grpc_status(self) -> u8 {
        match self {
            Self::NoMatchingRule | Self::MisdirectedRequest | Self::ConnectMethodRefused => 12,
            Self::BackendTimeout | Self::RequestTimeout => 4,
            Self::ClientClosed => 1,
            Self::BufferLimit
            | Self::HandshakeLimit
            | Self::HeadTooLarge
            | Self::PodLimit
            | Self::ProxyLimit
            | Self::SessionLimit => 8,
            Self::MalformedProxyHeader | Self::MalformedRequest | Self::MalformedResponse | Self::NotTls => {
                13
            }
            Self::CertificateExpired
            | Self::ConnectFailed
            | Self::DestinationIsProxy
            | Self::HandshakeFailed
            | Self::HandshakeTimeout
            | Self::InvalidBackend
            | Self::NoCertificate
            | Self::NoEndpoint
            | Self::PeerIdentityRefused
            | Self::PlaintextRefused
            | Self::ProxySourceRefused
            | Self::UnknownHopVersion
            | Self::UnsupportedRule
            | Self::UpstreamReset => 14,
        }
    }
}

impl std::fmt::Display for FailureReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_label())
    }
}
