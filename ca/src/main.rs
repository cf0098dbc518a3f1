//! The CA's process: what signs, who may ask, endpoint, and a clean end at SIGTERM.

mod args;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use gammarus_ca::answer::CertificateAuthority;
use gammarus_ca::authorize::{Authorizer, OwnAccounts, TokenFile, TokenReviewer};
use gammarus_ca::cluster::Cluster;
use gammarus_ca::issue::LeafLifetime;
use gammarus_ca::keeper::Keeper;
use gammarus_ca::limit::{Rate, RateLimit};
use gammarus_ca::metrics::{self, Metrics};
use gammarus_ca::rotation::Terms;
use gammarus_ca::server::serve;
use gammarus_ca::state::StateSecret;
use gammarus_ca::supplied::SignerSecret;
use gammarus_ca::{Complaint, log, with_causes};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use self::args::Args;

/// A caller may ask for so many seconds' worth of requests at once: a node that starts asks for all its identities.
const BURST_SECONDS: f64 = 60.0;
/// By which name clients know the endpoint, and the Service.
const SERVER_NAME: &str = "gammarus-ca";
/// Between two tries to begin, while the API server does not answer.
const TRIED_AGAIN: Duration = Duration::from_secs(2);

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    log::start(args.log_format, &args.log_level);
    // For the client of the API server, which takes what the process has.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the runtime cannot be made")?
        .block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let mut stop = std::pin::pin!(stop);
    let Authority { keeper, authorizer, server_names } = tokio::select! {
        authority = Box::pin(Authority::open(&args)) => authority?,
        () = &mut stop => return Ok(()),
    };
    let per_second = f64::from(args.requests_per_second);
    let ca = Arc::new(CertificateAuthority {
        keeper: Arc::new(keeper),
        authorizer,
        limit: RateLimit::new(Rate { burst: per_second * BURST_SECONDS, per_second }),
        metrics: Arc::new(Metrics::new()?),
    });
    let listener = listen_on(args.listen).await?;
    tracing::info!(address = %listener.local_addr()?, trust_domain = %args.trust_domain, "serving");
    if let Some(address) = args.metrics_listen {
        let listener = listen_on(address).await?;
        tracing::info!(address = %listener.local_addr()?, "metrics");
        tokio::spawn(metrics::serve(listener, Arc::clone(&ca.metrics), Arc::clone(&ca.keeper)));
    }
    let keeping = Arc::clone(&ca.keeper).keep(&*ca.authorizer);
    tokio::select! {
        served = serve(listener, Arc::clone(&ca), server_names, stop) => served?,
        () = keeping => {}
    }
    tracing::info!("stopped");
    Ok(())
}

/// Listens. Where there is no IPv6, `[::]` is everybody's address all the same: that of IPv4.
async fn listen_on(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = match TcpListener::bind(address).await {
        Err(_) if address.ip() == Ipv6Addr::UNSPECIFIED && TcpListener::bind("[::1]:0").await.is_err() => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    };
    listener.with_context(|| format!("cannot listen on {address}"))
}

/// What signs, for whom, and under which names.
struct Authority {
    keeper: Keeper,
    authorizer: Box<dyn Authorizer>,
    server_names: Vec<String>,
}

impl Authority {
    async fn open(args: &Args) -> anyhow::Result<Self> {
        let leaf = LeafLifetime::new(Duration::from_secs(args.leaf_lifetime_seconds))?;
        let issuer = Duration::from_secs(args.issuer_lifetime_seconds);
        let terms = Terms::new(leaf, issuer, Duration::from_secs(args.root_lifetime_seconds))?;
        let (authority, usual) = match (&args.state_dir, &args.tokens, &args.objects) {
            (Some(dir), Some(tokens), Some(objects)) => {
                let keeper = Keeper::open(dir, &args.trust_domain, terms, args.signer_dir.as_deref())?;
                let authorizer = Box::new(TokenFile::new(tokens.clone(), objects.clone()));
                ((keeper, authorizer as Box<dyn Authorizer>), vec![SERVER_NAME.to_owned()])
            }
            _ => {
                let accounts = own_accounts(args)?;
                let cluster = Cluster::connect(args.kubeconfig.as_deref(), args.namespace.clone()).await?;
                let service = format!("{SERVER_NAME}.{}.svc", cluster.namespace());
                let keeper = open_in(&cluster, args, terms).await?;
                let authorizer = Box::new(TokenReviewer::new(cluster, args.audience.clone(), accounts));
                ((keeper, authorizer as Box<dyn Authorizer>), vec![SERVER_NAME.to_owned(), service])
            }
        };
        let server_names = if args.server_names.is_empty() { usual } else { args.server_names.clone() };
        Ok(Self { keeper: authority.0, authorizer: authority.1, server_names })
    }
}

/// Whose pods are not taken for those of a Gateway. One account for both would give the controller what its node runs.
fn own_accounts(args: &Args) -> anyhow::Result<OwnAccounts> {
    let (agent, controller) = (&args.agent_service_account, &args.controller_service_account);
    anyhow::ensure!(
        agent != controller,
        "--agent-service-account and --controller-service-account are both `{agent}`: each needs one of its own"
    );
    Ok(OwnAccounts { agent: agent.clone(), controller: controller.clone() })
}

/// Opens the state of a cluster's CA, as soon as the API server answers.
async fn open_in(cluster: &Cluster, args: &Args, terms: Terms) -> anyhow::Result<Keeper> {
    let mut complaint = Complaint::default();
    loop {
        let (store, signer) =
            (StateSecret::new(cluster.clone(), terms.leaf()), SignerSecret::new(cluster.clone()));
        let trust_domain = args.trust_domain.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let now = OffsetDateTime::now_utc();
            Keeper::open_in(now, Box::new(store), (&trust_domain, terms), Some(Box::new(signer)))
        });
        match opened.await? {
            Err(error) if error.is_unknown() => {
                if let Some(error) = complaint.raise(with_causes(&error)) {
                    tracing::warn!(error, "the state cannot be read yet");
                }
                tokio::time::sleep(TRIED_AGAIN).await;
            }
            opened => return Ok(opened?),
        }
    }
}
