//! A proxy's connection to its holder.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use gammarus_cni::fd;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::net::UnixStream;
use zeroize::Zeroizing;

use super::protocol::{self, MAX_PACKET, Note};

/// A connection to the holder.
#[derive(Debug)]
pub(super) struct Link(UnixStream);

/// A packet; its bytes are wiped in the end.
pub(super) struct Received {
    bytes: Zeroizing<Vec<u8>>,
    /// What came beside it.
    pub(super) fds: Vec<OwnedFd>,
}

impl Received {
    /// The note, and what follows it.
    pub(super) fn read(&self) -> io::Result<(Note, &[u8])> {
        protocol::parse(&self.bytes)
    }
}

impl Link {
    /// Connects to the holder, which must be there. Needs a tokio runtime.
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        socket.connect(&SockAddr::unix(path)?)?;
        socket.set_nonblocking(true)?;
        // A stream by its type alone: nothing but whole packets is sent and received here.
        Ok(Self(UnixStream::from_std(OwnedFd::from(socket).into())?))
    }

    /// Says one thing.
    pub(super) async fn send(&self, note: &Note, secret: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.0.async_io(Interest::WRITABLE, || protocol::send(&self.0, note, secret, fds)).await
    }

    /// The next packet; none is lost when this is dropped. None when the holder has gone.
    pub(super) async fn receive(&self) -> io::Result<Option<Received>> {
        let received = self.0.async_io(Interest::READABLE, || {
            let mut buffer = Zeroizing::new(vec![0; MAX_PACKET]);
            let (count, fds) = fd::receive(&self.0, &mut buffer)?;
            Ok(Received { bytes: Zeroizing::new(buffer[..count].to_vec()), fds })
        });
        match received.await {
            Ok(received) if received.bytes.is_empty() => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            received => received.map(Some),
        }
    }
}
