//! The holder's process: one thread that waits for its proxies, and for the signal to end.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_dumpable;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{getsockopt, sockopt};
use socket2::{Domain, SockAddr, Socket, Type};
use zeroize::Zeroize as _;

use super::holdings::{Holdings, ProxyId};
use super::protocol::{self, MAX_PACKET};
use super::sealed::Sealed;
use crate::pod::enroll::make_way;

/// Proxies that wait to be welcomed.
const BACKLOG: i32 = 16;

/// Whether a proxy is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Up,
    Down,
}

/// Holds what proxies give, until it is told to end (SIGTERM, SIGINT). While another holder is there, as that of an
/// older pod is, this one waits for its end: everything is held there, for the next proxy, too.
///
/// # Errors
/// When it cannot listen at `path`, or the system gives it no memory that can be sealed.
pub fn run(path: &Path) -> io::Result<()> {
    // No core dump of this process, and nobody who is not root may look into it (prctl(2)).
    set_dumpable(false)?;
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGINT);
    ends.thread_block()?;
    let ends = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    if wait_for_turn(path, &ends)? == Turn::Never {
        tracing::info!("told to stop");
        return Ok(());
    }
    let mut desk = Desk {
        listener: bind(path)?,
        buffer: Sealed::new(MAX_PACKET)?,
        holdings: Holdings::default(),
        proxies: BTreeMap::new(),
        next: 0,
    };
    tracing::info!(socket = %path.display(), seal = ?desk.buffer.seal(), "holding");
    while !desk.wait(&ends)? {}
    tracing::info!("told to stop");
    Ok(())
}

/// Whether it has come to this holder to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Come,
    /// It was told to end before.
    Never,
}

/// Waits until no other holder is at this path, by a connection to it that ends with it.
fn wait_for_turn(path: &Path, ends: &SignalFd) -> io::Result<Turn> {
    loop {
        let other = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        if other.connect(&SockAddr::unix(path)?).is_err() {
            return Ok(Turn::Come);
        }
        tracing::info!(socket = %path.display(), "another holder is there: waiting for its end");
        let mut waiting = [
            PollFd::new(ends.as_fd(), PollFlags::POLLIN),
            // Its end is told without being asked for.
            PollFd::new(other.as_fd(), PollFlags::empty()),
        ];
        while let Err(error) = poll(&mut waiting, PollTimeout::NONE) {
            if error != Errno::EINTR {
                return Err(error.into());
            }
        }
        if waiting[0].any().unwrap_or(true) {
            return Ok(Turn::Never);
        }
    }
}

/// Listens where only root may come. A socket that a dead holder left behind is replaced.
fn bind(path: &Path) -> io::Result<Socket> {
    make_way(path)?;
    let listener = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    listener.set_nonblocking(true)?;
    listener.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    listener.listen(BACKLOG)?;
    Ok(listener)
}

/// What the process has open.
struct Desk {
    listener: Socket,
    /// Packets are received here: a key never lies in memory that is not sealed.
    buffer: Sealed,
    holdings: Holdings,
    proxies: BTreeMap<ProxyId, Socket>,
    next: ProxyId,
}

impl Desk {
    /// Waits for the next thing to do and does it. True when it is the end.
    fn wait(&mut self, ends: &SignalFd) -> io::Result<bool> {
        let wanted = |id| match self.holdings.owes(id) {
            true => PollFlags::POLLIN | PollFlags::POLLOUT,
            false => PollFlags::POLLIN,
        };
        let proxies = self.proxies.iter().map(|(id, socket)| PollFd::new(socket.as_fd(), wanted(*id)));
        let own = [ends.as_fd(), self.listener.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let mut waiting: Vec<_> = own.into_iter().chain(proxies).collect();
        match poll(&mut waiting, PollTimeout::NONE) {
            Err(Errno::EINTR) => return Ok(false),
            polled => polled?,
        };
        let happened: Vec<bool> = waiting.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        let (own, of_proxies) = happened.split_at(2);
        if own[0] {
            return Ok(true);
        }
        // Those who are there come first: what one that has died has left must be settled before the next one asks.
        let ids = self.proxies.keys().zip(of_proxies).filter(|(_, happened)| **happened);
        let ids: Vec<ProxyId> = ids.map(|(id, _)| *id).collect();
        for id in ids {
            if self.exchange(id) == Link::Down {
                self.part(id);
            }
        }
        if own[1] {
            self.welcome();
        }
        Ok(false)
    }

    fn part(&mut self, id: ProxyId) {
        self.proxies.remove(&id);
        self.holdings.part(id);
        let (pods, identities) = self.holdings.counts();
        tracing::info!(proxy = id, pods, identities, "a proxy has gone");
    }

    fn welcome(&mut self) {
        let accepted = self.listener.accept().and_then(|(socket, _)| {
            socket.set_nonblocking(true)?;
            let peer = getsockopt(&socket, sockopt::PeerCredentials)?;
            Ok((socket, peer))
        });
        match accepted {
            Ok((socket, peer)) if peer.uid() == 0 => {
                let id = self.next;
                self.next += 1;
                self.proxies.insert(id, socket);
                self.holdings.welcome(id);
                tracing::info!(proxy = id, pid = peer.pid(), "a proxy has come");
            }
            Ok((_, peer)) => tracing::warn!(uid = peer.uid(), pid = peer.pid(), "only root may come here"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => tracing::warn!(%error, "cannot accept a proxy"),
        }
    }

    /// Hears what a proxy has to say, and tells it what it is to be told, as far as that goes at once.
    fn exchange(&mut self, id: ProxyId) -> Link {
        let Some(socket) = self.proxies.get(&id) else { return Link::Down };
        loop {
            let heard = match protocol::receive(socket, &mut self.buffer) {
                Ok(Some(packet)) => self.holdings.hear(id, packet),
                Ok(None) => return Link::Down,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::warn!(proxy = id, %error, "a proxy is not understood");
                    return Link::Down;
                }
            };
            self.buffer.zeroize();
            if let Err(error) = heard {
                tracing::warn!(
                    proxy = id,
                    error = &error as &dyn std::error::Error,
                    "a proxy makes no sense"
                );
                return Link::Down;
            }
        }
        while let Some(outgoing) = self.holdings.outgoing(id) {
            match protocol::send(socket, &outgoing.note, outgoing.secret, &outgoing.fds) {
                Ok(()) if outgoing.is_last => return Link::Down,
                Ok(()) => self.holdings.told(id),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Link::Up,
                Err(error) => {
                    tracing::warn!(proxy = id, %error, "a proxy cannot be told");
                    return Link::Down;
                }
            }
        }
        Link::Up
    }
}
