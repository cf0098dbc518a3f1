//! The Gateway's side of the feed: a source of objects like any other, that keeps what it was last told.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gammarus_ca::SpiffeId;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::FEED_ALPN;
use super::word::{Word, read_word};
use crate::cluster::kubernetes::backoff::{Doubling, any_part};
use crate::cluster::objects::{Change, Object, ObjectId};
use crate::cluster::source::{ClusterError, ObjectSource, Update};
use crate::cluster::state::Keeper;
use crate::error::{Complaint, with_causes};
use crate::tls::CertStore;

/// How long a connection may take with its handshake, and how long the controller may be silent: three signs of life.
const CONNECTING: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(15);
/// How long the first word is waited for before what was kept has to do.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest line: an object of the API server has at most 1.5 MiB, and binary data of a Secret is longer as text.
const LONGEST_LINE: u64 = 8 << 20;
/// Pauses between tries.
const PAUSE: Doubling = Doubling { first: Duration::from_millis(200), longest: Duration::from_secs(10) };

/// Whom a Gateway's proxy comes to, and as whom.
#[derive(Clone, Debug)]
pub struct FeedPeers {
    /// Where the controllers are: a host and a port.
    pub address: String,
    /// Who they are.
    pub controller: SpiffeId,
    /// Who this proxy is.
    pub own: SpiffeId,
    /// Where its certificate is.
    pub certs: Arc<CertStore>,
}

/// What was said up to an end.
#[derive(Debug)]
struct Batch {
    changes: Vec<Change>,
    /// Whether it is all that there is, and not only what has changed.
    is_whole: bool,
}

/// The objects of a Gateway, as its controllers say.
#[derive(Debug)]
pub struct Feed {
    batches: mpsc::Receiver<Batch>,
    following: AbortHandle,
    known: BTreeMap<ObjectId, Object>,
    keeper: Keeper,
    /// When what was kept has to do, if nothing has been said by then.
    old_at: Option<Instant>,
}

/// Why a connection has ended.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error("the controller says: {0}")]
    Refused(String),
    #[error("what the controller says is not understood: {0}")]
    NotUnderstood(String),
    #[error("the controller says nothing")]
    Silent,
    #[error(transparent)]
    Cert(#[from] crate::tls::CertError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

impl Feed {
    /// Begins to follow; what is said is kept in `state_dir`. Needs a tokio runtime.
    #[must_use]
    pub fn start(peers: FeedPeers, state_dir: &Path) -> Self {
        let (say, batches) = mpsc::channel(4);
        let following = tokio::spawn(follow(peers, say)).abort_handle();
        let old_at = Some(Instant::now() + PATIENCE);
        Self { batches, following, known: BTreeMap::new(), keeper: Keeper::new(state_dir), old_at }
    }

    /// Takes what was said, and gives the differences.
    fn take(&mut self, Batch { changes, is_whole }: Batch) -> Vec<Change> {
        let mut before = if is_whole { std::mem::take(&mut self.known) } else { BTreeMap::new() };
        let mut different = Vec::new();
        for change in changes {
            match &change {
                Change::Applied(key, object) => {
                    let id = ObjectId { kind: object.kind(), key: key.clone() };
                    let is_same = before.remove(&id).is_some_and(|before| before == *object);
                    self.known.insert(id, object.clone());
                    if is_same {
                        continue;
                    }
                }
                Change::Deleted(id) => drop(self.known.remove(id)),
            }
            different.push(change);
        }
        different.extend(before.into_keys().map(Change::Deleted));
        if !different.is_empty() {
            self.keeper.note_change();
        }
        different
    }

    /// What was kept; nothing when there is nothing that could be used.
    fn take_old(&mut self) -> Option<Vec<Change>> {
        match self.keeper.read() {
            Ok(old) => {
                let old = old?;
                tracing::warn!(
                    objects = old.objects.len(),
                    "no controller has spoken yet: serving by what was kept"
                );
                self.known = old.objects.into_iter().collect();
                let applied = self.known.iter();
                Some(applied.map(|(id, object)| Change::Applied(id.key.clone(), object.clone())).collect())
            }
            Err(error) => {
                tracing::warn!(error = with_causes(&error), "what was kept cannot be used");
                None
            }
        }
    }
}

impl ObjectSource for Feed {
    async fn next(&mut self) -> Result<Update, ClusterError> {
        loop {
            let old_at = self.old_at;
            tokio::select! {
                batch = self.batches.recv() => {
                    // It ends with the process alone.
                    let Some(batch) = batch else { return Err(ClusterError::WatchEnded) };
                    self.old_at = None;
                    return Ok(Update { changes: self.take(batch), reports: Vec::new() });
                }
                () = sleep_until(old_at.unwrap_or_else(Instant::now)), if old_at.is_some() => {
                    self.old_at = None;
                    if let Some(changes) = self.take_old() {
                        return Ok(Update { changes, reports: Vec::new() });
                    }
                }
                () = self.keeper.is_due() => self.keeper.write(self.known.clone().into_iter().collect()),
            }
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.following.abort();
        let known = std::mem::take(&mut self.known);
        self.keeper.finish(|| known.into_iter().collect());
    }
}

/// Follows one controller after the other, until nobody listens.
async fn follow(peers: FeedPeers, say: mpsc::Sender<Batch>) {
    let mut complaint = Complaint::default();
    let mut failures = 0;
    while !say.is_closed() {
        let mut was_fed = false;
        let outcome = async {
            let stream = connect(&peers).await?;
            listen(stream, &say, || was_fed = true).await
        };
        match outcome.await {
            Ok(()) => complaint.settle(),
            Err(error) => {
                if was_fed {
                    complaint.settle();
                }
                if let Some(error) = complaint.raise(error) {
                    tracing::warn!(address = peers.address, error, "the controller cannot be followed");
                }
            }
        }
        failures = if was_fed { 0 } else { failures + 1 };
        sleep(any_part(PAUSE.after(failures))).await;
    }
}

async fn connect(peers: &FeedPeers) -> Result<TlsStream<TcpStream>, FollowError> {
    let certificate = peers.certs.ensure(&peers.own).await?;
    let mut config = (*certificate.client_config(&peers.controller)?).clone();
    config.alpn_protocols = vec![FEED_ALPN.to_vec()];
    let connecting = async {
        let stream = TcpStream::connect(&peers.address).await?;
        stream.set_nodelay(true)?;
        let ip = stream.peer_addr()?.ip();
        // Whose certificate it is says its SPIFFE ID: the name is nobody's.
        TlsConnector::from(Arc::new(config)).connect(ServerName::IpAddress(ip.into()), stream).await
    };
    let connected = timeout(CONNECTING, connecting).await.map_err(io::Error::from)?;
    Ok(connected?)
}

/// Hears what is said until the controller ends it.
async fn listen(
    stream: TlsStream<TcpStream>,
    say: &mpsc::Sender<Batch>,
    mut fed: impl FnMut(),
) -> Result<(), FollowError> {
    let mut reader = BufReader::with_capacity(64 << 10, stream);
    let mut batch = Batch { changes: Vec::new(), is_whole: true };
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = (&mut reader).take(LONGEST_LINE);
        let count = timeout(SILENCE, limited.read_until(b'\n', &mut line))
            .await
            .map_err(|_| FollowError::Silent)??;
        if count == 0 {
            return Ok(());
        }
        let text = str::from_utf8(&line).ok().and_then(|text| text.strip_suffix('\n'));
        let text = text.ok_or_else(|| FollowError::NotUnderstood("a line is broken off".to_owned()))?;
        match read_word(text).map_err(FollowError::NotUnderstood)? {
            Word::Said(change) => batch.changes.push(change),
            Word::Alive => {}
            Word::Refused(why) => return Err(FollowError::Refused(why)),
            Word::Complete => {
                fed();
                let next = Batch { changes: Vec::new(), is_whole: false };
                if say.send(std::mem::replace(&mut batch, next)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}
