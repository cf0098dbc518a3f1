//! The flags of the CA's process.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use gammarus_ca::TrustDomain;
use gammarus_ca::log::{LogFormat, check_filter};

/// The certificate authority of a Gammarus mesh
#[derive(Debug, Parser)]
#[command(name = "gammarus-ca", version)]
pub(crate) struct Args {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8443")]
    pub(crate) listen: SocketAddr,
    /// Where roots and issuers are kept with their keys (authorities.json), and ca.crt, the trust bundle, for clients;
    /// without it they are in a cluster's Secret and ConfigMap, and callers are checked by its API server
    #[arg(long, requires_all = ["tokens", "objects"])]
    pub(crate) state_dir: Option<PathBuf>,
    /// The trust domain that is signed for
    #[arg(long, default_value = "cluster.local")]
    pub(crate) trust_domain: TrustDomain,
    /// A directory with one file per node, named as the node, that holds the node's token
    #[arg(long, requires = "state_dir")]
    pub(crate) tokens: Option<PathBuf>,
    /// A directory with the cluster's objects in YAML; its pods say which node has which identity
    #[arg(long, requires = "state_dir")]
    pub(crate) objects: Option<PathBuf>,
    /// How to reach the API server; otherwise as KUBECONFIG or the pod's service account say
    #[arg(long, conflicts_with = "state_dir")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The namespace of the CA, of the node proxies and of the controller; that of the pod unless it is given
    #[arg(long, env = "GAMMARUS_NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// What tokens have to be for
    #[arg(long, default_value = "gammarus-ca")]
    pub(crate) audience: String,
    /// The service account of node proxies
    #[arg(long, default_value = "gammarus-node")]
    pub(crate) agent_service_account: String,
    /// The service account of the controller, in the same namespace
    #[arg(long, default_value = "gammarus-controller")]
    pub(crate) controller_service_account: String,
    /// How long a leaf lives, up to 24 hours
    #[arg(long, default_value_t = 24 * 3600)]
    pub(crate) leaf_lifetime_seconds: u64,
    /// How long an issuer lives, at least three leaf lives; it is replaced in the last third
    #[arg(long, default_value_t = 90 * 24 * 3600)]
    pub(crate) issuer_lifetime_seconds: u64,
    /// How long a root lives, at least two issuers' lives; it is replaced in the last third
    #[arg(long, default_value_t = 10 * 365 * 24 * 3600)]
    pub(crate) root_lifetime_seconds: u64,
    /// A directory with tls.crt, tls.key and ca.crt of a CA of your own, to sign with in place of one made here
    #[arg(long, requires = "state_dir")]
    pub(crate) signer_dir: Option<PathBuf>,
    /// Where to serve /metrics and /livez in plain HTTP; nowhere unless it is given
    #[arg(long)]
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// How the log looks
    #[arg(long, env = "GAMMARUS_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// What is logged: a list of [target=]level
    #[arg(long, env = "GAMMARUS_LOG_LEVEL", value_name = "FILTER", value_parser = check_filter, default_value = "info")]
    pub(crate) log_level: String,
    /// How many requests a caller may make in a second, for long
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) requests_per_second: u16,
    /// A DNS name or address that clients know this endpoint by (may be given several times); gammarus-ca, and in a cluster
    /// gammarus-ca.NAMESPACE.svc, unless it is given
    #[arg(long = "server-name", alias = "server-names", value_delimiter = ',')]
    pub(crate) server_names: Vec<String>,
}
