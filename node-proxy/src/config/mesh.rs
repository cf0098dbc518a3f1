//! The `mesh` mode: its flags as typed, what they mean, and how the ones become the other.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::serving::{RawServing, ServingConfig, read_serving};
use super::values::{directory, file, number, path};
use super::{ConfigErrors, FlagError, Reading};
use crate::attach::gateway::LONGEST_DRAIN_SECONDS;

/// The flags of `mesh`, as typed.
#[derive(Debug, Args)]
pub(super) struct RawMesh {
    #[command(flatten)]
    serving: RawServing,
    /// A directory of YAML files that says what the cluster holds, in place of the API server
    #[arg(long, env = "GAMMARUS_OBJECTS", value_name = "DIR")]
    objects: Option<String>,
    /// How the API server is reached [default: the file that KUBECONFIG names, or as a pod of the cluster does]
    #[arg(long, env = "GAMMARUS_KUBECONFIG", value_name = "PATH")]
    kubeconfig: Option<String>,
    /// The socket on which the CNI plugin enrols pods
    #[arg(long, env = "GAMMARUS_SOCKET", value_name = "PATH", default_value = "/run/gammarus/enrol.sock")]
    socket: String,
    /// The socket of the holder, which keeps sockets and keys from one proxy to the next
    #[arg(long, env = "GAMMARUS_HOLDER", value_name = "PATH")]
    holder: Option<String>,
    /// How long a proxy that another one has superseded serves who stays
    #[arg(long, env = "GAMMARUS_DRAIN_SECONDS", value_name = "SECONDS", default_value = "3600")]
    drain_seconds: String,
    /// Where enrolled pods are remembered
    #[arg(long, env = "GAMMARUS_STATE_DIR", value_name = "DIR", default_value = "/var/lib/gammarus")]
    state_dir: String,
    /// The host's root, where the network namespaces of pods are that are older than the plugin
    #[arg(long, env = "GAMMARUS_HOST_ROOT", value_name = "DIR", default_value = "/")]
    host_root: String,
    /// Seconds between two comparisons of a pod's rules and sockets with what they should be
    #[arg(long, env = "GAMMARUS_INSPECTION_SECONDS", value_name = "N", default_value = "15")]
    inspection_seconds: String,
    /// Seconds that another node's view of the cluster may be behind this one's
    #[arg(long, env = "GAMMARUS_LAG_SECONDS", value_name = "N", default_value = "10")]
    lag_seconds: String,
    /// Seconds without a new use of the hop before a pod that is released is no longer captured
    #[arg(long, env = "GAMMARUS_RELEASE_SECONDS", value_name = "N", default_value = "30")]
    release_seconds: String,
}

/// How long enrolment waits for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnrolmentConfig {
    /// Between two comparisons of a pod with what it should be.
    pub inspection: Duration,
    /// How far another node's view of the cluster may be behind this one's.
    pub lag: Duration,
    /// Without a new use of the hop, before a pod that is released is no longer captured.
    pub release: Duration,
}

/// How a proxy hands over to the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandOverConfig {
    /// The socket of the holder, if there is one.
    pub holder: Option<PathBuf>,
    /// How long a proxy that was superseded serves who stays.
    pub drain: Duration,
}

/// Where the cluster's objects are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectsConfig {
    /// From the API server.
    ApiServer {
        /// How it is reached; without it, as `KUBECONFIG` says, or as a pod of the cluster does.
        kubeconfig: Option<PathBuf>,
    },
    /// From a directory of YAML files.
    Directory(PathBuf),
}

/// The `mesh` mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshConfig {
    /// What it has in common with every proxy.
    pub serving: ServingConfig,
    /// Where the cluster's objects are read.
    pub objects: ObjectsConfig,
    /// The socket of enrolment.
    pub socket: PathBuf,
    /// Where enrolled pods are remembered.
    pub state_dir: PathBuf,
    /// The root of the host.
    pub host_root: PathBuf,
    /// What was there before this process, and what comes after it.
    pub hand_over: HandOverConfig,
    /// The pods' way in and out.
    pub enrolment: EnrolmentConfig,
}

pub(super) fn read_mesh(raw: &RawMesh) -> Result<MeshConfig, ConfigErrors> {
    let mut reading = Reading::default();
    let reader = &mut reading;
    // All are read before any is asked for: no error hides another.
    let serving = read_serving(reader, &raw.serving);
    let objects = read_objects(reader, raw);
    let socket = reader.read("--socket", &raw.socket, path);
    let state_dir = reader.read("--state-dir", &raw.state_dir, path);
    let host_root = reader.read("--host-root", &raw.host_root, directory);
    let hand_over = read_hand_over(reader, raw);
    let enrolment = read_enrolment(reader, raw);
    let config = (|| {
        Some(MeshConfig {
            serving: serving?,
            objects: objects?,
            socket: socket?,
            state_dir: state_dir?,
            host_root: host_root?,
            hand_over: hand_over?,
            enrolment: enrolment?,
        })
    })();
    reading.finish(config)
}

fn read_objects(reading: &mut Reading, raw: &RawMesh) -> Option<ObjectsConfig> {
    match (&raw.objects, &raw.kubeconfig) {
        (Some(value), None) => reading.read("--objects", value, directory).map(ObjectsConfig::Directory),
        (None, Some(value)) => {
            let kubeconfig = reading.read("--kubeconfig", value, file)?;
            Some(ObjectsConfig::ApiServer { kubeconfig: Some(kubeconfig) })
        }
        (None, None) => Some(ObjectsConfig::ApiServer { kubeconfig: None }),
        (Some(_), Some(value)) => {
            let problem = "cannot be given with --objects, which takes the place of the API server";
            reading.errors.push(FlagError::Wrong { flag: "--kubeconfig", value: value.clone(), problem });
            None
        }
    }
}

fn read_hand_over(reading: &mut Reading, raw: &RawMesh) -> Option<HandOverConfig> {
    let holder = raw.holder.as_ref().map(|value| reading.read("--holder", value, path));
    let seconds =
        reading.read("--drain-seconds", &raw.drain_seconds, |value| number(value, 1..=LONGEST_DRAIN_SECONDS));
    let holder = match holder {
        Some(given) => Some(given?),
        None => None,
    };
    Some(HandOverConfig { holder, drain: Duration::from_secs(seconds?.into()) })
}

fn read_enrolment(reading: &mut Reading, raw: &RawMesh) -> Option<EnrolmentConfig> {
    let mut seconds =
        |flag, value| reading.read(flag, value, |value| number(value, 1..=3600)).map(Duration::from_secs);
    let inspection = seconds("--inspection-seconds", &raw.inspection_seconds);
    let lag = seconds("--lag-seconds", &raw.lag_seconds);
    let release = seconds("--release-seconds", &raw.release_seconds);
    Some(EnrolmentConfig { inspection: inspection?, lag: lag?, release: release? })
}
