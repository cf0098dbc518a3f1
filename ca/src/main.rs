//! The CA's process: flags, root, endpoint, and a clean end at SIGTERM.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use gammarus_ca::TrustDomain;
use gammarus_ca::authorize::TokenFile;
use gammarus_ca::issue::LeafLifetime;
use gammarus_ca::root::Root;
use gammarus_ca::server::{CertificateAuthority, serve};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The certificate authority of a Gammarus mesh
#[derive(Debug, Parser)]
#[command(name = "gammarus-ca", version)]
struct Args {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Where the root is kept (root.pem, and ca.crt for clients)
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
    let ca = CertificateAuthority {
        root: Root::load_or_create(&args.state_dir, &args.trust_domain)?,
        trust_domain: args.trust_domain,
        authorizer: Box::new(TokenFile::new(args.tokens, args.objects)),
        leaf_lifetime: LeafLifetime::new(Duration::from_secs(args.leaf_lifetime_seconds))?,
    };
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    tracing::info!(address = %listener.local_addr()?, trust_domain = %ca.trust_domain, "serving");
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    serve(listener, Arc::new(ca), args.server_names, stop).await?;
    tracing::info!("stopped");
    Ok(())
}
