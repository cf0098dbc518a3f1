//! Frames on a stream, under a deadline, and the version that each message names.
//!
//! Both ends of the protocol stand on this file. It must never read past the frame it was asked for, and never
//! reserve memory for a length that it has not checked.

use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{OLDEST_VERSION, ProtocolError, VERSION};
use crate::fd;

/// The longest JSON text that a frame may hold, in bytes: GC of some 2000 attachments.
pub const MAX_FRAME: usize = 256 * 1024;

/// When an exchange must be over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    start: Instant,
    allowed: Duration,
}

impl Deadline {
    pub(super) fn after(allowed: Duration) -> Self {
        Self { start: Instant::now(), allowed }
    }

    /// The time that is left, never zero.
    pub(super) fn remaining(&self) -> Result<Duration, ProtocolError> {
        // A socket timeout is kept in microseconds; less than one would mean "for ever".
        let left = self.allowed.saturating_sub(self.start.elapsed());
        if left < Duration::from_micros(1) { Err(self.elapsed()) } else { Ok(left) }
    }

    pub(super) const fn elapsed(&self) -> ProtocolError {
        ProtocolError::Timeout(self.allowed)
    }
}

/// Only this is read of a message before its version is known.
#[derive(serde::Deserialize)]
struct Versioned {
    version: u32,
}

/// The bytes of a message with its length before it.
pub(super) fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, ProtocolError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message).map_err(ProtocolError::Malformed)?;
    let length = bytes.len() - 4;
    let head = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME);
    let head = head.ok_or(ProtocolError::FrameTooLong { length })?;
    bytes[..4].copy_from_slice(&head.to_be_bytes());
    Ok(bytes)
}

/// The message in a frame's text, if its version is understood.
pub(super) fn decode<T: DeserializeOwned>(text: &[u8]) -> Result<T, ProtocolError> {
    let Versioned { version } = serde_json::from_slice(text).map_err(ProtocolError::Malformed)?;
    if !(OLDEST_VERSION..=VERSION).contains(&version) {
        return Err(ProtocolError::UnsupportedVersion { version });
    }
    serde_json::from_slice(text).map_err(ProtocolError::Malformed)
}

/// Sends all of `frame`, with the descriptor beside its first byte.
pub(super) fn send(
    stream: &UnixStream,
    frame: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
    deadline: Deadline,
) -> Result<(), ProtocolError> {
    let mut sent = 0;
    while sent < frame.len() {
        stream.set_write_timeout(Some(deadline.remaining()?))?;
        let beside = if sent == 0 { descriptor } else { None };
        match fd::send(stream, &frame[sent..], beside) {
            Ok(count) => sent += count,
            Err(error) => retry_or_fail(error, deadline)?,
        }
    }
    Ok(())
}

/// Receives one frame's text, and the descriptor that came beside it.
pub(super) fn receive(
    stream: &UnixStream,
    deadline: Deadline,
) -> Result<(Vec<u8>, Option<OwnedFd>), ProtocolError> {
    let mut head = [0; 4];
    let mut passed = Vec::new();
    fill(&mut head, deadline, stream, |buffer| {
        let (count, beside) = fd::receive(stream, buffer)?;
        passed.extend(beside);
        Ok(count)
    })?;
    let length = u32::from_be_bytes(head);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        return Err(ProtocolError::FrameTooLong { length });
    }
    if passed.len() > 1 {
        return Err(ProtocolError::TooManyDescriptors { count: passed.len() });
    }
    let mut text = vec![0; length];
    fill(&mut text, deadline, stream, |buffer| (&mut &*stream).read(buffer))?;
    Ok((text, passed.pop()))
}

fn fill(
    buffer: &mut [u8],
    deadline: Deadline,
    stream: &UnixStream,
    mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
) -> Result<(), ProtocolError> {
    let mut received = 0;
    while received < buffer.len() {
        stream.set_read_timeout(Some(deadline.remaining()?))?;
        match read(&mut buffer[received..]) {
            Ok(0) => return Err(ProtocolError::Closed { received, expected: buffer.len() }),
            Ok(count) => received += count,
            Err(error) => retry_or_fail(error, deadline)?,
        }
    }
    Ok(())
}

fn retry_or_fail(error: io::Error, deadline: Deadline) -> Result<(), ProtocolError> {
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(deadline.elapsed()),
        _ => Err(ProtocolError::Io(error)),
    }
}
