//! What a running proxy tells its holder, and hears from it.
//!
//! One task has the connection, and a ledger of everything that is to be held: a holder that was started anew is told
//! all of it again. Whoever joins or renews never waits for the holder.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gammarus_ca::SpiffeId;
use nix::time::{ClockId, clock_gettime};
use socket2::SockRef;
use tokio::sync::mpsc;
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::link::{Link, Received};
use super::protocol::{Note, Role, VERSION};
use super::takeover::{Taken, held_leaf, held_pod};
use crate::pod::{EnrolledPod, PodListener};
use crate::tls::WorkloadCert;
use crate::tls::store::Fetched;

/// Between two tries to reach a holder that has gone.
const PAUSE: Duration = Duration::from_millis(100);

/// An enrolled pod, as it is held.
#[derive(Debug)]
pub struct HeldPod {
    /// The pod's uid.
    pub uid: Arc<str>,
    /// Its SPIFFE id.
    pub identity: String,
    /// All else that is known of it, in words that only proxies read.
    pub record: String,
    /// Its network namespace.
    pub netns: OwnedFd,
    /// Its listening sockets.
    pub listeners: Vec<PodListener>,
}

impl HeldPod {
    /// A pod that is accepted for, with descriptors of its own.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn of(pod: &EnrolledPod, listeners: &[PodListener]) -> io::Result<Self> {
        Ok(Self {
            uid: Arc::clone(&pod.uid),
            identity: pod.identity.to_string(),
            record: serde_json::to_string(&pod.record)?,
            netns: pod.netns.as_fd().try_clone_to_owned()?,
            listeners: listeners.iter().map(PodListener::try_clone).collect::<io::Result<_>>()?,
        })
    }

    /// The same, with descriptors of its own.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            uid: Arc::clone(&self.uid),
            identity: self.identity.clone(),
            record: self.record.clone(),
            netns: self.netns.try_clone()?,
            listeners: self.listeners.iter().map(PodListener::try_clone).collect::<io::Result<_>>()?,
        })
    }
}

/// What a proxy hears from its holder.
#[derive(Debug)]
pub enum Heard {
    /// Another proxy has enrolled a pod.
    Pod(HeldPod),
    /// Another proxy has seen a pod leave.
    Left(Arc<str>),
    /// Another proxy has a new leaf.
    Leaf(Arc<WorkloadCert>),
    /// Another proxy accepts on all that this one does: this one is to stop, and to drain. Comes again when there is
    /// something new.
    Superseded,
    /// The holder went away before this proxy accepted: what became of the take-over is not known.
    Lost,
}

/// What is to be told.
#[derive(Debug)]
enum Told {
    Accepting,
    Forget(SpiffeId),
    Leaf(Arc<WorkloadCert>),
    Joined(HeldPod),
    Left(Arc<str>),
    Listening(Arc<str>, Vec<PodListener>),
    Settled(Arc<str>),
    Socket(String, OwnedFd),
}

/// Tells the holder. Clones tell the same one.
#[derive(Clone, Debug)]
pub struct Keeper(mpsc::UnboundedSender<Told>);

/// What the holder is to be told, from before it is there.
#[derive(Debug)]
pub struct Orders {
    told: mpsc::UnboundedReceiver<Told>,
    fetched: mpsc::UnboundedReceiver<Arc<WorkloadCert>>,
}

impl Keeper {
    /// A keeper; what is to be told of leaves that were fetched, too; and what comes of it, for the take-over.
    #[must_use]
    pub fn new() -> (Self, Fetched, Orders) {
        let (tell, told) = mpsc::unbounded_channel();
        let (fetch, fetched) = mpsc::unbounded_channel();
        (Self(tell), fetch, Orders { told, fetched })
    }

    /// This proxy accepts on everything that it was given.
    pub fn accepting(&self) {
        self.tell(Told::Accepting);
    }

    /// A pod is accepted for: it is to be kept as soon as it has settled.
    pub fn hold_pod(&self, pod: HeldPod) {
        self.tell(Told::Joined(pod));
    }

    /// A pod has joined completely: keep it. Before that another proxy must not have it, which would meet the
    /// connections of its proof.
    pub fn settle(&self, uid: &Arc<str>) {
        self.tell(Told::Settled(Arc::clone(uid)));
    }

    /// Keep these listeners of a pod in place of those that they have taken the place of.
    pub fn hold_listeners(&self, uid: &Arc<str>, listeners: Vec<PodListener>) {
        self.tell(Told::Listening(Arc::clone(uid), listeners));
    }

    /// A pod has left: nothing of it may be kept.
    pub fn let_go(&self, uid: &Arc<str>) {
        self.tell(Told::Left(Arc::clone(uid)));
    }

    /// No pod has this identity any more.
    pub fn forget(&self, identity: &SpiffeId) {
        self.tell(Told::Forget(identity.clone()));
    }

    /// Keep this listening socket of the node, for the next proxy, while this one is there.
    pub fn hold_socket(&self, name: &str, socket: OwnedFd) {
        self.tell(Told::Socket(name.to_owned(), socket));
    }

    fn tell(&self, told: Told) {
        // The task ends with the process only.
        let _ = self.0.send(told);
    }
}

/// Everything that is to be held.
#[derive(Debug)]
struct Ledger {
    role: Role,
    /// Since when this proxy accepts, see [`Note::Hello`].
    since: u64,
    pods: BTreeMap<Arc<str>, HeldPod>,
    /// Pods that have not settled yet.
    joining: BTreeMap<Arc<str>, HeldPod>,
    /// Pods that have left, or were not found, before this proxy serves: until then the holder keeps them.
    missing: Vec<Arc<str>>,
    leaves: HashMap<SpiffeId, Arc<WorkloadCert>>,
    sockets: BTreeMap<String, OwnedFd>,
}

/// Starts the task behind a [`Keeper`], on the connection by which everything was taken over.
pub(super) fn start(
    (link, path): (Link, &Path),
    taken: &Taken,
    orders: Orders,
) -> io::Result<mpsc::UnboundedReceiver<Heard>> {
    let pods = taken.pods.iter().map(|pod| Ok((Arc::clone(&pod.uid), pod.try_clone()?)));
    let leaves = taken.leaves.iter().map(|leaf| (leaf.identity().clone(), Arc::clone(leaf)));
    let ledger = Ledger {
        role: Role::Starting,
        since: 0,
        pods: pods.collect::<io::Result<_>>()?,
        joining: BTreeMap::new(),
        missing: Vec::new(),
        leaves: leaves.collect(),
        sockets: BTreeMap::new(),
    };
    let (say, heard) = mpsc::unbounded_channel();
    tokio::spawn(run(ledger, (link, path.to_owned()), orders, say));
    Ok(heard)
}

async fn run(
    mut ledger: Ledger,
    (link, path): (Link, PathBuf),
    mut orders: Orders,
    heard: mpsc::UnboundedSender<Heard>,
) {
    let mut link = Some(link);
    loop {
        let Some(connected) = &link else {
            if ledger.role == Role::Starting {
                let _ = heard.send(Heard::Lost);
                return;
            }
            tokio::select! {
                told = orders.next() => match told {
                    Some(told) => drop(ledger.note(told)),
                    None => return,
                },
                () = sleep(PAUSE) => link = ledger.reconnect(&path).await,
            }
            continue;
        };
        let outcome = tokio::select! {
            told = orders.next() => match told {
                Some(told) => ledger.tell(connected, told).await,
                None => return,
            },
            received = connected.receive() => match received {
                Ok(Some(received)) => ledger.hear(received, &heard),
                Ok(None) => Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) => Err(error),
            },
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "the holder has gone; the proxy goes on without it, and looks for it");
            link = None;
        }
    }
}

impl Orders {
    /// The next thing to tell; none is lost when this is dropped.
    async fn next(&mut self) -> Option<Told> {
        tokio::select! {
            told = self.told.recv() => told,
            Some(cert) = self.fetched.recv() => Some(Told::Leaf(cert)),
        }
    }
}

/// What is to be sent of something that was told.
enum Word {
    Plain(Note),
    Pod(Arc<str>),
    /// A pod that is not kept here: another proxy serves by now.
    Passing(HeldPod),
    Leaf(SpiffeId),
    Socket(String),
}

impl Ledger {
    /// Notes what was told, and returns what the holder is to hear of it.
    fn note(&mut self, told: Told) -> Vec<Word> {
        match told {
            Told::Accepting => {
                if self.role == Role::Starting {
                    (self.role, self.since) = (Role::Serving, uptime());
                }
                let missing = self.missing.drain(..).map(|uid| Note::Left { uid: uid.to_string() });
                [Note::Accepting { since: self.since }].into_iter().chain(missing).map(Word::Plain).collect()
            }
            Told::Joined(pod) => {
                self.joining.insert(Arc::clone(&pod.uid), pod);
                Vec::new()
            }
            Told::Settled(uid) => {
                let Some(pod) = self.joining.remove(&uid) else { return Vec::new() };
                if self.role == Role::Draining {
                    return vec![Word::Passing(pod)];
                }
                let identity = pod.identity.clone();
                self.pods.insert(Arc::clone(&uid), pod);
                let leaf = self.leaves.keys().find(|known| known.to_string() == identity);
                [Word::Pod(uid)].into_iter().chain(leaf.cloned().map(Word::Leaf)).collect()
            }
            Told::Listening(uid, listeners) => {
                for pod in [self.pods.get_mut(&uid), self.joining.get_mut(&uid)].into_iter().flatten() {
                    let place = |listener: &PodListener| {
                        (listener.direction, SockRef::from(&listener.socket).domain().ok())
                    };
                    let renewed: Vec<_> = listeners.iter().map(place).collect();
                    pod.listeners.retain(|listener| !renewed.contains(&place(listener)));
                    pod.listeners.extend(listeners.iter().filter_map(|listener| listener.try_clone().ok()));
                }
                // One that has not settled is told of when it does.
                vec![Word::Pod(uid)]
            }
            Told::Left(uid) => {
                self.pods.remove(&uid);
                self.joining.remove(&uid);
                match self.role {
                    Role::Serving => vec![Word::Plain(Note::Left { uid: uid.to_string() })],
                    Role::Starting => {
                        self.missing.push(uid);
                        Vec::new()
                    }
                    // The proxy that serves tells this, and the rest.
                    Role::Draining => Vec::new(),
                }
            }
            Told::Leaf(_) | Told::Socket(..) if self.role == Role::Draining => Vec::new(),
            Told::Leaf(cert) => {
                let identity = cert.identity().clone();
                self.leaves.insert(identity.clone(), cert);
                vec![Word::Leaf(identity)]
            }
            Told::Forget(identity) => {
                self.leaves.remove(&identity);
                Vec::new()
            }
            Told::Socket(name, socket) => {
                self.sockets.insert(name.clone(), socket);
                vec![Word::Socket(name)]
            }
        }
    }

    async fn tell(&mut self, link: &Link, told: Told) -> io::Result<()> {
        for word in self.note(told) {
            self.say(link, word).await?;
        }
        Ok(())
    }

    async fn say(&self, link: &Link, word: Word) -> io::Result<()> {
        match word {
            Word::Plain(note) => link.send(&note, &[], &[]).await,
            Word::Passing(pod) => say_pod(link, &pod).await,
            Word::Pod(uid) => match self.pods.get(&uid) {
                Some(pod) => say_pod(link, pod).await,
                None => Ok(()),
            },
            Word::Leaf(identity) => match self.leaves.get(&identity) {
                Some(cert) => say_leaf(link, cert).await,
                None => Ok(()),
            },
            Word::Socket(name) => match self.sockets.get(&name) {
                Some(socket) => link.send(&Note::Socket { name }, &[], &[socket.as_fd()]).await,
                None => Ok(()),
            },
        }
    }

    /// A holder that is there again is told everything.
    async fn reconnect(&self, path: &Path) -> Option<Link> {
        let link = Link::connect(path).ok()?;
        match self.say_all(&link).await {
            Ok(()) => {
                tracing::info!(pods = self.pods.len(), "the holder is there again and knows everything");
                Some(link)
            }
            Err(error) => {
                tracing::warn!(%error, "the holder cannot be told");
                None
            }
        }
    }

    async fn say_all(&self, link: &Link) -> io::Result<()> {
        let hello = Note::Hello { version: VERSION, role: self.role, since: self.since };
        link.send(&hello, &[], &[]).await?;
        let sockets = self.sockets.keys().cloned().map(Word::Socket);
        let pods = self.pods.keys().cloned().map(Word::Pod);
        let leaves = self.leaves.keys().cloned().map(Word::Leaf);
        for word in sockets.chain(pods).chain(leaves) {
            self.say(link, word).await?;
        }
        Ok(())
    }

    fn hear(&mut self, mut received: Received, heard: &mpsc::UnboundedSender<Heard>) -> io::Result<()> {
        let fds = std::mem::take(&mut received.fds);
        let (note, secret) = received.read()?;
        let news = match note {
            note @ Note::Pod { .. } => {
                let pod = held_pod(note, fds)?;
                // Of one that has not heard yet that this proxy has taken it over.
                let same = |known: &HeldPod| known.record == pod.record;
                if self.role == Role::Serving && self.pods.get(&pod.uid).is_some_and(same) {
                    return Ok(());
                }
                self.pods.insert(Arc::clone(&pod.uid), pod.try_clone()?);
                Heard::Pod(pod)
            }
            Note::Left { uid } => {
                self.pods.remove(&*uid);
                Heard::Left(uid.into())
            }
            note @ Note::Leaf { .. } => {
                let Some(cert) = held_leaf(&note, secret).map(Arc::new) else { return Ok(()) };
                self.leaves.insert(cert.identity().clone(), Arc::clone(&cert));
                Heard::Leaf(cert)
            }
            Note::Superseded => {
                // What is kept is the other proxy's to tell from now on; a socket kept here would outlive its pod.
                self.role = Role::Draining;
                self.pods.clear();
                self.leaves.clear();
                self.sockets.clear();
                Heard::Superseded
            }
            Note::Refused { why } => return Err(io::Error::other(why)),
            _ => return Ok(()),
        };
        // Nobody listens any more: the process is about to end.
        let _ = heard.send(news);
        Ok(())
    }
}

/// How long this node has been up, in nanoseconds: the same clock for every proxy of a node, which nobody sets.
fn uptime() -> u64 {
    let up = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
    u64::try_from(up.as_nanos()).unwrap_or(u64::MAX)
}

async fn say_pod(link: &Link, pod: &HeldPod) -> io::Result<()> {
    let note = Note::Pod {
        uid: pod.uid.to_string(),
        identity: pod.identity.clone(),
        record: pod.record.clone(),
        listeners: pod.listeners.iter().map(|listener| listener.direction).collect(),
    };
    let sockets = pod.listeners.iter().map(|listener| listener.socket.as_fd());
    let fds: Vec<BorrowedFd<'_>> = [pod.netns.as_fd()].into_iter().chain(sockets).collect();
    link.send(&note, &[], &fds).await
}

async fn say_leaf(link: &Link, cert: &WorkloadCert) -> io::Result<()> {
    let signed = cert.signed();
    let note = Note::Leaf {
        identity: cert.identity().to_string(),
        key: cert.key_der().len(),
        chain: signed.chain.iter().map(|der| der.len()).collect(),
        bundle: signed.trust_bundle.iter().map(|der| der.len()).collect(),
    };
    let mut secret = Zeroizing::new(Vec::with_capacity(16 * 1024));
    secret.extend_from_slice(cert.key_der());
    for der in signed.chain.iter().chain(&signed.trust_bundle) {
        secret.extend_from_slice(der);
    }
    match link.send(&note, &secret, &[]).await {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            tracing::warn!(identity = %cert.identity(), %error, "a leaf is not held");
            Ok(())
        }
        sent => sent,
    }
}
