//! The addresses of the admin server, from one proxy to the next.
//!
//! Where two proxies share a network namespace the second one cannot bind what the first one has: it is given that very
//! socket, and answers there as soon as it accepts for pods. Where each has a namespace of its own, each binds its own.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use super::{Admin, Surface, listen, serve};
use crate::pod::netns::is_at_home;

/// Whether an address that is taken may be handed over later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayCome {
    /// It is another program's.
    No,
    /// It is another proxy's, most likely.
    Yes,
}

/// The admin server's listeners. They are closed when this is dropped.
#[derive(Debug)]
pub struct Doors {
    admin: Arc<Admin>,
    closed: Vec<(SocketAddr, Surface)>,
    open: Vec<(String, OwnedFd, AbortHandle)>,
}

impl Doors {
    /// All closed: the loopback address, and the one that is for everybody.
    #[must_use]
    pub fn new(admin: Arc<Admin>, [loopback, outside]: [SocketAddr; 2]) -> Self {
        Self {
            admin,
            closed: vec![(loopback, Surface::Loopback), (outside, Surface::Outside)],
            open: Vec::new(),
        }
    }

    /// Opens what is closed: sockets that were handed over, or new ones. Where another proxy may be about to hand one
    /// over, an address that is taken stays closed for now.
    ///
    /// # Errors
    /// If an address is taken otherwise, or is none of this machine.
    pub fn open(&mut self, held: &mut BTreeMap<String, OwnedFd>, may_come: MayCome) -> anyhow::Result<()> {
        for (address, surface) in std::mem::take(&mut self.closed) {
            let name = format!("admin {address}");
            let found = held.remove(&name).filter(|socket| is_at_home(socket).unwrap_or(false));
            let listener = match found {
                Some(socket) => TcpListener::from_std(std::net::TcpListener::from(socket)),
                None => listen(address),
            };
            let is_taken = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
            match listener {
                Err(error) if may_come == MayCome::Yes && is_taken(&error) => {
                    self.closed.push((address, surface))
                }
                listener => {
                    let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
                    let socket = listener.as_fd().try_clone_to_owned()?;
                    let serving = tokio::spawn(serve(listener, Arc::clone(&self.admin), surface));
                    self.open.push((name, socket, serving.abort_handle()));
                }
            }
        }
        Ok(())
    }

    /// The sockets that are open, by what they are for.
    pub fn sockets(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        self.open.iter().map(|(name, socket, _)| (name.as_str(), socket.as_fd()))
    }
}

impl Drop for Doors {
    fn drop(&mut self) {
        self.open.iter().for_each(|(_, _, serving)| serving.abort());
    }
}
