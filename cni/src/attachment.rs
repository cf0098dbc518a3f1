//! What is enrolled: one interface of one pod's sandbox, as a container runtime names it.
//!
//! The plugin makes an [`Attachment`] at ADD, the node's proxy acts on it. The names are types of their own
//! because they end up in file names: a [`ContainerId`] can never be a path that leads elsewhere.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A name that the CNI specification or Kubernetes does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not {expected}")]
pub struct NameError {
    /// What was given, cut to a length that can be shown.
    value: String,
    /// What would have been right.
    expected: &'static str,
}

impl NameError {
    fn new(value: &str, expected: &'static str) -> Self {
        Self { value: value.chars().take(80).collect(), expected }
    }
}

/// The runtime's id of a sandbox: a letter or digit, then letters, digits, `_`, `.` and `-` (CNI 1.1, section 2),
/// at most 200 bytes so that it can be a file name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

impl ContainerId {
    /// The id as the runtime wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ContainerId {
    type Error = NameError;

    fn try_from(value: String) -> Result<Self, NameError> {
        if is_cni_name(&value) && value.len() <= 200 {
            return Ok(Self(value));
        }
        Err(NameError::new(
            &value,
            "a container id: a letter or digit, then letters, digits, '_', '.' or '-', 200 at most",
        ))
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of an interface inside a sandbox, as Linux allows it: 1 to 15 bytes, not `.` or `..`, no `/`, `:`
/// or white space.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

impl IfName {
    /// The name as the runtime wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for IfName {
    type Error = NameError;

    fn try_from(value: String) -> Result<Self, NameError> {
        let printable = |c: char| c != '/' && c != ':' && !c.is_whitespace() && !c.is_control();
        if (1..=15).contains(&value.len()) && value != "." && value != ".." && value.chars().all(printable) {
            return Ok(Self(value));
        }
        Err(NameError::new(
            &value,
            "an interface name: 1 to 15 bytes, not '.' or '..', without '/', ':' or white space",
        ))
    }
}

impl From<IfName> for String {
    fn from(name: IfName) -> Self {
        name.0
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a runtime knows an attachment by, within one network.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentId {
    /// `CNI_CONTAINERID`.
    pub container_id: ContainerId,
    /// `CNI_IFNAME`.
    pub ifname: IfName,
}

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container_id, self.ifname)
    }
}

/// A Kubernetes pod, as the runtime names it in `CNI_ARGS`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedPodName")]
pub struct PodName {
    namespace: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
}

#[derive(Deserialize)]
struct UncheckedPodName {
    namespace: String,
    name: String,
    #[serde(default)]
    uid: Option<String>,
}

impl TryFrom<UncheckedPodName> for PodName {
    type Error = NameError;

    fn try_from(pod: UncheckedPodName) -> Result<Self, NameError> {
        Self::new(pod.namespace, pod.name, pod.uid)
    }
}

impl PodName {
    /// Takes the names as they stand in `CNI_ARGS`.
    ///
    /// # Errors
    /// A namespace or name that Kubernetes would not have accepted.
    pub fn new(namespace: String, name: String, uid: Option<String>) -> Result<Self, NameError> {
        let lower = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        if namespace.is_empty() || namespace.len() > 63 || !namespace.bytes().all(lower) {
            return Err(NameError::new(&namespace, "the name of a Kubernetes namespace"));
        }
        if name.is_empty() || name.len() > 253 || !name.bytes().all(|c| lower(c) || c == b'.') {
            return Err(NameError::new(&name, "the name of a Kubernetes pod"));
        }
        if let Some(uid) = uid.as_deref().filter(|uid| !is_cni_name(uid) || uid.len() > 128) {
            return Err(NameError::new(uid, "the uid of a Kubernetes pod"));
        }
        Ok(Self { namespace, name, uid })
    }

    /// `K8S_POD_NAMESPACE`.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// `K8S_POD_NAME`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `K8S_POD_UID`: some runtimes do not say it, and for a static pod it is not the uid of its Pod object.
    #[must_use]
    pub fn uid(&self) -> Option<&str> {
        self.uid.as_deref()
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One interface of one pod, with all that the node's proxy needs to enrol the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// Its key.
    pub id: AttachmentId,
    /// The `name` of the network configuration; ids are unique within it.
    pub network: String,
    /// `CNI_NETNS`: where the runtime keeps the namespace, to find it again after a restart.
    pub netns: PathBuf,
    /// Whose it is.
    pub pod: PodName,
    /// The pod's own addresses, in the order of `prevResult.ips`.
    pub addresses: Vec<IpAddr>,
}

/// The rule that CNI sets for container ids and names of networks.
#[must_use]
pub fn is_cni_name(value: &str) -> bool {
    let mut bytes = value.bytes();
    bytes.next().is_some_and(|c| c.is_ascii_alphanumeric())
        && bytes.all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::{ContainerId, IfName, PodName};

    #[track_caller]
    fn check(kind: &str, value: &str, accepted: bool) {
        let got = match kind {
            "container" => ContainerId::try_from(value.to_owned()).is_ok(),
            "interface" => IfName::try_from(value.to_owned()).is_ok(),
            "namespace" => PodName::new(value.to_owned(), "web-0".to_owned(), None).is_ok(),
            "pod" => PodName::new("shop".to_owned(), value.to_owned(), None).is_ok(),
            "uid" => PodName::new("shop".to_owned(), "web-0".to_owned(), Some(value.to_owned())).is_ok(),
            other => panic!("no such kind: {other}"),
        };
        assert_eq!(got, accepted, "{kind} {value:?}");
    }

    #[test]
    fn names_are_taken_only_in_the_form_their_specification_gives() {
        let long = "a".repeat(254);
        for (kind, value, accepted) in [
            ("container", "c1", true),
            ("container", "0_a.b-c", true),
            ("container", "", false),
            ("container", ".hidden", false),
            ("container", "..", false),
            ("container", "-c", false),
            ("container", "a/b", false),
            ("container", "../../etc/passwd", false),
            ("container", "a b", false),
            ("container", "a\0", false),
            ("container", "ä", false),
            ("container", &long[..200], true),
            ("container", &long[..201], false),
            ("interface", "eth0", true),
            ("interface", "a23456789012345", true),
            ("interface", "a234567890123456", false),
            ("interface", "", false),
            ("interface", ".", false),
            ("interface", "..", false),
            ("interface", "eth/0", false),
            ("interface", "eth:0", false),
            ("interface", "eth 0", false),
            ("interface", "eth\t0", false),
            ("namespace", "shop", true),
            ("namespace", "", false),
            ("namespace", "Shop", false),
            ("namespace", "a.b", false),
            ("namespace", "../x", false),
            ("namespace", &long[..64], false),
            ("pod", "web-0.x", true),
            ("pod", "", false),
            ("pod", "web_0", false),
            ("pod", &long, false),
            ("uid", "6dd2c1d4-52d9-4fbb-9d2e-6a2f0e3c9b10", true),
            ("uid", "", false),
            ("uid", "a/b", false),
        ] {
            check(kind, value, accepted);
        }
    }

    #[test]
    fn a_name_from_json_is_checked_like_any_other() {
        assert!(serde_json::from_str::<ContainerId>("\"../x\"").is_err());
        assert!(serde_json::from_str::<IfName>("\"a/b\"").is_err());
        assert!(serde_json::from_str::<PodName>(r#"{"namespace":"../x","name":"web-0"}"#).is_err());
        assert_eq!(serde_json::from_str::<ContainerId>("\"c1\"").unwrap().as_str(), "c1");
    }
}
