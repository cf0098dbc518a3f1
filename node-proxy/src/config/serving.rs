//! What every proxy that serves has: its name, its CA, its doors, its limits and its logs.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::thread;

use clap::Args;

use super::Reading;
use super::values::{
    host, host_port, log_filter, log_format, loopback, node_name, number, path, socket_address, trust_domain,
};
use crate::accept::PodLimits;
use crate::telemetry::{AccessOutput, LogFormat};

/// The flags, as typed.
#[derive(Debug, Args)]
pub(super) struct RawServing {
    /// The name of this node, as in the Node object
    #[arg(long, env = "GAMMARUS_NODE", value_name = "NAME")]
    node: Option<String>,
    /// The trust domain of the mesh
    #[arg(long, env = "GAMMARUS_TRUST_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    trust_domain: String,
    #[command(flatten)]
    ca: RawCa,
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
}

/// The flags by which the CA is reached, as typed.
#[derive(Debug, Args)]
pub(super) struct RawCa {
    /// Where the CA listens
    #[arg(long, env = "GAMMARUS_CA_ADDRESS", value_name = "HOST:PORT")]
    ca_address: Option<String>,
    /// The name in the CA's certificate [default: the host of --ca-address]
    #[arg(long, env = "GAMMARUS_CA_SERVER_NAME", value_name = "NAME")]
    ca_server_name: Option<String>,
    /// The roots that the CA's certificate is checked against, as PEM
    #[arg(long, env = "GAMMARUS_CA_BUNDLE", value_name = "PATH")]
    ca_bundle: Option<String>,
    /// The token that is shown to the CA
    #[arg(long, env = "GAMMARUS_TOKEN_FILE", value_name = "PATH")]
    token_file: Option<String>,
}

impl RawCa {
    /// Where the CA listens, as typed.
    pub(super) const fn address(&self) -> Option<&String> {
        self.ca_address.as_ref()
    }
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

/// How the CA is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaConfig {
    /// Where it listens.
    pub address: HostPort,
    /// The name that its certificate must have.
    pub server_name: String,
    /// The roots of that certificate, PEM.
    pub bundle: PathBuf,
    /// What is shown there, read again for every request.
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

/// What every proxy that serves has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServingConfig {
    /// The name of this node.
    pub node: String,
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
    /// Logs.
    pub telemetry: TelemetryConfig,
}

pub(super) fn read_serving(reading: &mut Reading, raw: &RawServing) -> Option<ServingConfig> {
    let node = reading.required("--node", raw.node.as_ref(), node_name);
    let trust_domain = reading.read("--trust-domain", &raw.trust_domain, trust_domain);
    let ca = read_ca(reading, &raw.ca);
    let admin_listen = reading.read("--admin-listen", &raw.admin_listen, loopback);
    let health_listen = reading.read("--health-listen", &raw.health_listen, socket_address);
    let data_path = read_data_path(reading, raw);
    let telemetry = read_telemetry(reading, raw);
    Some(ServingConfig {
        node: node?,
        trust_domain: trust_domain?,
        ca: ca?,
        admin_listen: admin_listen?,
        health_listen: health_listen?,
        data_path: data_path?,
        telemetry: telemetry?,
    })
}

pub(super) fn read_ca(reading: &mut Reading, raw: &RawCa) -> Option<CaConfig> {
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

fn read_data_path(reading: &mut Reading, raw: &RawServing) -> Option<DataPathConfig> {
    let workers = match &raw.workers {
        Some(value) => reading.read("--workers", value, |value| number(value, 1..=1024)),
        // Not known: one works everywhere.
        None => Some(thread::available_parallelism().map_or(1, usize::from)),
    };
    let connections = reading.read("--max-connections-per-pod", &raw.max_connections_per_pod, |value| {
        number(value, 1..=1_000_000)
    });
    let handshakes = reading.read(
        "--max-handshakes-per-second-per-pod",
        &raw.max_handshakes_per_second_per_pod,
        |value| number(value, 1..=1_000_000),
    );
    let bytes = reading.read("--max-buffered-bytes-per-pod", &raw.max_buffered_bytes_per_pod, |value| {
        number(value, 1..=usize::MAX / 4)
    });
    let limits =
        PodLimits { connections: connections?, handshakes_per_second: handshakes?, buffered_bytes: bytes? };
    Some(DataPathConfig { workers: workers?, limits })
}

fn read_telemetry(reading: &mut Reading, raw: &RawServing) -> Option<TelemetryConfig> {
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
