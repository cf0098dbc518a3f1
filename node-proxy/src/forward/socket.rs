//! A connection that ends in order only when it is told to.
//!
//! Closing a socket tells the peer that everything has come. Whoever is cut off in the middle - its pod has left,
//! the process ends or is killed - closes sockets, too, and a part must not pass for the whole. So every socket of
//! the data path is made with `SO_LINGER` at zero ([`crate::pod::sockets`]), which makes its closing a reset, and
//! loses that when its own side has ended in order.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// How many there are in this process.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// A TCP connection of the data path.
#[derive(Debug)]
pub struct Socket(TcpStream, OpenSocket);

/// Counts as an open socket while it lives.
#[derive(Debug)]
pub struct OpenSocket(());

impl OpenSocket {
    /// One more.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it counts")]
    pub fn new() -> Self {
        OPEN.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self(stream, OpenSocket::new())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Socket {
    /// How many are open in this process.
    #[must_use]
    pub fn count() -> usize {
        OPEN.load(Ordering::Relaxed)
    }

    /// The connection for another thread's runtime.
    ///
    /// # Errors
    /// When it cannot be taken from this one's.
    pub fn into_std(self) -> io::Result<std::net::TcpStream> {
        self.0.into_std()
    }

    /// A connection for this thread's runtime.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<Self> {
        TcpStream::from_std(stream).map(Self::from)
    }

    /// The address at which it was taken, an IPv4-mapped one made IPv4.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        let address = self.0.local_addr()?;
        Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    /// Has the kernel break the connection off once what was sent has not been acknowledged for so long, or the other
    /// side has taken nothing for as long (`TCP_USER_TIMEOUT`, RFC 5482).
    pub fn give_up_after(&self, silence: Duration) {
        // Only a socket that is gone already can refuse.
        let _ = SockRef::from(&self.0).set_tcp_user_timeout(Some(silence));
    }

    /// Waits until a connection that was started is there.
    ///
    /// # Errors
    /// When it was refused.
    pub async fn connected(self) -> io::Result<Self> {
        self.0.writable().await?;
        match self.0.take_error()? {
            Some(error) => Err(error),
            None => Ok(self),
        }
    }
}

/// A connection that can be broken off.
pub trait Reset {
    /// Makes the end of the connection a reset, also when this side has ended: something was wrong after all.
    fn reset(&self);
}

impl Reset for Socket {
    fn reset(&self) {
        // Only a socket that is gone already can refuse.
        let _ = SockRef::from(&self.0).set_linger(Some(Duration::ZERO));
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, space)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        SockRef::from(&self.0).set_linger(None)?;
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
