//! The `mesh` mode: its flags as typed, what they mean, and how the ones become the other.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::Args;

use super::values::{
    directory, file, host, host_port, log_filter, log_format, loopback, node_name, number, path,
    socket_address, trust_domain,
};
use super::{ConfigErrors, FlagError, Reading};
use crate::accept::PodLimits;
use crate::telemetry::{AccessOutput, LogFormat};

/// The flags of `mesh`, as typed.
#[derive(Debug, Args)]
pub(super) struct RawMesh {
    /// The name of this node, as in the Node object
    #[arg(long, env = "GAMMARUS_NODE", value_name = "NAME")]
    node: Option<String>,
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
    /// The trust domain of the mesh
    #[arg(long, env = "GAMMARUS_TRUST_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    trust_domain: String,
    /// Where the CA listens
    #[arg(long, env = "GAMMARUS_CA_ADDRESS", value_name = "HOST:PORT")]
    ca_address: Option<String>,
    /// The name in the CA's certificate [default: the host of --ca-address]
    #[arg(long, env = "GAMMARUS_CA_SERVER_NAME", value_name = "NAME")]
    ca_server_name: Option<String>,
    /// The roots that the CA's certificate is checked against, as PEM
    #[arg(long, env = "GAMMARUS_CA_BUNDLE", value_name = "PATH")]
    ca_bundle: Option<String>,
    /// The token that this node shows to the CA
    #[arg(long, env = "GAMMARUS_TOKEN_FILE", value_name = "PATH")]
    token_file: Option<String>,
    /// Where the admin server listens: loopback only
    #[arg(long, env = "GAMMARUS_ADMIN_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:15000")]
    admin_listen: String,
    /// Where metrics and health are served to the outside
    #[arg(long, env = "GAMMARUS_HEALTH_LISTEN", value_name = "IP:PORT", default_value = "[::]:15021")]
    health_listen: String,
    /// Threads of the data path [default: the CPUs that this process may use]
    #[arg(long, env = "GAMMARUS_WORKERS", value_name = "N")]
    workers: Option<String>,
    /// Where access lines go: stdout, off or a path
    #[arg(long, env = "GAMMARUS_ACCESS_LOG", value_name = "stdout|off|PATH", default_value = "stdout")]
    access_log: String,
    /// How the log and access lines look
    #[arg(long, env = "GAMMARUS_LOG_FORMAT", value_name = "text|json", default_value = "text")]
    log_format: String,
    /// What is logged: a list of [target=]level
    #[arg(long, env = "GAMMARUS_LOG_LEVEL", value_name = "FILTER", default_value = "info")]
    log_level: String,
    /// Connections that one pod may have open, both directions together
    #[arg(long, env = "GAMMARUS_MAX_CONNECTIONS_PER_POD", value_name = "N", default_value = "20000")]
    max_connections_per_pod: String,
    /// TLS handshakes that one pod may have in a second, both directions together
    #[arg(
        long,
        env = "GAMMARUS_MAX_HANDSHAKES_PER_SECOND_PER_POD",
        value_name = "N",
        default_value = "1000"
    )]
    max_handshakes_per_second_per_pod: String,
    /// Bytes that the buffers of one pod's connections may hold
    #[arg(long, env = "GAMMARUS_MAX_BUFFERED_BYTES_PER_POD", value_name = "N", default_value = "67108864")]
    max_buffered_bytes_per_pod: String,
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

/// A host name or address with a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A DNS name, or an address without brackets.
    pub host: String,
    /// From 1 up.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            _ => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// How a node's proxy reaches the CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaConfig {
    /// Where it listens.
    pub address: HostPort,
    /// The name that its certificate must have.
    pub server_name: String,
    /// The roots of that certificate, PEM.
    pub bundle: PathBuf,
    /// What this node shows, read again for every request.
    pub token_file: PathBuf,
}

/// What the data path may take and how wide it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataPathConfig {
    /// Threads, at least one.
    pub workers: usize,
    /// What one pod may have; at least one of each.
    pub limits: PodLimits,
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

/// What the proxy writes about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// Where access lines go.
    pub access: AccessOutput,
    /// How lines look.
    pub format: LogFormat,
    /// What is logged; a valid filter.
    pub filter: String,
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
    /// The name of this node.
    pub node: String,
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
    /// The trust domain, in its valid form.
    pub trust_domain: String,
    /// The CA.
    pub ca: CaConfig,
    /// The admin server: a loopback address.
    pub admin_listen: SocketAddr,
    /// Metrics and health for the outside.
    pub health_listen: SocketAddr,
    /// The data path.
    pub data_path: DataPathConfig,
    /// The pods' way in and out.
    pub enrolment: EnrolmentConfig,
    /// Logs.
    pub telemetry: TelemetryConfig,
}

pub(super) fn read_mesh(raw: &RawMesh) -> Result<MeshConfig, ConfigErrors> {
    let mut reading = Reading::default();
    let reader = &mut reading;
    // All are read before any is asked for: no error hides another.
    let node = reader.required("--node", raw.node.as_ref(), node_name);
    let objects = read_objects(reader, raw);
    let socket = reader.read("--socket", &raw.socket, path);
    let state_dir = reader.read("--state-dir", &raw.state_dir, path);
    let host_root = reader.read("--host-root", &raw.host_root, directory);
    let hand_over = read_hand_over(reader, raw);
    let trust_domain = reader.read("--trust-domain", &raw.trust_domain, trust_domain);
    let ca = read_ca(reader, raw);
    let admin_listen = reader.read("--admin-listen", &raw.admin_listen, loopback);
    let health_listen = reader.read("--health-listen", &raw.health_listen, socket_address);
    let data_path = read_data_path(reader, raw);
    let enrolment = read_enrolment(reader, raw);
    let telemetry = read_telemetry(reader, raw);
    let config = (|| {
        Some(MeshConfig {
            node: node?,
            objects: objects?,
            socket: socket?,
            state_dir: state_dir?,
            host_root: host_root?,
            hand_over: hand_over?,
            trust_domain: trust_domain?,
            ca: ca?,
            admin_listen: admin_listen?,
            health_listen: health_listen?,
            data_path: data_path?,
            enrolment: enrolment?,
            telemetry: telemetry?,
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
    let seconds = reading.read("--drain-seconds", &raw.drain_seconds, |value| number(value, 30 * 24 * 3600));
    let holder = match holder {
        Some(given) => Some(given?),
        None => None,
    };
    Some(HandOverConfig { holder, drain: Duration::from_secs(u64::try_from(seconds?).ok()?) })
}

fn read_ca(reading: &mut Reading, raw: &RawMesh) -> Option<CaConfig> {
    let address = reading.required("--ca-address", raw.ca_address.as_ref(), host_port);
    let name = raw.ca_server_name.as_ref().map(|value| reading.read("--ca-server-name", value, host));
    let bundle = reading.required("--ca-bundle", raw.ca_bundle.as_ref(), path);
    let token_file = reading.required("--token-file", raw.token_file.as_ref(), path);
    let address = address?;
    let server_name = match name {
        Some(given) => given?,
        None => address.host.clone(),
    };
    Some(CaConfig { address, server_name, bundle: bundle?, token_file: token_file? })
}

fn read_data_path(reading: &mut Reading, raw: &RawMesh) -> Option<DataPathConfig> {
    let workers = match &raw.workers {
        Some(value) => reading.read("--workers", value, |value| number(value, 1024)),
        // Not known: one works everywhere.
        None => Some(thread::available_parallelism().map_or(1, usize::from)),
    };
    let connections = reading
        .read("--max-connections-per-pod", &raw.max_connections_per_pod, |value| number(value, 1_000_000));
    let handshakes = reading.read(
        "--max-handshakes-per-second-per-pod",
        &raw.max_handshakes_per_second_per_pod,
        |value| number(value, 1_000_000),
    );
    let bytes = reading.read("--max-buffered-bytes-per-pod", &raw.max_buffered_bytes_per_pod, |value| {
        number(value, usize::MAX / 4)
    });
    let limits =
        PodLimits { connections: connections?, handshakes_per_second: handshakes?, buffered_bytes: bytes? };
    Some(DataPathConfig { workers: workers?, limits })
}

fn read_enrolment(reading: &mut Reading, raw: &RawMesh) -> Option<EnrolmentConfig> {
    let mut seconds = |flag, value| {
        let read = reading.read(flag, value, |value| number(value, 3600));
        read.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs)
    };
    let inspection = seconds("--inspection-seconds", &raw.inspection_seconds);
    let lag = seconds("--lag-seconds", &raw.lag_seconds);
    let release = seconds("--release-seconds", &raw.release_seconds);
    Some(EnrolmentConfig { inspection: inspection?, lag: lag?, release: release? })
}

fn read_telemetry(reading: &mut Reading, raw: &RawMesh) -> Option<TelemetryConfig> {
    let access = reading.read("--access-log", &raw.access_log, |value| {
        Ok(match value {
            "off" => AccessOutput::Off,
            "stdout" => AccessOutput::Stdout,
            file => AccessOutput::File(file.into()),
        })
    });
    let format = reading.read("--log-format", &raw.log_format, log_format);
    let filter = reading.read("--log-level", &raw.log_level, log_filter);
    Some(TelemetryConfig { access: access?, format: format?, filter: filter? })
}
