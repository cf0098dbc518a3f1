//! What travels between the CA and its client: one request and its answer, as JSON over HTTP/1.1 and TLS 1.3.
//!
//! Only shapes and limits that both ends share; no judgement.

use serde::{Deserialize, Serialize};

/// Where certificates are asked for (POST).
pub const SIGN_PATH: &str = "/v1/certificates";
/// Where the trust bundle is asked for (GET). A caller names the bundle that it has in `If-None-Match`, and is answered
/// 304 if that is the newest; `Cache-Control: max-age` says when to ask again.
pub const BUNDLE_PATH: &str = "/v1/trust-bundle";
/// Answers 200 while the process serves (GET).
pub const LIVEZ_PATH: &str = "/livez";
/// The longest request body, in bytes.
pub const MAX_REQUEST_BODY: usize = 32 * 1024;
/// The longest CSR, in bytes of PEM: one of P-256 has about 500.
pub const MAX_CSR: usize = 8 * 1024;
/// The longest answer that a client takes, in bytes: room for a bundle of many roots.
pub const MAX_RESPONSE_BODY: usize = 512 * 1024;

/// What a caller asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignRequest {
    /// A PKCS#10 request in PEM, signed with the key that it carries.
    pub csr: String,
    /// The SPIFFE ID that the leaf is to carry.
    pub identity: String,
}

/// The answer to a request that was granted.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignResponse {
    /// The leaf and then any intermediates, in PEM.
    pub chain: String,
    /// The roots that peers are verified against, in PEM.
    pub trust_bundle: String,
}

/// The answer to a question for the trust bundle.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BundleResponse {
    /// The roots that peers are verified against, in PEM.
    pub trust_bundle: String,
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong, for a person.
    pub error: String,
}
