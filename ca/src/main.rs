//! The CA's process: flags, what signs, endpoint, and a clean end at SIGTERM.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use gammarus_ca::TrustDomain;
use gammarus_ca::answer::CertificateAuthority;
use gammarus_ca::authorize::TokenFile;
use gammarus_ca::issue::LeafLifetime;
use gammarus_ca::keeper::Keeper;
use gammarus_ca::limit::{Rate, RateLimit};
use gammarus_ca::metrics::{self, Metrics};
use gammarus_ca::rotation::Terms;
use gammarus_ca::server::serve;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A node may ask for so many seconds' worth of requests at once: when it starts, it asks for all its identities.
const BURST_SECONDS: f64 = 60.0;

/// The certificate authority of a Gammarus mesh
#[derive(Debug, Parser)]
#[command(name = "gammarus-ca", version)]
struct Args {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Where roots and issuers are kept with their keys (authorities.json), and ca.crt, the trust bundle, for clients
    #[arg(long)]
    state_dir: PathBuf,
    /// The trust domain that is signed for
    #[arg(long, default_value = "cluster.local")]
    trust_domain: TrustDomain,
    /// A directory with one file per node, named as the node, that holds the node's token
    #[arg(long)]
    tokens: PathBuf,
    /// A directory with the cluster's objects in YAML; its pods say which node has which identity
    #[arg(long)]
    objects: PathBuf,
    /// How long a leaf lives, up to 24 hours
    #[arg(long, default_value_t = 24 * 3600)]
    leaf_lifetime_seconds: u64,
    /// How long an issuer lives, at least three leaf lives; it is replaced in the last third
    #[arg(long, default_value_t = 90 * 24 * 3600)]
    issuer_lifetime_seconds: u64,
    /// How long a root lives, at least two issuers' lives; it is replaced in the last third
    #[arg(long, default_value_t = 10 * 365 * 24 * 3600)]
    root_lifetime_seconds: u64,
    /// A directory with tls.crt, tls.key and ca.crt of a CA of your own, to sign with in place of one made here
    #[arg(long)]
    signer_dir: Option<PathBuf>,
    /// Where to serve /metrics and /livez in plain HTTP; nowhere unless it is given
    #[arg(long)]
    metrics_listen: Option<SocketAddr>,
    /// How many requests a node may make in a second, for long
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    requests_per_second: u16,
    /// A DNS name or address that clients know this endpoint by (may be given several times)
    #[arg(
        long = "server-name",
        alias = "server-names",
        value_delimiter = ',',
        default_value = "gammarus-ca"
    )]
    server_names: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the runtime cannot be made")?
        .block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let leaf = LeafLifetime::new(Duration::from_secs(args.leaf_lifetime_seconds))?;
    let issuer = Duration::from_secs(args.issuer_lifetime_seconds);
    let terms = Terms::new(leaf, issuer, Duration::from_secs(args.root_lifetime_seconds))?;
    let keeper = Keeper::open(&args.state_dir, &args.trust_domain, terms, args.signer_dir.as_deref())?;
    let per_second = f64::from(args.requests_per_second);
    let ca = Arc::new(CertificateAuthority {
        keeper: Arc::new(keeper),
        authorizer: Box::new(TokenFile::new(args.tokens, args.objects)),
        limit: RateLimit::new(Rate { burst: per_second * BURST_SECONDS, per_second }),
        metrics: Arc::new(Metrics::new()?),
    });
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    tracing::info!(address = %listener.local_addr()?, trust_domain = %args.trust_domain, "serving");
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    if let Some(address) = args.metrics_listen {
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        tracing::info!(address = %listener.local_addr()?, "metrics");
        tokio::spawn(metrics::serve(listener, Arc::clone(&ca.metrics), Arc::clone(&ca.keeper)));
    }
    let keeping = Arc::clone(&ca.keeper).keep(&*ca.authorizer);
    tokio::select! {
        served = serve(listener, Arc::clone(&ca), args.server_names, stop) => served?,
        () = keeping => {}
    }
    tracing::info!("stopped");
    Ok(())
}
