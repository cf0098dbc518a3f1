//! What is held, and which proxy is to be told what of it: no socket is read or written here.
//!
//! What a proxy is to be told is kept as what it is about, and is put into words when it is sent: a slow reader costs no
//! copies, and is not told of what has gone meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use super::protocol::{Note, Packet, Role, VERSION};
use super::sealed::Sealed;

/// A proxy that is connected.
pub type ProxyId = u64;

/// Why a proxy is not listened to any further.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It began with something else than [`Note::Hello`].
    #[error("it did not begin with a greeting")]
    NoHello,
    /// It said what only the holder says, or greeted twice.
    #[error("it said {0:?}")]
    OutOfPlace(Note),
    /// Descriptors or bytes are missing, or there are too many.
    #[error("what came with {0:?} is not what it says")]
    Mismatch(Note),
    /// There is no sealed memory.
    #[error("no memory can be sealed")]
    Seal(#[source] io::Error),
}

/// What a proxy is still to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Due {
    Complete,
    Leaf(String),
    Left(String),
    Pod(String),
    Refused(String),
    Socket(String),
    Superseded,
}

/// A proxy, from its connection on.
#[derive(Debug, Default)]
struct Proxy {
    role: Option<Role>,
    /// Since when it accepts, see [`Note::Hello`].
    since: u64,
    due: VecDeque<Due>,
}

#[derive(Debug)]
struct HeldPod {
    note: Note,
    identity: String,
    fds: Vec<OwnedFd>,
}

/// Everything that is held.
#[derive(Debug, Default)]
pub struct Holdings {
    pods: BTreeMap<String, HeldPod>,
    leaves: BTreeMap<String, (Note, Sealed)>,
    sockets: BTreeMap<String, OwnedFd>,
    proxies: BTreeMap<ProxyId, Proxy>,
}

/// What to send next.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// The note.
    pub note: Note,
    /// What follows it.
    pub secret: &'a [u8],
    /// What goes beside it.
    pub fds: Vec<BorrowedFd<'a>>,
    /// Whether it is the last that this proxy is told.
    pub is_last: bool,
}

impl Holdings {
    /// A proxy has connected.
    pub fn welcome(&mut self, id: ProxyId) {
        self.proxies.insert(id, Proxy::default());
    }

    /// A proxy has gone. The node's own sockets go with the one that served: nobody may wait for an answer there
    /// that does not come, and the plugin decides by itself when no proxy is there.
    pub fn part(&mut self, id: ProxyId) {
        let gone = self.proxies.remove(&id).and_then(|proxy| proxy.role);
        if gone == Some(Role::Serving) && self.find_role(Role::Serving).is_none() {
            self.sockets.clear();
        }
    }

    /// How many pods and identities are held.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.pods.len(), self.leaves.len())
    }

    /// Takes what a proxy has said.
    ///
    /// # Errors
    /// When it makes no sense: the proxy is to be parted from.
    pub fn hear(&mut self, id: ProxyId, packet: Packet<'_>) -> Result<(), Fault> {
        let Packet { note, secret, mut fds } = packet;
        let role = self.proxies.get(&id).and_then(|proxy| proxy.role);
        let Some(role) = role else {
            let Note::Hello { version, role, since } = note else { return Err(Fault::NoHello) };
            self.greet(id, version, (role, since));
            return Ok(());
        };
        match note {
            // It may have what those that drain are still to let go of.
            Note::Accepting { since } => self.serve((id, since), &[Role::Serving, Role::Draining]),
            // It ends what it began and begins nothing: what the node's own sockets and the leaves are, others say.
            Note::Socket { .. } | Note::Leaf { .. } if role == Role::Draining => {}
            Note::Socket { name } => match (fds.pop(), fds.is_empty()) {
                (Some(socket), true) => drop(self.sockets.insert(name, socket)),
                _ => return Err(Fault::Mismatch(Note::Socket { name })),
            },
            note @ Note::Pod { .. } => self.hold_pod((id, role), note, fds)?,
            // One that starts may know less than it should, and one that drains is not asked any more.
            Note::Left { uid } if role == Role::Serving => self.let_go(id, &uid),
            Note::Left { .. } => {}
            note @ Note::Leaf { .. } => self.hold_leaf(id, note, secret)?,
            Note::Unknown => {}
            Note::Hello { .. } | Note::Refused { .. } | Note::Complete | Note::Superseded => {
                return Err(Fault::OutOfPlace(note));
            }
        }
        Ok(())
    }

    fn greet(&mut self, id: ProxyId, version: u32, (role, since): (Role, u64)) {
        if version != VERSION {
            let why = format!("this holder speaks version {VERSION}, not {version}");
            return self.tell(id, [Due::Refused(why)]);
        }
        match role {
            Role::Starting if self.find_role(Role::Starting).is_some() => {
                let why = "another proxy is taking over at this moment".to_owned();
                return self.tell(id, [Due::Refused(why)]);
            }
            Role::Starting => {
                let sockets = self.sockets.keys().cloned().map(Due::Socket);
                let pods = self.pods.keys().cloned().map(Due::Pod);
                let leaves = self.leaves.keys().cloned().map(Due::Leaf);
                let all: Vec<_> = sockets.chain(pods).chain(leaves).chain([Due::Complete]).collect();
                self.tell(id, all);
            }
            // A holder that was started anew meets the proxies again, in any order. One of them may not have heard from
            // the holder before that it was superseded.
            Role::Serving if self.serves_since().is_some_and(|latest| latest > since) => {
                self.set_role(id, Role::Draining);
                return self.tell(id, [Due::Superseded]);
            }
            Role::Serving => return self.serve((id, since), &[Role::Serving]),
            Role::Draining => {}
        }
        self.set_role(id, role);
    }

    /// Since when the proxy accepts that serves.
    fn serves_since(&self) -> Option<u64> {
        self.proxies.values().filter(|proxy| proxy.role == Some(Role::Serving)).map(|proxy| proxy.since).max()
    }

    /// A proxy serves from now on, and no other one does: those of these roles are told.
    fn serve(&mut self, (id, since): (ProxyId, u64), told: &[Role]) {
        if let Some(proxy) = self.proxies.get_mut(&id) {
            (proxy.role, proxy.since) = (Some(Role::Serving), since);
        }
        for (other, proxy) in &mut self.proxies {
            if *other != id && proxy.role.is_some_and(|role| told.contains(&role)) {
                proxy.role = Some(Role::Draining);
                proxy.due.push_back(Due::Superseded);
            }
        }
    }

    /// A pod goes from a proxy to those that come after it, and never back.
    fn hold_pod(&mut self, (id, role): (ProxyId, Role), note: Note, fds: Vec<OwnedFd>) -> Result<(), Fault> {
        let Note::Pod { uid, identity, listeners, .. } = &note else { return Err(Fault::OutOfPlace(note)) };
        // The namespace is one more.
        if fds.len() != listeners.len() + 1 {
            return Err(Fault::Mismatch(note));
        }
        // It has missed that another one has taken the pod over: what that one has said of it stands.
        if role == Role::Draining && self.pods.get(uid).is_some_and(|held| held.note == note) {
            return Ok(());
        }
        let (uid, identity) = (uid.clone(), identity.clone());
        self.pods.insert(uid.clone(), HeldPod { note, identity, fds });
        let after: &[Role] = match role {
            Role::Starting => &[],
            Role::Serving => &[Role::Starting],
            Role::Draining => &[Role::Starting, Role::Serving],
        };
        self.tell_others(id, after, &Due::Pod(uid));
        Ok(())
    }

    fn let_go(&mut self, id: ProxyId, uid: &str) {
        let Some(gone) = self.pods.remove(uid) else { return };
        if !self.pods.values().any(|pod| pod.identity == gone.identity) {
            self.leaves.remove(&gone.identity);
        }
        self.tell_others(id, &[Role::Starting, Role::Serving, Role::Draining], &Due::Left(uid.to_owned()));
    }

    fn hold_leaf(&mut self, id: ProxyId, note: Note, secret: &[u8]) -> Result<(), Fault> {
        let Note::Leaf { identity, key, chain, bundle } = &note else { return Err(Fault::OutOfPlace(note)) };
        let described = chain.iter().chain(bundle).try_fold(*key, |sum, length| sum.checked_add(*length));
        if described != Some(secret.len()) {
            return Err(Fault::Mismatch(note));
        }
        let identity = identity.clone();
        // A key is held as long as a pod is: its last one may have left while this was on its way.
        if self.pods.values().any(|pod| pod.identity == identity) {
            let sealed = Sealed::copy_of(secret).map_err(Fault::Seal)?;
            self.leaves.insert(identity.clone(), (note, sealed));
            self.tell_others(id, &[Role::Starting], &Due::Leaf(identity));
        }
        Ok(())
    }

    fn find_role(&self, role: Role) -> Option<ProxyId> {
        self.proxies.iter().find(|(_, proxy)| proxy.role == Some(role)).map(|(id, _)| *id)
    }

    fn set_role(&mut self, id: ProxyId, role: Role) {
        if let Some(proxy) = self.proxies.get_mut(&id) {
            proxy.role = Some(role);
        }
    }

    fn tell(&mut self, id: ProxyId, due: impl IntoIterator<Item = Due>) {
        if let Some(proxy) = self.proxies.get_mut(&id) {
            proxy.due.extend(due);
        }
    }

    fn tell_others(&mut self, id: ProxyId, roles: &[Role], due: &Due) {
        for (other, proxy) in &mut self.proxies {
            if *other != id && proxy.role.is_some_and(|role| roles.contains(&role)) {
                proxy.due.push_back(due.clone());
            }
        }
    }

    /// Whether a proxy is to be told anything.
    #[must_use]
    pub fn owes(&self, id: ProxyId) -> bool {
        self.proxies.get(&id).is_some_and(|proxy| !proxy.due.is_empty())
    }

    /// What a proxy is to be told next; after it was sent comes [`Self::told`].
    #[must_use]
    pub fn outgoing(&self, id: ProxyId) -> Option<Outgoing<'_>> {
        let due = self.proxies.get(&id)?.due.front()?;
        let plain = |note| Outgoing { note, secret: &[], fds: Vec::new(), is_last: false };
        // In place of what has gone meanwhile: a note that says nothing.
        let nothing = || plain(Note::Unknown);
        Some(match due {
            Due::Complete => plain(Note::Complete),
            Due::Left(uid) => plain(Note::Left { uid: uid.clone() }),
            Due::Refused(why) => Outgoing { is_last: true, ..plain(Note::Refused { why: why.clone() }) },
            Due::Superseded => plain(Note::Superseded),
            Due::Leaf(identity) => self
                .leaves
                .get(identity)
                .map_or_else(nothing, |(note, secret)| Outgoing { secret, ..plain(note.clone()) }),
            Due::Pod(uid) => self.pods.get(uid).map_or_else(nothing, |pod| Outgoing {
                fds: pod.fds.iter().map(|fd| fd.as_fd()).collect(),
                ..plain(pod.note.clone())
            }),
            Due::Socket(name) => self.sockets.get(name).map_or_else(nothing, |socket| Outgoing {
                fds: vec![socket.as_fd()],
                ..plain(Note::Socket { name: name.clone() })
            }),
        })
    }

    /// What [`Self::outgoing`] gave has been sent.
    pub fn told(&mut self, id: ProxyId) {
        if let Some(proxy) = self.proxies.get_mut(&id) {
            proxy.due.pop_front();
        }
    }
}

#[cfg(test)]
#[path = "holdings_tests.rs"]
mod tests;
