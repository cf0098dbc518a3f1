//! What comes to the plugin: its configuration on standard input, and the CNI variables of its environment.
//!
//! The configuration is read leniently (keys of others are none of our business) and the variables strictly, each
//! error naming its key or variable. The previous plugin's result is kept as the text it came as: this file reads
//! addresses from it, and must never write it anew.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use gammarus_cni::attachment::is_cni_name;
use gammarus_cni::{
    Attachment, AttachmentId, ContainerId, DEFAULT_SOCKET, DEFAULT_STATE_DIR, IfName, NameError, PodName,
};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::plugin::PluginError;

/// The versions of the specification whose results and commands are understood. Chains begin with 0.3.0; results
/// have had the same `ips[].address` and `interfaces` since, and are handed on in the form they came in.
pub(crate) const SUPPORTED: [CniVersion; 5] =
    [CniVersion::V0_3_0, CniVersion::V0_3_1, CniVersion::V0_4_0, CniVersion::V1_0_0, CniVersion::V1_1_0];

/// A version of the CNI specification, older ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CniVersion {
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl CniVersion {
    /// As it stands in `cniVersion`.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }
}

/// The network configuration, as the runtime gives it to one plugin of the chain.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NetConf {
    #[serde(default)]
    cni_version: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    prev_result: Option<Box<RawValue>>,
    #[serde(rename = "cni.dev/valid-attachments", default, deserialize_with = "listed")]
    valid_attachments: Option<Vec<ValidAttachment>>,
    #[serde(default)]
    socket: Option<PathBuf>,
    #[serde(default)]
    state_dir: Option<PathBuf>,
    #[serde(default)]
    timeout_seconds: Option<u64>,
}

/// One entry of `cni.dev/valid-attachments`.
#[derive(Debug, Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container_id: ContainerId,
    ifname: IfName,
}

/// An empty list comes as `null` from runtimes written in Go: it is a list nonetheless.
fn listed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<ValidAttachment>>, D::Error> {
    Option::<Vec<ValidAttachment>>::deserialize(deserializer).map(|list| Some(list.unwrap_or_default()))
}

/// What is read of a result; `interface` is an index into `interfaces`.
#[derive(Deserialize)]
struct PrevResult {
    #[serde(default)]
    ips: Option<Vec<PrevIp>>,
    #[serde(default)]
    interfaces: Option<Vec<PrevInterface>>,
}

#[derive(Deserialize)]
struct PrevIp {
    address: String,
    #[serde(default)]
    interface: Option<usize>,
}

#[derive(Deserialize)]
struct PrevInterface {
    #[serde(default)]
    sandbox: Option<String>,
}

impl NetConf {
    /// Reads the configuration.
    pub(crate) fn parse(stdin: &[u8]) -> Result<Self, PluginError> {
        serde_json::from_slice(stdin)
            .map_err(|source| PluginError::Undecodable { what: "the network configuration", source })
    }

    /// `cniVersion` as it was given.
    pub(crate) fn cni_version(&self) -> &str {
        &self.cni_version
    }

    /// `cniVersion`, if its commands and results are understood.
    pub(crate) fn supported_version(&self) -> Result<CniVersion, PluginError> {
        SUPPORTED
            .into_iter()
            .find(|version| version.as_str() == self.cni_version)
            .ok_or_else(|| PluginError::IncompatibleVersion { version: self.cni_version.clone() })
    }

    /// `name`, which makes ids of attachments unique.
    pub(crate) fn network(&self) -> Result<&str, PluginError> {
        if is_cni_name(&self.name) {
            return Ok(&self.name);
        }
        Err(PluginError::invalid("name", format!("{:?} is not the name of a network", self.name)))
    }

    /// Where the node's proxy listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| DEFAULT_SOCKET.into())
    }

    /// Where the node's proxy leaves what it knows.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(|| DEFAULT_STATE_DIR.into())
    }

    /// How long the node's proxy may take.
    pub(crate) fn timeout(&self) -> Result<Duration, PluginError> {
        match self.timeout_seconds {
            None => Ok(Duration::from_secs(10)),
            Some(seconds @ 1..=300) => Ok(Duration::from_secs(seconds)),
            Some(seconds) => {
                Err(PluginError::invalid("timeoutSeconds", format!("{seconds} is not between 1 and 300")))
            }
        }
    }

    /// The result of the plugin before this one, which there must be.
    pub(crate) fn require_prev_result(&self) -> Result<&RawValue, PluginError> {
        let invalid = |reason: &str| PluginError::invalid("prevResult", reason.to_owned());
        match self.prev_result.as_deref() {
            Some(result) if result.get().starts_with('{') => Ok(result),
            Some(_) => Err(invalid("not an object")),
            None => Err(invalid("missing: this plugin is a chained one and cannot be the first of its list")),
        }
    }

    /// What the runtime still has of this network; `None` when it does not say.
    pub(crate) fn valid_attachments(self) -> Option<Vec<AttachmentId>> {
        let id =
            |valid: ValidAttachment| AttachmentId { container_id: valid.container_id, ifname: valid.ifname };
        Some(self.valid_attachments?.into_iter().map(id).collect())
    }

    /// The addresses that the plugins before this one gave to the pod; those of the host's side are left out.
    fn addresses(&self) -> Result<Vec<IpAddr>, PluginError> {
        let result: PrevResult = serde_json::from_str(self.require_prev_result()?.get())
            .map_err(|source| PluginError::Undecodable { what: "prevResult", source })?;
        let interfaces = result.interfaces.unwrap_or_default();
        let in_sandbox = |ip: &PrevIp| match ip.interface.and_then(|index| interfaces.get(index)) {
            Some(interface) => interface.sandbox.as_deref().is_some_and(|sandbox| !sandbox.is_empty()),
            None => true,
        };
        let ips = result.ips.unwrap_or_default();
        ips.iter()
            .enumerate()
            .filter(|(_, ip)| in_sandbox(ip))
            .map(|(at, ip)| parse_address(at, ip))
            .collect()
    }
}

fn parse_address(at: usize, ip: &PrevIp) -> Result<IpAddr, PluginError> {
    let address = ip.address.split_once('/').map_or(ip.address.as_str(), |(address, _)| address);
    address.parse().map_err(|_| {
        let reason = format!("{:?} is not an address with its prefix", ip.address);
        PluginError::InvalidConfig { key: format!("prevResult.ips[{at}].address"), reason }
    })
}

/// The CNI variables, as the runtime set them; an empty one counts as missing.
#[derive(Debug, Default, Clone)]
pub(crate) struct Environment {
    /// `CNI_COMMAND`
    pub(crate) command: Option<String>,
    /// `CNI_CONTAINERID`
    pub(crate) container_id: Option<String>,
    /// `CNI_NETNS`
    pub(crate) netns: Option<PathBuf>,
    /// `CNI_IFNAME`
    pub(crate) ifname: Option<String>,
    /// `CNI_ARGS`
    pub(crate) args: Option<String>,
}

impl Environment {
    /// Reads the variables of this process.
    pub(crate) fn from_process() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let text = |name| variable(name).map(|value| value.to_string_lossy().into_owned());
        Self {
            command: text("CNI_COMMAND"),
            container_id: text("CNI_CONTAINERID"),
            netns: variable("CNI_NETNS").map(PathBuf::from),
            ifname: text("CNI_IFNAME"),
            args: text("CNI_ARGS"),
        }
    }

    /// `CNI_CONTAINERID` and `CNI_IFNAME`.
    pub(crate) fn attachment_id(&self) -> Result<AttachmentId, PluginError> {
        let container_id = require("CNI_CONTAINERID", self.container_id.clone())?;
        let ifname = require("CNI_IFNAME", self.ifname.clone())?;
        Ok(AttachmentId {
            container_id: container_id.try_into().map_err(named("CNI_CONTAINERID"))?,
            ifname: ifname.try_into().map_err(named("CNI_IFNAME"))?,
        })
    }

    /// `CNI_NETNS`.
    pub(crate) fn netns(&self) -> Result<PathBuf, PluginError> {
        let path = require("CNI_NETNS", self.netns.clone())?;
        if path.to_str().is_some() {
            return Ok(path);
        }
        let reason = format!("{} is not UTF-8, as which it is passed on", path.display());
        Err(PluginError::Environment { variable: "CNI_NETNS", reason })
    }

    /// The pod of `CNI_ARGS`; `None` when the sandbox is not a Kubernetes pod's.
    pub(crate) fn pod(&self) -> Result<Option<PodName>, PluginError> {
        let invalid = |reason: String| PluginError::Environment { variable: "CNI_ARGS", reason };
        let mut pairs = BTreeMap::new();
        for pair in self.args.iter().flat_map(|args| args.split(';')).filter(|pair| !pair.is_empty()) {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| invalid(format!("{pair:?} is not KEY=VALUE")))?;
            pairs.insert(key, value);
        }
        let mut value =
            |key| pairs.remove(key).filter(|value: &&str| !value.is_empty()).map(ToOwned::to_owned);
        match (value("K8S_POD_NAMESPACE"), value("K8S_POD_NAME"), value("K8S_POD_UID")) {
            (None, None, _) => Ok(None),
            (Some(namespace), Some(name), uid) => {
                PodName::new(namespace, name, uid).map(Some).map_err(named("CNI_ARGS"))
            }
            (None, Some(_), _) => Err(invalid("K8S_POD_NAMESPACE is missing beside K8S_POD_NAME".to_owned())),
            (Some(_), None, _) => Err(invalid("K8S_POD_NAME is missing beside K8S_POD_NAMESPACE".to_owned())),
        }
    }

    /// The attachment that this call is about; `None` when the sandbox is not a Kubernetes pod's.
    pub(crate) fn attachment(&self, conf: &NetConf) -> Result<Option<Attachment>, PluginError> {
        let (id, netns) = (self.attachment_id()?, self.netns()?);
        let Some(pod) = self.pod()? else { return Ok(None) };
        Ok(Some(Attachment {
            id,
            network: conf.network()?.to_owned(),
            netns,
            pod,
            addresses: conf.addresses()?,
        }))
    }
}

fn require<T>(variable: &'static str, value: Option<T>) -> Result<T, PluginError> {
    value.ok_or_else(|| PluginError::Environment { variable, reason: "not set".to_owned() })
}

fn named(variable: &'static str) -> impl Fn(NameError) -> PluginError {
    move |error| PluginError::Environment { variable, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::{Environment, NetConf};

    fn conf(text: &str) -> NetConf {
        NetConf::parse(text.as_bytes()).unwrap()
    }

    #[track_caller]
    fn check_addresses(prev_result: &str, expected: Result<&[&str], &str>) {
        let got = conf(&format!(r#"{{"prevResult":{prev_result}}}"#)).addresses();
        match (got, expected) {
            (Ok(got), Ok(expected)) => {
                assert_eq!(
                    got.iter().map(ToString::to_string).collect::<Vec<_>>(),
                    expected,
                    "{prev_result}"
                );
            }
            (Err(got), Err(expected)) => assert!(got.to_string().contains(expected), "{prev_result}: {got}"),
            (got, _) => panic!("{prev_result}: {got:?}"),
        }
    }

    #[test]
    fn the_pods_own_addresses_are_read_from_the_result() {
        let interfaces = r#""interfaces":[{"name":"br0"},{"name":"eth0","sandbox":"/run/netns/x"}]"#;
        let both = format!(
            r#"{{{interfaces},"ips":[{{"address":"10.0.0.2/24","interface":1}},{{"address":"10.0.0.1/24","interface":0}}]}}"#
        );
        check_addresses(&both, Ok(&["10.0.0.2"]));
        check_addresses(
            r#"{"ips":[{"address":"10.0.0.2/24"},{"address":"fd00::2/64"}]}"#,
            Ok(&["10.0.0.2", "fd00::2"]),
        );
        check_addresses(
            r#"{"ips":[{"version":"4","address":"10.0.0.2/24","interface":7}]}"#,
            Ok(&["10.0.0.2"]),
        );
        check_addresses(r#"{"ips":null,"interfaces":null}"#, Ok(&[]));
        check_addresses("{}", Ok(&[]));
        check_addresses(r#"{"ips":[{"address":"ten/24"}]}"#, Err("prevResult.ips[0].address"));
        check_addresses("[]", Err("prevResult"));
        check_addresses("null", Err("prevResult"));
    }

    #[track_caller]
    fn check_pod(args: &str, expected: Result<Option<&str>, &str>) {
        let environment = Environment { args: Some(args.to_owned()), ..Environment::default() };
        match (environment.pod(), expected) {
            (Ok(got), Ok(expected)) => {
                assert_eq!(got.map(|pod| pod.to_string()).as_deref(), expected, "{args}")
            }
            (Err(got), Err(expected)) => {
                let got = got.to_string();
                assert!(got.contains("CNI_ARGS") && got.contains(expected), "{args}: {got}");
            }
            (got, _) => panic!("{args}: {got:?}"),
        }
    }

    #[test]
    fn the_pod_is_read_from_cni_args() {
        check_pod("", Ok(None));
        check_pod("IgnoreUnknown=1", Ok(None));
        check_pod("IgnoreUnknown=1;;K8S_POD_NAMESPACE=;K8S_POD_NAME=;", Ok(None));
        check_pod(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u",
            Ok(Some("shop/web-0")),
        );
        check_pod("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;X=a=b", Ok(Some("shop/web-0")));
        check_pod("K8S_POD_NAMESPACE=shop", Err("K8S_POD_NAME is missing"));
        check_pod("K8S_POD_NAME=web-0", Err("K8S_POD_NAMESPACE is missing"));
        check_pod("K8S_POD_NAMESPACE=../x;K8S_POD_NAME=web-0", Err("Kubernetes namespace"));
        check_pod("IgnoreUnknown", Err("KEY=VALUE"));
    }

    #[test]
    fn a_variable_that_is_missing_or_wrong_is_named() {
        let whole = Environment {
            container_id: Some("c1".to_owned()),
            ifname: Some("eth0".to_owned()),
            netns: Some("/run/netns/x".into()),
            ..Environment::default()
        };
        assert_eq!(whole.attachment_id().unwrap().to_string(), "c1/eth0");
        let id_error = |environment: Environment| environment.attachment_id().unwrap_err().to_string();
        for (environment, variable) in [
            (Environment { container_id: None, ..whole.clone() }, "CNI_CONTAINERID"),
            (Environment { container_id: Some("../x".to_owned()), ..whole.clone() }, "CNI_CONTAINERID"),
            (Environment { ifname: None, ..whole.clone() }, "CNI_IFNAME"),
            (Environment { ifname: Some("eth/0".to_owned()), ..whole.clone() }, "CNI_IFNAME"),
        ] {
            let message = id_error(environment);
            assert!(message.contains(variable), "{message}");
        }
        for netns in [None, Some(OsStr::from_bytes(b"/run/netns/\xff").into())] {
            let message = Environment { netns, ..whole.clone() }.netns().unwrap_err().to_string();
            assert!(message.contains("CNI_NETNS"), "{message}");
        }
    }

    #[test]
    fn our_own_keys_have_defaults_and_limits() {
        let defaults = conf(r#"{"cniVersion":"1.0.0","name":"podnet","type":"gammarus-cni","mtu":1}"#);
        assert_eq!(defaults.socket().to_str(), Some("/run/gammarus/enrol.sock"));
        assert_eq!(defaults.state_dir().to_str(), Some("/var/lib/gammarus"));
        assert_eq!(defaults.timeout().unwrap().as_secs(), 10);
        let own = conf(r#"{"socket":"/s","stateDir":"/d","timeoutSeconds":3}"#);
        assert_eq!((own.socket().to_str(), own.state_dir().to_str()), (Some("/s"), Some("/d")));
        assert_eq!(own.timeout().unwrap().as_secs(), 3);
        for seconds in [0, 301] {
            let message =
                conf(&format!(r#"{{"timeoutSeconds":{seconds}}}"#)).timeout().unwrap_err().to_string();
            assert!(message.contains("timeoutSeconds"), "{message}");
        }
    }

    #[test]
    fn versions_before_chains_and_after_ours_are_refused() {
        for (version, supported) in [
            ("0.2.0", false),
            ("0.3.0", true),
            ("0.3.1", true),
            ("0.4.0", true),
            ("1.0.0", true),
            ("1.1.0", true),
            ("1.2.0", false),
            ("", false),
        ] {
            let conf = conf(&format!(r#"{{"cniVersion":"{version}"}}"#));
            assert_eq!(conf.supported_version().is_ok(), supported, "{version}");
        }
    }

    #[test]
    fn a_list_of_valid_attachments_is_told_from_none() {
        let ids = |text: &str| {
            conf(text).valid_attachments().map(|ids| ids.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(ids("{}"), None);
        assert_eq!(ids(r#"{"cni.dev/valid-attachments":null}"#), Some(vec![]));
        let one = r#"{"cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]}"#;
        assert_eq!(ids(one), Some(vec!["c1/eth0".to_owned()]));
        assert!(
            NetConf::parse(br#"{"cni.dev/valid-attachments":[{"containerID":"../c","ifname":"e"}]}"#)
                .is_err()
        );
    }
}
