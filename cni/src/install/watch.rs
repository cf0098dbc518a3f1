//! What the installer waits for: changes in the folders it looks after, and the signals that end it.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Whoever writes a file may do so in several steps: it is looked at when nothing has happened for so long,
const QUIET: Duration = Duration::from_millis(30);
/// or when it has gone on for so long.
const LONGEST_NOISE: Duration = Duration::from_millis(300);

/// Watches folders and signals.
pub(super) struct Watch {
    changes: Inotify,
    signals: SignalFd,
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    Changed,
    ToldToEnd,
    TimeIsUp,
}

impl Watch {
    /// Starts to listen for SIGTERM and SIGINT; to be called before there is a second thread.
    pub(super) fn start() -> io::Result<Self> {
        let ending = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
        ending.thread_block()?;
        Ok(Self {
            changes: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?,
            signals: SignalFd::with_flags(&ending, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?,
        })
    }

    /// Watches a folder; one that is watched already still is, one that is not there is left out.
    pub(super) fn cover(&self, dir: &Path) {
        let what = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_MOVE;
        // Without it there is the next look, some seconds later.
        let _ = self.changes.add_watch(dir, what);
    }

    /// Waits until something happens, for `allowed` at most.
    pub(super) fn wait(&self, allowed: Duration) -> io::Result<Woken> {
        let mut woken = self.wait_once(allowed)?;
        let since = Instant::now();
        while woken == Woken::Changed && since.elapsed() < LONGEST_NOISE {
            match self.wait_once(QUIET)? {
                Woken::TimeIsUp => break,
                next => woken = next,
            }
        }
        Ok(woken)
    }

    fn wait_once(&self, allowed: Duration) -> io::Result<Woken> {
        let mut ready = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.changes.as_fd(), PollFlags::POLLIN),
        ];
        let timeout = PollTimeout::try_from(allowed).unwrap_or(PollTimeout::MAX);
        match poll(&mut ready, timeout) {
            Err(Errno::EINTR) | Ok(0) => return Ok(Woken::TimeIsUp),
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
        if self.signals.read_signal()?.is_some() {
            return Ok(Woken::ToldToEnd);
        }
        // Read to the end: what has changed is looked at as a whole.
        while self.changes.read_events().is_ok() {}
        Ok(Woken::Changed)
    }
}
