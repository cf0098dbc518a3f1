//! SPIFFE identities of Kubernetes service accounts: what every certificate of the mesh says.
//!
//! Text is parsed once, here; everything behind holds a [`SpiffeId`]. It must never accept two spellings
//! of one identity: no percent-encoding, no upper case, no trailing slash.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The longest trust domain name (SPIFFE-ID section 2.1).
const MAX_TRUST_DOMAIN: usize = 255;
/// The longest DNS label, which is what a namespace's name is.
const MAX_NAMESPACE: usize = 63;
/// The longest DNS subdomain, which is what a service account's name is.
const MAX_SERVICE_ACCOUNT: usize = 253;
/// The longest text that is looked at (SPIFFE-ID section 2.3).
const MAX_ID: usize = 2048;

/// Why a text is not a SPIFFE ID of a service account.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// The name of the service account is not a DNS subdomain in lower case.
    #[error(
        "service account `{0}` is not 1 to 253 of a-z, 0-9, `-` and `.`, with letters or digits at the ends"
    )]
    BadServiceAccount(String),
    /// The namespace is not a DNS label in lower case.
    #[error("namespace `{0}` is not 1 to 63 of a-z, 0-9 and `-`, with letters or digits at the ends")]
    BadNamespace(String),
    /// The trust domain has other characters than SPIFFE-ID section 2.1 allows, or too many.
    #[error("trust domain `{0}` is not 1 to 255 of a-z, 0-9, `.`, `-` and `_`")]
    BadTrustDomain(String),
    /// The path is not exactly `/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
    #[error("`{0}` has not the path /ns/NAMESPACE/sa/SERVICE_ACCOUNT")]
    BadPath(String),
    /// Another scheme, or none.
    #[error("`{0}` does not begin with spiffe://")]
    NoScheme(String),
    /// Longer than 2048 bytes.
    #[error("a SPIFFE ID has at most 2048 bytes, this one {0}")]
    TooLong(usize),
}

/// The trust domain of a mesh, `cluster.local` unless set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT` (SPIFFE-ID section 2).
///
/// Cheap to clone, and written down once: every access line has two.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId(Arc<Parts>);

/// Compared by the text first, from which the others follow.
#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Parts {
    text: Box<str>,
    trust_domain: TrustDomain,
    namespace: Box<str>,
    service_account: Box<str>,
}

impl TrustDomain {
    /// Takes a name by SPIFFE-ID section 2.1: 1 to 255 of `a-z`, `0-9`, `.`, `-` and `_`.
    ///
    /// # Errors
    /// [`SpiffeError::BadTrustDomain`] for anything else; upper case is not folded but refused.
    pub fn new(name: &str) -> Result<Self, SpiffeError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if name.is_empty() || name.len() > MAX_TRUST_DOMAIN || !name.bytes().all(allowed) {
            return Err(SpiffeError::BadTrustDomain(excerpt(name)));
        }
        Ok(Self(name.into()))
    }

    /// The name of the trust domain.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SpiffeId {
    /// The identity of a service account of `namespace`.
    ///
    /// # Errors
    /// For names that Kubernetes would not take: a namespace is a DNS label, a service account a DNS subdomain.
    pub fn new(
        trust_domain: TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeError> {
        if !is_dns_name(namespace, MAX_NAMESPACE) || namespace.contains('.') {
            return Err(SpiffeError::BadNamespace(excerpt(namespace)));
        }
        if !is_dns_name(service_account, MAX_SERVICE_ACCOUNT) {
            return Err(SpiffeError::BadServiceAccount(excerpt(service_account)));
        }
        let text = format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}").into();
        let (namespace, service_account) = (namespace.into(), service_account.into());
        Ok(Self(Arc::new(Parts { text, trust_domain, namespace, service_account })))
    }

    /// The whole identity, as certificates have it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// The identity's trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// The namespace of the service account.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// The name of the service account.
    #[must_use]
    pub fn service_account(&self) -> &str {
        &self.0.service_account
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_ID {
            return Err(SpiffeError::TooLong(text.len()));
        }
        let rest = text.strip_prefix("spiffe://").ok_or_else(|| SpiffeError::NoScheme(excerpt(text)))?;
        let (trust_domain, path) = rest.split_once('/').unwrap_or((rest, ""));
        let trust_domain = TrustDomain::new(trust_domain)?;
        let segments: Vec<&str> = path.split('/').collect();
        let ["ns", namespace, "sa", service_account] = segments[..] else {
            return Err(SpiffeError::BadPath(excerpt(text)));
        };
        Self::new(trust_domain, namespace, service_account)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Whether `name` is made of DNS labels in lower case (RFC 1123), as Kubernetes wants it.
fn is_dns_name(name: &str, longest: usize) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    name.len() <= longest
        && name.split('.').all(|label| {
            !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(inner)
        })
}

/// The beginning of a foreign text, escaped: enough to recognise it, and safe in a log.
fn excerpt(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, accepted: bool) {
        let parsed = text.parse::<SpiffeId>();
        assert_eq!(parsed.is_ok(), accepted, "{text:?}: {parsed:?}");
        if let Ok(id) = parsed {
            assert_eq!(id.to_string(), text, "an accepted identity has one spelling");
        }
    }

    #[test]
    fn identities_of_service_accounts_are_accepted() {
        check("spiffe://cluster.local/ns/shop/sa/default", true);
        check("spiffe://a/ns/b/sa/c", true);
        check("spiffe://with_under-score.1/ns/0/sa/a.b-c.d", true);
        check(&format!("spiffe://td/ns/{}/sa/x", "n".repeat(63)), true);
        check(&format!("spiffe://td/ns/n/sa/{}", "s".repeat(253)), true);
        check(&format!("spiffe://{}/ns/n/sa/s", "t".repeat(255)), true);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "spiffe://",
            "spiffe://td",
            "spiffe://td/",
            "spiffe:///ns/a/sa/b",
            "https://td/ns/a/sa/b",
            "SPIFFE://td/ns/a/sa/b",
            " spiffe://td/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b ",
            "spiffe://td/ns/a/sa/b/",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td//ns/a/sa/b",
            "spiffe://td/ns//sa/b",
            "spiffe://td/ns/a/sa/",
            "spiffe://td/ns/a/sa",
            "spiffe://td/sa/a/ns/b",
            "spiffe://td/NS/a/sa/b",
            "spiffe://TD/ns/a/sa/b",
            "spiffe://td/ns/A/sa/b",
            "spiffe://td/ns/a/sa/B",
            "spiffe://td/ns/a/sa/%62",
            "spiffe://t%64/ns/a/sa/b",
            "spiffe://td:443/ns/a/sa/b",
            "spiffe://user@td/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b?x=1",
            "spiffe://td/ns/a/sa/b#x",
            "spiffe://td/ns/./sa/b",
            "spiffe://td/ns/../sa/b",
            "spiffe://td/ns/a/sa/..",
            "spiffe://td/ns/a.b/sa/c",
            "spiffe://td/ns/-a/sa/b",
            "spiffe://td/ns/a/sa/b-",
            "spiffe://td/ns/a/sa/b..c",
            "spiffe://td/ns/a_b/sa/c",
            "spiffe://td/ns/a/sa/b\0",
            "spiffe://td/ns/a/sa/\u{e9}",
            "spiffe://t\u{f6}/ns/a/sa/b",
            "spiffe://*/ns/a/sa/b",
            "spiffe://td/ns/*/sa/b",
        ] {
            check(text, false);
        }
        check(&format!("spiffe://td/ns/{}/sa/x", "n".repeat(64)), false);
        check(&format!("spiffe://td/ns/n/sa/{}", "s".repeat(254)), false);
        check(&format!("spiffe://{}/ns/n/sa/s", "t".repeat(256)), false);
        check(&format!("spiffe://td/ns/n/sa/{}", "s".repeat(100_000)), false);
    }

    #[test]
    fn an_error_names_what_is_wrong_and_stays_short() {
        let error = format!("spiffe://{}/ns/n/sa/s", "T\n".repeat(500)).parse::<SpiffeId>().unwrap_err();
        assert!(matches!(error, SpiffeError::BadTrustDomain(_)));
        assert!(error.to_string().len() < 300 && !error.to_string().contains('\n'));
    }

    #[test]
    fn identities_travel_in_json_as_strings() {
        let id: SpiffeId = "spiffe://td/ns/a/sa/b".parse().unwrap();
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, r#""spiffe://td/ns/a/sa/b""#);
        assert_eq!(serde_json::from_str::<SpiffeId>(&json).unwrap(), id);
        assert!(serde_json::from_str::<SpiffeId>(r#""spiffe://td/ns/a/sa/B""#).is_err());
    }
}
