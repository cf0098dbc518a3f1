//! The end of the node's proxy: blocking calls under a deadline, for a thread that may block.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::frame::{self, Deadline};
use super::{Command, ProtocolError, Reply, Request};

/// Reads one request and the network namespace that came with it, within `allowed`.
///
/// [`Command::Enrol`] always brings a namespace, [`Command::Check`] brings one while the pod has it. That the
/// descriptor is a network namespace is for the caller to find out, by using it as one. The stream is made blocking.
///
/// # Errors
/// What is wrong with the request; [`Reply::refusing`] makes the answer of it.
pub fn read_request(
    stream: &UnixStream,
    allowed: Duration,
) -> Result<(Request, Option<OwnedFd>), ProtocolError> {
    stream.set_nonblocking(false)?;
    let (text, netns) = frame::receive(stream, Deadline::after(allowed))?;
    let request: Request = frame::decode(&text)?;
    if matches!(request.command, Command::Enrol(_)) && netns.is_none() {
        return Err(ProtocolError::MissingNamespace);
    }
    Ok((request, netns))
}

/// Writes the answer, within `allowed`. The stream is made blocking.
///
/// # Errors
/// When the plugin has gone away or does not read.
pub fn write_reply(stream: &UnixStream, reply: &Reply, allowed: Duration) -> Result<(), ProtocolError> {
    stream.set_nonblocking(false)?;
    frame::send(stream, &frame::encode(reply)?, None, Deadline::after(allowed))
}
