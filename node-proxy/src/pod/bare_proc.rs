//! `/proc` without what lies over it: a container has `/proc/sys` mounted read-only.
//!
//! A copy of the mount of `/proc` is taken that nobody else sees and that nothing is mounted on (`open_tree`, Linux 5.2).
//! It shows what the container's own `/proc` shows, is written as far as the kernel lets root write it, and changes
//! nothing for anybody else. It takes CAP_SYS_ADMIN, which entering a pod's namespace takes, too.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::libc;
use nix::sys::stat::Mode;

const PROC: &str = "/proc";

/// Writes to a file below `/proc`, also where it is mounted read-only.
///
/// # Errors
/// When the kernel refuses; `ReadOnlyFilesystem` where `/proc` itself is mounted so.
pub(super) fn write(path: &Path, value: &str) -> io::Result<()> {
    match fs::write(path, value) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => write_below(path, value),
        outcome => outcome,
    }
}

fn write_below(path: &Path, value: &str) -> io::Result<()> {
    let below = path.strip_prefix(PROC).map_err(io::Error::other)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let opened = openat(bare_proc()?, below, flags, Mode::empty())?;
    File::from(opened).write_all(value.as_bytes())
}

/// The copy, made once.
fn bare_proc() -> io::Result<&'static OwnedFd> {
    static COPY: OnceLock<OwnedFd> = OnceLock::new();
    if COPY.get().is_none() {
        let made = copy_mount()?;
        // Another thread may have been first: its copy is as good.
        let _ = COPY.set(made);
    }
    COPY.get().ok_or_else(|| io::Error::other("the copy of /proc is not open"))
}

/// The mount at `/proc`, without what is mounted below it.
#[expect(unsafe_code, reason = "neither nix nor socket2 has open_tree")]
fn copy_mount() -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned();
    // SAFETY: the path is a constant that ends with a NUL, and the call touches no memory of ours.
    let opened = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, c"/proc".as_ptr(), flags) };
    let raw = i32::try_from(Errno::result(opened)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for this call, and nothing else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
