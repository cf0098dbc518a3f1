//! The controller's side of the feed: who comes, which Gateway that is of, and what is told of it as long as both are there.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use gammarus_ca::SpiffeId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::FEED_ALPN;
use super::word::{ALIVE, Told, write_difference, write_refusal};
use crate::attach::gateway::Extent;
use crate::balance::random;
use crate::cluster::objects::ObjectKey;
use crate::cluster::writer::ClusterView;
use crate::controller::judged::Judged;
use crate::controller::provision::name_of;
use crate::controller::provision::watch::Known;
use crate::error::with_causes;
use crate::tls::{CertStore, peer_identity};

/// Proxies that are fed at once.
const MOST: usize = 4096;
/// How long a handshake may take, and how long a proxy may take what it is told.
const HANDSHAKE: Duration = Duration::from_secs(10);
const TAKING: Duration = Duration::from_secs(30);
/// Between two signs of life.
const LIFE: Duration = Duration::from_secs(5);
/// After this long, and up to as much longer, a proxy is to come again, and to show who it is by then.
const LONGEST: Duration = Duration::from_secs(1800);
/// How long nobody is accepted after that has failed, as it does without descriptors.
const REST: Duration = Duration::from_millis(100);

/// Who feeds.
#[derive(Debug)]
pub struct FeedServer {
    /// Where the controller's certificate is.
    pub certs: Arc<CertStore>,
    /// Who the controller is.
    pub identity: SpiffeId,
    /// The objects.
    pub view: ClusterView,
    /// Which of them are whose.
    pub judged: Arc<RwLock<Judged>>,
    /// What was made for Gateways.
    pub provided: Arc<Known>,
}

/// Why a proxy is not fed any more.
#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error("it did not speak this version of the feed")]
    OtherVersion,
    #[error("its certificate")]
    Peer(#[from] crate::tls::PeerError),
    #[error("an object cannot be written")]
    Unwritable(#[from] serde_json::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it has not taken what it was told for {} s", TAKING.as_secs())]
    Slow,
}

impl FeedServer {
    /// Feeds whoever comes to `listener`, for ever. Not before everything has been read once: what is not known yet would
    /// look as if it had gone.
    pub async fn run(self, listener: TcpListener) -> Infallible {
        let (server, room) = (Arc::new(self), Arc::new(Semaphore::new(MOST)));
        loop {
            let accepted = match Arc::clone(&room).acquire_owned().await {
                Ok(place) => listener.accept().await.map(|(stream, from)| (place, stream, from)),
                Err(closed) => Err(io::Error::other(closed)),
            };
            match accepted {
                Ok((place, stream, from)) => {
                    let server = Arc::clone(&server);
                    tokio::spawn(async move {
                        let _place = place;
                        if let Err(error) = server.serve(stream, from).await {
                            tracing::debug!(%from, error = with_causes(&error), "a feed has ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "no proxy of a Gateway can be accepted");
                    sleep(REST).await;
                }
            }
        }
    }

    async fn serve(&self, stream: TcpStream, from: SocketAddr) -> Result<(), FeedError> {
        stream.set_nodelay(true)?;
        let certificate =
            timeout(HANDSHAKE, self.certs.ensure(&self.identity)).await.map_err(io::Error::from)?;
        let mut config = (*certificate.map_err(io::Error::other)?.server_config()).clone();
        config.alpn_protocols = vec![FEED_ALPN.to_vec()];
        let handshake = TlsAcceptor::from(Arc::new(config)).accept(stream);
        let mut stream = timeout(HANDSHAKE, handshake).await.map_err(io::Error::from)??;
        let (_, connection) = stream.get_ref();
        if connection.alpn_protocol() != Some(FEED_ALPN) {
            return Err(FeedError::OtherVersion);
        }
        let peer = peer_identity(connection.peer_certificates().unwrap_or_default())?;
        let Some(gateway) = self.find_gateway(&peer) else {
            tracing::info!(%from, %peer, "no Gateway has a proxy of this service account");
            tell(&mut stream, &write_refusal(&format!("no Gateway has a proxy that is {peer}"))).await?;
            return Ok(stream.shutdown().await?);
        };
        tracing::info!(%from, %gateway, "feeding the proxy of a Gateway");
        self.feed(&mut stream, &gateway, &peer).await?;
        Ok(stream.shutdown().await?)
    }

    /// Tells everything, and then what changes, until the Gateway or the proxy has gone.
    async fn feed(
        &self,
        stream: &mut TlsStream<TcpStream>,
        gateway: &ObjectKey,
        peer: &SpiffeId,
    ) -> Result<(), FeedError> {
        let mut generations = self.view.generations();
        let mut known = Told::default();
        let mut is_first = true;
        let end = Instant::now() + LONGEST.mul_f64(1.0 + f64::from(random() as u32) / f64::from(u32::MAX));
        loop {
            generations.borrow_and_update();
            let is_there = self.find_gateway(peer).as_ref() == Some(gateway);
            // Of one that has gone there is nothing any more, and that is said, too.
            let wanted = if is_there { self.objects_of(gateway) } else { Told::default() };
            if is_first || wanted != known {
                let mut words = Vec::new();
                write_difference(&mut words, &known, &wanted)?;
                tell(stream, &words).await?;
                (known, is_first) = (wanted, false);
            }
            if !is_there {
                return Ok(());
            }
            let mut next_life = Instant::now() + LIFE;
            let mut heard = [0; 64];
            loop {
                tokio::select! {
                    changed = generations.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return Ok(()),
                    },
                    // It has nothing to say but its end.
                    read = stream.read(&mut heard) => if read? == 0 { return Ok(()) },
                    () = sleep_until(next_life) => {
                        tell(stream, ALIVE).await?;
                        next_life = Instant::now() + LIFE;
                    }
                    () = sleep_until(end) => return Ok(()),
                }
            }
        }
    }

    fn objects_of(&self, gateway: &ObjectKey) -> Told {
        let gateways = Arc::clone(self.read_judged().gateways().judged());
        let objects = self.view.objects();
        let Extent { ids, nodes } = gateways.extent(&objects, gateway);
        let own = ids.into_iter().filter_map(|id| objects.find(&id).map(|object| (id, object)));
        Told { own: own.collect(), nodes }
    }

    /// The Gateway whose proxies have this identity. Of several that would be meant it is the one whose ServiceAccount it is
    /// (the others say that they have none), and none as long as that is not known: what is one's own is told to nobody else.
    fn find_gateway(&self, peer: &SpiffeId) -> Option<ObjectKey> {
        let gateways = Arc::clone(self.read_judged().gateways().judged());
        let own = gateways.gateways.values().filter(|gateway| {
            *gateway.key.namespace == *peer.namespace()
                && name_of(&gateway.key, &gateway.class) == peer.service_account()
        });
        let own: Vec<&ObjectKey> = own.map(|gateway| &gateway.key).collect();
        if let [only] = own[..] {
            return Some(only.clone());
        }
        let objects = self.view.objects();
        let uids = own.into_iter().filter_map(|key| {
            let gateway = objects.gateways.get(key)?;
            Some((key, gateway.metadata.uid.as_deref()?))
        });
        let account = ObjectKey::new(peer.namespace(), peer.service_account());
        self.provided.maker_of(&account, uids).cloned()
    }

    fn read_judged(&self) -> std::sync::RwLockReadGuard<'_, Judged> {
        self.judged.read().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn tell(stream: &mut TlsStream<TcpStream>, words: &[u8]) -> Result<(), FeedError> {
    let telling = async {
        stream.write_all(words).await?;
        stream.flush().await
    };
    Ok(timeout(TAKING, telling).await.map_err(|_| FeedError::Slow)??)
}
