//! The `ingress` mode: its flags as typed, what they mean, and how the ones become the other.

use std::path::PathBuf;

use clap::Args;

use super::serving::{RawServing, ServingConfig, read_serving};
use super::values::{directory, object_key, object_name};
use super::{ConfigErrors, Reading};
use crate::cluster::objects::ObjectKey;

/// The flags of `ingress`, as typed.
#[derive(Debug, Args)]
pub(super) struct RawIngress {
    #[command(flatten)]
    serving: RawServing,
    /// A directory of YAML files that says what the cluster holds
    #[arg(long, env = "GAMMARUS_OBJECTS", value_name = "DIR")]
    objects: Option<String>,
    /// The Gateway that is served
    #[arg(long, env = "GAMMARUS_GATEWAY", value_name = "NAMESPACE/NAME")]
    gateway: Option<String>,
    /// The name of this pod, which is in the Gateway's namespace
    #[arg(long, env = "GAMMARUS_POD", value_name = "NAME")]
    pod: Option<String>,
    /// The ServiceAccount of this pod, by which the mesh knows it
    #[arg(long, env = "GAMMARUS_SERVICE_ACCOUNT", value_name = "NAME", default_value = "default")]
    service_account: String,
}

/// The `ingress` mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressConfig {
    /// What it has in common with every proxy.
    pub serving: ServingConfig,
    /// The directory of objects.
    pub objects: PathBuf,
    /// The Gateway.
    pub gateway: ObjectKey,
    /// This pod, in the Gateway's namespace.
    pub pod: ObjectKey,
    /// Its ServiceAccount.
    pub service_account: String,
}

pub(super) fn read_ingress(raw: &RawIngress) -> Result<IngressConfig, ConfigErrors> {
    let mut reading = Reading::default();
    let reader = &mut reading;
    // All are read before any is asked for: no error hides another.
    let serving = read_serving(reader, &raw.serving);
    let objects = reader.required("--objects", raw.objects.as_ref(), directory);
    let gateway = reader.required("--gateway", raw.gateway.as_ref(), object_key);
    let pod = reader.required("--pod", raw.pod.as_ref(), object_name);
    let service_account = reader.read("--service-account", &raw.service_account, object_name);
    let config = (|| {
        let gateway = gateway?;
        Some(IngressConfig {
            serving: serving?,
            objects: objects?,
            pod: ObjectKey::new(&gateway.namespace, &pod?),
            gateway,
            service_account: service_account?,
        })
    })();
    reading.finish(config)
}
