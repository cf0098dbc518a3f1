//! A pod's network namespace: told apart by its cookie, and worked in from the proxy's ordinary threads.
//!
//! The only place in the crate that changes a thread's namespace. A thread always comes back: one that
//! could not would serve one pod's traffic in another pod's network, so that the process is aborted.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use nix::libc;
use nix::sched::CloneFlags;
use socket2::{Domain, Socket, Type};

/// `SO_NETNS_COOKIE` of Linux 5.14 (asm-generic/socket.h).
const SO_NETNS_COOKIE: libc::c_int = 71;

thread_local! {
    /// Whether this thread is inside a namespace at the moment: a second one would not find its way back.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// What tells one network namespace from every other since boot (`SO_NETNS_COOKIE`).
///
/// Device and inode do not: the kernel hands an inode out again as soon as a namespace is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetnsCookie(pub u64);

/// A network namespace, held by its file descriptor.
#[derive(Debug)]
pub struct NetnsFd {
    fd: OwnedFd,
    /// Whether it is the process's own, which no thread has to enter: that would take a privilege.
    is_own: bool,
}

impl NetnsFd {
    /// Wraps an open namespace.
    #[must_use]
    pub const fn new(fd: OwnedFd) -> Self {
        Self { fd, is_own: false }
    }

    /// The process's own namespace, to work in as in any other, without a privilege.
    ///
    /// # Errors
    /// When `/proc/self/ns/net` cannot be opened.
    pub fn own() -> io::Result<Self> {
        Ok(Self { fd: home()?.try_clone_to_owned()?, is_own: true })
    }

    /// Whether it was opened as the process's own.
    #[must_use]
    pub const fn is_own(&self) -> bool {
        self.is_own
    }

    /// Opens the namespace at a path such as `/run/netns/NAME`.
    ///
    /// # Errors
    /// When the path cannot be opened. That it is a network namespace shows in the first [`Self::run`].
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self::new(File::open(path)?.into()))
    }

    /// Another holder of the same namespace.
    ///
    /// # Errors
    /// When the process is out of file descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, is_own: self.is_own })
    }

    /// The namespace's cookie.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or on kernels older than 5.14.
    pub fn id(&self) -> io::Result<NetnsCookie> {
        self.run(|| {
            let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
            cookie_of(&socket)
        })
    }

    /// Runs `work` with the calling thread inside the namespace, and brings the thread back.
    ///
    /// Sockets and `/proc/sys/net` inside `work` are the namespace's. `work` must not call this again,
    /// and must not block for long: the thread belongs to all pods.
    ///
    /// # Errors
    /// When the namespace cannot be entered, and what `work` returns.
    pub fn run<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.is_own && !INSIDE.get() {
            return work();
        }
        let home = home()?;
        if INSIDE.replace(true) {
            return Err(io::Error::other("this thread is inside a network namespace already"));
        }
        if let Err(error) = enter(self.fd.as_fd()) {
            INSIDE.set(false);
            return Err(error);
        }
        let _way_back = WayBack { home };
        work()
    }
}

impl AsFd for NetnsFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Remembers the process' own namespace: call it at start, before any thread could be elsewhere.
///
/// # Errors
/// When `/proc/self/ns/net` cannot be opened.
pub fn remember_home() -> io::Result<()> {
    home().map(drop)
}

/// The process' own namespace, opened once.
fn home() -> io::Result<BorrowedFd<'static>> {
    static HOME: OnceLock<OwnedFd> = OnceLock::new();
    if HOME.get().is_none() {
        let opened: OwnedFd = File::open("/proc/self/ns/net")?.into();
        // Another thread may have been first: its descriptor is of the same namespace.
        let _ = HOME.set(opened);
    }
    HOME.get().map(AsFd::as_fd).ok_or_else(|| io::Error::other("the own network namespace is not open"))
}

/// Whether a socket is of the process' own namespace.
///
/// # Errors
/// When the kernel does not say.
pub fn is_at_home(socket: &impl AsFd) -> io::Result<bool> {
    let own = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    Ok(cookie_of(socket)? == cookie_of(&own)?)
}

/// The cookie of the namespace that a socket was made in.
#[expect(unsafe_code, reason = "neither nix nor socket2 has SO_NETNS_COOKIE")]
fn cookie_of(socket: &impl AsFd) -> io::Result<NetnsCookie> {
    let mut cookie = 0_u64;
    let mut length: libc::socklen_t = 8;
    // SAFETY: the descriptor is open for the call; the kernel writes at most `length` bytes to `cookie`, which
    // has eight, and any eight bytes are a u64.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    nix::errno::Errno::result(outcome)?;
    Ok(NetnsCookie(cookie))
}

#[expect(clippy::disallowed_methods, reason = "this is the one place")]
fn enter(netns: BorrowedFd<'_>) -> io::Result<()> {
    Ok(nix::sched::setns(netns, CloneFlags::CLONE_NEWNET)?)
}

/// Brings the thread home, also when `work` panicked.
struct WayBack {
    home: BorrowedFd<'static>,
}

impl Drop for WayBack {
    fn drop(&mut self) {
        if let Err(error) = enter(self.home) {
            tracing::error!(%error, "a thread cannot leave a pod's network namespace: aborting");
            std::process::abort();
        }
        INSIDE.set(false);
    }
}
