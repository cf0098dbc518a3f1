//! The `controller` mode: its flags as typed, what they mean, and how the ones become the other.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::serving::{CaConfig, RawCa, read_ca};
use super::values::{
    file, host_port, log_filter, log_format, loopback, namespace, object_name, socket_address, trust_domain,
};
use super::{ConfigErrors, Reading};
use crate::controller::provision::Settings;
use crate::telemetry::LogFormat;

/// The flags of `controller`, as typed.
#[derive(Debug, Args)]
pub(super) struct RawController {
    /// How the API server is reached [default: KUBECONFIG, else as a pod reaches it]
    #[arg(long, env = "GAMMARUS_KUBECONFIG", value_name = "PATH")]
    kubeconfig: Option<String>,
    /// The namespace of the Lease and of the node proxies [default: this pod's, or that of the kubeconfig]
    #[arg(long, env = "GAMMARUS_NAMESPACE", value_name = "NAME")]
    namespace: Option<String>,
    /// Where the proxies of Gateways come for what they serve by; without it nobody is fed, and no CA is needed
    #[arg(long, env = "GAMMARUS_FEED_LISTEN", value_name = "IP:PORT")]
    feed_listen: Option<String>,
    #[command(flatten)]
    ca: RawCa,
    /// The trust domain of the mesh
    #[arg(long, env = "GAMMARUS_TRUST_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    trust_domain: String,
    /// Take the taint gammarus.io/not-ready from nodes whose proxy is ready
    #[arg(long, env = "GAMMARUS_STARTUP_TAINT")]
    startup_taint: bool,
    /// The name of this pod
    #[arg(long, env = "GAMMARUS_POD", value_name = "NAME")]
    pod: Option<String>,
    /// The image of the proxies that are made for Gateways [default: this pod's; without --pod none are made]
    #[arg(long, env = "GAMMARUS_INGRESS_IMAGE", value_name = "IMAGE")]
    ingress_image: Option<String>,
    /// When nodes pull that image
    #[arg(
        long,
        env = "GAMMARUS_INGRESS_IMAGE_PULL_POLICY",
        value_name = "Always|IfNotPresent|Never",
        default_value = "IfNotPresent"
    )]
    ingress_image_pull_policy: String,
    /// Where those proxies hear what to serve
    #[arg(long, env = "GAMMARUS_FEED_ADDRESS", value_name = "HOST:PORT")]
    feed_address: Option<String>,
    /// Where the admin server listens: loopback only
    #[arg(long, env = "GAMMARUS_ADMIN_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:15000")]
    admin_listen: String,
    /// Where metrics and health are served to the outside
    #[arg(long, env = "GAMMARUS_HEALTH_LISTEN", value_name = "IP:PORT", default_value = "[::]:15021")]
    health_listen: String,
    /// How the log looks
    #[arg(long, env = "GAMMARUS_LOG_FORMAT", value_name = "text|json", default_value = "text")]
    log_format: String,
    /// What is logged: a list of [target=]level
    #[arg(long, env = "GAMMARUS_LOG_LEVEL", value_name = "FILTER", default_value = "info")]
    log_level: String,
}

/// What becomes of the start-up taint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartupTaint {
    /// It is nobody's concern.
    Left,
    /// It is taken from nodes whose proxy is ready.
    Lifted,
}

/// How the proxies of Gateways are fed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedConfig {
    /// Where they come.
    pub listen: SocketAddr,
    /// Who says who they are, and who the controller is.
    pub ca: CaConfig,
}

/// The `controller` mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerConfig {
    /// How the API server is reached, if that is given.
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of the Lease and of the node proxies, if that is given.
    pub namespace: Option<String>,
    /// The feed, if there is one.
    pub feed: Option<FeedConfig>,
    /// The trust domain, in its valid form.
    pub trust_domain: String,
    /// The start-up taint.
    pub startup_taint: StartupTaint,
    /// This pod, if that is given.
    pub pod: Option<String>,
    /// What is made for Gateways, if anything is; without an image, of that of the pod.
    pub provision: Option<Box<Settings>>,
    /// The admin server: a loopback address.
    pub admin_listen: SocketAddr,
    /// Metrics and health for the outside.
    pub health_listen: SocketAddr,
    /// How lines look.
    pub format: LogFormat,
    /// What is logged; a valid filter.
    pub filter: String,
}

pub(super) fn read_controller(raw: &RawController) -> Result<ControllerConfig, ConfigErrors> {
    let mut reading = Reading::default();
    let kubeconfig = reading.given("--kubeconfig", raw.kubeconfig.as_ref(), file);
    let namespace = reading.given("--namespace", raw.namespace.as_ref(), namespace);
    let pod = reading.given("--pod", raw.pod.as_ref(), object_name);
    let feed = read_feed(&mut reading, raw);
    let trust_domain = reading.read("--trust-domain", &raw.trust_domain, trust_domain);
    let provision = read_provision(&mut reading, raw, trust_domain.as_deref());
    let admin_listen = reading.read("--admin-listen", &raw.admin_listen, loopback);
    let health_listen = reading.read("--health-listen", &raw.health_listen, socket_address);
    let format = reading.read("--log-format", &raw.log_format, log_format);
    let filter = reading.read("--log-level", &raw.log_level, log_filter);
    let config = (|| {
        Some(ControllerConfig {
            kubeconfig: kubeconfig?,
            namespace: namespace?,
            feed: feed?,
            trust_domain: trust_domain?,
            startup_taint: if raw.startup_taint { StartupTaint::Lifted } else { StartupTaint::Left },
            pod: pod?,
            provision: provision?,
            admin_listen: admin_listen?,
            health_listen: health_listen?,
            format: format?,
            filter: filter?,
        })
    })();
    reading.finish(config)
}

/// Nothing when something of it is wrong; otherwise what is asked for, which may be nothing.
fn read_feed(reading: &mut Reading, raw: &RawController) -> Option<Option<FeedConfig>> {
    let Some(value) = &raw.feed_listen else { return Some(None) };
    let (listen, ca) = (reading.read("--feed-listen", value, socket_address), read_ca(reading, &raw.ca));
    Some(Some(FeedConfig { listen: listen?, ca: ca? }))
}

/// What is made for Gateways; nothing without an image or a pod that has one.
fn read_provision(
    reading: &mut Reading,
    raw: &RawController,
    trust_domain: Option<&str>,
) -> Option<Option<Box<Settings>>> {
    let policy = reading.read("--ingress-image-pull-policy", &raw.ingress_image_pull_policy, pull_policy);
    if raw.ingress_image.is_none() && raw.pod.is_none() {
        return Some(None);
    }
    let image = reading.given("--ingress-image", raw.ingress_image.as_ref(), image_name);
    let ca_address = reading.required("--ca-address", raw.ca.address(), host_port);
    let feed_address = reading.required("--feed-address", raw.feed_address.as_ref(), host_port);
    Some(Some(Box::new(Settings {
        image: image?,
        image_pull_policy: policy?,
        trust_domain: trust_domain?.to_owned(),
        ca_address: ca_address?.to_string(),
        feed_address: feed_address?.to_string(),
        feed_service_account: None,
        log_format: raw.log_format.clone(),
        log_level: raw.log_level.clone(),
    })))
}

fn pull_policy(value: &str) -> Result<String, &'static str> {
    match value {
        "Always" | "IfNotPresent" | "Never" => Ok(value.to_owned()),
        _ => Err("is none of Always, IfNotPresent and Never"),
    }
}

/// What runs it says what is wrong with it: how images may be named is a matter of registries.
fn image_name(value: &str) -> Result<String, &'static str> {
    if value.is_empty() || value.contains(char::is_whitespace) {
        Err("is no name of an image")
    } else {
        Ok(value.to_owned())
    }
}
