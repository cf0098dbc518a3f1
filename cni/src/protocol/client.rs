//! The plugin's end: one call, one connection, one deadline.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;

use super::frame::{self, Deadline};
use super::{ProtocolError, Reply, Request};

/// Asks the node's proxy, with `netns` beside the request, and waits for its answer, all within `allowed`.
///
/// # Errors
/// [`ProtocolError::Connect`] when nobody listens, [`ProtocolError::Timeout`] when the time is up, else what is
/// wrong with the answer. A refusal by the proxy is no error: it is [`super::Outcome::Failed`].
pub fn call(
    path: &Path,
    request: &Request,
    netns: Option<BorrowedFd<'_>>,
    allowed: Duration,
) -> Result<Reply, ProtocolError> {
    let deadline = Deadline::after(allowed);
    let frame = frame::encode(request)?;
    let stream = dial(path, deadline)?;
    match frame::send(&stream, &frame, netns, deadline) {
        // The proxy may have refused before it had read everything: its answer says more than a broken pipe.
        Err(ProtocolError::Io(error))
            if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {}
        sent => sent?,
    }
    let (text, _) = frame::receive(&stream, deadline)?;
    frame::decode(&text)
}

/// Connects with a limit of time, which the standard library does not offer for unix sockets: a proxy that
/// hangs with a full backlog would otherwise hold the plugin for ever.
fn dial(path: &Path, deadline: Deadline) -> Result<UnixStream, ProtocolError> {
    let failed = |source: Errno| ProtocolError::Connect { socket: path.to_owned(), source: source.into() };
    let fd: OwnedFd =
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
    let address = UnixAddr::new(path).map_err(failed)?;
    loop {
        let left = deadline.remaining()?;
        let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        let limit = TimeVal::new(seconds, i64::from(left.subsec_micros()));
        setsockopt(&fd, sockopt::SendTimeout, &limit).map_err(failed)?;
        match connect(fd.as_raw_fd(), &address) {
            Ok(()) => return Ok(UnixStream::from(fd)),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Err(deadline.elapsed()),
            Err(error) => return Err(failed(error)),
        }
    }
}
