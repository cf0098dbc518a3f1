//! Sending and receiving file descriptors beside bytes (`SCM_RIGHTS`, unix(7)).
//!
//! [`crate::protocol`] uses it for the head of a frame, the node proxy for the packets of its holder. Whatever a peer sends, no descriptor may leak: every one
//! that the kernel has installed is owned before anything else is judged.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};

/// As many as Linux passes with one message (`SCM_MAX_FD`): with room for all of them none is cut off unowned.
const MAX_PASSED: usize = 253;

/// Sends bytes, with `fd` beside the first of them; returns how many bytes were taken.
///
/// # Errors
/// What sendmsg(2) says; an elapsed send timeout of the socket is `WouldBlock`. Never raises `SIGPIPE`.
pub fn send(stream: &UnixStream, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    send_all(stream, &[IoSlice::new(bytes)], fd.as_slice())
}

/// Sends the pieces one after the other, with `fds` beside them; returns how many bytes were taken.
///
/// # Errors
/// As [`send`].
pub fn send_all(socket: &impl AsFd, pieces: &[IoSlice<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let socket = socket.as_fd().as_raw_fd();
    Ok(sendmsg::<UnixAddr>(socket, pieces, control, MsgFlags::MSG_NOSIGNAL, None)?)
}

/// Receives bytes into `buffer` and whatever descriptors came beside them, closed on exec.
///
/// # Errors
/// What recvmsg(2) says; an elapsed receive timeout of the socket is `WouldBlock`. `InvalidData` for a packet that
/// did not fit, or whose descriptors did not.
pub fn receive(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = cmsg_space!([RawFd; MAX_PASSED]);
    let mut parts = [IoSliceMut::new(buffer)];
    let socket = socket.as_fd().as_raw_fd();
    let message = recvmsg::<UnixAddr>(socket, &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut passed = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            passed.extend(raw.into_iter().map(own));
        }
    }
    if message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet that does not fit"));
    }
    Ok((message.bytes, passed))
}

#[expect(unsafe_code, reason = "a descriptor arrives as a number and has to become an owner")]
fn own(raw: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just installed this descriptor for this recvmsg(2) call, nothing else knows its
    // number, and each number of the message is visited once.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::{receive, send};

    #[test]
    fn a_descriptor_arrives_with_the_first_byte_and_is_the_same_file() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(send(&a, b"xyz", Some(file.as_fd())).unwrap(), 3);
        let mut first = [0; 1];
        let (count, mut passed) = receive(&b, &mut first).unwrap();
        assert_eq!((count, &first, passed.len()), (1, b"x", 1));
        file.write_all(b"written here").unwrap();
        let mut received = File::from(passed.remove(0));
        std::io::Seek::rewind(&mut received).unwrap();
        let mut text = String::new();
        received.read_to_string(&mut text).unwrap();
        assert_eq!(text, "written here");
        let mut rest = [0; 8];
        let (count, passed) = receive(&b, &mut rest).unwrap();
        assert_eq!((count, passed.len()), (2, 0));
    }

    #[test]
    fn bytes_without_a_descriptor_bring_none() {
        let (a, b) = UnixStream::pair().unwrap();
        send(&a, b"xyz", None).unwrap();
        let mut buffer = [0; 8];
        let (count, passed) = receive(&b, &mut buffer).unwrap();
        assert_eq!((count, passed.len()), (3, 0));
    }

    #[test]
    fn a_peer_that_is_gone_is_an_error_and_not_a_signal() {
        let (a, b) = UnixStream::pair().unwrap();
        drop(b);
        assert_eq!(send(&a, b"x", None).unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    }
}
