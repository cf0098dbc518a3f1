//! The `ingress` mode: its flags as typed, what they mean, and how the ones become the other.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::serving::{HostPort, RawServing, ServingConfig, read_serving};
use super::values::{address_ranges, directory, file, host_port, number, object_key, object_name, path};
use super::{ConfigErrors, FlagError, Reading};
use crate::attach::gateway::{LONGEST_DRAIN_SECONDS, MOST_TRUSTED_HOPS};
use crate::cluster::objects::ObjectKey;
use crate::ingress::intermediaries::{Intermediaries, ProxyProtocol};

/// The flags of `ingress`, as typed.
#[derive(Debug, Args)]
pub(super) struct RawIngress {
    #[command(flatten)]
    serving: RawServing,
    /// A directory of YAML files that says what the cluster holds, in place of a controller
    #[arg(long, env = "GAMMARUS_OBJECTS", value_name = "DIR")]
    objects: Option<String>,
    /// Where the controllers are that say what the cluster holds
    #[arg(long, env = "GAMMARUS_FEED_ADDRESS", value_name = "HOST:PORT")]
    feed_address: Option<String>,
    /// The ServiceAccount of the controllers
    #[arg(
        long,
        env = "GAMMARUS_FEED_SERVICE_ACCOUNT",
        value_name = "NAMESPACE/NAME",
        default_value = "gammarus-system/gammarus-controller"
    )]
    feed_service_account: String,
    /// Where is kept what the controllers said last: private keys are among it
    #[arg(long, env = "GAMMARUS_STATE_DIR", value_name = "DIR", default_value = "/var/lib/gammarus")]
    state_dir: String,
    /// The Gateway that is served
    #[arg(long, env = "GAMMARUS_GATEWAY", value_name = "NAMESPACE/NAME")]
    gateway: Option<String>,
    /// The name of this pod, which is in the Gateway's namespace
    #[arg(long, env = "GAMMARUS_POD", value_name = "NAME")]
    pod: Option<String>,
    /// The ServiceAccount of this pod, by which the mesh knows it
    #[arg(long, env = "GAMMARUS_SERVICE_ACCOUNT", value_name = "NAME", default_value = "default")]
    service_account: String,
    /// How many proxies in front append to X-Forwarded-For and are believed
    #[arg(long, env = "GAMMARUS_TRUSTED_HOPS", value_name = "N", default_value = "0")]
    trusted_hops: String,
    /// Every connection begins with a header of the PROXY protocol, of version 1 or 2
    #[arg(long, env = "GAMMARUS_PROXY_PROTOCOL")]
    proxy_protocol: bool,
    /// Who may speak it: nobody else is served [default: anybody]
    #[arg(long, env = "GAMMARUS_PROXY_PROTOCOL_FROM", value_name = "ADDRESS/LENGTH,...")]
    proxy_protocol_from: Option<String>,
    /// The authorities in PEM that BackendTLSPolicies mean by `System` [default: Mozilla's list]
    #[arg(long, env = "GAMMARUS_SYSTEM_AUTHORITIES", value_name = "FILE")]
    system_authorities: Option<String>,
    /// How long those who stay are served once the proxy was told to stop and everybody knows
    #[arg(long, env = "GAMMARUS_DRAIN_SECONDS", value_name = "SECONDS", default_value = "20")]
    drain_seconds: String,
}

/// Where a Gateway's objects are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IngressObjects {
    /// From a directory of YAML files.
    Directory(PathBuf),
    /// From the controllers.
    Feed {
        /// Where they are.
        address: HostPort,
        /// Their ServiceAccount.
        service_account: ObjectKey,
        /// Where is kept what they said last.
        state_dir: PathBuf,
    },
}

/// The `ingress` mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressConfig {
    /// What it has in common with every proxy.
    pub serving: ServingConfig,
    /// Where the objects are read.
    pub objects: IngressObjects,
    /// The Gateway.
    pub gateway: ObjectKey,
    /// This pod, in the Gateway's namespace.
    pub pod: ObjectKey,
    /// Its ServiceAccount.
    pub service_account: String,
    /// Who is believed about clients.
    pub intermediaries: Intermediaries,
    /// A file of the authorities that everybody takes, in place of those that are built in.
    pub system_authorities: Option<PathBuf>,
    /// How long those who stay are served at its end, once everybody knows of that.
    pub drain: Duration,
}

pub(super) fn read_ingress(raw: &RawIngress) -> Result<IngressConfig, ConfigErrors> {
    let mut reading = Reading::default();
    let reader = &mut reading;
    // All are read before any is asked for: no error hides another.
    let serving = read_serving(reader, &raw.serving);
    let objects = read_objects(reader, raw);
    let gateway = reader.required("--gateway", raw.gateway.as_ref(), object_key);
    let pod = reader.required("--pod", raw.pod.as_ref(), object_name);
    let service_account = reader.read("--service-account", &raw.service_account, object_name);
    let intermediaries = read_intermediaries(reader, raw);
    let authorities = reader.given("--system-authorities", raw.system_authorities.as_ref(), file);
    let drain =
        reader.read("--drain-seconds", &raw.drain_seconds, |value| number(value, 1..=LONGEST_DRAIN_SECONDS));
    let config = (|| {
        let gateway = gateway?;
        Some(IngressConfig {
            serving: serving?,
            objects: objects?,
            pod: ObjectKey::new(&gateway.namespace, &pod?),
            gateway,
            service_account: service_account?,
            intermediaries: intermediaries?,
            system_authorities: authorities?,
            drain: Duration::from_secs(drain?.into()),
        })
    })();
    reading.finish(config)
}

fn read_objects(reading: &mut Reading, raw: &RawIngress) -> Option<IngressObjects> {
    let service_account = reading.read("--feed-service-account", &raw.feed_service_account, object_key);
    let state_dir = reading.read("--state-dir", &raw.state_dir, path);
    let Some(value) = &raw.feed_address else {
        let root = reading.required("--objects", raw.objects.as_ref(), directory)?;
        return Some(IngressObjects::Directory(root));
    };
    if raw.objects.is_some() {
        let problem = "cannot be given with --objects, which takes the place of controllers";
        reading.errors.push(FlagError::Wrong { flag: "--feed-address", value: value.clone(), problem });
        return None;
    }
    let address = reading.read("--feed-address", value, host_port)?;
    Some(IngressObjects::Feed { address, service_account: service_account?, state_dir: state_dir? })
}

fn read_intermediaries(reading: &mut Reading, raw: &RawIngress) -> Option<Intermediaries> {
    let trusted_hops =
        reading.read("--trusted-hops", &raw.trusted_hops, |value| number(value, 0..=MOST_TRUSTED_HOPS));
    let named = raw.proxy_protocol_from.as_ref();
    let from = reading.given("--proxy-protocol-from", named, address_ranges);
    if let Some(value) = named.filter(|_| !raw.proxy_protocol) {
        let problem = "says who may speak the PROXY protocol, and --proxy-protocol is not given";
        reading.errors.push(FlagError::Wrong {
            flag: "--proxy-protocol-from",
            value: value.clone(),
            problem,
        });
    }
    let proxy_protocol = raw.proxy_protocol.then_some(ProxyProtocol { from: from? });
    Some(Intermediaries { trusted_hops: usize::try_from(trusted_hops?).ok()?, proxy_protocol })
}
